/**
 * Disjoint sets (union–find, by size and with halved paths; Tarjan 1975): which rows hang together when pairs of them
 * are joined one by one, in any order.
 */

/** Sets over the numbers 0 … n - 1; each number begins as a set of its own. */
export class DisjointSets {
  readonly #parent: Int32Array
  readonly #size: Int32Array

  constructor(n: number) {
    this.#parent = Int32Array.from({length: n}, (_, i) => i)
    this.#size = new Int32Array(n).fill(1)
  }

  /** The number that stands for the set of `i` at present. */
  find(i: number): number {
    const parent = this.#parent
    while (parent[i] !== i) i = parent[i] = parent[parent[i]!]!
    return i
  }

  /** Makes one set of those of `a` and `b`; false when they were one already. */
  join(a: number, b: number): boolean {
    let [x, y] = [this.find(a), this.find(b)]
    if (x === y) return false
    if (this.#size[x]! < this.#size[y]!) [x, y] = [y, x]
    this.#parent[y] = x
    this.#size[x]! += this.#size[y]!
    return true
  }

  /** For each number the smallest one of its set: the same whatever the order of joining. */
  labels(): Int32Array {
    const n = this.#parent.length
    const smallest = new Int32Array(n).fill(-1)
    const labels = new Int32Array(n)
    for (let i = 0; i < n; i++) {
      const root = this.find(i)
      if (smallest[root]! < 0) smallest[root] = i // numbers come in order, so the first seen is the smallest
      labels[i] = smallest[root]!
    }
    return labels
  }
}
