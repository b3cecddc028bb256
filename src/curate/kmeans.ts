/**
 * k-means of vectors (Lloyd 1982), full or by mini-batches (Sculley 2010), over rows that need not fit into memory.
 *
 * What costs is finding each row's nearest centroid; that is one matrix product a stretch of rows, on the engine. Sums
 * are taken in float64 in the order of the rows, so the same rows, seed and engine give the same bytes.
 *
 * Start: `random` rows, or `k-means++` (Arthur and Vassilvitskii 2007), where each next seed is drawn with a chance
 * that grows with its squared distance from those that are there. One at a time that is K passes over the rows; beyond
 * 32 seeds it is therefore done a sixteenth of the present seeds at a time (as k-means‖ does, Bahmani et al. 2012), on
 * a sample of the rows where there are many.
 *
 * A cluster that becomes empty is given a new place: a row drawn from the cluster whose rows lie farthest apart, which
 * is thereby split.
 */
import {drawRows, firstCentroids} from './kmeans-init.js'
import {rng, type Rng} from '../tensor/random.js'
import {engineArithmetic, type Arithmetic} from './matmul-backend.js'
import {arrayRows, rowsPerBlock, rowBlocks, type RowSource} from './rows.js'

export type KMeansOptions = {
  /** Clusters; no more than there are rows. */
  readonly k: number
  readonly seed: number
  /** Rounds at most: passes over all rows, or mini-batches. 20 or 200 by default. */
  readonly iterations?: number
  readonly init?: 'k-means++' | 'random'
  /** Rows of a mini-batch; absent: every round sees all rows. */
  readonly batch?: number
  /** Ends early when the objective improves by a smaller share than this; 0: only when no row changes its cluster. */
  readonly tolerance?: number
  readonly arithmetic?: Arithmetic
}

/** After each round: the mean squared distance of the rows to their centroids (of a mini-batch: of its rows). */
export type KMeansEvent = {readonly kind: 'round'; readonly round: number; readonly of: number; readonly objective: number}

export type Clusters = {
  readonly k: number
  /** [K, D] */
  readonly centroids: Float32Array
  /** Cluster of each row, [N]. */
  readonly assignments: Int32Array
  /** Rows of each cluster, [K]; 0 only where rows are too much alike for K clusters. */
  readonly sizes: Int32Array
  /** Mean squared distance of the rows to their centroids. */
  readonly objective: number
  readonly rounds: number
}

/** Sums over the rows of each cluster. */
type Sums = {readonly vectors: Float64Array /* [K, D] */; readonly squares: Float64Array; readonly counts: Int32Array; changed: number}

/** Assigns every row to its nearest centroid; with `sums`, adds the rows up. */
function pass(rows: RowSource, centroids: Float32Array, k: number, assignments: Int32Array, arithmetic: Arithmetic, sums?: Sums): void {
  const D = rows.dim
  using ready = arithmetic.centroids(centroids, D)
  for (const {from, block, n} of rowBlocks(rows, rowsPerBlock(D, k))) {
    const closest = ready.closest(block)
    for (let i = 0; i < n; i++) {
      const c = closest[i]!
      if (assignments[from + i] !== c) {
        assignments[from + i] = c
        if (sums) sums.changed++
      }
      if (!sums) continue
      sums.counts[c]!++
      let square = 0
      for (let d = 0, at = i * D, to = c * D; d < D; d++) {
        const x = block[at + d]!
        sums.vectors[to + d]! += x
        square += x * x
      }
      sums.squares[c]! += square
    }
  }
}

/** Summed squared distance of each cluster's rows to their mean: Σ|x|² - |Σx|²/n. */
function spreads({vectors, squares, counts}: Sums, dim: number): Float64Array {
  return squares.map((square, c) => {
    if (counts[c] === 0) return 0
    let norm = 0
    for (let d = c * dim; d < (c + 1) * dim; d++) norm += vectors[d]! ** 2
    return Math.max(0, square - norm / counts[c]!)
  })
}

/** The nearest centroid of every row, [N]. */
export function assign(rows: RowSource, centroids: Float32Array, arithmetic: Arithmetic = engineArithmetic): Int32Array {
  const assignments = new Int32Array(rows.count).fill(-1)
  pass(rows, centroids, centroids.length / rows.dim, assignments, arithmetic)
  return assignments
}

/** Squared distance of every row to the centroid it belongs to, [N]. */
export function distancesToCentroids(rows: RowSource, {centroids, assignments}: Pick<Clusters, 'centroids' | 'assignments'>): Float64Array {
  const D = rows.dim
  const out = new Float64Array(rows.count)
  for (const {from, block, n} of rowBlocks(rows, rowsPerBlock(D, D)))
    for (let i = 0; i < n; i++) {
      let sum = 0
      for (let d = 0, at = i * D, c = assignments[from + i]! * D; d < D; d++) sum += (block[at + d]! - centroids[c + d]!) ** 2
      out[from + i] = sum
    }
  return out
}

/**
 * Clusters the rows; yields after each round and returns the clusters. Every row belongs to the centroid nearest to
 * it. More clusters than rows are not made: `k` of the result says how many there are.
 */
export function* kmeans(rows: RowSource, options: KMeansOptions): Generator<KMeansEvent, Clusters> {
  const {seed, batch, arithmetic = engineArithmetic, tolerance = 0} = options
  const {dim: D, count: N} = rows
  const k = Math.min(options.k, N)
  const assignments = new Int32Array(N).fill(-1)
  if (k === 0) return {k, centroids: new Float32Array(0), assignments, sizes: new Int32Array(0), objective: 0, rounds: 0}
  const centroids = firstCentroids(rows, {k, seed, arithmetic, init: options.init})
  const small = batch !== undefined && batch < N
  const most = options.iterations ?? (small ? 200 : 20)
  let rounds = 0
  let settled = false
  if (small) yield* miniBatches(rows, centroids, {k, seed, batch, rounds: most, arithmetic})
  else
    for (let before = Infinity; rounds < most && !settled;) {
      const sums: Sums = {vectors: new Float64Array(k * D), squares: new Float64Array(k), counts: new Int32Array(k), changed: 0}
      pass(rows, centroids, k, assignments, arithmetic, sums)
      const spread = spreads(sums, D)
      const objective = spread.reduce((sum, x) => sum + x, 0) / N
      settled = sums.changed === 0 || before - objective < tolerance * before
      before = objective
      if (sums.changed > 0) {
        moveToMeans(centroids, sums, D)
        if (fillEmpty(rows, centroids, assignments, sums, spread, rng(seed, 'k-means', 'empty', rounds))) settled = false
      }
      yield {kind: 'round', round: ++rounds, of: most, objective}
    }
  // Centroids moved after the last assignment, so rows are given to them once more, and what they cost is added up.
  const sums: Sums = {vectors: new Float64Array(k * D), squares: new Float64Array(k), counts: new Int32Array(k), changed: 0}
  pass(rows, centroids, k, assignments, arithmetic, sums)
  return {k, centroids, assignments, sizes: sums.counts, objective: cost(centroids, sums, D) / N, rounds: small ? most : rounds}
}

/** Σ|x - c|² = Σ|x|² - 2 c·Σx + n|c|², over all clusters. */
function cost(centroids: Float32Array, {vectors, squares, counts}: Sums, dim: number): number {
  let total = 0
  for (let c = 0; c < counts.length; c++) {
    let [dot, square] = [0, 0]
    for (let d = c * dim; d < (c + 1) * dim; d++) {
      dot += centroids[d]! * vectors[d]!
      square += centroids[d]! ** 2
    }
    total += Math.max(0, squares[c]! - 2 * dot + counts[c]! * square)
  }
  return total
}

function moveToMeans(centroids: Float32Array, {vectors, counts}: Sums, dim: number): void {
  for (let c = 0; c < counts.length; c++)
    if (counts[c]! > 0) for (let d = c * dim; d < (c + 1) * dim; d++) centroids[d] = vectors[d]! / counts[c]!
}

/** Gives each empty cluster a row of the cluster that is spread widest; whether there was one to give. */
function fillEmpty(
  rows: RowSource,
  centroids: Float32Array,
  assignments: Int32Array,
  {counts}: Sums,
  spread: Float64Array,
  random: Rng
): boolean {
  const empty = [...counts.keys()].filter(c => counts[c] === 0)
  if (empty.length === 0) return false
  let filled = false
  const left = Float64Array.from(spread)
  for (const c of empty) {
    let widest = 0
    for (let j = 1; j < left.length; j++) if (left[j]! > left[widest]!) widest = j
    if (!(left[widest]! > 1e-9 * Math.max(1, counts[widest]!))) break // rows too much alike for so many clusters
    left[widest]! /= 4 // halving a cluster leaves about half the rows at half the distance
    let at = random.int(rows.count)
    while (assignments[at] !== widest) at = (at + 1) % rows.count
    centroids.set(rows.gather([at]), c * rows.dim)
    filled = true
  }
  return filled
}

/**
 * Sculley's update: each row of a batch pulls its centroid by one over the number of rows that the centroid has seen.
 */
function* miniBatches(
  rows: RowSource,
  centroids: Float32Array,
  {k, seed, batch, rounds, arithmetic}: {k: number; seed: number; batch: number; rounds: number; arithmetic: Arithmetic}
): Generator<KMeansEvent> {
  const D = rows.dim
  const seen = new Float64Array(k)
  for (let round = 0; round < rounds; round++) {
    const random = rng(seed, 'k-means', 'batch', round)
    const some = arrayRows(rows.gather(drawRows(rows.count, batch, random)), D)
    const assignments = new Int32Array(some.count).fill(-1)
    const sums: Sums = {vectors: new Float64Array(k * D), squares: new Float64Array(k), counts: new Int32Array(k), changed: 0}
    pass(some, centroids, k, assignments, arithmetic, sums)
    const objective = cost(centroids, sums, D) / some.count
    for (let c = 0; c < k; c++) {
      const n = sums.counts[c]!
      if (n === 0) continue
      seen[c]! += n
      const rate = n / seen[c]! // the n steps of 1/seen, taken at once
      for (let d = c * D; d < (c + 1) * D; d++) centroids[d] = centroids[d]! + rate * (sums.vectors[d]! / n - centroids[d]!)
    }
    // Centroids that no row has come to after a tenth of the rounds start anew at a row of the batch.
    if (round === Math.floor(rounds / 10))
      for (let c = 0; c < k; c++) if (seen[c] === 0) centroids.set(some.gather([random.int(some.count)]), c * D)
    yield {kind: 'round', round: round + 1, of: rounds, objective}
  }
}

/** Runs a generator to its end. */
export function finish<E, R>(work: Generator<E, R>, each?: (event: E) => void): R {
  for (;;) {
    const {done, value} = work.next()
    if (done) return value
    each?.(value)
  }
}
