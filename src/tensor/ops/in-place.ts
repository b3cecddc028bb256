/**
 * Operations over whole lists of tensors that an engine may do in place.
 *
 * TensorFlow.js's tensors never change; a training state does, and copying it each step would double its memory. These
 * kernels change tensors that only the trainer holds. They take lists by attribute, since a kernel's inputs are single
 * tensors.
 */
import {engine} from '../tf.js'
import type {NamedAttrMap, Tensor} from '../tf.js'
import {hasKernel} from './kernel.js'

/**
 * Runs a list kernel of the running engine. False where the engine has none of that name, or it does not serve here;
 * then nothing has changed.
 */
export function callInPlaceKernel(kernel: string, lists: Record<string, readonly Tensor[]>, attrs: Record<string, number> = {}): boolean {
  if (!hasKernel(kernel)) return false
  const answer: {declined?: boolean} = {}
  engine().runKernel(kernel, {}, {...attrs, lists, answer} as unknown as NamedAttrMap)
  return answer.declined !== true
}
