/**
 * How a fused operation finds its fast path.
 *
 * Each operation of this folder is written twice: a reference implementation in TensorFlow.js operations, which is the
 * specification and runs on every engine, and the name of a kernel that an engine may register. `callKernel` calls the
 * kernel where the running engine has it and answers undefined where it has not. The forward and the backward half are
 * functions of their own: the trainer calls them in order, without the tape; the differentiable form for tests and
 * small heads joins them by `customGrad`.
 */
import {engine, getBackend, getKernel} from '../tf.js'
import type {NamedAttrMap, Tensor} from '../tf.js'

/** Tensors by name; one that is absent is left out. */
export type Inputs = Record<string, Tensor | undefined>

/** Whether the running engine registered this kernel. */
export const hasKernel = (kernel: string): boolean => getKernel(kernel, getBackend()) !== undefined

/**
 * Runs a kernel of the running engine and returns its results, or undefined where the engine has none of that name.
 */
export function callKernel(kernel: string, inputs: Inputs, attrs: Record<string, unknown> = {}): Tensor[] | undefined {
  if (!hasKernel(kernel)) return undefined
  const present = Object.fromEntries(Object.entries(inputs).filter(([, tensor]) => tensor !== undefined)) as Record<string, Tensor>
  const result: unknown = engine().runKernel(kernel, present, attrs as NamedAttrMap)
  return (Array.isArray(result) ? result : [result]) as Tensor[]
}
