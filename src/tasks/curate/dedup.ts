/**
 * Near-duplicates are removed; one image of each component is kept: the one with most pixels, among equals the one
 * with most bytes (it is compressed least), then the sharpest, then the one whose id comes first.
 */
import {keepBest} from '../../curate/near-duplicates.js'
import {exactUpTo, pairRecall, pairsAbove, type PairMethod, type Pairs} from '../../curate/neighbours.js'
import type {RowSource} from '../../curate/rows.js'
import {calibrate, type CalibrateOptions} from './calibrate.js'
import {byteLengthOf, defaultThreshold} from './feature-meta.js'
import {arithmeticFor, runInParts, plural, roundedScore, vectorsOf, type Context, type Stage, type StageEvent} from './stage.js'
import type {Pool} from './pool.js'

/** Pools below this have too few pairs of different images to show how alike different images are. */
const fewImages = 10

export type DedupOptions = {
  /** Undefined: the default of the features. */
  readonly threshold: number | undefined
  /** Neighbours of a row that are looked at. */
  readonly k: number
  readonly method: 'auto' | PairMethod
  /** Lists: clusters looked into for each row; graph: candidates. */
  readonly probes: number | undefined
  /** Finds the threshold on copies made of the pool's own images; undefined: no calibration. */
  readonly calibrate: CalibrateOptions | undefined
}

/**
 * Ranks of the rows, best image first: most pixels, then most bytes (least compressed), then sharpest, then the id.
 * Only rows of a pair compete, so only theirs are looked up; the others keep rank 0.
 */
function ranks(pool: Pool, rows: Int32Array, pairs: Pairs): Int32Array {
  const competing = [...new Set([...pairs.a, ...pairs.b])].map(i => {
    const row = rows[i]!
    const ref = pool.ref(row)
    const field = (name: string): number => (typeof ref.fields[name] === 'number' ? ref.fields[name] : 0)
    const {width, height, sharpness} = pool.measures?.[row] ?? {
      width: field('width'),
      height: field('height'),
      sharpness: field('sharpness')
    }
    const bytes = pool.images ? byteLengthOf(ref) : field('bytes')
    return {i, pixels: width * height, bytes, sharpness, id: Buffer.from(ref.id)}
  })
  competing.sort((a, b) => b.pixels - a.pixels || b.bytes - a.bytes || b.sharpness - a.sharpness || Buffer.compare(a.id, b.id) || a.i - b.i)
  const rank = new Int32Array(rows.length)
  for (const [place, {i}] of competing.entries()) rank[i] = place
  return rank
}

/**
 * Pairs of rows whose vectors are equal to the last bit. They are pairs at any threshold: the descriptor of an image
 * without detail is too short to reach it.
 */
function* equalPairs(source: RowSource): Generator<[number, number]> {
  const first = new Map<number, number[]>()
  const D = source.dim
  const some = Math.max(1, Math.floor((1 << 20) / D))
  for (let from = 0; from < source.count; from += some) {
    const n = Math.min(some, source.count - from)
    const block = Float32Array.from(source.block(from, n))
    const words = new Int32Array(block.buffer)
    for (let i = 0; i < n; i++) {
      let hash = 0x811c9dc5
      for (let d = i * D; d < (i + 1) * D; d++) hash = Math.imul(hash ^ words[d]!, 0x01000193) ^ (hash >>> 15)
      const row = from + i
      const others = first.get(hash)
      if (!others) {
        first.set(hash, [row])
        continue
      }
      const own = block.subarray(i * D, (i + 1) * D)
      const same = others.find(other => {
        const theirs = source.gather([other])
        return theirs.every((x, d) => x === own[d])
      })
      if (same === undefined) others.push(row)
      else yield [same, row]
    }
  }
}

/** The threshold in force, the calibration where one was asked for, and sentences about it. */
async function* chooseThreshold(
  context: Context,
  options: DedupOptions
): AsyncGenerator<StageEvent, {readonly threshold: number; readonly calibration: object | undefined; readonly summary: string[]}> {
  const usual = defaultThreshold(vectorsOf(context).features.meta)
  if (!options.calibrate) return {threshold: options.threshold ?? usual, calibration: undefined, summary: []}
  const calibration = yield* calibrate(context, options.calibrate)
  const images = context.rows.length
  const isLow = options.threshold === undefined && images < fewImages && calibration.threshold < usual
  const few = isLow
    ? [`the usual threshold of ${usual} is kept: a pool of ${plural(images, 'image')} has too few pairs to go below it`]
    : []
  return {
    threshold: options.threshold ?? (isLow ? usual : calibration.threshold),
    calibration,
    summary: [...calibration.summary, ...few]
  }
}

/** Finds near-duplicates and keeps the best image of each group. */
export async function* dedupStage(context: Context, options: DedupOptions): Stage {
  const {pool, rows, maker, seed, signal} = context
  const {source} = vectorsOf(context)
  const {threshold, calibration, summary} = yield* chooseThreshold(context, options)
  const method: PairMethod = options.method === 'auto' ? (rows.length <= exactUpTo ? 'exact' : 'lists') : options.method
  const N = rows.length
  const arithmetic = await arithmeticFor((N * N * source.dim) / 2, maker)
  const fixed = pool.fixed && Uint8Array.from(rows, row => pool.fixed![row]!)
  const search = {
    threshold,
    k: options.k,
    method,
    seed,
    arithmetic,
    probes: options.probes,
    settled: fixed
  }
  const near = yield* runInParts(
    pairsAbove(source, search),
    ({rows: done, of}) => ({kind: 'work', label: 'comparing', done, total: of}),
    signal
  )
  const pairs = withEqual(near, [...equalPairs(source)])
  const {keeper, size, groups} = keepBest(N, pairs, ranks(pool, rows, pairs), fixed)
  const kept = Uint8Array.from(keeper, (k, i) => (k === i ? 1 : 0))
  const gone = kept.reduce((n, k) => n + (k ? 0 : 1), 0)
  let recall: {recall: number; pairs: number} | undefined
  if (method !== 'exact') {
    recall = pairRecall(source, near, {...search, arithmetic})
    summary.push(
      recall
        ? `${method === 'graph' ? 'the graph' : 'inverted lists'} found ${(100 * recall.recall).toFixed(1)} % of ${plural(recall.pairs, 'true pair')} of sampled rows`
        : 'sampled rows have no pairs, so the share that was found is not known'
    )
  }
  summary.unshift(`${plural(gone, 'near-duplicate')} of ${plural(groups, 'image')} above ${threshold.toFixed(3)}`)
  const dot = (a: number, b: number): number => {
    const both = source.gather([a, b])
    let sum = 0
    for (let d = 0; d < source.dim; d++) sum += both[d]! * both[source.dim + d]!
    return sum
  }
  const largest = [...rows.keys()]
    .filter(i => kept[i] && size[i]! > 1)
    .sort((a, b) => size[b]! - size[a]! || a - b)
    .slice(0, 12)
  return {
    kept,
    fields: i =>
      kept[i]
        ? size[i]! > 1
          ? {reason: fixed?.[i] ? 'kept before' : 'best of its near-duplicates', duplicates: size[i]! - 1}
          : {reason: fixed?.[i] ? 'kept before' : 'no near-duplicate'}
        : {reason: 'near-duplicate', similar_to: pool.ref(rows[keeper[i]!]!).id, similarity: roundedScore(dot(i, keeper[i]!))},
    report: {
      threshold: roundedScore(threshold),
      neighbours: options.k,
      method,
      pairs: pairs.a.length,
      groups,
      recall: recall && roundedScore(recall.recall),
      calibration
    },
    summary,
    groups: largest.map(k => ({
      title: `kept ${pool.ref(rows[k]!).id} and its near-duplicates`,
      members: [k, ...[...rows.keys()].filter(i => i !== k && keeper[i] === k)].slice(0, 12),
      size: size[k]!
    }))
  }
}

function withEqual(near: Pairs, same: readonly (readonly [number, number])[]): Pairs {
  if (same.length === 0) return near
  return {
    a: Int32Array.from([...near.a, ...same.map(([a]) => a)]),
    b: Int32Array.from([...near.b, ...same.map(([, b]) => b)]),
    similarity: Float32Array.from([...near.similarity, ...same.map(() => 1)])
  }
}
