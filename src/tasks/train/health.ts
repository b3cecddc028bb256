/**
 * Whether a run is well, in words: one place for all limits. The verdict at the end of a run, the warnings while it
 * goes on and the page of `report` say the same of the same numbers.
 *
 * K is the number of prototypes. While a student tells nothing apart, its loss on class tokens is the weight of that
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
}

export type Scale = {readonly prototypes: number; /** Weight of the DINO loss. */ readonly weight: number}

export type HealthProblem = {
  readonly cause: 'alike' | 'one prototype' | 'uniform' | 'flat targets' | 'sharp targets'
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
  /** Shares of ln K between which the entropy of targets should lie. */
  targets: [0.05, 0.995],
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
export function healthChecks({loss, entropy, cosine}: HealthMetrics, {prototypes, weight}: Scale): HealthProblem[] {
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
        words: `not learning: the DINO loss stands at ${pair.toFixed(3)} a pair, which is ln ${prototypes} = ${uniform.toFixed(3)}, the loss of a uniform guess: nothing is told apart yet`
      })
  }
  if (entropy !== undefined && weight > 0) {
    const share = entropy / uniform
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
  }
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
    cosine: meanOf(lines, 'cls_cosine')
  }
}

/** Says how a run went, from its last lines of metrics. */
export function assessHealth(lines: readonly Line[], scale: Scale): Health {
  const signs = healthMetricsOf(lines)
  const worst = healthChecks(signs, scale).find(({fatal}) => fatal)
  if (worst) return {healthy: false, words: worst.words}
  const {loss, cosine} = signs
  const parts = [
    ...(loss !== undefined && scale.weight > 0
      ? [`DINO loss ${(loss / scale.weight).toFixed(3)} a pair against ${Math.log(scale.prototypes).toFixed(3)} for a uniform guess`]
      : []),
    cosine === undefined
      ? 'class tokens of different images were not compared, because a step has one image'
      : `mean cosine of class tokens ${cosine.toFixed(3)}`
  ]
  return {healthy: true, words: `healthy${cosine === undefined ? ' as far as it can be told' : ''}: ${parts.join(', ')}`}
}

/** Lines of metrics that a verdict looks at: the noise of a single one must not decide. */
export const windowSize = 5

/** Lines among which a burst of gradients stands out. */
const burstWindow = 20

/** Looks at the lines of a run as they come and warns once of each cause. */
export class HealthWatch {
  readonly #lines: Line[] = []
  readonly #told = new Set<string>()

  /** `from`: the step after which signs of collapse count; before it every model tells nothing apart. */
  constructor(
    private readonly scale: Scale,
    private readonly from: number
  ) {}

  /** Sentences for a new line; none where all is well, or known. */
  see(line: Line & {readonly step: number}): string[] {
    const said: string[] = []
    const tell = (cause: string, words: string): void => {
      if (this.#told.has(cause)) return
      this.#told.add(cause)
      said.push(`step ${line.step}: ${words}`)
    }
    for (const [name, norm] of Object.entries(line)) {
      if (!name.startsWith('grad_norm')) continue
      const before = this.#lines.flatMap(({[name]: value}) => (value === undefined ? [] : [value])).sort((a, b) => a - b)
      const usual = before[Math.floor(before.length / 2)]
      if (usual !== undefined && before.length >= burstWindow / 2 && norm > limits.burst * usual)
        tell(
          name,
          `${name} is ${norm.toPrecision(3)}, ${Math.round(norm / usual)} times its usual size; if it lasts, lower optim.base_lr or lengthen optim.warmup_epochs`
        )
    }
    this.#lines.push(line)
    if (this.#lines.length > burstWindow) this.#lines.shift()
    const recent = this.#lines.slice(-windowSize)
    if (recent.length < windowSize) return said
    const waiting = meanOf(recent, 'data_wait') ?? 0
    if (waiting > limits.muchWaiting)
      tell(
        'waiting',
        `${Math.round(100 * waiting)} % of the time is lost waiting for images; more train.workers, smaller files or a larger train.cache_mb would help`
      )
    if (recent[0]!['step']! > this.from) for (const {cause, words} of healthChecks(healthMetricsOf(recent), this.scale)) tell(cause, words)
    return said
  }
}

/** What features were worth before the first step and after the last one. */
export type Improvement = {
  readonly before: Readonly<Record<string, number>>
  readonly after: Readonly<Record<string, number>>
  readonly fell: boolean
  readonly words: string
}

/**
 * Holds the nearest-neighbour scores (`knn_10`, …) of step 0 against the latest; undefined where there are not both.
 */
export function improvementOf(
  lines: readonly {readonly step: number; readonly values: ReadonlyMap<string, number>}[]
): Improvement | undefined {
  const scored = lines.filter(({values}) => [...values.keys()].some(name => name.startsWith('knn_')))
  const [first, last] = [scored.find(({step}) => step === 0), scored.at(-1)]
  if (!first || !last || last.step === 0) return undefined
  const names = [...first.values.keys()].filter(name => name.startsWith('knn_') && last.values.has(name))
  const of = ({values}: {values: ReadonlyMap<string, number>}): Record<string, number> =>
    Object.fromEntries(names.map(name => [name, values.get(name)!]))
  const [before, after] = [of(first), of(last)]
  const change = names.reduce((sum, name) => sum + after[name]! - before[name]!, 0) / names.length
  const percent = (share: number): string => (100 * share).toFixed(1)
  const from = names
    .map(name => `from ${percent(before[name]!)} to ${percent(after[name]!)} % (k = ${name.slice('knn_'.length)})`)
    .join(' and ')
  const fell = change < 0
  const verdict = fell
    ? ': the weights were better before; lower optim.base_lr, train for fewer steps, or give more images'
    : change === 0
      ? ': training changed nothing that these images show'
      : ''
  return {before, after, fell, words: `nearest neighbours ${fell ? 'fell' : change > 0 ? 'rose' : 'went'} ${from}${verdict}`}
}
