/**
 * Teacher targets as the definitions say it (docs/spec.md §2.3), over scores that exist whole: for checks, and as the
 * reference implementations of `targets.ts`.
 *
 * n rows, K prototypes, teacher temperature τ. All float32.
 */
import {dispose, div, exp, max, mean, mul, softmax, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor2D} from '../tensor/tf.js'
import {denseLogits} from './logits.js'
import {centerAfter, centeredTargets, sinkhornTargets, targetColumns} from './targets.js'

/** Sinkhorn–Knopp by way of the two vectors of `targets.ts`, written out: scores [n, K] → targets [n, K]. */
export function sinkhornDense(scores: Tensor2D, temperature: number, iterations = 3, width = scores.shape[1]): Tensor2D {
  const targets = sinkhornTargets(denseLogits(scores), temperature, width, iterations)
  const all = targetColumns(targets, 0, scores.shape[1])
  dispose([targets.logRowScale, targets.logColumnScale])
  return all
}

/**
 * The reference implementation of `sinkhorn`: Q = exp(s/τ), then by turns each prototype's total is made 1/K and each
 * row's total 1/n; at the end rows sum to one. The largest score of each prototype is taken off first: the first turn
 * divides by its total anyway, so the result is as it is, and a prototype that no row comes near does not vanish in
 * float32. `iterations` is at least 1.
 */
export function sinkhornReference(scores: Tensor2D, temperature: number, iterations = 3): Tensor2D {
  const [n, K] = scores.shape
  return tidy(() => {
    let q = exp(div<Tensor2D>(sub(scores, max(scores, 0, true)), temperature)) // [n, K]
    q = div(q, sum(q))
    for (let i = 0; i < iterations; i++) {
      q = div(div(q, sum(q, 0, true)), K) // [n, K] by [1, K]
      q = div(div(q, sum(q, 1, true)), n) // [n, K] by [n, 1]
    }
    return mul(q, n)
  })
}

/** softmax((s − c)/τ) by rows, by way of the two vectors; the centre c is [1, K]. */
export function centeredDense(scores: Tensor2D, center: Tensor2D, temperature: number, width = scores.shape[1]): Tensor2D {
  const {targets, mean: unused} = centeredTargets(denseLogits(scores), center, temperature, width)
  const all = targetColumns(targets, 0, scores.shape[1])
  dispose([targets.logRowScale, targets.logColumnScale, unused])
  return all
}

/** The reference implementation of `centred`. */
export const centeredReference = (scores: Tensor2D, center: Tensor2D, temperature: number): Tensor2D =>
  tidy(() => softmax(div<Tensor2D>(sub(scores, center), temperature)))

/** The centre after these scores [n, K]. */
export const nextCenter = (center: Tensor2D, scores: Tensor2D, momentum = 0.9): Tensor2D =>
  tidy(() => centerAfter(center, mean<Tensor2D>(scores, 0, true), momentum))
