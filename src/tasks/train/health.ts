/**
 * Whether a run is well, in words: one place for all limits. The verdict at the end of a run, the warnings while it
 * goes on and the page of `report` say the same of the same numbers.
 *
 * K is the number of prototypes. While a student distinguishes nothing, its loss on class tokens is the weight of that
 * loss times ln K, and a teacher that spreads evenly has an entropy of ln K (paper, section 4; the same signs that
 * DINO's authors watch).
 */

/** Means over a few lines of metrics; what a run does not measure is left out. */
export type HealthMetrics = {
  /** Sum of the DINO losses over local and global crops, as weighted. */
  readonly loss?: number | undefined
  /** Mean entropy of the teacher's targets in nats. */
  readonly entropy?: number | undefined
  /** Mean cosine between class tokens of different images. */
  readonly cosine?: number | undefined
  /** Effective rank of the teacher's class tokens, from 0 to 1. */
  readonly rank?: number | undefined
  /** How evenly images spread over prototypes, from 0 to about 1. */
  readonly use?: number | undefined
  /** Whether half of the run or more lies behind; a loss near that of a uniform guess is expected before. */
  readonly late?: boolean
}

export type Scale = {
  readonly prototypes: number
  /** Weight of the DINO loss. */
  readonly weight: number
  /** Rows over which Sinkhorn–Knopp spreads the prototypes evenly; absent where targets are centered. */
  readonly rows?: number | undefined
  /** Steps of the whole run. */
  readonly steps?: number | undefined
}

export type HealthProblem = {
  readonly cause:
    | 'alike'
    | 'one prototype'
    | 'uniform'
    | 'slow'
    | 'flat targets'
    | 'warm targets'
    | 'more prototypes than images'
    | 'sharp targets'
    | 'low rank'
    | 'few prototypes'
  /** Whether the run has come to nothing (status 6), or may still turn. */
  readonly fatal: boolean
  readonly words: string
}

export const limits = {
  /** Largest mean cosine of class tokens. */
  alike: 0.98,
  /** Share of ln K above which a loss is that of a uniform guess. */
  uniform: 0.998,
  /** Share of ln K below which loss and entropy say that one prototype serves for all images. */
  onePrototype: 0.02,
  /** Share of ln K above which a loss in the second half of a run says that little was learned. */
  slow: 0.97,
  /** Shares of ln K between which the entropy of targets should lie. */
  targets: [0.05, 0.995],
  /**
   * Share of ln K above which targets say little, and how far below it the smallest share must lie that Sinkhorn–Knopp
   * leaves possible, for the temperature to be the cause.
   */
  warm: 0.75,
  room: 0.15,
  /** Smallest effective rank of the teacher's class tokens, and the least even spread over prototypes. */
  rank: 0.04,
  use: 0.05,
  /** A gradient norm this many times its median is a burst. */
  burst: 20,
  /**
   * Share of time waiting for data that is worth a word at the end of a run, and one that is worth a warning while it
   * goes on.
   */
  waiting: 0.1,
  muchWaiting: 0.25
} as const

/** What is wrong, worst first; empty where nothing is. */
export function healthChecks(signs: HealthMetrics, scale: Scale): HealthProblem[] {
  return [...lossProblems(signs, scale), ...targetProblems(signs, scale), ...spreadProblems(signs)]
}

/** What the similarity of class tokens and the DINO loss say. */
function lossProblems({loss, entropy, cosine, late = false}: HealthMetrics, {prototypes, weight}: Scale): HealthProblem[] {
  const uniform = Math.log(prototypes)
  const found: HealthProblem[] = []
  if (cosine !== undefined && cosine > limits.alike)
    found.push({
      cause: 'alike',
      fatal: true,
      words: `collapsed: all images look alike to the model (mean cosine of cls tokens ${cosine.toFixed(3)}, expected well below 1)`
    })
  if (loss !== undefined && weight > 0) {
    const pair = loss / weight // the weights of all pairs sum to one
    if (pair < limits.onePrototype * uniform && (entropy ?? 0) < limits.onePrototype * uniform)
      found.push({
        cause: 'one prototype',
        fatal: true,
        words: `collapsed: one prototype for every image (DINO loss ${pair.toFixed(3)} and entropy of the teacher ${(entropy ?? 0).toFixed(3)})`
      })
    if (pair > limits.uniform * uniform)
      found.push({
        cause: 'uniform',
        fatal: true,
        words: `not learning: the DINO loss stands at ${pair.toFixed(3)} a pair, and that of a uniform guess is ln ${prototypes} = ${uniform.toFixed(3)}: the model does not distinguish any images yet`
      })
    else if (late && pair > limits.slow * uniform)
      found.push({
        cause: 'slow',
        fatal: false,
        words: `little is learned: late in the run the DINO loss is still ${((100 * pair) / uniform).toFixed(0)} % of that of a uniform guess; train for more steps, raise optim.base_lr or lower teacher.teacher_temp`
      })
  }
  return found
}

/** What the entropy of the teacher's targets says. */
function targetProblems({entropy}: HealthMetrics, {prototypes, weight, rows}: Scale): HealthProblem[] {
  const uniform = Math.log(prototypes)
  const found: HealthProblem[] = []
  if (entropy !== undefined && weight > 0) {
    const share = entropy / uniform
    // Sinkhorn–Knopp gives each prototype the same share of the rows, so that each row has at least K / rows of them.
    const least = rows === undefined ? 0 : Math.max(0, Math.log(prototypes / rows) / uniform)
    if (share < limits.targets[0])
      found.push({
        cause: 'sharp targets',
        fatal: false,
        words: `the targets of the teacher are all but certain: their entropy is ${(100 * share).toFixed(0)} % of the largest possible, a sign of collapse; raise teacher.teacher_temp`
      })
    if (share > limits.targets[1])
      found.push({
        cause: 'flat targets',
        fatal: false,
        words: 'the targets of the teacher are uniform: there is nothing to learn from them; lower teacher.teacher_temp'
      })
    else if (share > limits.warm) {
      const percent = (100 * share).toFixed(0)
      if (share - least > limits.room)
        found.push({
          cause: 'warm targets',
          fatal: false,
          words: `the targets of the teacher say little: their entropy is ${percent} % of the largest possible; lower teacher.teacher_temp and teacher.warmup_teacher_temp, for example to a half or a quarter`
        })
      else
        found.push({
          cause: 'more prototypes than images',
          fatal: false,
          words: `the targets of the teacher say little: their entropy is ${percent} % of the largest possible, because ${prototypes} prototypes are shared out among ${rows} rows; lower dino.head_n_prototypes or raise train.batch_size_per_gpu`
        })
    }
  }
  return found
}

/** What the spread of the teacher's features says. */
function spreadProblems({rank, use}: HealthMetrics): HealthProblem[] {
  const found: HealthProblem[] = []
  if (rank !== undefined && rank < limits.rank)
    found.push({
      cause: 'low rank',
      fatal: false,
      words: `the features of the teacher lie almost on one line: their effective rank is ${(100 * rank).toFixed(1)} % of the largest possible, a sign of collapse; raise dino.koleo_loss_weight, lower optim.base_lr or give more varied images`
    })
  if (use !== undefined && use < limits.use)
    found.push({
      cause: 'few prototypes',
      fatal: false,
      words: `almost all images fall on the same prototypes: their spread is ${(100 * use).toFixed(1)} % of an even one, a sign of collapse; take train.centering=sinkhorn_knopp or raise teacher.teacher_temp`
    })
  return found
}

export type Health = {readonly healthy: boolean; readonly words: string}

/** One line of metrics, by name. */
type Line = Readonly<Record<string, number>>

const meanOf = (lines: readonly Line[], name: string): number | undefined => {
  const values = lines.flatMap(line => (line[name] === undefined ? [] : [line[name]]))
  return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length
}

/** The signs in some lines of `metrics.jsonl`. */
function healthMetricsOf(lines: readonly Line[]): HealthMetrics {
  const [local, global] = [meanOf(lines, 'dino_local'), meanOf(lines, 'dino_global')]
  return {
    loss: local === undefined && global === undefined ? undefined : (local ?? 0) + (global ?? 0),
    entropy: meanOf(lines, 'teacher_entropy'),
    cosine: meanOf(lines, 'cls_cosine'),
    rank: meanOf(lines, 'feature_rank'),
    use: meanOf(lines, 'prototype_use')
  }
}

/** Says how a run went, from its last lines of metrics. */
export function assessHealth(lines: readonly Line[], scale: Scale): Health {
  const signs = {...healthMetricsOf(lines), late: true}
  const problems = healthChecks(signs, scale)
  const worst = problems.find(({fatal}) => fatal)
  if (worst) return {healthy: false, words: worst.words}
  const {loss, cosine, entropy, rank} = signs
  const parts = [
    ...(loss !== undefined && scale.weight > 0
      ? [`DINO loss ${(loss / scale.weight).toFixed(3)} a pair against ${Math.log(scale.prototypes).toFixed(3)} for a uniform guess`]
      : []),
    cosine === undefined
      ? 'class tokens of different images were not compared, because a step has one image'
      : `mean cosine of class tokens ${cosine.toFixed(3)}`,
    ...(entropy !== undefined && scale.weight > 0
      ? [`entropy of the targets ${((100 * entropy) / Math.log(scale.prototypes)).toFixed(0)} % of the largest possible`]
      : []),
    ...(rank === undefined ? [] : [`effective rank of the features ${(100 * rank).toFixed(0)} %`])
  ]
  const seen = parts.join(', ')
  if (problems.length > 0) return {healthy: true, words: `not collapsed, but ${problems[0]!.words} (${seen})`}
  return {healthy: true, words: `healthy${cosine === undefined ? ' as far as can be seen' : ''}: ${seen}`}
}

/** Lines of metrics that a verdict looks at: the noise of a single one must not decide. */
export const windowSize = 5

/** Lines among which a burst of gradients stands out. */
const burstWindow = 20

/** Looks at the lines of a run as they come and warns once of each cause. */
export class HealthWatch {
  readonly #lines: Line[] = []
  readonly #warned = new Set<string>()

  /** `from`: the step after which signs of collapse count; before it no model distinguishes anything. */
  constructor(
    private readonly scale: Scale,
    private readonly from: number
  ) {}

  /** Sentences for a new line; none where all is well, or known. */
  see(line: Line & {readonly step: number}): string[] {
    const warnings: string[] = []
    const warn = (cause: string, words: string): void => {
      if (this.#warned.has(cause)) return
      this.#warned.add(cause)
      warnings.push(`step ${line.step}: ${words}`)
    }
    for (const [name, norm] of Object.entries(line)) {
      if (!name.startsWith('grad_norm')) continue
      const before = this.#lines.flatMap(({[name]: value}) => (value === undefined ? [] : [value])).sort((a, b) => a - b)
      const usual = before[Math.floor(before.length / 2)]
      // at rest (a warm-up of the heads) it is 0, and has no usual size yet
      if (usual && before.length >= burstWindow / 2 && norm > limits.burst * usual)
        warn(
          name,
          `${name} is ${norm.toPrecision(3)}, ${Math.round(norm / usual)} times its usual size; if it lasts, lower optim.base_lr or lengthen optim.warmup_epochs`
        )
    }
    this.#lines.push(line)
    if (this.#lines.length > burstWindow) this.#lines.shift()
    const recent = this.#lines.slice(-windowSize)
    if (recent.length < windowSize) return warnings
    const waiting = meanOf(recent, 'data_wait') ?? 0
    if (waiting > limits.muchWaiting)
      warn(
        'waiting',
        `${Math.round(100 * waiting)} % of the time is lost waiting for images; more train.workers, smaller files or a larger train.cache_mb would help`
      )
    if (recent[0]!['step']! > this.from) {
      const late = this.scale.steps !== undefined && recent[0]!['step']! >= this.scale.steps / 2
      for (const {cause, words} of healthChecks({...healthMetricsOf(recent), late}, this.scale)) warn(cause, words)
    }
    return warnings
  }
}
