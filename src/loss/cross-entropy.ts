/**
 * Cross-entropy between soft targets and prototype scores, row by row (spec §2.4), with its gradient in closed form.
 *
 * CE(t, s) = −Σₖ tₖ·log softmax(s/τ)ₖ. R student rows, n teacher rows, K prototypes, D bottleneck width.
 */
import {add, concat, div, exp, gather, logSumExp, matMul, mul, reshape, slice, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D} from '../tensor/tf.js'
import {fast} from '../tensor/ops/kernel.js'
import {linearForward} from '../tensor/ops/linear.js'
import {cast, castLike} from '../tensor/ops/precision.js'

export type RowLoss = {losses: Tensor1D /* [R], weighted */; gradient: Tensor2D /* [R, K], of the weighted sum */}

/** Weighted cross-entropy of each row: scores [R, K], targets [R, K], weights [R]. The targets of a row need not sum to one. */
export function crossEntropy(scores: Tensor2D, targets: Tensor2D, weights: Tensor1D, temperature: number): RowLoss {
  return tidy(() => {
    const s: Tensor2D = div(scores, temperature)
    const lse: Tensor2D = logSumExp(s, 1, true) //                          [R, 1]
    const mass: Tensor2D = sum(targets, 1, true) //                         [R, 1]
    const own = sub(mul(mass, lse), sum(mul(targets, s), 1, true)) //       [R, 1]
    const by = reshape(weights, [-1, 1])
    return {
      losses: reshape(mul(own, by), [-1]),
      gradient: mul(sub(mul(exp(sub(s, lse)), mass), targets), div(by, temperature))
    }
  })
}

export type PrototypeLoss = {losses: Tensor1D /* [R] */; dz: Tensor2D /* [R, D] float32 */; dw: Tensor2D /* [K, D] float32 */}

/** Student rows that are compared with teacher rows of one kind (cls tokens, masked patches). */
export type Share = {
  readonly rows: number
  readonly targets: Tensor2D /* [n, K] */
  /** Teacher row whose target a student row is compared with, int32 [rows]. */
  readonly first: Tensor1D
  /** A second one, whose targets are added to the first's. */
  readonly second?: Tensor1D
  /** Weight of each student row, [rows]. */
  readonly weights: Tensor1D
}

/**
 * Cross-entropy of rows z [R, D] scored against prototypes w [K, D], `chunk` rows at a time, so that the R × K scores never exist whole.
 * The rows are those of the shares, one behind the other. Products are taken in the precision of `w`.
 */
export function prototypeLoss(z: Tensor2D, w: Tensor2D, shares: readonly Share[], temperature: number, chunk = 1024): PrototypeLoss {
  const covered = shares.reduce((sum, {rows}) => sum + rows, 0)
  if (covered !== z.shape[0]) throw new RangeError(`expected shares of ${z.shape[0]} rows but received ${covered}`)
  const fused = fast('Dinov2PrototypeLoss', {z, w}, {shares, temperature, chunk})
  if (fused) return {losses: fused[0] as Tensor1D, dz: fused[1] as Tensor2D, dw: fused[2] as Tensor2D}
  return plainPrototypeLoss(z, w, shares, temperature, chunk)
}

/** The plain twin of `prototypeLoss`. */
export const plainPrototypeLoss = (z: Tensor2D, w: Tensor2D, shares: readonly Share[], temperature: number, chunk: number): PrototypeLoss =>
  tidy(() => {
    const losses: Tensor1D[] = []
    const dz: Tensor2D[] = []
    let dw: Tensor2D | undefined
    let at = 0
    for (const {rows: R, targets, first, second, weights} of shares) {
      for (let start = 0; start < R; start += chunk) {
        const rows = Math.min(chunk, R - start)
        const step = tidy(() => {
          const part = castLike(slice(z, [at + start, 0], [rows, z.shape[1]]), w)
          const scores = cast(linearForward(part, {weight: w}), 'fp32') //  [rows, K]
          const pick = (from: Tensor1D): Tensor2D => gather(targets, slice(from, [start], [rows]))
          const target = second ? add<Tensor2D>(pick(first), pick(second)) : pick(first) // [rows, K]
          const {losses: own, gradient} = crossEntropy(scores, target, slice(weights, [start], [rows]), temperature)
          const low = castLike(gradient, w)
          const more = cast(matMul<Tensor2D>(low, part, true, false), 'fp32')
          return {losses: own, dz: cast(matMul<Tensor2D>(low, w), 'fp32'), dw: dw ? add<Tensor2D>(dw, more) : more}
        })
        dw?.dispose()
        dw = step.dw
        losses.push(step.losses)
        dz.push(step.dz)
      }
      at += R
    }
    return {losses: losses.length === 1 ? losses[0]! : concat(losses), dz: dz.length === 1 ? dz[0]! : concat(dz), dw: dw!}
  })
