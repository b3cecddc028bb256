/**
 * Retrieval of pool rows that are like curated seeds, in the two ways of LVD-142M (DINOv2 paper, section 3 and
 * appendix A.4).
 *
 * Sample-based, for large seed sets: the N nearest rows of each seed. A row that is near to several seeds is given to
 * the one that it is most like, and the others go on to their next, so that every seed brings N rows of its own.
 * Cluster-based, for small ones: the pool is clustered, and rows are drawn from every cluster that more than T seeds
 * fall into.
 */
import {rng} from '../tensor/random.js'
import {engineArithmetic, type Arithmetic} from './matmul-backend.js'
import {evenShares} from './balanced-sampling.js'
import {membersOf} from './hierarchical-kmeans.js'
import {assign} from './kmeans.js'
import {nearestRows} from './neighbours.js'
import {arrayRows, type RowSource} from './rows.js'

/** For each row the seed that brought it, -1 for rows that none did; and how like they are. */
export type Retrieved = {readonly seed: Int32Array; readonly similarity: Float32Array}

export type SampleRetrieval = {
  /** Rows for each seed. */
  readonly perSeed: number
  /** Rows less like than this are not taken. */
  readonly floor?: number
  readonly arithmetic?: Arithmetic
}

/**
 * Sample-based retrieval. The answer is that of going through all pairs of seed and row, the most alike first (equals:
 * by seed, then row), and giving the row to the seed where it is free and the seed has room; only as many neighbours
 * are looked up as that takes.
 */
export function retrieveNearest(
  rows: RowSource,
  seeds: Float32Array,
  {perSeed, floor = -Infinity, arithmetic = engineArithmetic}: SampleRetrieval
): Retrieved {
  const Q = seeds.length / rows.dim
  for (let k = Math.min(rows.count, Math.max(2 * perSeed, 16)); ; k = Math.min(rows.count, 4 * k)) {
    const near = nearestRows(rows, seeds, k, {arithmetic})
    const pairs = near.reduce((sum, {rows: some}) => sum + some.length, 0)
    const [seed, row, score] = [new Int32Array(pairs), new Int32Array(pairs), new Float64Array(pairs)]
    let n = 0
    for (const [q, {rows: some, scores}] of near.entries())
      for (let i = 0; i < some.length; i++)
        if (scores[i]! >= floor) {
          seed[n] = q
          row[n] = some[i]!
          score[n++] = scores[i]!
        }
    const order = Uint32Array.from({length: n}, (_, i) => i).sort(
      (x, y) => score[y]! - score[x]! || seed[x]! - seed[y]! || row[x]! - row[y]!
    )
    const owner = new Int32Array(rows.count).fill(-1)
    const similarity = new Float32Array(rows.count)
    const got = new Int32Array(Q)
    for (const i of order) {
      if (got[seed[i]!]! >= perSeed || owner[row[i]!]! >= 0) continue
      owner[row[i]!] = seed[i]!
      similarity[row[i]!] = score[i]!
      got[seed[i]!]!++
    }
    // A seed that is short may have rows beyond those looked up; its last neighbour tells, where a floor is set.
    const short = near.some(
      ({rows: some, scores}, q) => got[q]! < perSeed && some.length < rows.count && (scores.at(-1) ?? -Infinity) >= floor
    )
    if (!short || k === rows.count) return {seed: owner, similarity}
  }
}

export type ClusterRetrieval = {
  /** Clusters [K, D] of the pool, and to which each row belongs. */
  readonly centroids: Float32Array
  readonly assignments: Int32Array
  /** A cluster counts when more seeds than this fall into it; 3 as published. */
  readonly moreThan: number
  /** Rows drawn from each such cluster at most. */
  readonly perCluster: number
  /** Rows of the whole seed set at most; clusters then give as equal shares as they can. */
  readonly cap?: number
  readonly seed: number
  readonly arithmetic?: Arithmetic
}

export type ClustersHit = Retrieved & {readonly hits: Int32Array /* seeds in each cluster, [K] */}

/** Cluster-based retrieval; each row drawn names the seed of its cluster that it is most like. */
export function retrieveFromClusters(rows: RowSource, seeds: Float32Array, options: ClusterRetrieval): ClustersHit {
  const {centroids, assignments, moreThan, perCluster, cap = Infinity, arithmetic = engineArithmetic} = options
  const D = rows.dim
  const K = centroids.length / D
  const where = assign(arrayRows(seeds, D), centroids, arithmetic)
  const hits = new Int32Array(K)
  for (const c of where) hits[c]!++
  const members = membersOf(assignments, K)
  const seedsIn = membersOf(where, K)
  const hit = [...hits.keys()].filter(c => hits[c]! > moreThan)
  const open = hit.map(c => Math.min(perCluster, members[c]!.length))
  const total = open.reduce((a, b) => a + b, 0)
  const shares = evenShares(open, Math.min(total, cap), {order: rng(options.seed, 'cap').permutation(hit.length)})
  const owner = new Int32Array(rows.count).fill(-1)
  const similarity = new Float32Array(rows.count)
  for (const [h, c] of hit.entries()) {
    const order = rng(options.seed, 'cluster', c).permutation(members[c]!.length)
    const drawn = Int32Array.from(order.subarray(0, shares[h]!), j => members[c]![j]!)
    if (drawn.length === 0) continue
    const own = new Float32Array(seedsIn[c]!.length * D)
    for (const [i, s] of seedsIn[c]!.entries()) own.set(seeds.subarray(s * D, (s + 1) * D), i * D)
    const scores = arithmetic.products(rows.gather(drawn), own, D) // [n, seeds]
    for (const [i, row] of drawn.entries()) {
      let best = 0
      for (let s = 1; s < seedsIn[c]!.length; s++)
        if (scores[i * seedsIn[c]!.length + s]! > scores[i * seedsIn[c]!.length + best]!) best = s
      owner[row] = seedsIn[c]![best]!
      similarity[row] = scores[i * seedsIn[c]!.length + best]!
    }
  }
  return {seed: owner, similarity, hits}
}
