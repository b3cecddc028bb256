/**
 * The numbers in the first directory of a TIFF file or of an EXIF block. Reads a bounded number of entries, whatever
 * the file claims. Format: TIFF 6.0 and BigTIFF.
 */

/** Values of the whole-number tags of the first directory, at most 16 of each; of places in the file, 65,536. */
export type TiffTags = ReadonlyMap<number, readonly number[]>

const MAX_ENTRIES = 4096
const MAX_VALUES = 16
const MAX_PLACES = 65_536

/** Offsets and byte counts of strips and of tiles. */
export const PLACES = [
  [273, 279],
  [324, 325]
] as const
const PLACE_TAGS = new Set<number>(PLACES.flat())
/** Bytes of a value by its type: bytes, text, shorts, longs, undefined bytes, and the 64-bit types of BigTIFF. */
const SIZES: Readonly<Record<number, number>> = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}

export const ORIENTATION = 0x112
export const XMP = 700

/** Where the entries of the first directory lie. */
export type TiffDirectory = {
  readonly view: DataView
  readonly little: boolean
  /** BigTIFF: numbers of 64 bits where others have 32. */
  readonly big: boolean
  /** Where its count of entries, its first entry and its end lie, and the bytes of an entry. */
  readonly start: number
  readonly first: number
  readonly end: number
  readonly step: number
  /** Whether all entries that it states are there. */
  readonly whole: boolean
}

/** A place or a count of the file: 64 bits in BigTIFF, else 32. */
const wideNumber = ({view, little, big}: TiffDirectory, at: number): number =>
  big ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little)

/** The first directory of a TIFF; undefined where the bytes hold none. */
export function firstDirectory(bytes: Uint8Array): TiffDirectory | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (bytes.length < 16) return undefined
  const mark = view.getUint16(0)
  if (mark !== 0x4949 && mark !== 0x4d4d) return undefined
  const little = mark === 0x4949
  const version = view.getUint16(2, little)
  if (version !== 42 && version !== 43) return undefined
  const big = version === 43
  const start = big ? Number(view.getBigUint64(8, little)) : view.getUint32(4, little)
  if (!(start + 8 <= bytes.length)) return undefined
  const stated = big ? Number(view.getBigUint64(start, little)) : view.getUint16(start, little)
  const [first, step] = big ? [start + 8, 20] : [start + 2, 12]
  const there = Math.floor((bytes.length - first) / step)
  const count = Math.min(MAX_ENTRIES, stated, there)
  return {view, little, big, start, first, end: first + count * step, step, whole: count === stated}
}

/** Where the values of the entry at `at` lie: within it where they fit, else elsewhere in the file. */
const placeOf = (directory: TiffDirectory, at: number, size: number): number => {
  const inline = directory.big ? 8 : 4
  const value = at + directory.step - inline
  return size <= inline ? value : wideNumber(directory, value)
}

/** The tags of the first directory; undefined where the bytes hold none. */
export function readTiffTags(bytes: Uint8Array): TiffTags | undefined {
  const directory = firstDirectory(bytes)
  if (!directory) return undefined
  const {view, little, first, end, step} = directory
  const tags = new Map<number, readonly number[]>()
  for (let at = first; at < end; at += step) {
    const size = SIZES[view.getUint16(at + 2, little)]
    if (size === undefined) continue
    const stated = wideNumber(directory, at + 4)
    const place = placeOf(directory, at, stated * size)
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

/**
 * The bytes of a tag of the first directory (XMP, for example), wherever they lie, of `width` bytes a value;
 * undefined where there are none.
 */
export function tiffTagBytes(bytes: Uint8Array, tag: number, width = 1): Uint8Array | undefined {
  const directory = firstDirectory(bytes)
  if (!directory) return undefined
  const {view, little, first, end, step} = directory
  for (let at = first; at < end; at += step) {
    if (view.getUint16(at, little) !== tag) continue
    const size = wideNumber(directory, at + 4) * width
    const place = placeOf(directory, at, size)
    return place + size <= bytes.length ? bytes.subarray(place, place + size) : undefined
  }
  return undefined
}
