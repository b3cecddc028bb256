/** TIFF files of one number a pixel, with the numbers as they are stored: masks of class ids, maps of depth. */
import sharp from 'sharp'
import {MAX_PIXELS, type DecodeOptions} from './decode.js'
import {decodeStrictly, explainFailure, tooManyPixels} from './decode-strictly.js'
import {RefusedImage} from './read-bytes.js'
import {tiffNumbers} from './tiff-picture.js'

/** Numbers of a TIFF of one channel, as they are stored: no colour management, nothing scaled, NaN kept. */
export type TiffNumbers = {
  readonly width: number
  readonly height: number
  /** Whether the file holds whole numbers, of so many bits, or floating-point ones. */
  readonly kind: 'whole' | 'float'
  readonly bits: number
  readonly data: Uint8Array | Uint16Array | Int8Array | Int16Array | Uint32Array | Int32Array | Float32Array // [height, width]
  /** The colours that the file gives to its numbers, 3 bytes each, where they are indices of a palette. */
  readonly palette?: Uint8Array
}

const ARRAYS = {
  uchar: Uint8Array,
  char: Int8Array,
  ushort: Uint16Array,
  short: Int16Array,
  uint: Uint32Array,
  int: Int32Array,
  float: Float32Array
} as const
const isRead = (kind: string): kind is keyof typeof ARRAYS => Object.hasOwn(ARRAYS, kind)

/** Levels of 1, 2 or 4 bits, which the decoder stretches to 0 … 255, as they are stored. */
function unstretch(data: Uint8Array, bits: number): Uint8Array {
  const step = 255 / (2 ** bits - 1)
  return step === 1 ? data : data.map(value => value / step)
}

/**
 * Reads such a TIFF, its first page. Raises RefusedImage where it is damaged, has several channels, samples of another
 * kind, or more pixels than `maxPixels`.
 */
export async function decodeTiffNumbers(file: Uint8Array, {maxPixels = MAX_PIXELS}: DecodeOptions = {}): Promise<TiffNumbers> {
  const {bytes, bits, signed, palette} = tiffNumbers(file)
  const severalChannels = (count: number): RefusedImage =>
    new RefusedImage(`it is a TIFF of ${count} channels, where one number a pixel is wanted`)
  try {
    const {width, height, channels, depth} = await sharp(bytes, {limitInputPixels: false}).metadata()
    if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
    if (channels !== 1) throw severalChannels(channels)
    if (!isRead(depth)) throw new RefusedImage(`it is a TIFF with samples of kind ${depth}; save it as whole numbers or as float32`)
    const {data, info} = await decodeStrictly(failOn =>
      sharp(bytes, {failOn, limitInputPixels: maxPixels})
        .toColourspace(depth === 'ushort' ? 'grey16' : 'b-w')
        .raw({depth})
        .toBuffer({resolveWithObject: true})
    )
    if (info.channels !== 1) throw severalChannels(info.channels)
    const own = new Uint8Array(data) // at the start of a buffer of its own, whatever the alignment of sharp's
    const typed = depth === 'uchar' ? unstretch(own, bits) : new ARRAYS[signed ? 'short' : depth](own.buffer)
    return {
      width: info.width,
      height: info.height,
      kind: depth === 'float' ? 'float' : 'whole',
      bits,
      data: typed,
      ...(palette && {palette})
    }
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    throw new RefusedImage(explainFailure('tiff', (error as Error).message))
  }
}
