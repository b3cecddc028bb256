/**
 * The filter, the first stage: it leaves out images that are too small, too long, flat, blurred, dark, overexposed,
 * grey or noisy, that repeat the hash of another, or that are unlike all seeds.
 */
import {UserError} from '../../config/errors.js'
import {hashPairs} from '../../curate/hashes.js'
import {nearestRows} from '../../curate/neighbours.js'
import {arrayRows, rowBlocks, rowsPerBlock} from '../../curate/rows.js'
import type {Measures} from '../../data/loader/measure-images.js'
import {openOtherSet} from './other-set.js'
import {arithmeticFor, plural, roundedScore, vectorsOf, type Context, type Stage, type StageEvent} from './stage.js'

export type FilterOptions = {
  /** Shorter side in pixels. */
  readonly minSide: number
  /** Longer side over shorter side; 0: any. */
  readonly maxAspect: number
  readonly minContrast: number
  readonly minEntropy: number
  readonly minSharpness: number
  readonly maxNoise: number
  /** Mean grey level, 0 to 255. */
  readonly minBrightness: number
  /** Share of pixels that are nearly white; 1: any. */
  readonly maxOverexposed: number
  readonly minColorfulness: number
  /** Images whose hashes differ in at most this many bits are the same; undefined: hashes are not compared. */
  readonly maxHashDistance: number | undefined
  /** Seed images; a row stays where its similarity to one of them is at least `minSimilarity`. */
  readonly seeds: readonly string[]
  readonly minSimilarity: number
}

/** Why a row is left out: the rule, by which rows are counted, and a sentence about this row. */
type Rejection = {readonly rule: string; readonly reason: string}

/** The rule of size, shape, contrast, entropy, sharpness, exposure, colour or noise that an image breaks first. */
function measureRejection(measures: Measures, options: FilterOptions): Rejection | undefined {
  const {width, height, contrast, entropy, sharpness, noise, brightness, overexposed, colorfulness} = measures
  const [short, long] = [Math.min(width, height), Math.max(width, height)]
  const because = (rule: string, detail: string): Rejection => ({rule, reason: `${rule}: ${detail}`})
  if (short < options.minSide) return because('too small', `${width} × ${height} pixels`)
  if (options.maxAspect > 0 && long > options.maxAspect * short) return because('too long', `${width} × ${height} pixels`)
  if (contrast < options.minContrast) return because('nearly one colour', `contrast ${contrast}`)
  if (entropy < options.minEntropy) return because('little in it', `entropy ${entropy} bits`)
  if (sharpness < options.minSharpness) return because('blurred', `sharpness ${sharpness}`)
  if (brightness < options.minBrightness) return because('dark', `brightness ${brightness}`)
  if (overexposed > options.maxOverexposed) return because('overexposed', `${overexposed} of the pixels nearly white`)
  if (colorfulness < options.minColorfulness) return because('greyscale', `colorfulness ${colorfulness}`)
  if (noise > options.maxNoise) return because('noise', `${noise} of white noise`)
  return undefined
}

/** The rows of a filter while it runs. */
class FilterRows {
  readonly #context: Context
  readonly measures: readonly Measures[]
  readonly #reasons: (string | undefined)[]
  /** Rejected rows by rule. */
  readonly #rejected = new Map<string, number[]>()
  /** Positions of rows whose hash another row repeats, by that row. */
  readonly sameHash = new Map<number, number>()
  readonly nearestSeeds = new Map<number, {readonly similarity: number; readonly seed: string}>()

  constructor(context: Context, measures: readonly Measures[]) {
    this.#context = context
    this.measures = Array.from(context.rows, row => measures[row]!)
    this.#reasons = Array.from({length: context.rows.length})
  }

  #reject(i: number, {rule, reason}: Rejection): void {
    this.#reasons[i] = reason
    const members = this.#rejected.get(rule)
    if (members) members.push(i)
    else this.#rejected.set(rule, [i])
  }

  /** Why a row is left out; undefined where it stays. */
  reason(i: number): string | undefined {
    return this.#reasons[i]
  }

  /** Rejected rows by rule, in the order in which the rules were applied. */
  get rejected(): (readonly [rule: string, rows: readonly number[]])[] {
    return [...this.#rejected].map(([rule, members]) => [rule, members.sort((a, b) => a - b)] as const)
  }

  isFixed(i: number): boolean {
    return this.#context.pool.fixed?.[this.#context.rows[i]!] === 1
  }

  byMeasures(options: FilterOptions): void {
    for (const [i, measures] of this.measures.entries()) {
      const rejection = this.isFixed(i) ? undefined : measureRejection(measures, options)
      if (rejection) this.#reject(i, rejection)
    }
  }

  /** Leaves out rows whose hash is that of a row before; the larger image comes first. */
  byHash(maxDistance: number): void {
    const size = (i: number): number => this.measures[i]!.width * this.measures[i]!.height
    const open = [...this.#reasons.keys()].filter(i => this.#reasons[i] === undefined)
    open.sort((a, b) => Number(this.isFixed(b)) - Number(this.isFixed(a)) || size(b) - size(a) || a - b)
    const hashes = new Uint32Array(2 * open.length)
    for (const [j, i] of open.entries()) {
      const {hash} = this.measures[i]!
      hashes[2 * j] = parseInt(hash.slice(0, 8), 16)
      hashes[2 * j + 1] = parseInt(hash.slice(8), 16)
    }
    const pairs: [number, number, number][] = []
    hashPairs(hashes, maxDistance, (a, b, distance) => pairs.push([a, b, distance]))
    pairs.sort(([a, b], [c, d]) => a - c || b - d)
    for (const [a, b, distance] of pairs) {
      const [first, second] = [open[a]!, open[b]!]
      if (this.reason(first) || this.reason(second) || this.isFixed(second)) continue
      const reason = `the hash of another image${distance === 0 ? '' : ` but for ${plural(distance, 'bit')}`}`
      this.#reject(second, {rule: 'same hash', reason})
      this.sameHash.set(second, first)
    }
  }

  /** Leaves out rows that are less similar than the limit to every seed. */
  async *bySeeds({seeds: inputs, minSimilarity}: FilterOptions): AsyncGenerator<StageEvent, void> {
    const {pool, rows, maker} = this.#context
    const {features, source} = vectorsOf(this.#context)
    const seeds = yield* openOtherSet('the seeds', inputs, features, maker, {...this.#context, pool: pool.name})
    const D = source.dim
    const arithmetic = await arithmeticFor(rows.length * seeds.ids.length * D, maker)
    const seedRows = arrayRows(seeds.vectors, D)
    for (const {from, block, n} of rowBlocks(source, rowsPerBlock(D, 2048))) {
      const near = nearestRows(seedRows, Float32Array.from(block), 1, {arithmetic})
      for (let i = from; i < from + n; i++) {
        const {rows: nearest, scores} = near[i - from]!
        const similarity = scores[0]!
        this.nearestSeeds.set(i, {similarity: roundedScore(similarity), seed: seeds.ids[nearest[0]!]!})
        if (!this.reason(i) && !this.isFixed(i) && similarity < minSimilarity)
          this.#reject(i, {rule: 'unlike the seeds', reason: 'unlike every seed'})
      }
      yield {kind: 'work', label: 'comparing with seeds', done: from + n, total: rows.length}
    }
  }
}

/** Runs the filter. Throws `UserError` (exit 2) where the pool came as vectors whose rows do not carry measures. */
export async function* filterStage(context: Context, options: FilterOptions): Stage {
  const {pool, rows} = context
  if (!pool.measures)
    throw new UserError(`${pool.name} holds vectors that say nothing of the images' size and sharpness.`, {
      exit: 2,
      code: 'NO_IMAGES',
      hint: 'Name the images, or a file of features that --cache wrote (perceptual.arrow), or leave the stage out: dinov2 curate --stages dedup.'
    })
  const filter = new FilterRows(context, pool.measures)
  filter.byMeasures(options)
  if (options.maxHashDistance !== undefined) filter.byHash(options.maxHashDistance)
  if (options.seeds.length > 0) yield* filter.bySeeds(options)
  const rules = filter.rejected
  return {
    kept: Uint8Array.from(rows, (_, i) => (filter.reason(i) === undefined ? 1 : 0)),
    fields(i) {
      const other = filter.sameHash.get(i)
      return {
        reason: filter.reason(i) ?? 'passed the filter',
        ...(other === undefined ? {} : {similar_to: pool.ref(rows[other]!).id}),
        ...filter.nearestSeeds.get(i),
        ...filter.measures[i]!
      }
    },
    report: {rules: Object.fromEntries(rules.map(([rule, members]) => [rule, members.length]))},
    summary: rules.map(([rule, members]) => `${members.length.toLocaleString('en')} ${rule}`),
    groups: rules.map(([rule, members]) => ({title: `left out: ${rule}`, members: members.slice(0, 24), size: members.length}))
  }
}
