/**
 * Multinomial logistic regression by L-BFGS (docs/spec.md §5.3): least of mean cross-entropy + ‖W‖² / (2 C n), biases
 * free, for several C one after the other, each from the solution before it.
 *
 * Sums over rows run on the engine in float32; the search (Nocedal and Wright 2006, algorithm 7.5, backtracking until
 * enough descent) runs here in float64. n rows, F features, K classes; parameters are W [K, F] and then b [K] in one
 * array.
 */
import {add, dispose, div, exp, log, matMul, max, mul, oneHot, reshape, sub, sum, tensor1d, tensor2d, tidy} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../tensor/tf.js'

/** The values of C that the reference tries: 45 from 10⁻⁶ to 10⁵. */
export const defaultC: readonly number[] = Array.from({length: 45}, (_, i) => 10 ** (-6 + (11 * i) / 44))

/** A function and its slope at `at`. */
export type Slope = (at: Float64Array) => {value: number; gradient: Float64Array}

export type LbfgsOptions = {
  readonly iterations?: number
  /** Ends when no entry of the gradient is larger. */
  readonly tolerance?: number
  readonly memory?: number
}

const dot = (a: Float64Array, b: Float64Array): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/**
 * Least point of `slope` from `start`, with the number of iterations. Ends also where float32 sums give no further
 * descent.
 */
export function lbfgs(
  slope: Slope,
  start: Float64Array,
  {iterations = 1000, tolerance = 1e-6, memory = 10}: LbfgsOptions = {}
): {at: Float64Array; value: number; iterations: number} {
  let at = start.slice()
  let {value, gradient} = slope(at)
  const pairs: {s: Float64Array; y: Float64Array; rho: number}[] = []
  let done = 0
  for (; done < iterations; done++) {
    if (gradient.every(g => Math.abs(g) <= tolerance)) break
    // Two loops over the remembered pairs give −H·g.
    const direction = gradient.map(g => -g)
    const along = pairs.map(() => 0)
    for (let i = pairs.length - 1; i >= 0; i--) {
      const {s, y, rho} = pairs[i]!
      along[i] = rho * dot(s, direction)
      for (let j = 0; j < direction.length; j++) direction[j]! -= along[i]! * y[j]!
    }
    const last = pairs.at(-1)
    const scale = last ? 1 / (last.rho * dot(last.y, last.y)) : 1 / Math.max(1, Math.sqrt(dot(gradient, gradient)))
    for (let j = 0; j < direction.length; j++) direction[j]! *= scale
    for (const [i, {s, y, rho}] of pairs.entries()) {
      const back = along[i]! - rho * dot(y, direction)
      for (let j = 0; j < direction.length; j++) direction[j]! += back * s[j]!
    }
    const descent = dot(gradient, direction)
    if (!(descent < 0)) {
      if (pairs.length === 0) break
      pairs.length = 0 // a memory that leads uphill is of no use
      continue
    }
    let step = 1
    let next: {value: number; gradient: Float64Array} | undefined
    let there = at
    for (let tries = 0; tries < 30; tries++, step /= 2) {
      there = at.map((x, j) => x + step * direction[j]!)
      next = slope(there)
      if (next.value <= value + 1e-4 * step * descent) break
      next = undefined
    }
    if (!next) {
      if (pairs.length === 0) break
      pairs.length = 0
      continue
    }
    const s = there.map((x, j) => x - at[j]!)
    const y = next.gradient.map((g, j) => g - gradient[j]!)
    const curvature = dot(s, y)
    if (curvature > 1e-12 * dot(y, y)) {
      pairs.push({s, y, rho: 1 / curvature})
      if (pairs.length > memory) pairs.shift()
    }
    const gained = value - next.value
    at = there
    ;({value, gradient} = next)
    if (gained <= 1e-9 * Math.max(1, Math.abs(value)) && pairs.length > 1) {
      done++
      break
    }
  }
  return {at, value, iterations: done}
}

export type Logistic = {readonly weight: Float32Array /* [K, F] */; readonly bias: Float32Array /* [K] */; readonly iterations: number}

/**
 * Solutions for each C, in the order of `Cs`, from rows x [n, F] (the caller's) with labels 0 … K − 1. Ascending C is
 * quickest. `onSolved` is called for each.
 */
export function logistic(
  x: Tensor2D,
  labels: ArrayLike<number>,
  classes: number,
  Cs: readonly number[],
  options: LbfgsOptions & {onSolved?: (C: number, iterations: number) => void; goOn?: () => boolean} = {}
): Logistic[] {
  const [n, F] = x.shape
  const K = classes
  const truth = tidy(() => oneHot(tensor1d(Int32Array.from(labels), 'int32'), K) as Tensor2D) // [n, K]
  // Small problems are quicker in plain loops than in calls to an engine.
  const rows = n * F * K < fewProducts ? Float64Array.from(x.dataSync()) : undefined
  const slopeFor = (lambda: number): Slope =>
    rows ? at => meanLossReference({x: rows, labels, n, F, K}, at, lambda) : at => meanLoss(x, truth, at, lambda)
  let parameters = new Float64Array(K * F + K)
  try {
    const out: Logistic[] = []
    for (const C of Cs) {
      if (options.goOn?.() === false) break
      const solved = lbfgs(slopeFor(1 / (C * n)), parameters, options)
      parameters = solved.at as Float64Array<ArrayBuffer>
      out.push({
        weight: Float32Array.from(parameters.subarray(0, K * F)),
        bias: Float32Array.from(parameters.subarray(K * F)),
        iterations: solved.iterations
      })
      options.onSolved?.(C, solved.iterations)
    }
    return out
  } finally {
    dispose(truth)
  }
}

const fewProducts = 5e5

/** Features [n, F] and labels [n] of K classes. */
type LabelledRows = {
  readonly x: ArrayLike<number>
  readonly labels: ArrayLike<number>
  readonly n: number
  readonly F: number
  readonly K: number
}

/** The reference implementation of `meanLoss`, in float64 loops. */
export function meanLossReference(
  {x, labels, n, F, K}: LabelledRows,
  at: Float64Array,
  lambda: number
): {value: number; gradient: Float64Array} {
  const gradient = new Float64Array(K * F + K)
  const scores = new Float64Array(K)
  let value = 0
  for (let i = 0; i < n; i++) {
    let top = -Infinity
    for (let k = 0; k < K; k++) {
      let score = at[K * F + k]!
      for (let f = 0; f < F; f++) score += x[i * F + f]! * at[k * F + f]!
      scores[k] = score
      top = Math.max(top, score)
    }
    let mass = 0
    for (let k = 0; k < K; k++) mass += Math.exp(scores[k]! - top)
    value += (Math.log(mass) + top - scores[labels[i]!]!) / n
    for (let k = 0; k < K; k++) {
      const g = (Math.exp(scores[k]! - top) / mass - Number(k === labels[i])) / n
      gradient[K * F + k]! += g
      for (let f = 0; f < F; f++) gradient[k * F + f]! += g * x[i * F + f]!
    }
  }
  for (let i = 0; i < K * F; i++) {
    value += (lambda / 2) * at[i]! ** 2
    gradient[i]! += lambda * at[i]!
  }
  return {value, gradient}
}

/** Mean cross-entropy with its penalty λ‖W‖²/2, and the gradient. */
export function meanLoss(x: Tensor2D, truth: Tensor2D, at: Float64Array, lambda: number): {value: number; gradient: Float64Array} {
  const [n, F] = x.shape
  const K = truth.shape[1]
  const values = Float32Array.from(at)
  const {loss, dw, db} = tidy(() => {
    const weight = tensor2d(values.subarray(0, K * F), [K, F])
    const scores: Tensor2D = add(matMul(x, weight, false, true), tensor1d(values.subarray(K * F))) // [n, K]
    const shifted: Tensor2D = sub(scores, max(scores, 1, true))
    const mass: Tensor2D = sum(exp(shifted), 1, true) //                                             [n, 1]
    const own = sub(log(reshape(mass, [n])), sum(mul(shifted, truth), 1))
    const gradient: Tensor2D = mul(sub(div(exp(shifted), mass), truth), 1 / n)
    return {
      loss: mul<Scalar>(sum(own), 1 / n),
      dw: matMul<Tensor2D>(gradient, x, true, false), //                                             [K, F]
      db: sum<Tensor1D>(gradient, 0)
    }
  })
  const gradient = new Float64Array(K * F + K)
  gradient.set(dw.dataSync<'float32'>())
  gradient.set(db.dataSync<'float32'>(), K * F)
  let value = loss.dataSync<'float32'>()[0]!
  dispose([loss, dw, db])
  for (let i = 0; i < K * F; i++) {
    value += (lambda / 2) * at[i]! ** 2
    gradient[i]! += lambda * at[i]!
  }
  return {value, gradient}
}

/** Scores x·Wᵀ + b [n, K] of a classifier, on the engine; x stays the caller's, the result is too. */
export const classifierScores = (x: Tensor2D, {weight, bias}: Pick<Logistic, 'weight' | 'bias'>): Tensor2D =>
  tidy(() => {
    const K = bias.length
    return add<Tensor2D>(matMul(x, tensor2d(weight, [K, weight.length / K]), false, true), tensor1d(bias))
  })
