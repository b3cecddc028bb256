/**
 * Layer normalization over the last axis (Ba et al. 2016), eps 1e-6 in every vision transformer here. T rows, C
 * channels.
 */
import {add, customGrad, mean, mul, rsqrt, square, sub, sum, tidy} from '../tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tf.js'
import {callKernel} from './kernel.js'
import {addRows} from './rows.js'

export type Norm = {weight: Tensor1D /* [C] */; bias: Tensor1D /* [C] */}

const normEps = 1e-6

/** What the backward pass needs of the rows: their means and inverse deviations, [T, 1] each. */
export type NormStats = {mean: Tensor2D; rstd: Tensor2D}

/** (x − mean)·rstd ⊙ weight + bias; x [T, C]. The result is held as `like` is held (as x where none is given). */
export function layerNormForward(x: Tensor2D, {weight, bias}: Norm, like?: Tensor): {y: Tensor2D} & NormStats {
  const fused = callKernel('Dinov2LayerNorm', {x, weight, bias, like}, {eps: normEps})
  if (fused) return {y: fused[0] as Tensor2D, mean: fused[1] as Tensor2D, rstd: fused[2] as Tensor2D}
  return layerNormReference(x, {weight, bias})
}

/** The reference implementation of `layerNormForward`. */
export const layerNormReference = (x: Tensor2D, {weight, bias}: Norm): {y: Tensor2D} & NormStats =>
  tidy(() => {
    const center: Tensor2D = mean(x, 1, true) //                          [T, 1]
    const centered: Tensor2D = sub(x, center)
    const rstd: Tensor2D = rsqrt(add<Tensor2D>(mean(square(centered), 1, true), normEps)) // [T, 1], biased variance
    return {y: add(mul(mul(centered, rstd), weight), bias), mean: center, rstd}
  })

export type NormGrads = {x: Tensor2D; weight: Tensor1D; bias: Tensor1D}

/**
 * Gradients for dy [T, C]. Where `onto` is given (the residual path), the gradient of x is added to it: row by row, or
 * row i to row `rows[i]` of a taller `onto`, so that the result has the rows of `onto`; the rows are different ones.
 */
export function layerNormBackward(
  dy: Tensor2D,
  x: Tensor2D,
  {mean: center, rstd}: NormStats,
  {weight, bias}: Norm,
  onto?: Tensor2D,
  rows?: Tensor1D
): NormGrads {
  const fused = callKernel('Dinov2LayerNormGrad', {dy, x, mean: center, rstd, weight, bias, onto, rows})
  if (fused) return {x: fused[0] as Tensor2D, weight: fused[1] as Tensor1D, bias: fused[2] as Tensor1D}
  return tidy(() => {
    const normalized = mul(sub(x, center), rstd) //                           [T, C]
    const scaled: Tensor2D = mul(dy, weight)
    const projection = mean<Tensor2D>(mul(scaled, normalized), 1, true) //          [T, 1]
    const dx: Tensor2D = mul(sub(sub(scaled, mean(scaled, 1, true)), mul(normalized, projection)), rstd)
    const total = onto && rows ? addRows(onto, rows, dx) : onto ? add<Tensor2D>(dx, onto) : dx
    return {x: total, weight: sum<Tensor1D>(mul(dy, normalized), 0), bias: sum<Tensor1D>(dy, 0)}
  })
}

/** `layerNormForward` with its gradient on the tape; x [T, C]. */
export function layerNorm(x: Tensor2D, p: Norm): Tensor2D {
  const layer = customGrad((...args: unknown[]) => {
    const [a, w, b, save] = args as [Tensor2D, Tensor1D, Tensor1D, (tensors: Tensor[]) => void]
    const {y, mean: center, rstd} = layerNormForward(a, {weight: w, bias: b})
    save([a, w, b, center, rstd])
    return {
      value: y,
      gradFunc: (dy: Tensor2D, saved: Tensor[]) => {
        const [sx, sw, sb, sm, sr] = saved as [Tensor2D, Tensor1D, Tensor1D, Tensor2D, Tensor2D]
        const grads = layerNormBackward(dy, sx, {mean: sm, rstd: sr}, {weight: sw, bias: sb})
        return [grads.x, grads.weight, grads.bias]
      }
    }
  })
  return layer(x, p.weight, p.bias) as Tensor2D
}
