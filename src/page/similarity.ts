/** Likeness of vectors and patches. In shape comments: N and M patches, D numbers each. */

/** The cosine of two vectors. */
export function vectorCosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [product, first, second] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    product += a[i]! * b[i]!
    first += a[i]! * a[i]!
    second += b[i]! * b[i]!
  }
  return product / Math.sqrt(first * second)
}

/** Cosines of row `at` of rows [N, D] with others [M, D]; both of length 1. → [M] */
export function cosinesWith(rows: Float32Array, at: number, others: Float32Array, dim: number): Float32Array {
  const out = new Float32Array(others.length / dim)
  for (let m = 0; m < out.length; m++) {
    let sum = 0
    for (let d = 0; d < dim; d++) sum += rows[at * dim + d]! * others[m * dim + d]!
    out[m] = sum
  }
  return out
}

/** Pairs of patches that are each other's nearest, [N, D] and [M, D] of length 1; the most alike first. */
export function mutualMatches(left: Float32Array, right: Float32Array, dim: number): {a: number; b: number; cosine: number}[] {
  const [N, M] = [left.length / dim, right.length / dim]
  const forth = new Int32Array(N).fill(-1)
  const back = new Int32Array(M).fill(-1)
  const bestForth = new Float32Array(N).fill(-2)
  const bestBack = new Float32Array(M).fill(-2)
  for (let n = 0; n < N; n++) {
    const all = cosinesWith(left, n, right, dim)
    for (let m = 0; m < M; m++) {
      if (all[m]! > bestForth[n]!) [forth[n], bestForth[n]] = [m, all[m]!]
      if (all[m]! > bestBack[m]!) [back[m], bestBack[m]] = [n, all[m]!]
    }
  }
  return Array.from({length: N}, (_, a) => ({a, b: forth[a]!, cosine: bestForth[a]!}))
    .filter(({a, b}) => back[b] === a)
    .sort((x, y) => y.cosine - x.cosine || x.a - y.a)
}
