/** Points for tests of curation: drawn around centres of unequal popularity, as pictures of a pool lie. */
import {normalizeRows} from '../../src/search/exact.js'
import {rng} from '../../src/tensor/random.js'

/** `n` points of `dim` numbers around `centres` centres; the first centre is the most popular. `unit`: of length 1. */
export function points(n: number, dim: number, {centres = 8, spread = 0.3, seed = 1, unit = false} = {}): Float32Array {
  const [place, random] = [rng(seed, 'centres'), rng(seed, 'points')]
  const c = Float32Array.from({length: centres * dim}, () => place.normal())
  const out = new Float32Array(n * dim)
  for (let i = 0; i < n; i++) {
    const at = Math.floor(centres * random.uniform() ** 2) * dim
    for (let d = 0; d < dim; d++) out[i * dim + d] = c[at + d]! + spread * random.normal()
  }
  return unit ? normalizeRows(out, dim) : out
}

/** The same in float64 by the definition. */
export function squaredDistance(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, dim: number): number {
  let sum = 0
  for (let d = 0; d < dim; d++) sum += (a[i * dim + d]! - b[j * dim + d]!) ** 2
  return sum
}
