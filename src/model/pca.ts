/**
 * Principal components of rows, in plain numbers. In shape comments: N rows, C columns, K components, M vectors
 * iterated.
 *
 * The leading eigenvectors of the covariance [C, C] (or, where rows are fewer than columns, of the Gram matrix [N, N])
 * are found by orthogonal iteration with a Rayleigh-Ritz step (Golub and Van Loan, "Matrix Computations", section 8.2)
 * from fixed starting vectors: the same rows give the same components.
 */

export type Pca = {
  /** Mean of the rows, [C]. */
  readonly mean: Float64Array
  /** Unit directions by falling variance, [K, C]; in each the entry of largest size is positive. */
  readonly components: Float64Array
  /** Variance along each direction (divided by N - 1), [K]. */
  readonly variances: Float64Array
  /** Variance in all directions together. */
  readonly total: number
}

/**
 * The `count` leading components of rows [N, C].
 *
 * Throws a `RangeError` when there are not at least two rows, or the numbers do not fit.
 */
export function pca(rows: Float32Array, width: number, count: number): Pca {
  const n = rows.length / width
  if (!Number.isInteger(n) || n < 2)
    throw new RangeError(`Expected at least two rows of ${width} numbers but received ${rows.length} numbers.`)
  if (!(count >= 1 && count <= width)) throw new RangeError(`Expected 1 to ${width} components but received ${count}.`)
  const mean = new Float64Array(width)
  for (let i = 0; i < rows.length; i++) mean[i % width]! += rows[i]! / n
  const centred = new Float64Array(rows.length) // [N, C]
  for (let i = 0; i < rows.length; i++) centred[i] = rows[i]! - mean[i % width]!
  let total = 0
  for (const value of centred) total += (value * value) / (n - 1)

  const wide = n < width
  const side = wide ? n : width
  const matrix = wide ? products(centred, n, width) : products(transposed(centred, n, width), width, n)
  for (let i = 0; i < matrix.length; i++) matrix[i]! /= n - 1
  const {values, vectors} = leading(matrix, side, Math.min(count, side))

  const components = new Float64Array(count * width) // [K, C]
  const variances = new Float64Array(count)
  for (let k = 0; k < Math.min(count, side); k++) {
    variances[k] = Math.max(0, values[k]!)
    const direction = components.subarray(k * width, (k + 1) * width)
    if (wide) for (let i = 0; i < n; i++) for (let c = 0; c < width; c++) direction[c]! += vectors[k * side + i]! * centred[i * width + c]!
    else direction.set(vectors.subarray(k * side, (k + 1) * side))
    settle(direction)
  }
  return {mean, components, variances, total}
}

/** Coordinates of rows [N, C] along the components, [N, K]. */
export function project(rows: Float32Array, {mean, components}: Pick<Pca, 'mean' | 'components'>): Float32Array {
  const width = mean.length
  const count = components.length / width
  const n = rows.length / width
  const out = new Float32Array(n * count)
  for (let i = 0; i < n; i++)
    for (let k = 0; k < count; k++) {
      let sum = 0
      for (let c = 0; c < width; c++) sum += (rows[i * width + c]! - mean[c]!) * components[k * width + c]!
      out[i * count + k] = sum
    }
  return out
}

/** Unit length, and the entry of largest size positive: an eigenvector has no sign of its own. */
function settle(direction: Float64Array): void {
  let square = 0
  let largest = 0
  for (const value of direction) {
    square += value * value
    if (Math.abs(value) > Math.abs(largest) * (1 + 1e-9)) largest = value
  }
  if (square === 0) return
  const scale = Math.sign(largest) / Math.sqrt(square)
  for (let c = 0; c < direction.length; c++) direction[c]! *= scale
}

function transposed(rows: Float64Array, n: number, width: number): Float64Array {
  const out = new Float64Array(rows.length)
  for (let i = 0; i < n; i++) for (let c = 0; c < width; c++) out[c * n + i] = rows[i * width + c]!
  return out
}

/** Every row with every row: X Xᵀ of [side, depth], as [side, side]. */
function products(rows: Float64Array, side: number, depth: number): Float64Array {
  const out = new Float64Array(side * side)
  for (let i = 0; i < side; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0
      for (let d = 0, a = i * depth, b = j * depth; d < depth; d++) sum += rows[a + d]! * rows[b + d]!
      out[i * side + j] = out[j * side + i] = sum
    }
  return out
}

/** Leading eigenpairs of a symmetric matrix [side, side] without negative eigenvalues; vectors [count, side]. */
function leading(matrix: Float64Array, side: number, count: number): {values: Float64Array; vectors: Float64Array} {
  const m = Math.min(side, count + 8) // a few more than asked for, so that the last of them settle as fast as the first
  let basis: Float64Array = new Float64Array(m * side) // [M, side]
  for (let k = 0; k < m; k++)
    for (let i = 0; i < side; i++) basis[k * side + i] = Math.cos((k + 1) * (i + 0.5) * 2.399963) + (i === k ? 1 : 0)
  orthonormal(basis, m, side)
  let values: Float64Array = new Float64Array(m)
  for (let round = 0; round < 1000; round++) {
    const image = new Float64Array(m * side) // [M, side]
    for (let k = 0; k < m; k++)
      for (let i = 0; i < side; i++) {
        let sum = 0
        for (let j = 0, a = i * side, b = k * side; j < side; j++) sum += matrix[a + j]! * basis[b + j]!
        image[k * side + i] = sum
      }
    const small = new Float64Array(m * m)
    for (let k = 0; k < m; k++)
      for (let l = 0; l < m; l++) for (let i = 0; i < side; i++) small[k * m + l]! += basis[k * side + i]! * image[l * side + i]!
    const ritz = jacobi(small, m)
    const turned = new Float64Array(m * side)
    const exact = new Float64Array(m * side)
    for (let k = 0; k < m; k++)
      for (let l = 0; l < m; l++) {
        const weight = ritz.vectors[k * m + l]!
        for (let i = 0; i < side; i++) {
          turned[k * side + i]! += weight * image[l * side + i]!
          exact[k * side + i]! += weight * basis[l * side + i]!
        }
      }
    values = ritz.values
    // how far A v is from λ v, against the largest eigenvalue
    let worst = 0
    for (let k = 0; k < count; k++) {
      let square = 0
      for (let i = 0; i < side; i++) square += (turned[k * side + i]! - values[k]! * exact[k * side + i]!) ** 2
      worst = Math.max(worst, Math.sqrt(square))
    }
    if (worst <= 1e-10 * Math.max(values[0]!, 1e-300) || m === side) return {values, vectors: exact}
    basis = turned
    orthonormal(basis, m, side)
  }
  return {values, vectors: basis}
}

/** Gram-Schmidt, twice over for accuracy; a row that vanishes is replaced by an axis that is not yet spanned. */
function orthonormal(basis: Float64Array, m: number, side: number): void {
  for (let k = 0, axis = 0; k < m; k++) {
    const row = basis.subarray(k * side, (k + 1) * side)
    for (;;) {
      const before = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0))
      for (let pass = 0; pass < 2; pass++)
        for (let l = 0; l < k; l++) {
          let dot = 0
          for (let i = 0; i < side; i++) dot += row[i]! * basis[l * side + i]!
          for (let i = 0; i < side; i++) row[i]! -= dot * basis[l * side + i]!
        }
      const size = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0))
      if (size > 1e-12 * before && size > 0) {
        for (let i = 0; i < side; i++) row[i]! /= size
        break
      }
      row.fill(0)
      row[axis++ % side] = 1
    }
  }
}

/** The singular values of rows [N, C], largest first; for few rows or few columns. */
export function singularValues(rows: Float32Array, n: number, width: number): Float64Array {
  const numbers = Float64Array.from(rows)
  const side = Math.min(n, width)
  const matrix = n < width ? products(numbers, n, width) : products(transposed(numbers, n, width), width, n)
  return jacobi(matrix, side).values.map(value => Math.sqrt(Math.max(0, value)))
}

/** All eigenpairs of a small symmetric matrix by Jacobi's rotations, by falling eigenvalue; vectors [m, m] as rows. */
function jacobi(matrix: Float64Array, m: number): {values: Float64Array; vectors: Float64Array} {
  const a = Float64Array.from(matrix)
  const v = new Float64Array(m * m)
  for (let i = 0; i < m; i++) v[i * m + i] = 1
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0
    let on = 0
    for (let i = 0; i < m * m; i++) {
      const square = a[i]! * a[i]!
      if (i % (m + 1) === 0) on += square
      else off += square
    }
    if (off <= 1e-30 * on) break
    for (let p = 0; p < m; p++)
      for (let q = p + 1; q < m; q++) {
        const apq = a[p * m + q]!
        if (apq === 0) continue
        const theta = (a[q * m + q]! - a[p * m + p]!) / (2 * apq)
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1))
        const c = 1 / Math.sqrt(t * t + 1)
        const s = t * c
        for (let k = 0; k < m; k++) {
          const [x, y] = [a[k * m + p]!, a[k * m + q]!]
          a[k * m + p] = c * x - s * y
          a[k * m + q] = s * x + c * y
        }
        for (let k = 0; k < m; k++) {
          const [x, y] = [a[p * m + k]!, a[q * m + k]!]
          a[p * m + k] = c * x - s * y
          a[q * m + k] = s * x + c * y
          const [u, w] = [v[p * m + k]!, v[q * m + k]!]
          v[p * m + k] = c * u - s * w
          v[q * m + k] = s * u + c * w
        }
      }
  }
  const order = Array.from({length: m}, (_, i) => i).sort((i, j) => a[j * m + j]! - a[i * m + i]! || i - j)
  const vectors = new Float64Array(m * m)
  for (const [k, i] of order.entries()) vectors.set(v.subarray(i * m, (i + 1) * m), k * m)
  return {values: Float64Array.from(order, i => a[i * m + i]!), vectors}
}
