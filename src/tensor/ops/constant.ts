/**
 * Small tensors that are the same at every step: tables of weights, numbers of rows.
 *
 * An engine whose memory is not the host's may keep them, so that they are not taken there at every step anew.
 */
import {tensor} from '../tf.js'
import type {Tensor} from '../tf.js'
import {callKernel} from './kernel.js'

/** Whole numbers become int32. */
export type ConstantValues = Float32Array | Int32Array

/** A tensor of these values, the caller's; nobody may change it in place. */
export function constant<T extends Tensor>(values: ConstantValues, shape: readonly number[]): T {
  return (callKernel('Dinov2Constant', {}, {values, shape})?.[0] ?? constantReference(values, shape)) as T
}

/** The reference implementation of `constant`. */
const constantReference = (values: ConstantValues, shape: readonly number[]): Tensor =>
  tensor(values, [...shape], values instanceof Int32Array ? 'int32' : 'float32')
