/**
 * Distillation of features, for teachers that have no heads: each projected student token is drawn towards the
 * teacher's token, which is brought to mean 0 and variance 1 first, so that a teacher's few loud channels do not
 * decide.
 *
 * One row costs w·((1 − cos(p, t̂)) + β·mean over channels of Huber(p − t̂)), Huber with its corner at 1. The cosine
 * says where to, the second term how far; both are least at p = t̂. n rows, C channels of the teacher.
 */
import {abs, add, clipByValue, div, maximum, mean, minimum, mul, norm, reshape, sqrt, square, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D} from '../tensor/tf.js'

const eps = 1e-6

/** Rows brought to mean 0 and variance 1; [n, C] → [n, C]. */
export const standardizeRows = (x: Tensor2D): Tensor2D =>
  tidy(() => {
    const centred = sub<Tensor2D>(x, mean(x, 1, true))
    return div<Tensor2D>(centred, sqrt(add(mean(square(centred), 1, true), eps)))
  })

export type FeatureLoss = {losses: Tensor1D /* [n], weighted */; gradient: Tensor2D /* [n, C], of their sum with respect to p */}

/**
 * Loss of projected student rows p [n, C] against standardized teacher rows t [n, C] with weights [n]; `beta` weighs
 * the Huber term.
 */
export function featureLoss(p: Tensor2D, t: Tensor2D, weights: Tensor1D, beta: number): FeatureLoss {
  return tidy(() => {
    const C = p.shape[1]
    const by: Tensor2D = reshape(weights, [-1, 1]) //                             [n, 1]
    const length: Tensor2D = maximum(norm(p, 2, 1, true), eps) //                 [n, 1]
    const target: Tensor2D = div(t, maximum(norm(t, 2, 1, true), eps)) //         [n, C]
    const own: Tensor2D = div(p, length)
    const cosine: Tensor2D = sum(mul(own, target), 1, true) //                    [n, 1]
    const gap: Tensor2D = sub(p, t)
    const far = abs(gap)
    const inside: Tensor2D = minimum(far, 1)
    const huber: Tensor2D = sum(add(mul(square(inside), 0.5), sub(far, inside)), 1, true) // [n, 1]
    const slope: Tensor2D = clipByValue(gap, -1, 1)
    const turn: Tensor2D = div(sub(mul(own, cosine), target), length) //          of 1 − cos
    return {
      losses: reshape(mul(by, add(sub(1, cosine), mul(huber, beta / C))), [-1]),
      gradient: mul(by, add(turn, mul(slope, beta / C)))
    }
  })
}
