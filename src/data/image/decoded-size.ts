/** The size of an image as its header tells it, without decoding it. */
import sharp from 'sharp'
import type {ImageRef} from '../sources/image-ref.js'
import {avifProblem} from './avif-check.js'
import {MAX_PIXELS} from './decode.js'
import {pnmSize} from './pnm.js'
import {readBytes} from './read-bytes.js'
import type {Size} from './resample.js'
import {sniff} from './sniff.js'

/** Width and height of the upright image; undefined where the header does not tell, or the decoder will refuse it. */
export async function decodedSize(ref: ImageRef): Promise<Size | undefined> {
  try {
    const bytes = readBytes(ref)
    const found = sniff(bytes.subarray(0, 4096), ref.id)
    if ('reason' in found) return undefined
    if (found.format === 'pnm') {
      const {width, height} = pnmSize(bytes)
      return width * height > MAX_PIXELS ? undefined : {width, height}
    }
    if (found.format === 'bmp') return {width: found.width ?? 0, height: found.height ?? 0}
    if (found.format === 'avif' && avifProblem(bytes) !== undefined) return undefined
    const {autoOrient} = await sharp(bytes, {limitInputPixels: false}).metadata()
    return autoOrient.width * autoOrient.height > MAX_PIXELS ? undefined : autoOrient
  } catch {
    return undefined
  }
}
