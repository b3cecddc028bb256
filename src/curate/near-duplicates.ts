/**
 * Near-duplicates: rows that hang together by pairs above the threshold are one component, and one row of each
 * component is kept (DINOv2 paper, appendix A.3).
 */
import {DisjointSets} from './disjoint-sets.js'
import type {Pairs} from './neighbours.js'

export type Components = {
  /** For each row the one that is kept in its stead: itself, where it is kept. */
  readonly keeper: Int32Array
  /** Rows of the component of each row. */
  readonly size: Int32Array
  /** Components of more than one row. */
  readonly groups: number
}

/**
 * Chooses whom to keep. `rank`: the better row has the smaller number. `fixed` rows were kept before and stay: they
 * are all kept, and stand for the others of their component (the best of them, where a component has several).
 */
export function keepBest(n: number, {a, b}: Pairs, rank: ArrayLike<number>, fixed?: Uint8Array): Components {
  const sets = new DisjointSets(n)
  for (let i = 0; i < a.length; i++) sets.join(a[i]!, b[i]!)
  const labels = sets.labels()
  const best = new Int32Array(n).fill(-1)
  const count = new Int32Array(n)
  const better = (x: number, y: number): boolean => {
    const [fx, fy] = [fixed?.[x] ?? 0, fixed?.[y] ?? 0]
    return fx !== fy ? fx > fy : rank[x]! < rank[y]!
  }
  for (let i = 0; i < n; i++) {
    const l = labels[i]!
    count[l]!++
    if (best[l]! < 0 || better(i, best[l]!)) best[l] = i
  }
  return {
    keeper: Int32Array.from({length: n}, (_, i) => (fixed?.[i] ? i : best[labels[i]!]!)),
    size: labels.map(l => count[l]!),
    groups: count.reduce((sum, c) => sum + (c > 1 ? 1 : 0), 0)
  }
}
