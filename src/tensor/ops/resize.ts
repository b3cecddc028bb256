/**
 * Bilinear resizing of maps of features or logits, as PyTorch's `F.interpolate(mode='bilinear')` does it: no smoothing
 * before shrinking.
 *
 * B maps, H × W before, Y × X after, C channels. Not tfjs's `image.resizeBilinear`, whose gradient knows nothing of
 * half-pixel centres; and not for pictures, which are resized as Pillow does it (`data/resample.ts`).
 */
import {customGrad, matMul, reshape, tensor2d, tidy} from '../tf.js'
import type {Tensor, Tensor2D, Tensor3D, Tensor4D} from '../tf.js'
import {callKernel} from './kernel.js'

/** Height and width. */
export type MapSize = readonly [height: number, width: number]

export type ResizeOptions = {
  /**
   * The outermost pixels' centres fall on each other (the DPT head); otherwise the pixels' outer edges do, which is
   * the usual rule.
   */
  readonly alignCorners?: boolean
}

/** x [B, H, W, C] at another size; → [B, Y, X, C]. */
export function resizeForward(x: Tensor4D, size: MapSize, {alignCorners = false}: ResizeOptions = {}): Tensor4D {
  return (callKernel('Dinov2Resize', {x}, {size: [...size], alignCorners})?.[0] ?? resizeReference(x, size, {alignCorners})) as Tensor4D
}

/** The reference implementation of `resizeForward`: rows and columns each by a matrix with two entries a row. */
export const resizeReference = (x: Tensor4D, [Y, X]: MapSize, {alignCorners = false}: ResizeOptions = {}): Tensor4D =>
  tidy(() => {
    const [, H, W] = x.shape
    return separable(x, bilinearMatrix(H, Y, alignCorners), bilinearMatrix(W, X, alignCorners))
  })

/** Gradient of `resizeForward` for dy [B, Y, X, C]; `from` is the size [H, W] before; → [B, H, W, C]. */
export function resizeBackward(dy: Tensor4D, from: MapSize, {alignCorners = false}: ResizeOptions = {}): Tensor4D {
  const fused = callKernel('Dinov2ResizeGrad', {dy}, {from: [...from], alignCorners})
  if (fused) return fused[0] as Tensor4D
  return tidy(() => {
    const [H, W] = from
    const [, Y, X] = dy.shape
    return separable(dy, bilinearMatrix(H, Y, alignCorners), bilinearMatrix(W, X, alignCorners), true)
  })
}

/** `resizeForward` with its gradient on the tape. */
export function resizeBilinear(x: Tensor4D, size: MapSize, options: ResizeOptions = {}): Tensor4D {
  const [, H, W] = x.shape
  const layer = customGrad((...args: unknown[]) => ({
    value: resizeForward(args[0] as Tensor4D, size, options),
    gradFunc: (dy: Tensor) => [resizeBackward(dy as Tensor4D, [H, W], options)]
  }))
  return layer(x) as Tensor4D
}

/** rows · x · columnsᵀ for every map and channel; rows [Y, H], columns [X, W], or with their transposes. */
function separable(x: Tensor4D, rows: Tensor2D, columns: Tensor2D, transposed = false): Tensor4D {
  const [B, H, W, C] = x.shape
  const [Y, X] = [rows.shape[transposed ? 1 : 0]!, columns.shape[transposed ? 1 : 0]!]
  const high = matMul(rows.expandDims<Tensor3D>(0), reshape(x, [B, H, W * C]), transposed) //        [B, Y, W·C]
  const wide = matMul(columns.expandDims<Tensor3D>(0), reshape(high, [B * Y, W, C]), transposed) // [B·Y, X, C]
  return reshape(wide, [B, Y, X, C])
}

/**
 * The matrix [to, from] that resizes one axis, row by row. The source place of pixel i is (i + ½)·from/to − ½, not
 * below 0 (with `alignCorners` i·(from − 1)/(to − 1)); the two pixels around it share the weight, and beyond the last
 * pixel that one has all.
 */
export function bilinearWeights(from: number, to: number, alignCorners = false): Float32Array {
  const weights = new Float32Array(to * from)
  const step = alignCorners ? (to > 1 ? (from - 1) / (to - 1) : 0) : from / to
  for (let i = 0; i < to; i++) {
    const at = alignCorners ? i * step : Math.max(0, (i + 0.5) * step - 0.5)
    const low = Math.min(from - 1, Math.floor(at))
    const part = at - low
    weights[i * from + low]! += 1 - part
    weights[i * from + Math.min(from - 1, low + 1)]! += part
  }
  return weights
}

const bilinearMatrix = (from: number, to: number, alignCorners: boolean): Tensor2D =>
  tensor2d(bilinearWeights(from, to, alignCorners), [to, from])
