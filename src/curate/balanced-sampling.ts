/**
 * Balanced sampling from a hierarchy of clusters (Vo et al. 2024, section 3.3): from the top level down, the wanted
 * number is divided so that the children of a cluster get as equal shares as their sizes allow, and within a cluster
 * of level 1 rows are drawn.
 *
 * It is exactly what one gets by giving one row after the other: at each cluster to the child that has got fewest so
 * far and is not yet exhausted, equals in a drawn order. That slow form stands in the tests; here the level of the
 * shares is found at once.
 */
import {rng} from '../tensor/random.js'
import {membersOf, type Hierarchy} from './hierarchical-kmeans.js'

/**
 * Divides `target` over children of these sizes. `least`: what each has already got and keeps. `order`: who is served
 * first when all have the same. The sum is exactly `target`, unless less is there (then all is taken) or more had been
 * given before.
 */
export function evenShares(
  sizes: ArrayLike<number>,
  target: number,
  {least, order}: {readonly least?: ArrayLike<number>; readonly order?: ArrayLike<number>} = {}
): Int32Array {
  const n = sizes.length
  const base = (i: number): number => Math.min(sizes[i]!, least?.[i] ?? 0)
  const share = (i: number, level: number): number => Math.max(base(i), Math.min(sizes[i]!, level))
  const sum = (level: number): number => {
    let total = 0
    for (let i = 0; i < n; i++) total += share(i, level)
    return total
  }
  let [low, high] = [0, 0]
  for (let i = 0; i < n; i++) high = Math.max(high, sizes[i]!)
  // The highest level that does not give out too much.
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (sum(middle) <= target) low = middle
    else high = middle - 1
  }
  const shares = Int32Array.from({length: n}, (_, i) => share(i, low))
  let left = target - shares.reduce((a, b) => a + b, 0)
  for (let j = 0; j < n && left > 0; j++) {
    const i = order?.[j] ?? j
    if (shares[i] === low && sizes[i]! > low) {
      shares[i]!++
      left--
    }
  }
  return shares
}

export type Selection = 'random' | 'nearest' | 'farthest'

export type SampleOptions = {
  readonly target: number
  readonly seed: number
  /**
   * Which rows of a cluster are taken: drawn, or those nearest to or farthest from its centroid (`distances` is then
   * needed).
   */
  readonly select?: Selection
  readonly distances?: ArrayLike<number>
  /** Rows that are in already and stay, whatever comes: 1 for each such row. */
  readonly fixed?: Uint8Array
}

/** Draws rows; → their numbers in order. Exactly `target` of them where so many are there. */
export function balancedSample(
  {rows: N, levels}: Hierarchy,
  {target, seed, select = 'random', distances, fixed}: SampleOptions
): Int32Array {
  if (levels.length === 0) throw new RangeError('Expected at least one level of clusters.')
  const sizes: Int32Array[] = [] // rows under each cluster, by level
  const held: Int32Array[] = [] // fixed rows under each cluster
  let [below, kept] = [new Int32Array(N).fill(1), Int32Array.from({length: N}, (_, i) => fixed?.[i] ?? 0)]
  for (const {k, assignments} of levels) {
    const [size, hold] = [new Int32Array(k), new Int32Array(k)]
    for (let i = 0; i < assignments.length; i++) {
      size[assignments[i]!]! += below[i]!
      hold[assignments[i]!]! += kept[i]!
    }
    sizes.push((below = size))
    held.push((kept = hold))
  }
  const order = (n: number, ...keys: readonly (string | number)[]): Uint32Array => rng(seed, 'balance', ...keys).permutation(n)

  const top = levels.length - 1
  let wanted = evenShares(sizes[top]!, target, {least: held[top]!, order: order(sizes[top]!.length, 'top')})
  for (let l = top; l > 0; l--) {
    const next = new Int32Array(levels[l - 1]!.k)
    for (const [c, children] of membersOf(levels[l]!.assignments, levels[l]!.k).entries()) {
      const shares = evenShares(
        children.map(i => sizes[l - 1]![i]!),
        wanted[c]!,
        {least: children.map(i => held[l - 1]![i]!), order: order(children.length, l, c)}
      )
      for (const [j, i] of children.entries()) next[i] = shares[j]!
    }
    wanted = next
  }
  const chosen: number[] = []
  for (const [c, members] of membersOf(levels[0]!.assignments, levels[0]!.k).entries()) {
    const stay = fixed ? members.filter(row => fixed[row]) : new Int32Array(0)
    const open = fixed ? members.filter(row => !fixed[row]) : members
    for (const row of stay) chosen.push(row)
    const n = Math.max(0, wanted[c]! - stay.length)
    if (select === 'random') for (const j of order(open.length, 'rows', c).subarray(0, n)) chosen.push(open[j]!)
    else {
      const sign = select === 'nearest' ? 1 : -1
      const sorted = open.slice().sort((a, b) => sign * (distances![a]! - distances![b]!) || a - b)
      for (const row of sorted.subarray(0, n)) chosen.push(row)
    }
  }
  return Int32Array.from(chosen).sort()
}

/** How even the sizes of groups are: their entropy over that of equal groups, from 0 (all in one) to 1 (all alike). */
export function evenness(sizes: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < sizes.length; i++) total += sizes[i]!
  if (total === 0 || sizes.length < 2) return 1
  let entropy = 0
  for (let i = 0; i < sizes.length; i++) if (sizes[i]! > 0) entropy -= (sizes[i]! / total) * Math.log(sizes[i]! / total)
  return entropy / Math.log(sizes.length)
}
