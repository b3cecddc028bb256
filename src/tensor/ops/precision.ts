/**
 * Which numbers an engine computes with.
 *
 * To TensorFlow.js every real tensor is float32. The torch engine can hold one as bfloat16 or float16; other engines
 * cannot, and there these functions change nothing. The policy (engine notes, "Numbers"): master weights, moments and
 * averages are float32; copies of the weights that enter matrix products are narrower, cast once a step and shared;
 * statistics, softmax and losses are float32. tf32 holds float32 and lets a GPU round the operands of products.
 */
import {clone} from '../tf.js'
import type {Tensor} from '../tf.js'
import {callKernel} from './kernel.js'

export type Precision = 'fp32' | 'tf32' | 'bf16' | 'fp16'

/** Bytes of a number that enters a matrix product. */
export const bytesOfNumber = (precision: Precision): 2 | 4 => (precision === 'bf16' || precision === 'fp16' ? 2 : 4)

/** A copy of `x` held in `precision`; the values are rounded where it is narrower. */
export function cast<T extends Tensor>(x: T, precision: Precision): T {
  return (callKernel('Dinov2Cast', {x}, {precision})?.[0] ?? clone(x)) as T
}

/** `x` held as `like` is held. */
export function castLike<T extends Tensor>(x: T, like: Tensor): T {
  return (callKernel('Dinov2CastLike', {x, like})?.[0] ?? clone(x)) as T
}
