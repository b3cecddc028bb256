/**
 * Cross-entropy of pixels with class numbers, pixels to be ignored left out, with its gradient in closed form. R
 * pixels, K classes.
 */
import {cast as castType, logSoftmax, mul, neg, notEqual, oneHot, reshape, sub, sum, tidy, where, zerosLike, exp} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {callKernel} from '../tensor/ops/kernel.js'

export type PixelLoss = {
  /** Sum of the losses of all pixels that count. */
  readonly loss: Scalar
  /** Gradient of that sum, [R, K]; zero at ignored pixels. */
  readonly gradient: Tensor2D
}

/**
 * −log softmax(scores)[label], summed; scores [R, K] float32, labels [R] int32, `ignore` among the labels leaves a
 * pixel out.
 */
export function pixelLoss(scores: Tensor2D, labels: Tensor1D, ignore: number): PixelLoss {
  const fused = callKernel('Dinov2PixelLoss', {scores, labels}, {ignore})
  if (fused) return {loss: fused[0] as Scalar, gradient: fused[1] as Tensor2D}
  return plainPixelLoss(scores, labels, ignore)
}

/** The reference implementation of `pixelLoss`. */
export const plainPixelLoss = (scores: Tensor2D, labels: Tensor1D, ignore: number): PixelLoss =>
  tidy(() => {
    const counts = notEqual(labels, ignore)
    const target = castType(oneHot(where(counts, labels, zerosLike(labels)), scores.shape[1]), 'float32') as Tensor2D // [R, K]
    const weight = reshape(castType(counts, 'float32'), [-1, 1]) //                                                      [R, 1]
    const chosen = mul<Tensor2D>(target, weight)
    const logs = logSoftmax(scores)
    return {loss: neg(sum<Scalar>(mul(chosen, logs))), gradient: sub<Tensor2D>(mul(exp(logs), weight), chosen)}
  })
