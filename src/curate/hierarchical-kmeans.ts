/**
 * Hierarchical k-means with resampling (Vo et al. 2024, "Automatic data curation for self-supervised learning: a
 * clustering-based approach", section 3.2).
 *
 * Level 1 clusters the rows; each further level clusters the centroids of the level below. Plain k-means puts its
 * centroids where rows are dense; after each clustering the few rows nearest to each centroid are therefore taken as a
 * new set, in which dense and sparse places count alike, and clustered again. Repeated, this spreads the centroids
 * evenly over the ground that the data cover, so that sampling evenly from the clusters balances concepts.
 */
import {assign, distancesToCentroids, kmeans, type Clusters, type KMeansEvent, type KMeansOptions} from './kmeans.js'
import {engineArithmetic} from './matmul-backend.js'
import {arrayRows, selectRows, type RowSource} from './rows.js'

export type HierarchyOptions = Pick<KMeansOptions, 'seed' | 'iterations' | 'init' | 'batch' | 'tolerance' | 'arithmetic'> & {
  /** Clusters of each level, from the rows upwards: each smaller than the one before. */
  readonly levels: readonly number[]
  /** How often each level is clustered again from rows near its centroids; 0: plain hierarchical k-means. */
  readonly resample?: number
  /** Rows taken from each cluster for that; a number for each level, the last one for the rest. */
  readonly nearest?: readonly number[]
}

export type HierarchyEvent = KMeansEvent & {readonly level: number; readonly again: number}

/**
 * One level: to which of its clusters each row (level 1) or each cluster of the level below belongs. Clusters are not
 * empty.
 */
export type Level = {
  readonly k: number
  readonly centroids: Float32Array /* [K, D] */
  readonly assignments: Int32Array
  readonly objective: number
}

/** The levels from the rows upwards. */
export type Hierarchy = {readonly rows: number; readonly levels: readonly Level[]}

/** Leaves out clusters that no item belongs to. */
function compact({centroids, assignments, sizes, objective}: Clusters, dim: number): Level {
  const number = new Int32Array(sizes.length)
  let k = 0
  for (let c = 0; c < sizes.length; c++) if (sizes[c]! > 0) number[c] = k++
  const kept = new Float32Array(k * dim)
  for (let c = 0; c < sizes.length; c++) if (sizes[c]! > 0) kept.set(centroids.subarray(c * dim, (c + 1) * dim), number[c]! * dim)
  return {k, centroids: kept, assignments: assignments.map(c => number[c]!), objective}
}

/** The `n` rows nearest to each centroid, in order of their numbers. */
export function nearestToCentroids(
  rows: RowSource,
  {centroids, assignments, k}: Pick<Clusters, 'centroids' | 'assignments' | 'k'>,
  n: number
): Int32Array {
  const distances = distancesToCentroids(rows, {centroids, assignments})
  const members = membersOf(assignments, k)
  const chosen: number[] = []
  for (const some of members) {
    const order = some.length <= n ? some : some.sort((a, b) => distances[a]! - distances[b]! || a - b).subarray(0, n)
    for (const row of order) chosen.push(row)
  }
  return Int32Array.from(chosen).sort()
}

/** The items of each cluster, in order. */
export function membersOf(assignments: Int32Array, k: number): Int32Array[] {
  const counts = new Int32Array(k)
  for (const c of assignments) counts[c]!++
  const members = Array.from(counts, n => new Int32Array(n))
  const filled = new Int32Array(k)
  for (let i = 0; i < assignments.length; i++) members[assignments[i]!]![filled[assignments[i]!]!++] = i
  return members
}

/** Builds the levels; yields the rounds of every clustering and returns the hierarchy. */
export function* hierarchicalKMeans(rows: RowSource, options: HierarchyOptions): Generator<HierarchyEvent, Hierarchy> {
  const {levels, resample = 0, nearest = [], seed, arithmetic = engineArithmetic, ...rest} = options
  const built: Level[] = []
  let items = rows
  for (const [l, k] of levels.entries()) {
    const seedOf = (again: number): number => (seed + 7919 * (l * 1000 + again)) % 2 ** 31 // streams that do not meet
    let clusters = yield* tagged(kmeans(items, {...rest, k, seed: seedOf(0), arithmetic}), l + 1, 0)
    const near = nearest[Math.min(l, nearest.length - 1)] ?? 0
    for (let again = 1; again <= resample && near > 0; again++) {
      const chosen = nearestToCentroids(items, clusters, near)
      if (chosen.length <= clusters.k || chosen.length === items.count) break // nothing to choose from
      const {centroids, k: found} = yield* tagged(
        kmeans(selectRows(items, chosen), {...rest, k, seed: seedOf(again), arithmetic}),
        l + 1,
        again
      )
      const assignments = assign(items, centroids, arithmetic)
      const sizes = new Int32Array(found)
      for (const c of assignments) sizes[c]!++
      const distances = distancesToCentroids(items, {centroids, assignments})
      clusters = {...clusters, k: found, centroids, assignments, sizes, objective: distances.reduce((a, b) => a + b, 0) / items.count}
    }
    const level = compact(clusters, rows.dim)
    built.push(level)
    items = arrayRows(level.centroids, rows.dim)
  }
  return {rows: rows.count, levels: built}
}

function* tagged(work: Generator<KMeansEvent, Clusters>, level: number, again: number): Generator<HierarchyEvent, Clusters> {
  for (;;) {
    const {done, value} = work.next()
    if (done) return value
    yield {...value, level, again}
  }
}

/** The clusters of a row from the top level down, e.g. [2, 17, 141]. */
export function clusterPath({levels}: Hierarchy, row: number): number[] {
  const path: number[] = []
  let item = row
  for (const {assignments} of levels) path.push((item = assignments[item]!))
  return path.reverse()
}
