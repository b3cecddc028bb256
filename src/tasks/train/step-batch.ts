/** The bytes of a batch as tensors of a step. B images, G and S the sides of global and local crops, N patches. */
import type {CropSettings} from '../../data/augment/multi-crop.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {normalizeBatches, normalizePixels} from '../../tensor/ops/patches.js'
import {Tensor, dispose, tensor} from '../../tensor/tf.js'
import type {Tensor2D} from '../../tensor/tf.js'
import type {CropLoader, LazyBatch, StepBatch} from './batch-parts.js'

/**
 * One batch of bytes for the engine, for `freeBatch`. Where it is computed in parts, the crops of each are made when
 * it comes to it.
 */
export function stepBatch(
  {globals, locals, masks, indices, weights}: CropBatch,
  batch: number,
  crops: CropSettings,
  patch: number,
  parts = 1
): StepBatch | LazyBatch {
  const {globalSize: G, localSize: S, localCount} = crops
  const N = Math.floor(G / patch) ** 2
  const rest = {masks: tensor(Float32Array.from(masks), [2 * batch, N]) as Tensor2D, indices, weights}
  if (parts === 1) {
    const large = {pixels: globals, shape: [2 * batch, G, G] as const}
    if (localCount === 0) return {globals: normalizeBatches([large])[0]!, ...rest}
    const [big, small] = normalizeBatches([large, {pixels: locals, shape: [localCount * batch, S, S]}])
    return {globals: big!, locals: small!, ...rest}
  }
  const some =
    (bytes: Uint8Array, each: number, side: number): CropLoader =>
    (from, to) => {
      const own = new Uint8Array(each * (to - from) * side * side * 3)
      for (let crop = 0; crop < each; crop++) {
        const start = (crop * batch + from) * side * side * 3
        own.set(bytes.subarray(start, start + (to - from) * side * side * 3), crop * (to - from) * side * side * 3)
      }
      return normalizePixels(own, [each * (to - from), side, side])
    }
  return {globals: some(globals, 2, G), ...(localCount > 0 ? {locals: some(locals, localCount, S)} : {}), localCount, ...rest}
}

/** Lets a batch's tensors go. */
export const freeBatch = ({globals, locals, masks}: StepBatch | LazyBatch): void =>
  dispose([globals, locals, masks].filter(crops => crops instanceof Tensor))
