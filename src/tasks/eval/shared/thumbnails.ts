/** Small pictures of images for pages. */
import {join} from 'node:path'
import {cropBorders} from '../../../data/image/borders.js'
import {fitSide} from '../../../render/canvas.js'
import {decodeRgb, RefusedImage} from '../../../data/image/decode.js'
import {encodeImage} from '../../../data/image/encode.js'
import type {PageImage} from '../../../render/eval-page.js'

export type ThumbnailOptions = {
  /** Longest side in pixels; 128 if absent. */
  readonly side?: number
  /** Folder that names start from; the present one if absent. */
  readonly root?: string | undefined
  /** Shows the image as it was embedded, without letter-box bars. */
  readonly cropBorders?: boolean
}

/**
 * The picture at a path, small, as JPEG; undefined where it cannot be opened (a name from elsewhere, a member of a
 * shard).
 */
export async function thumbnail(
  path: string,
  {side = 128, root, cropBorders: cut = false}: ThumbnailOptions = {}
): Promise<Required<Pick<PageImage, 'bytes' | 'type'>> | undefined> {
  try {
    const whole = await decodeRgb({id: path, path: root === undefined ? path : join(root, path), fields: {}})
    const small = fitSide(cut ? cropBorders(whole) : whole, side)
    return {bytes: await encodeImage(small.data, {...small, format: 'jpeg', quality: 88}), type: 'image/jpeg'}
  } catch (error) {
    if (error instanceof RefusedImage) return undefined
    throw error
  }
}
