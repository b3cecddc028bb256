/** TIFF files of one number a pixel, with the numbers as they are stored: masks of class ids, maps of depth. */
import sharp from 'sharp'
import {MAX_PIXELS, type DecodeOptions} from './decode.js'
import {decodeStrictly, explainFailure, tooManyPixels} from './decode-strictly.js'
import {RefusedImage} from './read-bytes.js'
import {tiffProblem} from './tiff-tags.js'

/** Numbers of a TIFF of one channel, as they are stored: no colour management, nothing scaled, NaN kept. */
export type TiffNumbers = {
  readonly width: number
  readonly height: number
  /** Whether the file holds whole numbers of 8 or 16 bits, or floating-point ones. */
  readonly kind: 'whole' | 'float'
  readonly data: Uint8Array | Uint16Array | Float32Array // [height, width]
}

const KINDS: Readonly<Record<string, 'uchar' | 'ushort' | 'float'>> = {uchar: 'uchar', ushort: 'ushort', float: 'float', double: 'float'}

/**
 * Reads such a TIFF, its first page. Raises RefusedImage where it is damaged, has several channels, samples of another
 * kind, or more pixels than `maxPixels`.
 */
export async function decodeTiffNumbers(bytes: Uint8Array, {maxPixels = MAX_PIXELS}: DecodeOptions = {}): Promise<TiffNumbers> {
  const problem = tiffProblem(bytes)
  if (problem !== undefined) throw new RefusedImage(problem)
  const severalChannels = (count: number): RefusedImage =>
    new RefusedImage(`it is a TIFF of ${count} channels, where one number a pixel is wanted`)
  try {
    const {width, height, channels, depth} = await sharp(bytes, {limitInputPixels: false}).metadata()
    if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
    if (channels !== 1) throw severalChannels(channels)
    const kind = KINDS[depth]
    if (kind === undefined)
      throw new RefusedImage(`it is a TIFF with samples of kind ${depth}; 8 and 16 bits without sign and floating point are read`)
    const {data, info} = await decodeStrictly(failOn =>
      sharp(bytes, {failOn, limitInputPixels: maxPixels})
        .toColourspace(kind === 'ushort' ? 'grey16' : 'b-w')
        .raw({depth: kind})
        .toBuffer({resolveWithObject: true})
    )
    if (info.channels !== 1) throw severalChannels(info.channels)
    const own = new Uint8Array(data) // at the start of a buffer of its own, whatever the alignment of sharp's
    const typed = kind === 'float' ? new Float32Array(own.buffer) : kind === 'ushort' ? new Uint16Array(own.buffer) : own
    return {width: info.width, height: info.height, kind: kind === 'float' ? 'float' : 'whole', data: typed}
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    throw new RefusedImage(explainFailure('tiff', (error as Error).message))
  }
}
