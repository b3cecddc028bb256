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
  bmp: 'a BMP',
  pnm: 'a PNM'
}

/** A format with its article, for messages. */
export const nameOf = (format: ImageFormat): string => NAMES[format]

export const tooManyPixels = (width: number, height: number, limit: number): RefusedImage =>
  new RefusedImage(`it has ${width} × ${height} pixels, more than the limit of ${limit}`)

/**
 * Warnings that cost no pixel: bytes in front of the end of a JPEG (`checkedJpeg` has taken out those of its
 * header), odd numbers in its header; and in the directory of a TIFF what the decoder puts right. All others are
 * damage.
 */
const HARMLESS =
  /extraneous bytes before marker 0xd9|Adobe color transform|SOS parameters|JFIF revision|ascending order|Bogus|ignoring and calculating|Photometric|SamplesPerPixel|incorrect count|Old-style LZW|not terminated with EOI|subsampling values/i

/** Whether all that a decoder reports is harmless. */
function isHarmless(message: string): boolean {
  const lines = message.split('\n').filter(line => line.trim() !== '' && !line.startsWith('Warning treated as error'))
  return lines.length > 0 && lines.every(line => HARMLESS.test(line))
}

/**
 * Decodes so that damage is an error. The decoder's mildest setting takes a picture with missing parts for good, and
 * its strictest refuses a file for an unknown tag: a file that only warns of harmless things is decoded once more.
 */
export async function decodeStrictly<T>(decode: (failOn: 'warning' | 'error') => Promise<T>): Promise<T> {
  try {
    return await decode('warning')
  } catch (error) {
    if (!(error instanceof Error) || !isHarmless(error.message)) throw error
    return decode('error')
  }
}

/** What is no fault of the image. */
const NO_MEMORY = /error creating thread|out of memory|memory allocation|unable to (allocate|create) |can't (allocate|fork)/i

/** One clause out of what libvips reports. */
export function explainFailure(format: ImageFormat, message: string): string {
  const lines = message.split('\n').filter(line => line.trim() !== '' && !/^(Warning treated as error|error in tile)/.test(line))
  const first = lines.find(line => !HARMLESS.test(line)) ?? lines[0] ?? ''
  const detail = first
    .replace(/^Input (buffer|file) (has corrupt header:?|contains unsupported image format)/i, '')
    .trim()
    .replace(/^(error )?\w+: /, '')
    .trim()
  const cut = /premature end|unexpected end|truncat|read error|not enough|bad seek|EOF|too short|IO error/i.test(message)
  if (/data precision/i.test(detail))
    return `it is ${NAMES[format]} of more than 8 bits a sample, which is not read; save it with 8 bits, or as PNG`
  if (NO_MEMORY.test(detail)) return `there is not enough memory to decode it (${detail})`
  return `it is ${NAMES[format]} that is ${cut ? 'cut off or damaged' : 'damaged or of a kind that is not read'}${detail ? ` (${detail})` : ''}`
}
