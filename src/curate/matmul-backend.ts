/**
 * The matrix products that curation is made of, on the running engine, and their reference implementation in float64
 * loops.
 *
 * Two are enough: inner products of some rows with others, and, for clustering, the nearest centroids of some rows.
 * Both go through the linear layer, whose kernel takes half the time of a plain product with a transposed matrix; but
 * it is compiled for every new shape, which small products of many shapes do not repay. Squared distance is
 * |x|² - 2 (x·c - |c|²/2), so the nearest centroid is the one with the largest x·c - |c|²/2: one product and one
 * comparison, no distance is ever formed.
 */
import {linearForward} from '../tensor/ops/linear.js'
import {argMax, dispose, matMul, tensor1d, tensor2d, tidy, topk, type Tensor2D} from '../tensor/tf.js'

/** Centroids made ready for many questions; dispose when done. */
export type Centroids = {
  /** The nearest centroid of each row [n, D]; the first of equally near ones. */
  closest(rows: Float32Array): Int32Array
  /** The `probes` nearest centroids of each row [n, D], nearest first: [n, probes]. */
  probe(rows: Float32Array, probes: number): Int32Array
  [Symbol.dispose](): void
}

/** Rows made ready for many questions; dispose when done. */
export type Held = {
  /** The rows [N, D] · some others [m, D]ᵀ → [N, m]. */
  products(others: Float32Array): Float32Array
  [Symbol.dispose](): void
}

export type Arithmetic = {
  /** a [n, D] · b [m, D]ᵀ → [n, m]. */
  products(a: Float32Array, b: Float32Array, dim: number): Float32Array
  /** Makes rows [N, D] ready. */
  hold(rows: Float32Array, dim: number): Held
  /** Makes centroids [K, D] ready. */
  centroids(centroids: Float32Array, dim: number): Centroids
}

/** -|c|²/2 of each centroid, [K]. */
function halves(centroids: Float32Array, dim: number): Float32Array {
  const out = new Float32Array(centroids.length / dim)
  for (let k = 0; k < out.length; k++) {
    let square = 0
    for (let d = k * dim; d < (k + 1) * dim; d++) square += centroids[d]! ** 2
    out[k] = -square / 2
  }
  return out
}

/** Multiplications from which on the linear layer's kernel is worth its compilation. */
const smallProduct = 1 << 27

/** On the running engine. Nothing stays on it but prepared centroids. */
export const engineArithmetic: Arithmetic = {
  products(a, b, dim) {
    const [n, m] = [a.length / dim, b.length / dim]
    const out = tidy(() => {
      const [x, weight] = [tensor2d(a, [n, dim]), tensor2d(b, [m, dim])]
      return n * m * dim < smallProduct ? matMul(x, weight, false, true) : linearForward(x, {weight}) // [n, m]
    })
    const numbers = out.dataSync<'float32'>()
    out.dispose()
    return numbers
  },
  hold(rows, dim) {
    const x = tensor2d(rows, [rows.length / dim, dim])
    return {
      products(others) {
        const out = tidy(() => linearForward(x, {weight: tensor2d(others, [others.length / dim, dim])})) // [N, m]
        const numbers = out.dataSync<'float32'>()
        out.dispose()
        return numbers
      },
      [Symbol.dispose]: () => dispose(x)
    }
  },
  centroids(array, dim) {
    const K = array.length / dim
    const c = tensor2d(array, [K, dim])
    const bias = tensor1d(halves(array, dim))
    const scores = (rows: Float32Array): Tensor2D => linearForward(tensor2d(rows, [rows.length / dim, dim]), {weight: c, bias}) // [n, K]
    return {
      closest(rows) {
        const out = tidy(() => argMax(scores(rows), 1))
        const numbers = out.dataSync<'int32'>()
        out.dispose()
        return numbers as Int32Array
      },
      probe(rows, probes) {
        const out = tidy(() => topk(scores(rows), Math.min(probes, K), true).indices)
        const numbers = out.dataSync<'int32'>()
        out.dispose()
        return numbers as unknown as Int32Array
      },
      [Symbol.dispose]: () => dispose([c, bias])
    }
  }
}

/**
 * The reference implementation: sums in float64, no engine. For tests, and for sets so small that starting an engine
 * costs more.
 */
export const plainArithmetic: Arithmetic = {
  products(a, b, dim) {
    const [n, m] = [a.length / dim, b.length / dim]
    const out = new Float32Array(n * m)
    for (let i = 0; i < n; i++)
      for (let j = 0; j < m; j++) {
        let sum = 0
        for (let d = 0, x = i * dim, y = j * dim; d < dim; d++) sum += a[x + d]! * b[y + d]!
        out[i * m + j] = sum
      }
    return out
  },
  hold: (rows, dim) => ({products: others => plainArithmetic.products(rows, others, dim), [Symbol.dispose]: () => undefined}),
  centroids(array, dim) {
    const bias = halves(array, dim)
    const scores = (rows: Float32Array): Float32Array => {
      const out = plainArithmetic.products(rows, array, dim)
      for (let i = 0; i < out.length; i++) out[i]! += bias[i % bias.length]!
      return out
    }
    const K = bias.length
    return {
      closest(rows) {
        const all = scores(rows)
        return Int32Array.from({length: rows.length / dim}, (_, i) => {
          let best = 0
          for (let k = 1; k < K; k++) if (all[i * K + k]! > all[i * K + best]!) best = k
          return best
        })
      },
      probe(rows, probes) {
        const all = scores(rows)
        const most = Math.min(probes, K)
        const out = new Int32Array((rows.length / dim) * most)
        for (let i = 0; i < rows.length / dim; i++) {
          const order = Array.from({length: K}, (_, k) => k).sort((a, b) => all[i * K + b]! - all[i * K + a]! || a - b)
          out.set(order.slice(0, most), i * most)
        }
        return out
      },
      [Symbol.dispose]: () => undefined
    }
  }
}
