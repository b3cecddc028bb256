/**
 * The linear layer and what is fused to it: exact GELU after, a residual added last.
 *
 * T rows, I inputs, O outputs. Weights keep the layout of the checkpoints, [O, I].
 */
import {add, customGrad, matMul, mul, sum, tidy} from '../tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tf.js'
import {gelu} from './gelu.js'
import {callKernel} from './kernel.js'

export type Linear = {weight: Tensor2D /* [O, I] */; bias: Tensor1D /* [O] */}

export type LinearOptions = {
  /** Applied to the product: exact (erf) GELU, or nothing. */
  readonly activation?: 'gelu'
  /** Added last, [T, O]; the result is held as this is held. */
  readonly residual?: Tensor2D
}

/** x·Wᵀ + b, then GELU, then the residual; x [T, I] → [T, O]. */
export function linearForward(x: Tensor2D, {weight, bias}: {weight: Tensor2D; bias?: Tensor1D}, options: LinearOptions = {}): Tensor2D {
  const {activation, residual} = options
  return (callKernel('Dinov2Linear', {x, weight, bias, residual}, {activation})?.[0] ??
    linearReference(x, {weight, bias}, options)) as Tensor2D
}

/** The reference implementation of `linearForward`. */
export const linearReference = (
  x: Tensor2D,
  {weight, bias}: {weight: Tensor2D; bias?: Tensor1D},
  {activation, residual}: LinearOptions = {}
): Tensor2D =>
  tidy(() => {
    let y: Tensor2D = matMul(x, weight, false, true) //                   [T, O]
    if (bias) y = add(y, bias)
    if (activation === 'gelu') y = gelu(y)
    return residual ? add(y, residual) : y
  })

export type LinearGrads = {x: Tensor2D /* [T, I] */; weight: Tensor2D /* [O, I] */; bias: Tensor1D /* [O] */}

/** Gradients of x·Wᵀ + b for dy [T, O]; those of weight and bias are float32. */
export function linearBackward(dy: Tensor2D, x: Tensor2D, weight: Tensor2D): LinearGrads {
  const fused = callKernel('Dinov2LinearGrad', {dy, x, weight})
  if (fused) return {x: fused[0] as Tensor2D, weight: fused[1] as Tensor2D, bias: fused[2] as Tensor1D}
  return tidy(() => ({x: matMul(dy, weight), weight: matMul(dy, x, true, false), bias: sum<Tensor1D>(dy, 0)}))
}

/** `linearForward` with its gradient on the tape; x [T, I] → [T, O]. */
export function linear(x: Tensor2D, p: Linear): Tensor2D {
  const layer = customGrad((...args: unknown[]) => {
    const [a, w, b, save] = args as [Tensor2D, Tensor2D, Tensor1D, (tensors: Tensor[]) => void]
    save([a, w])
    return {
      value: linearForward(a, {weight: w, bias: b}),
      gradFunc: (dy: Tensor2D, saved: Tensor[]) => {
        const grads = linearBackward(dy, saved[0] as Tensor2D, saved[1] as Tensor2D)
        return [grads.x, grads.weight, grads.bias]
      }
    }
  })
  return layer(x, p.weight, p.bias) as Tensor2D
}

/**
 * A linear layer whose output is scaled by `gamma` [O] and added to a stream: x + γ ⊙ (a·Wᵀ + b), LayerScale (CaiT,
 * Touvron et al.
 * 2021) folded into the weights. Without `gamma` it is a plain residual.
 */
export function scaledResidual(x: Tensor2D, a: Tensor2D, p: Linear, gamma: Tensor1D | undefined): Tensor2D {
  const fused = gamma && callKernel('Dinov2ScaledResidual', {x, a, weight: p.weight, bias: p.bias, gamma})
  if (fused) return fused[0] as Tensor2D
  return tidy(() => linearForward(a, gamma ? scaleRows(p, gamma) : p, {residual: x}))
}

/** γ ⊙ W by rows and γ ⊙ b, held as W is held. */
export function scaleRows({weight, bias}: Linear, gamma: Tensor1D): Linear {
  const fused = callKernel('Dinov2ScaleRows', {weight, bias, gamma})
  if (fused) return {weight: fused[0] as Tensor2D, bias: fused[1] as Tensor1D}
  return tidy(() => ({weight: mul(weight, gamma.expandDims<Tensor2D>(1)), bias: mul(bias, gamma)}))
}

export type ScaledGrads = {a: Tensor2D; weight: Tensor2D; bias: Tensor1D; gamma?: Tensor1D}

/**
 * Gradients of the branch γ ⊙ (a·Wᵀ + b) for dy [T, O]. The branch's output is not needed: with G = dyᵀ·a and s = Σ
 * dy, dW = γ ⊙ G, db = γ ⊙ s, dγ = Σᵢ (W ⊙ G) + b ⊙ s.
 */
export function scaledBackward(dy: Tensor2D, a: Tensor2D, p: Linear, gamma: Tensor1D | undefined): ScaledGrads {
  return tidy((): ScaledGrads => {
    if (!gamma) {
      const {x, weight, bias} = linearBackward(dy, a, p.weight)
      return {a: x, weight, bias}
    }
    const fused = callKernel('Dinov2ScaledLinearGrad', {dy, a, weight: p.weight, bias: p.bias, gamma})
    if (fused) return {a: fused[0] as Tensor2D, weight: fused[1] as Tensor2D, bias: fused[2] as Tensor1D, gamma: fused[3] as Tensor1D}
    const unscaled = linearBackward(dy, a, scaleRows(p, gamma).weight)
    return {
      a: unscaled.x,
      weight: mul(unscaled.weight, gamma.expandDims<Tensor2D>(1)),
      bias: mul(unscaled.bias, gamma),
      gamma: add<Tensor1D>(sum(mul(unscaled.weight, p.weight), 1), mul(p.bias, unscaled.bias))
    }
  })
}
