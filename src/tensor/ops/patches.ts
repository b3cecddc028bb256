/** From pixels to rows that a linear layer can take: normalizing, and cutting into patches. */
import {mul, reshape, sub, tensor, tensor1d, tidy, transpose} from '../tf.js'
import type {Tensor1D, Tensor2D, Tensor4D} from '../tf.js'
import {callKernel} from './kernel.js'

/** Mean and deviation of ImageNet's channels, which every DINOv2 model was trained with (docs/spec.md §4.1). */
export const imageMean = [0.485, 0.456, 0.406] as const
export const imageStd = [0.229, 0.224, 0.225] as const

/** Bytes of images of one size, [B, H, W, 3], sRGB. */
export type PixelBytes = {readonly pixels: Uint8Array; readonly shape: readonly [count: number, height: number, width: number]}

/** Bytes [B, H, W, 3] (sRGB) → float32 images with ImageNet's mean taken off and its deviation divided out. */
export const normalizePixels = (pixels: Uint8Array, shape: readonly [number, number, number]): Tensor4D =>
  normalizeBatches([{pixels, shape}])[0]!

/** `normalizePixels` of several batches, which go to the device together. */
export function normalizeBatches(batches: readonly PixelBytes[]): Tensor4D[] {
  const images = batches.map(({pixels, shape: [B, H, W]}) => {
    if (pixels.length !== B * H * W * 3)
      throw new RangeError(`expected ${B * H * W * 3} bytes for ${B} images of ${H} × ${W} but received ${pixels.length}`)
    return {pixels, shape: [B, H, W, 3] as [number, number, number, number]}
  })
  return tidy(() => {
    const center = tensor1d(imageMean.map(m => 255 * m))
    const scale = tensor1d(imageStd.map(s => 1 / (255 * s)))
    const fused = callKernel('Dinov2Pixels', {centre: center, scale}, {images})
    return (fused ?? images.map(({pixels, shape}) => normalizeReference(pixels, shape, center, scale))) as Tensor4D[]
  })
}

/** The reference implementation of `normalizePixels`: (bytes − centre) · scale. */
const normalizeReference = (pixels: Uint8Array, shape: [number, number, number, number], center: Tensor1D, scale: Tensor1D): Tensor4D =>
  tidy(() => mul<Tensor4D>(sub(tensor(new Int32Array(pixels), shape, 'int32').toFloat(), center), scale))

/**
 * Images [B, H, W, 3] cut into squares of `patch` pixels → [B·N, 3·patch²], row-major over the grid, each flattened
 * (channel, y, x).
 */
export function patchRows(images: Tensor4D, patch: number): Tensor2D {
  const [B, H, W] = images.shape
  const [rows, columns] = [H / patch, W / patch]
  return tidy(() => {
    const grid = reshape(images, [B, rows, patch, columns, patch, 3])
    return reshape(transpose(grid, [0, 1, 3, 5, 2, 4]), [B * rows * columns, 3 * patch * patch])
  })
}
