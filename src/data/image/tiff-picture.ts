/**
 * A TIFF as the decoder is to see it: its first picture and nothing else.
 *
 * The decoder warns of tags that it does not know (those of maps and microscopes, for example) in the same way as of
 * strips that do not unpack, and goes on. So all that the picture does not need is taken out first: what it then warns
 * of is damage. Zstandard, which it was built without, becomes Deflate. Format: TIFF 6.0 and BigTIFF.
 */
import {constants, deflateSync, inflateSync} from 'node:zlib'
import {unpackZstd} from '../../system/zstd.js'
import {RefusedImage} from './read-bytes.js'
import {firstDirectory, PLACES, readTiffTags, tiffTagBytes, type TiffDirectory, type TiffTags} from './tiff-tags.js'

const [WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS_PER_STRIP, PLANAR] = [256, 257, 258, 259, 262, 277, 278, 284]
const [PALETTE, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT] = [320, 322, 323, 339]

/**
 * What the pixels depend on: size, samples, coding and its options, colours and their tables, strips or tiles,
 * orientation, tables of JPEG, YCbCr, the colour profile.
 */
const NEEDED = new Set([
  WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, 273, 274, SAMPLES, ROWS_PER_STRIP, 279, PLANAR, 292, 293, 317, PALETTE, TILE_WIDTH,
  TILE_HEIGHT, 324, 325, 332, 338, SAMPLE_FORMAT, 347, 529, 530, 531, 532, 34675
]) // prettier-ignore

const LZW = 5
const JPEG = 7
const DEFLATE = 8
const OLD_DEFLATE = 32_946
const ZSTD = 50_000
/** The most bytes that one strip or tile may unpack to. */
const MAX_PART = 1 << 28
/** The most tiles that the decoder holds: four rows of them. It writes past our stderr where they are more. */
const MAX_TILES = 1_000_000
/** What the decoder was built with: none, CCITT, LZW, JPEG, Deflate, PackBits; Zstandard, which becomes Deflate. */
const DECODED = new Set([1, 2, 3, 4, LZW, JPEG, DEFLATE, 32771, 32773, OLD_DEFLATE, ZSTD])
const CODINGS: Readonly<Record<number, string>> = {
  6: 'the old JPEG coding',
  34661: 'JBIG',
  34676: 'SGI LogLuv',
  34677: 'SGI LogLuv',
  34712: 'JPEG 2000',
  34887: 'LERC',
  34892: 'lossy JPEG (DNG)',
  34925: 'LZMA',
  34933: 'PNG',
  34934: 'JPEG XR',
  50001: 'WebP',
  50002: 'JPEG XL',
  52546: 'JPEG XL'
}

/** Offsets and lengths of strips and tiles, with the tags that hold them. */
function* parts(
  tags: TiffTags
): Generator<{readonly tags: readonly [offsets: number, counts: number]; offsets: readonly number[]; counts: readonly number[]}> {
  for (const pair of PLACES) {
    const offsets = tags.get(pair[0])
    if (offsets) yield {tags: pair, offsets, counts: tags.get(pair[1]) ?? []}
  }
}

/** The bytes that the strip or tile of that number unpacks to. */
function partSize(tags: TiffTags, number: number): number {
  const one = (tag: number): number => tags.get(tag)?.[0] ?? 1
  const height = one(HEIGHT)
  const rows = Math.max(1, Math.min(height, tags.get(ROWS_PER_STRIP)?.[0] ?? height))
  const strips = Math.ceil(height / rows) // of each plane, where colours lie apart
  const samples = one(PLANAR) === 2 ? 1 : one(SAMPLES)
  const [width, lines] = tags.has(TILE_WIDTH)
    ? [one(TILE_WIDTH), one(TILE_HEIGHT)]
    : [one(WIDTH), Math.min(rows, height - (number % strips) * rows)]
  return lines * Math.ceil((width * samples * one(BITS)) / 8)
}

/**
 * Whether a Deflate-coded strip or tile fails its own checksum, which the decoder does not reach when it has all the
 * bytes that it wants.
 */
function isDamagedDeflate(part: Uint8Array): boolean {
  try {
    inflateSync(part, {maxOutputLength: MAX_PART, finishFlush: constants.Z_SYNC_FLUSH})
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'Z_DATA_ERROR'
  }
}

/**
 * Whether an LZW-coded strip or tile ends before its pixels do. Where it ends with the code for that, as nearly all
 * do, the decoder sees what is wrong; where not, it warns whether or not pixels are missing.
 */
function isShortLzw(part: Uint8Array, size: number): boolean {
  const tail = part.subarray(-4).reduce((word, byte) => word * 256 + byte, 0)
  for (let pad = 0; pad < 8; pad++) if (tail % 2 ** pad === 0 && Math.floor(tail / 2 ** pad) % 512 === 257) return false
  return part.length > 0 && part[0] === 0x80 && lzwLength(part, size) < size // older ones begin otherwise
}

/** How many bytes LZW codes unpack to, at most `wanted`; codes lie from the upper bit on. */
function lzwLength(part: Uint8Array, wanted: number): number {
  const lengths = new Int32Array(4097).fill(1) // bytes by code
  let [next, size, previous, length, word, bits, at] = [258, 9, -1, 0, 0, 0, 0]
  while (length < wanted) {
    while (bits < size) {
      if (at === part.length) return length
      word = ((word << 8) | part[at++]!) & 0xffffff
      bits += 8
    }
    const code = (word >> (bits - size)) & ((1 << size) - 1)
    bits -= size
    if (code === 257) return length
    if (code === 256) [next, size, previous] = [258, 9, -1]
    else {
      if (code > next || (code === next && previous < 0)) return length
      if (previous >= 0 && next < 4096) lengths[next++] = lengths[previous]! + 1
      length += lengths[code]!
      previous = code
      if (next >= (1 << size) - 1 && size < 12) size++ // one code early, as TIFF has it
    }
  }
  return length
}

/** Whether the decoder would take a strip or tile for whole that is not. */
function hasDamagedPart(bytes: Uint8Array, tags: TiffTags, compression: number): boolean {
  for (const {offsets, counts} of parts(tags))
    for (const [i, offset] of offsets.entries()) {
      const part = bytes.subarray(offset, offset + (counts[i] ?? 0))
      if (compression === LZW ? isShortLzw(part, partSize(tags, i)) : isDamagedDeflate(part)) return true
    }
  return false
}

/**
 * Why the picture of a TIFF cannot be decoded, or not be trusted, as a clause; undefined where nothing speaks
 * against it.
 */
function tiffProblem(bytes: Uint8Array, tags: TiffTags): string | undefined {
  const compression = tags.get(COMPRESSION)?.[0] ?? 1
  const photometric = tags.get(PHOTOMETRIC)?.[0]
  const bits = tags.get(BITS)?.[0] ?? 1
  if (!DECODED.has(compression))
    return `it is a TIFF compressed by ${CODINGS[compression] ?? `method ${compression}`}, which this build cannot decode; save it with LZW or Deflate`
  if (photometric === 6 && compression !== JPEG)
    return 'it is a TIFF in YCbCr colours without JPEG compression, which is not read; save it as RGB'
  if (photometric !== undefined && photometric >= 8 && photometric <= 10)
    return 'it is a TIFF in L*a*b* colours, which is not read; save it as RGB'
  if (photometric === 32803 || photometric === 34892) return 'it is a TIFF of raw sensor data; develop it to RGB first'
  if (photometric === 3 && !tags.get(PALETTE)?.length) return 'it is a TIFF that is cut off or damaged (its palette is missing)'
  if (![1, 2, 4, 8, 16, 32].includes(bits) || (bits !== 32 && tags.get(SAMPLE_FORMAT)?.[0] === 3))
    return `it is a TIFF of ${bits} bits a ${tags.get(SAMPLE_FORMAT)?.[0] === 3 ? 'floating-point number' : 'sample'}, which is not read; save it with 8 or 16 bits, maps of depth as float32`
  if (tags.get(PLANAR)?.[0] === 2 && tags.has(TILE_WIDTH) && (tags.get(SAMPLES)?.[0] ?? 1) > 1)
    return 'it is a TIFF of tiles with a plane for each colour, which is not read; save it in strips, or with the colours side by side'
  if (tags.has(TILE_WIDTH) && 4 * (1 + (tags.get(WIDTH)?.[0] ?? 0) / tags.get(TILE_WIDTH)![0]!) > MAX_TILES)
    return 'it is a TIFF that is damaged or of a kind that is not read (its tiles are too small for its width)'
  for (const {offsets, counts} of parts(tags))
    if (offsets.some((offset, i) => offset < 8 && (counts[i] ?? 1) > 0))
      return 'it is a TIFF that is damaged (a strip or tile would begin within its header)'
  if ([LZW, DEFLATE, OLD_DEFLATE].includes(compression) && hasDamagedPart(bytes, tags, compression))
    return `it is a TIFF that is cut off or damaged (a strip or tile ${compression === LZW ? 'ends early' : 'does not match its checksum'})`
  return undefined
}

/** A copy whose directory has the needed entries alone and leads to no other. */
function withNeededTags(bytes: Uint8Array, needed: ReadonlySet<number>, {little, big, start, first, end, step}: TiffDirectory): Buffer {
  const out = Buffer.from(bytes)
  const view = new DataView(out.buffer, out.byteOffset, out.length)
  let to = first
  for (let at = first; at < end; at += step) {
    if (!needed.has(view.getUint16(at, little))) continue
    out.copyWithin(to, at, at + step)
    to += step
  }
  if (big) view.setBigUint64(start, BigInt((to - first) / step), little)
  else view.setUint16(start, (to - first) / step, little)
  const wide = big ? 8 : 4
  if (to + wide <= out.length) out.fill(0, to, to + wide) // where the next directory would be named
  return out
}

function unpackPart(packed: Buffer, size: number): Buffer {
  try {
    return unpackZstd(packed, size)
  } catch (error) {
    throw new RefusedImage(`it is a TIFF that is damaged (${(error as Error).message})`)
  }
}

/** A TIFF of Zstandard with the same strips or tiles behind it in Deflate, which loses and gains nothing. */
function zstdToDeflate(bytes: Buffer, directory: TiffDirectory, tags: TiffTags): Buffer {
  const size = partSize(tags, 0)
  if (!(size <= MAX_PART)) throw new RefusedImage(`it is a TIFF whose strips or tiles are of ${size} bytes, more than ${MAX_PART}`)
  const added: Buffer[] = []
  let length = bytes.length
  const add = (part: Buffer): number => {
    added.push(part)
    length += part.length
    return length - part.length
  }
  const {little, big, first, end, step} = directory
  const wide = big ? 8 : 4
  const values = new Map<number, Buffer>()
  const pack = (numbers: readonly number[]): Buffer => {
    const packed = Buffer.alloc(wide * numbers.length)
    const view = new DataView(packed.buffer, packed.byteOffset, packed.length)
    for (const [i, n] of numbers.entries())
      if (big) view.setBigUint64(wide * i, BigInt(n), little)
      else view.setUint32(wide * i, n, little)
    return packed
  }
  for (const {
    tags: [offsetsTag, countsTag],
    offsets,
    counts
  } of parts(tags)) {
    const places: number[] = []
    const sizes: number[] = []
    for (const [i, offset] of offsets.entries()) {
      const count = counts[i] ?? 0
      if (offset + count > bytes.length) throw new RefusedImage('it is a TIFF that is cut off or damaged (a strip lies behind its end)')
      if (count === 0) {
        sizes.push(0) // a part left out
        places.push(0)
        continue
      }
      const packed = deflateSync(unpackPart(bytes.subarray(offset, offset + count), size), {level: 0})
      sizes.push(packed.length)
      places.push(add(packed))
    }
    values.set(offsetsTag, pack(places)).set(countsTag, pack(sizes))
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = first; at < end; at += step) {
    const tag = view.getUint16(at, little)
    if (tag === COMPRESSION) view.setUint16(at + step - wide, DEFLATE, little)
    const numbers = values.get(tag)
    if (!numbers) continue
    view.setUint16(at + 2, big ? 16 : 4, little)
    bytes.set(pack([numbers.length / wide]), at + 4)
    bytes.set(numbers.length === wide ? numbers : pack([add(numbers)]), at + step - wide)
  }
  return Buffer.concat([bytes, ...added], length)
}

/**
 * The bytes to be decoded: the first picture of a TIFF, all other tags and pictures taken out. Raises RefusedImage
 * where it cannot be decoded, or not be trusted. What has no directory is left to the decoder.
 */
export function firstTiffPicture(bytes: Uint8Array): Uint8Array {
  const [directory, tags] = [firstDirectory(bytes), readTiffTags(bytes)]
  if (!directory || !tags) return bytes
  if (!directory.whole) throw new RefusedImage('it is a TIFF that is cut off or damaged (its directory is not all there)')
  const problem = tiffProblem(bytes, tags)
  if (problem !== undefined) throw new RefusedImage(problem)
  const picture = withNeededTags(bytes, NEEDED, directory)
  if (tags.get(COMPRESSION)?.[0] !== ZSTD) return picture
  return zstdToDeflate(picture, firstDirectory(picture)!, tags)
}

/** A TIFF of numbers: what is decoded, and what its numbers are. */
export type StoredNumbers = {
  readonly bytes: Uint8Array
  readonly bits: number
  /** Whether numbers of 16 bits have a sign, which the decoder would cut off: it is given them as if they had none. */
  readonly signed: boolean
  /** Three bytes a colour, where the numbers are indices. */
  readonly palette?: Uint8Array
}

/** The colours of a palette of TIFF, three bytes each. */
function paletteOf(file: Uint8Array, bits: number, little: boolean): Uint8Array {
  const stored = tiffTagBytes(file, PALETTE, 2)
  const colours = 2 ** bits
  if (stored?.length !== 6 * colours) throw new RefusedImage('it is a TIFF that is cut off or damaged (its palette is not all there)')
  const palette = new Uint8Array(3 * colours)
  for (let k = 0; k < colours; k++) for (let c = 0; c < 3; c++) palette[3 * k + c] = stored[2 * (c * colours + k) + (little ? 1 : 0)]! // its upper byte
  return palette
}

/** The same for numbers that are no colours: a palette is handed out beside its indices instead of being applied. */
export function tiffNumbers(file: Uint8Array): StoredNumbers {
  const tags = readTiffTags(file)
  const bytes = firstTiffPicture(file)
  const directory = firstDirectory(bytes)
  const bits = tags?.get(BITS)?.[0] ?? 1
  const signed = bits === 16 && tags?.get(SAMPLE_FORMAT)?.[0] === 2
  const isIndexed = tags?.get(PHOTOMETRIC)?.[0] === 3
  if (!directory || (!signed && !isIndexed)) return {bytes, bits, signed}
  const {view, little, first, end, step, big} = directory
  for (let at = first; at < end; at += step) {
    const tag = view.getUint16(at, little)
    if ((tag === PHOTOMETRIC && isIndexed) || (tag === SAMPLE_FORMAT && signed)) view.setUint16(at + step - (big ? 8 : 4), 1, little)
  }
  if (!isIndexed) return {bytes, bits, signed}
  const needed = new Set([...NEEDED].filter(tag => tag !== PALETTE))
  return {bytes: withNeededTags(bytes, needed, directory), bits, signed, palette: paletteOf(file, bits, little)}
}
