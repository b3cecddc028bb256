/**
 * What metrics and settings say about a run, in sentences: whether the losses fell, whether training is healthy, how
 * fast it was, and whether its scores rose.
 */
import {valueText} from '../system/json.js'
import {short} from '../render/chart.js'
import type {MetricLine} from '../files/run/run-folder.js'
import {isEvaluation, isLoss, isTotalLoss, namesOf, points} from './report-charts.js'
import {healthChecks, limits, type HealthMetrics, type HealthProblem} from './train/health.js'
import {improvementOf} from './train/improvement.js'

export type Finding = {readonly good: boolean; readonly text: string}

const good = (text: string): Finding => ({good: true, text})
const bad = (text: string): Finding => ({good: false, text})
const sentence = (words: string): string => `${words[0]!.toUpperCase()}${words.slice(1)}.`

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN

/** Means of the first and of the last tenth of a curve, at least one value each, and of the tenth before the last. */
function ends(values: readonly number[]): {first: number; last: number; before: number} {
  const n = Math.max(1, Math.round(values.length / 10))
  return {
    first: mean(values.slice(0, n)),
    last: mean(values.slice(-n)),
    before: mean(values.slice(-2 * n, -n).length ? values.slice(-2 * n, -n) : values)
  }
}

/** The curves of a run, by the names of its metrics. */
class Curves {
  readonly lines: readonly MetricLine[]
  readonly names: readonly string[]

  constructor(lines: readonly MetricLine[]) {
    this.lines = lines
    this.names = namesOf(lines)
  }

  /** The finite values of a metric, in the order of the steps. */
  values(name: string | undefined): number[] {
    return name === undefined ? [] : points(this.lines, name).flatMap(([, y]) => (Number.isFinite(y) ? [y] : []))
  }

  /** Those of the first metric whose name matches. */
  matching(name: RegExp): number[] {
    return this.values(this.names.find(one => name.test(one)))
  }

  /** The mean of the last tenth of such a metric; undefined where there is none. */
  lately(name: RegExp): number | undefined {
    const curve = this.matching(name)
    return curve.length > 0 ? ends(curve).last : undefined
  }
}

/**
 * All findings about a run. K is the number of prototypes: a student that cannot tell images apart has a loss on class
 * tokens of the weight of that loss times ln K, and a teacher that spreads evenly an entropy of ln K.
 */
export function findings(lines: readonly MetricLine[], settings: ReadonlyMap<string, unknown>, notFinite?: unknown): Finding[] {
  const stopped = stopFinding(notFinite)
  if (lines.length === 0) return [...stopped, bad('No step was recorded.')]
  const curves = new Curves(lines)
  return [
    ...stopped,
    ...lossFindings(curves),
    ...healthFindings(curves, settings),
    ...gradientFindings(curves),
    ...speedFindings(curves),
    ...scoreFindings(curves)
  ]
}

function stopFinding(notFinite: unknown): Finding[] {
  if (typeof notFinite !== 'object' || notFinite === null) return []
  const {step, layer, terms} = notFinite as {step?: unknown; layer?: unknown; terms?: unknown}
  const which = Array.isArray(terms) ? `: ${terms.map(valueText).join(', ')}` : ''
  const where = typeof layer === 'string' ? `; it began in ${layer}` : ''
  return [bad(`Step ${valueText(step)} was not finite and stopped the run${which}${where}.`)]
}

function lossFindings(curves: Curves): Finding[] {
  const found: Finding[] = []
  const infinite = curves.lines.find(({values}) => [...values].some(([name, value]) => isLoss(name) && !Number.isFinite(value)))
  if (infinite) found.push(bad(`A loss was not finite at step ${infinite.step}. Lower optim.base_lr, or look at the images of that step.`))
  const total = curves.values(curves.names.find(isTotalLoss))
  if (total.length < 4) return found
  const {first, last, before} = ends(total)
  const fall = (first - last) / Math.abs(first || 1)
  if (fall > 0.01) found.push(good(`The total loss fell by ${(100 * fall).toFixed(1)} % (from ${short(first)} to ${short(last)}).`))
  else found.push(bad(`The total loss hardly moved (from ${short(first)} to ${short(last)}). Train longer, or raise optim.base_lr.`))
  if (total.length >= 20 && last > before + 0.02 * Math.abs(before))
    found.push(bad(`It rose towards the end (from ${short(before)} to ${short(last)}).`))
  return found
}

function healthFindings(curves: Curves, settings: ReadonlyMap<string, unknown>): Finding[] {
  const number = (name: string): number | undefined => {
    const value = settings.get(name)
    return typeof value === 'number' ? value : undefined
  }
  const prototypes = number('dino.head_n_prototypes')
  const weight = number('dino.loss_weight') ?? 1
  const [local, global] = [curves.lately(/dino_local/), curves.lately(/dino_global/)]
  const metrics: HealthMetrics = {
    loss: global === undefined ? undefined : (local ?? 0) + global,
    entropy: curves.lately(/entropy/i),
    cosine: curves.lately(/cls_cosine/),
    rank: curves.lately(/feature_rank/),
    use: curves.lately(/prototype_use/),
    late: true
  }
  const {cosine, rank, use} = metrics
  const batch = number('train.batch_size_per_gpu')
  const rows = settings.get('train.centering') === 'sinkhorn_knopp' && batch !== undefined ? 2 * batch : undefined
  const problems = healthChecks(prototypes === undefined ? {cosine, rank, use} : metrics, {prototypes: prototypes ?? NaN, weight, rows})
  const found = problems.map(({words}) => bad(sentence(words)))
  const without = (...causes: HealthProblem['cause'][]): boolean => !problems.some(({cause}) => causes.includes(cause))
  if (prototypes !== undefined && weight > 0 && metrics.loss !== undefined && without('uniform', 'one prototype')) {
    const uniform = short(weight * Math.log(prototypes))
    found.push(good(`The loss on class tokens is ${short(metrics.loss)}; a student that distinguishes nothing would have ${uniform}.`))
  }
  if (
    prototypes !== undefined &&
    metrics.entropy !== undefined &&
    without('flat targets', 'sharp targets', 'warm targets', 'more prototypes than images')
  ) {
    const share = ((100 * metrics.entropy) / Math.log(prototypes)).toFixed(0)
    found.push(good(`The entropy of the teacher's targets is ${share} % of the largest possible.`))
  }
  if (cosine !== undefined && without('alike'))
    found.push(good(`Class tokens of different images have a mean cosine of ${cosine.toFixed(2)}.`))
  if (rank !== undefined && without('low rank'))
    found.push(good(`The effective rank of the features is ${(100 * rank).toFixed(0)} % of the largest possible.`))
  return found
}

const gradientFindings = (curves: Curves): Finding[] =>
  curves.names
    .filter(name => /grad/i.test(name))
    .flatMap(name => {
      const norms = curves.values(name).filter(norm => norm > 0) // 0 while the backbone stands still
      const [middle, largest] = [median(norms), Math.max(...norms.slice(Math.floor(norms.length / 10)))]
      return norms.length >= 20 && largest > limits.burst * middle
        ? [bad(`${name} once reached ${short(largest)}, ${Math.round(largest / middle)} times its usual size.`)]
        : []
    })

function speedFindings(curves: Curves): Finding[] {
  const found: Finding[] = []
  const speed = curves.matching(/images_per_second/)
  if (speed.length > 0) found.push(good(`${short(Number(median(speed).toPrecision(3)))} images a second (median).`))
  const waiting = curves.matching(/data_wait/)
  if (waiting.length === 0) return found
  const share = mean(waiting)
  const lost = (digits: number): string => `${(100 * share).toFixed(digits)} % of the time was lost waiting for data.`
  if (share > limits.waiting) found.push(bad(`${lost(0)} More train.workers, smaller files or a larger train.cache_mb would help.`))
  else found.push(good(lost(1)))
  return found
}

function scoreFindings(curves: Curves): Finding[] {
  const found: Finding[] = []
  const improvement = improvementOf(curves.lines)
  if (improvement) found.push({good: !improvement.fell, text: sentence(improvement.words)})
  for (const name of curves.names.filter(isEvaluation)) {
    const curve = curves.values(name)
    const best = Math.max(...curve)
    if (curve.length > 2 && curve.at(-1)! < best - 0.03 * Math.abs(best))
      found.push(bad(`${name} ended at ${short(curve.at(-1)!)}, below its best of ${short(best)}.`))
  }
  return found
}
