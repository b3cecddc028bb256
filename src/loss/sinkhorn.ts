/**
 * Teacher targets (spec §2.3): Sinkhorn–Knopp, or softmax over centred scores.
 *
 * n rows, K prototypes, teacher temperature τ. Sums and exponentials are float32; targets are held as the scores are.
 */
import {add, div, exp, max, mean, mul, softmax, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor2D} from '../tensor/tf.js'
import {fast} from '../tensor/ops/kernel.js'

/**
 * Sinkhorn–Knopp (Cuturi 2013; SwAV, Caron et al. 2020): Q = exp(s/τ), then by turns each prototype's total is made 1/K and each row's
 * total 1/n; at the end rows sum to one. The largest score of each prototype is taken off first: the first turn divides by its total
 * anyway, so the result is as it is, and a prototype that no row comes near does not vanish in float32. `iterations` is at least 1.
 */
export function sinkhorn(scores: Tensor2D, temperature: number, iterations = 3): Tensor2D {
  const fused = fast('Dinov2Sinkhorn', {scores}, {temperature, iterations})
  return (fused?.[0] ?? plainSinkhorn(scores, temperature, iterations)) as Tensor2D
}

/** The plain twin of `sinkhorn`. */
export function plainSinkhorn(scores: Tensor2D, temperature: number, iterations = 3): Tensor2D {
  const [n, K] = scores.shape
  return tidy(() => {
    let q = exp(div<Tensor2D>(sub(scores, max(scores, 0, true)), temperature))
    q = div(q, sum(q))
    for (let i = 0; i < iterations; i++) {
      q = div(div(q, sum(q, 0, true)), K)
      q = div(div(q, sum(q, 1, true)), n)
    }
    return mul(q, n)
  })
}

/** softmax((s − c)/τ) by rows; the centre c is [1, K]. */
export const centred = (scores: Tensor2D, center: Tensor2D, temperature: number): Tensor2D =>
  tidy(() => softmax(div<Tensor2D>(sub(scores, center), temperature)))

/** The centre after these scores: m·c + (1 − m)·mean; → [1, K]. */
export const nextCenter = (center: Tensor2D, scores: Tensor2D, momentum = 0.9): Tensor2D =>
  tidy(() => add<Tensor2D>(mul(center, momentum), mul(mean(scores, 0, true), 1 - momentum)))
