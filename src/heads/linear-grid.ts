/**
 * Many linear classifiers at once on the same frozen features (docs/spec.md §5.2): 13 learning rates for each kind of
 * feature, trained side by side by SGD with momentum 0.9, no weight decay, and a cosine to zero. Their losses are
 * summed, so none feels the others; one pass of the backbone serves them all.
 *
 * Gathered features hold the cls tokens of the last n blocks and the last block's mean patch token, [n · C + C]; every
 * kind is a stretch of them. In shape comments: B rows, F features of a kind, L learning rates, K classes.
 */
import {cosine} from '../optim/schedule.js'
import {
  add,
  concat,
  dispose,
  log,
  matMul,
  max,
  mul,
  exp,
  oneHot,
  reshape,
  slice,
  sub,
  sum,
  tensor2d,
  tidy,
  zeros,
  div
} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor3D} from '../tensor/tf.js'
import {rng} from '../tensor/random.js'

/** Learning rates of the published grid, for 256 rows a step. */
const learningRates: readonly number[] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]

/** A stretch of the gathered features. */
export type FeatureSlice = {readonly name: string; readonly start: number; readonly length: number}

/**
 * The four kinds of the protocol for features of `n` blocks of width C: the last block or all n, with or without the
 * mean patch token.
 */
export function protocolSlices(n: number, C: number): FeatureSlice[] {
  const last = (n - 1) * C
  const kinds = [
    {name: '1 block', start: last, length: C},
    {name: '1 block + mean', start: last, length: 2 * C}
  ]
  if (n === 1) return kinds
  return [...kinds, {name: `${n} blocks`, start: 0, length: n * C}, {name: `${n} blocks + mean`, start: 0, length: (n + 1) * C}]
}

type Part = {weight: Tensor2D /* [L·K, F] */; bias: Tensor1D /* [L·K] */; vw: Tensor2D; vb: Tensor1D}
export type Grid = {
  readonly kinds: readonly FeatureSlice[]
  readonly rates: readonly number[]
  readonly classes: number
  readonly parts: Part[]
}

/**
 * Fresh classifiers: weights N(0, 0.01), biases zero. All learning rates of a kind start from the same weights. Free
 * with `freeGrid`.
 */
export function initGrid(kinds: readonly FeatureSlice[], classes: number, seed: number, rates: readonly number[] = learningRates): Grid {
  const parts = kinds.map(({name, length: F}): Part => {
    const random = rng(seed, 'linear', name)
    const one = Float32Array.from({length: classes * F}, () => 0.01 * random.normal())
    const weight = tidy(() => {
      const own = tensor2d(one, [classes, F])
      return concat(rates.map(() => own))
    })
    const rows = rates.length * classes
    return {weight, bias: zeros([rows]), vw: zeros([rows, F]), vb: zeros([rows])}
  })
  return {kinds, rates, classes, parts}
}

export const freeGrid = ({parts}: Grid): void => {
  for (const {weight, bias, vw, vb} of parts) dispose([weight, bias, vw, vb])
}

const momentum = 0.9

const columns = (x: Tensor2D, {start, length}: FeatureSlice): Tensor2D =>
  start === 0 && length === x.shape[1] ? x.clone() : slice(x, [0, start], [x.shape[0], length])

/**
 * One step of every classifier on x [B, F…] with labels int32 [B]: step `at` of `total`. Learning rates are scaled by
 * B / 256. Changes the grid; returns the mean loss of every classifier, kind by kind [kinds · L], where `measure` asks
 * for it.
 */
export function gridStep(grid: Grid, x: Tensor2D, labels: Tensor1D, at: number, total: number, measure = false): Float32Array | undefined {
  const {kinds, rates, classes: K, parts} = grid
  const B = x.shape[0]
  const L = rates.length
  const decay = cosine({base: 1, final: 0, total, warmup: 0, start: 0, frozen: 0}, at)
  const lr = tidy(() => {
    const values = Float32Array.from({length: L * K}, (_, i) => (rates[Math.floor(i / K)]! * decay * B) / 256)
    return tensor2d(values, [L * K, 1])
  })
  const losses: Float32Array[] = []
  for (const [i, part] of parts.entries()) {
    const next = tidy(() => {
      const own = columns(x, kinds[i]!) //                                                     [B, F]
      const {shifted, total: mass} = softmaxParts(scoresOf(own, part, L, K)) //                [B, L, K]
      const truth = reshape(oneHot(labels, K), [B, 1, K])
      const loss = measure ? mul<Tensor1D>(sum(sub(log(reshape(mass, [B, L])), sum(mul(shifted, truth), 2)), 0), 1 / B) : undefined
      const gradient = reshape(mul(sub(div(exp(shifted), mass), truth), 1 / B), [B, L * K]) as Tensor2D
      const vw = add<Tensor2D>(mul(part.vw, momentum), matMul(gradient, own, true, false))
      const vb = add<Tensor1D>(mul(part.vb, momentum), sum(gradient, 0))
      return {
        weight: sub<Tensor2D>(part.weight, mul(vw, lr)),
        bias: sub<Tensor1D>(part.bias, mul(vb, reshape(lr, [L * K]))),
        vw,
        vb,
        ...(loss ? {loss} : {})
      }
    })
    dispose([part.weight, part.bias, part.vw, part.vb])
    parts[i] = {weight: next.weight, bias: next.bias, vw: next.vw, vb: next.vb}
    if (next.loss) {
      losses.push(next.loss.dataSync<'float32'>() as Float32Array)
      dispose(next.loss)
    }
  }
  dispose(lr)
  return measure ? Float32Array.from(losses.flatMap(part => [...part])) : undefined
}

const scoresOf = (own: Tensor2D, {weight, bias}: Part, L: number, K: number): Tensor3D =>
  reshape(add(matMul(own, weight, false, true), bias), [own.shape[0], L, K])

/** Scores less their largest, and the sum of their exponentials. */
function softmaxParts(scores: Tensor3D): {shifted: Tensor3D; total: Tensor3D} {
  const shifted = sub<Tensor3D>(scores, max(scores, 2, true))
  return {shifted, total: sum(exp(shifted), 2, true)}
}

/** Scores of every classifier for x [B, F…]: for each kind [B, L, K], which the caller owns. */
export const gridScores = ({kinds, rates, classes, parts}: Grid, x: Tensor2D): Tensor3D[] =>
  tidy(() => parts.map((part, i) => scoresOf(columns(x, kinds[i]!), part, rates.length, classes)))

/** One classifier of the grid: weights [K, F] and biases [K]. */
export function classifierOf({parts, classes: K, kinds}: Grid, kind: number, rate: number): {weight: Float32Array; bias: Float32Array} {
  const {weight, bias} = parts[kind]!
  const F = kinds[kind]!.length
  const own = tidy(() => ({weight: slice(weight, [rate * K, 0], [K, F]), bias: slice(bias, [rate * K], [K])}))
  const out = {weight: own.weight.dataSync<'float32'>() as Float32Array, bias: own.bias.dataSync<'float32'>() as Float32Array}
  dispose([own.weight, own.bias])
  return out
}
