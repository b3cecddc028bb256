/**
 * Neighbours for curation: all pairs of rows that are more alike than a threshold, and the nearest rows of some
 * queries.
 *
 * Rows have length 1, so that an inner product is a cosine. Pairs are found exactly (every row with every other, each
 * pair once, as matrix products), by inverted lists (rows are clustered, and each is compared with the rows of the few
 * clusters nearest to it), or by a graph. Lists lose few near-duplicates; how many is estimated on drawn rows.
 */
import {TopK, type Neighbours} from '../search/exact.js'
import {Graph, defaultGraph} from '../search/hnsw.js'
import {rng} from '../tensor/random.js'
import {engineArithmetic, type Arithmetic} from './matmul-backend.js'
import {membersOf} from './hierarchical-kmeans.js'
import {drawRows} from './kmeans-init.js'
import {finish, kmeans} from './kmeans.js'
import {selectRows, rowsPerBlock, rowBlocks, type RowSource} from './rows.js'

export type PairMethod = 'exact' | 'lists' | 'graph'

export type NearOptions = {
  /** Cosine from which on two rows are a pair. */
  readonly threshold: number
  /** Partners of a row that are kept: its nearest. */
  readonly k: number
  readonly method?: PairMethod
  /** Lists: clusters looked into for each row; graph: candidates looked at. */
  readonly probes?: number
  readonly lists?: number
  readonly seed: number
  readonly arithmetic?: Arithmetic
  /** Rows that need not be compared with each other: pairs of two of them are left out. */
  readonly settled?: Uint8Array
}

export type PairEvent = {readonly kind: 'compared'; readonly rows: number; readonly of: number}

/** Pairs (a < b) with their cosine, in order of a, then b. */
export type Pairs = {readonly a: Int32Array; readonly b: Int32Array; readonly similarity: Float32Array}

/** The nearest partners of each row that has any, cut to the best k. Equally near ones: the smaller number first. */
class Partners {
  readonly #rows = new Map<number, {partners: number[]; scores: number[]}>()
  constructor(readonly k: number) {}

  add(row: number, partner: number, score: number): void {
    let list = this.#rows.get(row)
    if (!list) this.#rows.set(row, (list = {partners: [], scores: []}))
    list.partners.push(partner)
    list.scores.push(score)
    if (list.partners.length >= 4 * this.k + 64) this.#cut(list)
  }

  #cut(list: {partners: number[]; scores: number[]}): void {
    const {partners, scores} = list
    const order = [...partners.keys()].sort((x, y) => scores[y]! - scores[x]! || partners[x]! - partners[y]!)
    const seen = new Set<number>()
    const best = order.filter(i => !seen.has(partners[i]!) && seen.add(partners[i]!)).slice(0, this.k)
    list.partners = best.map(i => partners[i]!)
    list.scores = best.map(i => scores[i]!)
  }

  /** A pair is there when either row has the other among its best k. */
  pairs(): Pairs {
    const found = new Map<number, Map<number, number>>()
    for (const [row, list] of this.#rows) {
      this.#cut(list)
      for (const [i, partner] of list.partners.entries()) {
        const [a, b] = row < partner ? [row, partner] : [partner, row]
        const others = found.get(a)
        if (others) others.set(b, list.scores[i]!)
        else found.set(a, new Map([[b, list.scores[i]!]]))
      }
    }
    const flat: [number, number, number][] = []
    for (const a of [...found.keys()].sort((x, y) => x - y))
      for (const b of [...found.get(a)!.keys()].sort((x, y) => x - y)) flat.push([a, b, found.get(a)!.get(b)!])
    return {
      a: Int32Array.from(flat, ([a]) => a),
      b: Int32Array.from(flat, ([, b]) => b),
      similarity: Float32Array.from(flat, ([, , s]) => s)
    }
  }
}

/** Up to this many rows every pair is looked at: a few minutes on two cores at 384 numbers a row. */
export const exactUpTo = 100_000

/** Finds the pairs; yields how far it is and returns them. */
export function* pairsAbove(rows: RowSource, options: NearOptions): Generator<PairEvent, Pairs> {
  const {method = rows.count <= exactUpTo ? 'exact' : 'lists', k} = options
  const partners = new Partners(k)
  if (rows.count > 1) {
    if (method === 'exact') yield* exactly(rows, partners, options)
    else if (method === 'lists') yield* throughLists(rows, partners, options)
    else yield* throughGraph(rows, partners, options)
  }
  return partners.pairs()
}

function* exactly(
  rows: RowSource,
  partners: Partners,
  {threshold, arithmetic = engineArithmetic, settled}: NearOptions
): Generator<PairEvent> {
  const {dim: D, count: N} = rows
  const size = Math.min(rowsPerBlock(D, 4096), 4096)
  for (let i0 = 0; i0 < N; i0 += size) {
    const n = Math.min(size, N - i0)
    const left = Float32Array.from(rows.block(i0, n))
    for (let j0 = i0; j0 < N; j0 += size) {
      const m = Math.min(size, N - j0)
      if (settled && allSet(settled, i0, n) && allSet(settled, j0, m)) continue
      const scores = arithmetic.products(left, rows.block(j0, m), D) // [n, m]
      for (let i = 0; i < n; i++) {
        const at = i * m
        for (let j = i0 === j0 ? i + 1 : 0; j < m; j++) {
          const score = scores[at + j]!
          if (score < threshold || (settled?.[i0 + i] && settled[j0 + j])) continue
          partners.add(i0 + i, j0 + j, score)
          partners.add(j0 + j, i0 + i, score)
        }
      }
    }
    yield {kind: 'compared', rows: i0 + n, of: N}
  }
}

const allSet = (flags: Uint8Array, from: number, n: number): boolean => {
  for (let i = from; i < from + n; i++) if (!flags[i]) return false
  return true
}

function* throughLists(rows: RowSource, partners: Partners, options: NearOptions): Generator<PairEvent> {
  const {threshold, seed, arithmetic = engineArithmetic, settled, probes = 8} = options
  const {dim: D, count: N} = rows
  const K = Math.min(N, options.lists ?? Math.max(1, Math.round(2 * Math.sqrt(N))))
  const {centroids} = coarse(rows, K, seed, arithmetic)
  const near = new Int32Array(N * Math.min(probes, K)) // [N, probes]
  const p = Math.min(probes, K)
  {
    using ready = arithmetic.centroids(centroids, D)
    for (const {from, block} of rowBlocks(rows, rowsPerBlock(D, K))) near.set(ready.probe(block, p), from * p)
  }
  const members = membersOf(
    Int32Array.from({length: N}, (_, i) => near[i * p]!),
    K
  )
  const visitors = visitorsOf(near, p, K)
  let done = 0
  for (let c = 0; c < K; c++) {
    const own = members[c]!
    if (own.length > 0) {
      const held = rows.gather(own) // [m, D]
      const come = visitors[c]!
      const some = rowsPerBlock(D, own.length)
      for (let q0 = 0; q0 < come.length; q0 += some) {
        const asking = come.subarray(q0, q0 + some)
        const scores = arithmetic.products(rows.gather(asking), held, D) // [q, m]
        for (let q = 0; q < asking.length; q++) {
          const row = asking[q]!
          for (let j = 0, at = q * own.length; j < own.length; j++) {
            if (scores[at + j]! < threshold || own[j] === row || (settled?.[row] && settled[own[j]!])) continue
            partners.add(row, own[j]!, scores[at + j]!)
            partners.add(own[j]!, row, scores[at + j]!)
          }
        }
      }
    }
    done += own.length
    if (c % 16 === 15 || c === K - 1) yield {kind: 'compared', rows: done, of: N}
  }
}

/** Rows by the clusters that they look into. */
function visitorsOf(near: Int32Array, probes: number, K: number): Int32Array[] {
  const counts = new Int32Array(K)
  for (const c of near) counts[c]!++
  const visitors = Array.from(counts, n => new Int32Array(n))
  const filled = new Int32Array(K)
  for (let i = 0; i < near.length; i++) visitors[near[i]!]![filled[near[i]!]!++] = Math.floor(i / probes)
  return visitors
}

/** Clusters for lists: a few rounds on a sample are enough, for they only have to be about equal in size. */
function coarse(rows: RowSource, K: number, seed: number, arithmetic: Arithmetic): {centroids: Float32Array} {
  const chosen = drawRows(rows.count, Math.min(rows.count, 64 * K), rng(seed, 'lists'))
  const some = chosen.length === rows.count ? rows : selectRows(rows, chosen)
  return finish(kmeans(some, {k: K, seed, init: 'random', iterations: 8, arithmetic}))
}

function* throughGraph(rows: RowSource, partners: Partners, {threshold, k, probes = 128, settled}: NearOptions): Generator<PairEvent> {
  const {dim: D, count: N} = rows
  const graph = Graph.create(D, 'cosine', N, defaultGraph)
  for (const {from, block, n} of rowBlocks(rows, 1024)) {
    for (let i = 0; i < n; i++) graph.add(block.subarray(i * D, (i + 1) * D), from + i)
    yield {kind: 'compared', rows: Math.floor((from + n) / 2), of: N}
  }
  for (const {from, block, n} of rowBlocks(rows, 1024)) {
    for (let i = 0; i < n; i++) {
      const row = from + i
      const found = graph.nearest(block.subarray(i * D, (i + 1) * D), k + 1, Math.max(probes, k + 1))
      for (const [j, other] of found.rows.entries())
        if (other !== row && found.scores[j]! >= threshold && !(settled?.[row] && settled[other]))
          partners.add(row, other, found.scores[j]!)
    }
    yield {kind: 'compared', rows: Math.floor((N + from + n) / 2), of: N}
  }
}

/**
 * The share of true partners (the best k) that were found, over `asked` sampled rows, each compared with all rows;
 * undefined where no sampled row has a partner.
 */
export function pairRecall(
  rows: RowSource,
  pairs: Pairs,
  {threshold, k, seed, arithmetic = engineArithmetic}: NearOptions,
  asked = 500
): {recall: number; pairs: number} | undefined {
  const chosen = drawRows(rows.count, asked, rng(seed, 'recall'))
  const found = new Map<number, Set<number>>()
  for (const row of chosen) found.set(row, new Set())
  for (let i = 0; i < pairs.a.length; i++) {
    found.get(pairs.a[i]!)?.add(pairs.b[i]!)
    found.get(pairs.b[i]!)?.add(pairs.a[i]!)
  }
  const truth = nearestRows(rows, rows.gather(chosen), k + 1, {arithmetic, skip: (q, row) => row === chosen[q]})
  let [wanted, got] = [0, 0]
  for (const [q, {rows: near, scores}] of truth.entries())
    for (let i = 0; i < Math.min(k, near.length); i++) {
      if (scores[i]! < threshold) break
      wanted++
      if (found.get(chosen[q]!)!.has(near[i]!)) got++
    }
  return wanted === 0 ? undefined : {recall: got / wanted, pairs: wanted}
}

/** The k nearest rows of each query [Q, D], best first; equally near ones by number. */
export function nearestRows(
  rows: RowSource,
  queries: Float32Array,
  k: number,
  {arithmetic = engineArithmetic, skip}: {readonly arithmetic?: Arithmetic; readonly skip?: (query: number, row: number) => boolean} = {}
): Neighbours[] {
  const D = rows.dim
  const Q = queries.length / D
  const best = Array.from({length: Q}, () => new TopK(Math.min(k, rows.count), (a, b) => a < b))
  const some = Math.max(1, Math.min(Q, 2048))
  for (const {from, block, n} of rowBlocks(rows, rowsPerBlock(D, some)))
    for (let q0 = 0; q0 < Q; q0 += some) {
      const scores = arithmetic.products(queries.subarray(q0 * D, Math.min(Q, q0 + some) * D), block, D) // [q, n]
      for (let q = 0; q < Math.min(some, Q - q0); q++) {
        const list = best[q0 + q]!
        for (let i = 0, at = q * n; i < n; i++)
          if (scores[at + i]! >= list.threshold && !skip?.(q0 + q, from + i)) list.add(scores[at + i]!, from + i)
      }
    }
  return best.map(list => list.finish())
}

/**
 * The rows that pairs above the threshold connect with the queries [Q, D], over any number of steps. → for each row
 * the step at which it was reached (1: near a query itself), 0 for all others; and what it was reached from.
 */
export function reached(
  rows: RowSource,
  queries: Float32Array,
  {threshold, arithmetic = engineArithmetic}: {readonly threshold: number; readonly arithmetic?: Arithmetic}
): {readonly step: Int32Array; readonly from: Int32Array; readonly similarity: Float32Array} {
  const {dim: D, count: N} = rows
  const step = new Int32Array(N)
  const from = new Int32Array(N).fill(-1)
  const similarity = new Float32Array(N)
  let asking = queries
  let names = Int32Array.from({length: queries.length / D}, (_, q) => q)
  for (let number = 1; names.length > 0; number++) {
    const some = Math.max(1, Math.min(names.length, 2048))
    const fresh: number[] = []
    for (const {from: r0, block, n} of rowBlocks(rows, rowsPerBlock(D, some)))
      for (let q0 = 0; q0 < names.length; q0 += some) {
        const q1 = Math.min(names.length, q0 + some)
        const scores = arithmetic.products(asking.subarray(q0 * D, q1 * D), block, D)
        for (let q = q0; q < q1; q++)
          for (let i = 0, at = (q - q0) * n; i < n; i++) {
            const row = r0 + i
            const score = scores[at + i]!
            if (score < threshold || (step[row] !== 0 && step[row] !== number)) continue
            if (step[row] === 0) {
              step[row] = number
              fresh.push(row)
            } else if (score <= similarity[row]!) continue
            from[row] = names[q]!
            similarity[row] = score
          }
      }
    names = Int32Array.from(fresh).sort()
    asking = rows.gather(names)
  }
  return {step, from, similarity}
}
