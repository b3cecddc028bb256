/**
 * The numbers in the first directory of a TIFF file or of an EXIF block, and what they say about whether the picture
 * can be decoded. Reads a bounded number of entries, whatever the file claims. Format: TIFF 6.0 and BigTIFF.
 */
import {constants, inflateSync} from 'node:zlib'

/** Values of the whole-number tags of the first directory, at most 16 of each; of places in the file, 65,536. */
export type TiffTags = ReadonlyMap<number, readonly number[]>

const MAX_ENTRIES = 4096
const MAX_VALUES = 16
const MAX_PLACES = 65_536
/** Offsets and byte counts of strips and of tiles. */
const PLACES = [
  [273, 279],
  [324, 325]
] as const
const PLACE_TAGS = new Set<number>(PLACES.flat())
/** Bytes of a value by its type: bytes, text, shorts, longs, undefined bytes, and the 64-bit types of BigTIFF. */
const SIZES: Readonly<Record<number, number>> = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}

export const ORIENTATION = 0x112
export const XMP = 700

/** The tags of the first directory; undefined where the bytes hold none. */
export function readTiffTags(bytes: Uint8Array): TiffTags | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (bytes.length < 16) return undefined
  const mark = view.getUint16(0)
  if (mark !== 0x4949 && mark !== 0x4d4d) return undefined
  const little = mark === 0x4949
  const version = view.getUint16(2, little)
  if (version !== 42 && version !== 43) return undefined
  const big = version === 43
  const wide = (at: number): number => (big ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little))
  const start = wide(big ? 8 : 4)
  if (!(start + 8 <= bytes.length)) return undefined
  const count = Math.min(MAX_ENTRIES, big ? wide(start) : view.getUint16(start, little))
  const [first, step, inline] = big ? [start + 8, 20, 8] : [start + 2, 12, 4]
  const tags = new Map<number, readonly number[]>()
  for (let i = 0, at = first; i < count && at + step <= bytes.length; i++, at += step) {
    const size = SIZES[view.getUint16(at + 2, little)]
    if (size === undefined) continue
    const stated = wide(at + 4)
    const place = stated * size <= inline ? at + step - inline : wide(at + step - inline)
    const tag = view.getUint16(at, little)
    const most = Math.min(stated, PLACE_TAGS.has(tag) ? MAX_PLACES : MAX_VALUES)
    const values: number[] = []
    for (let k = 0; k < most && place + (k + 1) * size <= bytes.length; k++) {
      const p = place + k * size
      values.push(
        size === 1
          ? view.getUint8(p)
          : size === 2
            ? view.getUint16(p, little)
            : size === 4
              ? view.getUint32(p, little)
              : Number(view.getBigUint64(p, little))
      )
    }
    tags.set(tag, values)
  }
  return tags
}

/** The bytes of a tag of the first directory (XMP, for example), wherever they lie; undefined where there are none. */
export function tiffTagBytes(bytes: Uint8Array, tag: number): Uint8Array | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (bytes.length < 16) return undefined
  const little = view.getUint16(0) === 0x4949
  if (view.getUint16(2, little) !== 42) return undefined
  const start = view.getUint32(4, little)
  if (!(start + 2 <= bytes.length)) return undefined
  const count = Math.min(MAX_ENTRIES, view.getUint16(start, little))
  for (let i = 0, at = start + 2; i < count && at + 12 <= bytes.length; i++, at += 12) {
    if (view.getUint16(at, little) !== tag) continue
    const size = view.getUint32(at + 4, little)
    const place = size <= 4 ? at + 8 : view.getUint32(at + 8, little)
    return place + size <= bytes.length ? bytes.subarray(place, place + size) : undefined
  }
  return undefined
}

const COMPRESSION = 259
const PHOTOMETRIC = 262
const JPEG = 7
const DEFLATE = new Set([8, 32946])
const MAX_PART = 1 << 28
/** Codings that the decoder was built with: none, CCITT, LZW, JPEG, Deflate and PackBits. */
const DECODED = new Set([1, 2, 3, 4, 5, JPEG, 8, 32771, 32773, 32946])
const CODINGS: Readonly<Record<number, string>> = {
  6: 'the old JPEG coding',
  34661: 'JBIG',
  34676: 'SGI LogLuv',
  34677: 'SGI LogLuv',
  34712: 'JPEG 2000',
  34887: 'LERC',
  34892: 'lossy JPEG (DNG)',
  34925: 'LZMA',
  50000: 'Zstandard',
  50001: 'WebP',
  50002: 'JPEG XL',
  52546: 'JPEG XL'
}

/**
 * Whether a Deflate-coded strip or tile fails its own checksum, which the decoder does not reach when it has all the
 * bytes that it wants.
 */
function hasDamagedDeflate(bytes: Uint8Array, tags: TiffTags): boolean {
  for (const [offsets, counts] of PLACES)
    for (const [i, offset] of (tags.get(offsets) ?? []).entries()) {
      const part = bytes.subarray(offset, offset + (tags.get(counts)?.[i] ?? 0))
      try {
        inflateSync(part, {maxOutputLength: MAX_PART, finishFlush: constants.Z_SYNC_FLUSH})
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'Z_DATA_ERROR') return true
      }
    }
  return false
}

/**
 * Why the picture of a TIFF cannot be decoded, or not be trusted, as a clause; undefined where nothing speaks
 * against it.
 */
export function tiffProblem(bytes: Uint8Array): string | undefined {
  const tags = readTiffTags(bytes)
  if (!tags) return undefined
  const compression = tags.get(COMPRESSION)?.[0] ?? 1
  const photometric = tags.get(PHOTOMETRIC)?.[0]
  if (!DECODED.has(compression))
    return `it is a TIFF compressed by ${CODINGS[compression] ?? `method ${compression}`}, which this build cannot decode; save it with LZW or Deflate`
  if (photometric === 6 && compression !== JPEG)
    return 'it is a TIFF in YCbCr colours without JPEG compression, which is not read; save it as RGB'
  if (photometric === 32803 || photometric === 34892) return 'it is a TIFF of raw sensor data; develop it to RGB first'
  if (DEFLATE.has(compression) && hasDamagedDeflate(bytes, tags)) return 'it is a TIFF that is damaged (a checksum is wrong)'
  return undefined
}
