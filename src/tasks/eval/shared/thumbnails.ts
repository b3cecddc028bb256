/** Small pictures of images for pages. */
import {cropBorders} from '../../../data/image/borders.js'
import {fitSide} from '../../../render/canvas.js'
import {decodeRgb, RefusedImage} from '../../../data/image/decode.js'
import {PackedImages} from '../../../data/sources/packed-images.js'
import {encodeImage} from '../../../data/image/encode.js'
import type {PageImage} from '../../../render/eval-page.js'

export type ThumbnailOptions = {
  /** Longest side in pixels; 128 if absent. */
  readonly side?: number
  /** Images that are no files of their own, as `withPackedImages` finds them. */
  readonly packed?: PackedImages
  /** Folder that names start from; the present one if absent. */
  readonly root?: string | undefined
  /** Shows the image as it was embedded, without letter-box bars. */
  readonly cropBorders?: boolean
}

/** The options with the images among these paths that lie in tar shards and Parquet files. */
export async function withPackedImages(paths: Iterable<string>, options: ThumbnailOptions): Promise<ThumbnailOptions> {
  const packed = new PackedImages()
  await packed.find(paths, options.root)
  return {...options, packed}
}

/** The picture at a path, small, as JPEG; undefined where it cannot be opened (a name from elsewhere). */
export async function thumbnail(
  path: string,
  {side = 128, root, packed, cropBorders: cut = false}: ThumbnailOptions = {}
): Promise<Required<Pick<PageImage, 'bytes' | 'type'>> | undefined> {
  try {
    const whole = await decodeRgb((packed ?? new PackedImages()).at(path, root))
    const small = fitSide(cut ? cropBorders(whole) : whole, side)
    return {bytes: await encodeImage(small.data, {...small, format: 'jpeg', quality: 88}), type: 'image/jpeg'}
  } catch (error) {
    if (error instanceof RefusedImage) return undefined
    throw error
  }
}
