/**
 * Images with depth, one by one: decoded, measured, refused with a reason where they cannot be used.
 *
 * A pair is refused where the image or its map cannot be read, where their sizes differ, or where no depth within the
 * range is known. The photo comes at the size that the model sees, the truth as it is stored: scores are of the
 * truth's own pixels.
 */
import {resizeForModel} from '../../../data/image/dense-input.js'
import {decodeRgb, RefusedImage} from '../../../data/image/decode.js'
import {rejectedImage} from '../../../data/sources/image-ref.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {readDepth} from '../../../data/targets/depth-and-mask-files.js'
import type {Pair} from '../../../data/targets/pairs.js'
import type {Raster} from '../../../data/image/resample.js'
import {cropBox, validPixels, type DepthCrop} from '../../../metrics/depth.js'

/** What depth counts. */
export type DepthRange = {readonly min: number; readonly max: number}

export type DepthDataOptions = {
  /** Short side that the model sees; both sides become multiples of `patch`. Absent: as the image is. */
  readonly size?: number
  readonly patch: number
  /** Metres that one unit of a map stands for; see `readDepth`. */
  readonly scale?: number
  readonly range: DepthRange
  readonly crop: DepthCrop
  readonly maxPixels?: number
}

/** One pair, ready. */
export type DepthSample = {
  readonly pair: Pair
  /** At the size that the model sees. */
  readonly photo: Raster
  /** As stored, in metres, 0 where unknown; `width` × `height`. */
  readonly truth: Float32Array
  readonly width: number
  readonly height: number
  /** Places of the pixels that count. */
  readonly valid: Uint32Array
}

/** Loads one pair. Raises RefusedImage, whose message is the reason. */
export async function loadSample(pair: Pair, options: DepthDataOptions): Promise<DepthSample> {
  const limit = options.maxPixels === undefined ? {} : {maxPixels: options.maxPixels}
  const photo = await decodeRgb(pair.image, limit)
  const {width, height, metres, known} = await readDepth(pair.map, {
    ...limit,
    scale: options.scale
  }).catch((error: unknown) => {
    if (error instanceof RefusedImage) throw new RefusedImage(`its depth map ${String(pair.map.path)} cannot be used: ${error.message}`)
    throw error
  })
  if (width !== photo.width || height !== photo.height)
    throw new RefusedImage(`it is ${photo.width} × ${photo.height}, but its depth map ${String(pair.map.path)} is ${width} × ${height}`)
  if (known === 0) throw new RefusedImage(`its depth map ${String(pair.map.path)} holds no known depth`)
  const {min, max} = options.range
  const valid = validPixels(metres, width, cropBox(options.crop, height, width), min, max)
  if (valid.length === 0)
    throw new RefusedImage(
      `its depth map ${String(pair.map.path)} holds no depth between ${min} and ${max} metres that counts (is the scale right?)`
    )
  return {pair, photo: resizeForModel(photo, options), truth: metres, width, height, valid}
}

/**
 * The samples of a set, in order, the next one being decoded while one is used. What cannot be used is reported to
 * `onRejected` and left out.
 */
export async function* readSamples(
  all: readonly Pair[],
  options: DepthDataOptions,
  onRejected: (bad: RejectedImage) => void,
  signal?: AbortSignal
): AsyncGenerator<DepthSample & {readonly index: number}> {
  const load = (index: number): Promise<DepthSample | RefusedImage> | undefined => {
    const pair = all[index]
    return (
      pair && loadSample(pair, options).catch((error: unknown) => (error instanceof RefusedImage ? error : Promise.reject(error as Error)))
    )
  }
  let next = load(0)
  for (const [index, {image}] of all.entries()) {
    signal?.throwIfAborted()
    const sample = await next!
    next = load(index + 1)
    next?.catch(() => undefined)
    if (sample instanceof RefusedImage) onRejected(rejectedImage(image, sample.message))
    else yield {...sample, index}
  }
}
