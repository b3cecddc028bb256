/**
 * The first stage: what is no picture to learn from is left out by size, shape, contrast, sharpness and noise, by its
 * hash, and by its distance to seeds.
 */
import {hashPairs} from '../../curate/hashes.js'
import {nearestRows} from '../../curate/neighbours.js'
import {arrayRows, rowsPerBlock, rowBlocks} from '../../curate/rows.js'
import {UserError} from '../../config/errors.js'
import {arithmeticFor, plural, roundedScore, vectorsOf, type Context, type Stage} from './stage.js'
import {openOther} from './pool.js'

export type FilterOptions = {
  /** Shorter side in pixels. */
  readonly minSide: number
  /** Longer side over shorter side; 0: any. */
  readonly maxAspect: number
  readonly minContrast: number
  readonly minEntropy: number
  readonly minSharpness: number
  readonly maxNoise: number
  /** Pictures whose hashes differ in at most this many bits are one; undefined: hashes are not compared. */
  readonly maxHashDistance: number | undefined
  /** Seed images, to which a row must be at least as like as `minSimilarity`. */
  readonly seeds: readonly string[]
  readonly minSimilarity: number
}

/** Runs the filter. Throws `UserError` (exit 2) where the pool came as vectors whose rows do not carry measures. */
export async function* filterStage(context: Context, options: FilterOptions): Stage {
  const {pool, rows, maker} = context
  const {measures} = pool
  if (!measures)
    throw new UserError(`${pool.name} holds vectors that say nothing of the pictures' size and sharpness.`, {
      exit: 2,
      code: 'NO_IMAGES',
      hint: 'Name the images, or a file of features that --cache wrote (perceptual.arrow), or leave the stage out: --stages dedup.'
    })
  const fixed = (i: number): boolean => pool.fixed?.[rows[i]!] === 1
  const reasons: (string | undefined)[] = []
  const counts = new Map<string, number>()
  const kept = new Uint8Array(rows.length)
  const twin = new Map<number, number>()
  const reject = (i: number, rule: string, reason: string): void => {
    reasons[i] = reason
    counts.set(rule, (counts.get(rule) ?? 0) + 1)
  }
  for (const [i, row] of rows.entries()) {
    const {width, height, contrast, entropy, sharpness, noise} = measures[row]!
    const [short, long] = [Math.min(width, height), Math.max(width, height)]
    if (fixed(i)) continue
    if (short < options.minSide) reject(i, 'too small', `too small: ${width} × ${height} pixels`)
    else if (options.maxAspect > 0 && long > options.maxAspect * short) reject(i, 'too long', `too long: ${width} × ${height} pixels`)
    else if (contrast < options.minContrast) reject(i, 'nearly one colour', `nearly one colour: contrast ${contrast}`)
    else if (entropy < options.minEntropy) reject(i, 'little in it', `little in it: entropy ${entropy} bits`)
    else if (sharpness < options.minSharpness) reject(i, 'blurred', `blurred: sharpness ${sharpness}`)
    else if (noise > options.maxNoise) reject(i, 'noise', `noise: ${noise} of white noise`)
  }
  if (options.maxHashDistance !== undefined) {
    const open = [...rows.keys()].filter(i => reasons[i] === undefined)
    // The larger picture first: a later one that has its hash is the copy.
    const size = (i: number): number => measures[rows[i]!]!.width * measures[rows[i]!]!.height
    open.sort((a, b) => Number(fixed(b)) - Number(fixed(a)) || size(b) - size(a) || a - b)
    const hashes = new Uint32Array(2 * open.length)
    for (const [j, i] of open.entries()) {
      const {hash} = measures[rows[i]!]!
      hashes[2 * j] = parseInt(hash.slice(0, 8), 16)
      hashes[2 * j + 1] = parseInt(hash.slice(8), 16)
    }
    const pairs: [number, number, number][] = []
    hashPairs(hashes, options.maxHashDistance, (a, b, distance) => pairs.push([a, b, distance]))
    pairs.sort(([a, b], [c, d]) => a - c || b - d)
    for (const [a, b, distance] of pairs) {
      if (reasons[open[a]!] !== undefined || reasons[open[b]!] !== undefined || fixed(open[b]!)) continue
      reject(
        open[b]!,
        'same hash',
        distance === 0 ? 'the hash of another picture' : `the hash of another picture but for ${plural(distance, 'bit')}`
      )
      twin.set(open[b]!, open[a]!)
    }
  }
  const likeness = new Map<number, {similarity: number; seed: string}>()
  if (options.seeds.length > 0) {
    const {features, source} = vectorsOf(context)
    const seeds = yield* openOther('the seeds', options.seeds, features, maker, {...context, pool: pool.name})
    const D = source.dim
    const arithmetic = await arithmeticFor(rows.length * seeds.ids.length * D, maker)
    const rowsOfSeeds = arrayRows(seeds.vectors, D)
    for (const {from, block, n} of rowBlocks(source, rowsPerBlock(D, 2048))) {
      const near = nearestRows(rowsOfSeeds, Float32Array.from(block), 1, {arithmetic})
      for (let i = from; i < from + n; i++) {
        const similarity = near[i - from]!.scores[0]!
        likeness.set(i, {similarity: roundedScore(similarity), seed: seeds.ids[near[i - from]!.rows[0]!]!})
        if (reasons[i] === undefined && !fixed(i) && similarity < options.minSimilarity) reject(i, 'unlike the seeds', 'unlike every seed')
      }
      yield {kind: 'work', label: 'comparing with seeds', done: from + n, total: rows.length}
    }
  }
  for (let i = 0; i < rows.length; i++) kept[i] = reasons[i] === undefined ? 1 : 0
  return {
    kept,
    note(i) {
      const {width, height, contrast, entropy, sharpness, noise, hash} = measures[rows[i]!]!
      const reason = reasons[i]
      return {
        ...(reason === undefined ? {reason: 'passed the filter'} : {reason}),
        ...(twin.has(i) ? {twin: pool.ref(rows[twin.get(i)!]!).id} : {}),
        ...likeness.get(i),
        width,
        height,
        contrast,
        entropy,
        sharpness,
        noise,
        hash
      }
    },
    report: {rules: Object.fromEntries(counts)},
    says: [...counts].map(([rule, n]) => `${n.toLocaleString('en')} ${rule}`),
    groups: [...counts.keys()].map(rule => {
      const members = reasons.flatMap((reason, i) => (reason !== undefined && belongs(reason, rule) ? [i] : []))
      return {title: `left out: ${rule}`, members: members.slice(0, 24), size: members.length}
    })
  }
}

const belongs = (reason: string, rule: string): boolean =>
  rule === 'same hash'
    ? reason.startsWith('the hash of')
    : rule === 'unlike the seeds'
      ? reason.startsWith('unlike every')
      : reason.startsWith(rule)
