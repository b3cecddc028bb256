/** Damage is an error: how the decoder is asked, and one clause out of what it answers. */
import {RefusedImage} from './read-bytes.js'
import type {ImageFormat} from './sniff.js'

const NAMES: Readonly<Record<ImageFormat, string>> = {
  jpeg: 'a JPEG',
  png: 'a PNG',
  gif: 'a GIF',
  webp: 'a WebP',
  tiff: 'a TIFF',
  avif: 'an AVIF',
  bmp: 'a BMP'
}

/** A format with its article, for messages. */
export const nameOf = (format: ImageFormat): string => NAMES[format]

export const tooManyPixels = (width: number, height: number, limit: number): RefusedImage =>
  new RefusedImage(`it has ${width} × ${height} pixels, more than the limit of ${limit}`)

/**
 * What decoders report as a warning although pixels are missing or wrong. Bytes between the segments of a JPEG and
 * unknown tags of a TIFF are not among it.
 */
const DAMAGE =
  /bad Huffman|premature end|progression sequence|before marker 0xd[0-7]|Discarding \d|IO error|bad seek|Line length mismatch|Premature EOL|Invalid frame data|Read error|Decoding error/i

/**
 * Decodes so that damage is an error. The decoder's mildest setting takes a picture with missing parts for good, and
 * its strictest refuses a file for an unknown tag: a file that only warns of harmless things is decoded once more.
 */
export async function decodeStrictly<T>(decode: (failOn: 'warning' | 'error') => Promise<T>): Promise<T> {
  try {
    return await decode('warning')
  } catch (error) {
    if (error instanceof Error && DAMAGE.test(error.message)) throw error
    return decode('error')
  }
}

/** What is no fault of the image. */
const NO_MEMORY = /error creating thread|out of memory|memory allocation|unable to (allocate|create) |can't (allocate|fork)/i

/** One clause out of what libvips reports. */
export function explainFailure(format: ImageFormat, message: string): string {
  const first = message.split('\n').find(line => line.trim() !== '' && !line.startsWith('Warning treated as error')) ?? ''
  const detail = first
    .replace(/^Input (buffer|file) (has corrupt header:?|contains unsupported image format)/i, '')
    .trim()
    .replace(/^\w+: /, '')
    .trim()
  const cut = /premature end|unexpected end|truncat|read error|not enough|bad seek|EOF|too short|IO error/i.test(message)
  if (NO_MEMORY.test(detail)) return `there is not enough memory to decode it (${detail})`
  return `it is ${NAMES[format]} that is ${cut ? 'cut off or damaged' : 'damaged or of a kind that is not read'}${detail ? ` (${detail})` : ''}`
}
