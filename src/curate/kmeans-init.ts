/** First centroids of k-means: random rows, or rows far from each other (k-means++, Arthur & Vassilvitskii 2007). */
import {rng, type Rng} from '../tensor/random.js'
import {engineArithmetic, type Arithmetic} from './matmul-backend.js'
import {arrayRows, rowBlocks, rowsPerBlock, selectRows, type RowSource} from './rows.js'

/** `n` of the numbers 0 … count - 1 without repetition, in order; all of them where n is not smaller. */
export function drawRows(count: number, n: number, random: Rng): Int32Array {
  if (n >= count) return Int32Array.from({length: count}, (_, i) => i)
  const chosen = new Set<number>() // Floyd's way: as many draws as rows wanted
  for (let i = count - n; i < count; i++) {
    const drawn = random.int(i + 1)
    chosen.add(chosen.has(drawn) ? i : drawn)
  }
  return Int32Array.from(chosen).sort()
}

/** Numbers that k-means++ lays down on the engine as a whole: 256 MB. */
const heldNumbers = 1 << 26
/** Seeds that are added at once, at most: their products with the rows are as large as the rows. */
const seedsAtOnce = 256
/** Rows that k-means++ looks at. */
const startRows = (count: number, k: number): number => Math.min(count, Math.max(16_384, 10 * k))

export type FirstCentroidsOptions = {
  readonly k: number
  readonly seed: number
  readonly init?: 'k-means++' | 'random'
  readonly arithmetic?: Arithmetic
}

/** First centroids [K, D]: rows of the set. */
export function firstCentroids(
  rows: RowSource,
  {k, seed, init = 'k-means++', arithmetic = engineArithmetic}: FirstCentroidsOptions
): Float32Array {
  const random = rng(seed, 'k-means', 'start')
  if (init === 'random') return rows.gather(drawRows(rows.count, k, random))
  const sample = drawRows(rows.count, startRows(rows.count, k), random)
  const from = sample.length === rows.count ? rows : selectRows(rows, sample)
  return plusPlus(
    from.count * rows.dim <= heldNumbers ? arrayRows(from.gather(sample.map((_, i) => i)), rows.dim) : from,
    k,
    random,
    arithmetic
  )
}

function plusPlus(rows: RowSource, k: number, random: Rng, arithmetic: Arithmetic): Float32Array {
  const {dim: D, count: N} = rows
  const centroids = new Float32Array(k * D)
  const squares = new Float64Array(N)
  for (const {from, block, n} of rowBlocks(rows, rowsPerBlock(D, D)))
    for (let i = 0; i < n; i++) for (let d = i * D; d < (i + 1) * D; d++) squares[from + i]! += block[d]! ** 2
  const far = new Float64Array(N).fill(Infinity) // squared distance to the nearest seed
  const taken = new Uint8Array(N)
  // What fits is laid down on the engine once, and not for each of the steps.
  const small = N * D <= heldNumbers
  const size = small ? N : rowsPerBlock(D, seedsAtOnce)
  using held = small ? arithmetic.hold(rows.block(0, N), D) : undefined
  let chosen = 0
  let next = [random.int(N)]
  while (chosen < k) {
    const some = rows.gather(next) // [b, D]
    centroids.set(some, chosen * D)
    for (const row of next) taken[row] = 1
    chosen += next.length
    if (chosen === k) break
    const b = next.length
    for (let from = 0; from < N; from += size) {
      const n = Math.min(size, N - from)
      const dots = held ? held.products(some) : arithmetic.products(rows.block(from, n), some, D) // [n, b]
      for (let i = 0, at = 0; i < n; i++) {
        const square = squares[from + i]!
        let least = far[from + i]!
        for (let j = 0; j < b; j++, at++) {
          const distance = square - 2 * dots[at]! + squares[next[j]!]!
          if (distance < least) least = distance
        }
        far[from + i] = Math.max(0, least)
      }
    }
    for (const row of next) far[row] = 0
    next = drawFar(far, taken, Math.min(k - chosen, seedsAtOnce, Math.max(1, chosen >> 4)), random)
  }
  return centroids
}

/**
 * Draws `n` different rows, each with a chance in proportion to its weight; rows that are left when all weights are 0
 * follow in order.
 */
function drawFar(weights: Float64Array, taken: Uint8Array, n: number, random: Rng): number[] {
  const sums = new Float64Array(weights.length)
  let total = 0
  for (let i = 0; i < weights.length; i++) sums[i] = total += weights[i]!
  const drawn = new Set<number>()
  for (let tries = 0; drawn.size < n && total > 0 && tries < 20 * n; tries++) {
    const aim = random.uniform() * total
    let [low, high] = [0, weights.length - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if (sums[middle]! > aim) high = middle
      else low = middle + 1
    }
    if (weights[low]! > 0) drawn.add(low)
  }
  for (let i = 0; i < weights.length && drawn.size < n; i++) if (!taken[i]) drawn.add(i)
  return [...drawn]
}
