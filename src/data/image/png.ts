/**
 * PNG files of one number a pixel, with the numbers as they are stored: masks of class ids, maps of millimetres.
 *
 * Decoders for pictures turn palettes into colours and 16 bits into 8, which destroys such a file. Here a palette
 * image gives its indices and a grey one its levels, 1 to 16 bits, interlaced or not. Colour images count only where
 * red, green and blue agree everywhere (grey saved as colour). Damage shows in the checksums of the chunks and of the
 * packed pixels. Format: PNG specification, third edition.
 */
import {inflateSync} from 'node:zlib'
import {crc32} from '../../system/crc32.js'

/** What a PNG stores: one number a pixel. */
export type PngNumbers = {
  readonly width: number
  readonly height: number
  /** Bits a number: 1, 2, 4, 8 or 16. */
  readonly bits: number
  readonly data: Uint8Array | Uint16Array // [height, width]
  /** The colours that stand beside the indices, 3 bytes each, where there is a palette. */
  readonly palette?: Uint8Array
}

/** A file that is no such PNG; its message is a clause. */
export class PngProblem extends Error {}

const CHANNELS: Readonly<Record<number, number>> = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2]
] as const

/**
 * What is wrong with the chunks of a PNG, as a clause: each carries a checksum, which decoders of pictures pass over
 * where they skip a chunk, or for all of them. What is cut off is the decoder's to find.
 */
export function pngProblem(bytes: Uint8Array): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 8 + view.getUint32(at)
    if (end + 4 > bytes.length) return undefined
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8))
    if (crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end))
      return `it is a PNG that is damaged (its part ${JSON.stringify(kind).slice(1, -1)} does not match its checksum)`
    if (kind === 'IEND') return undefined
    at = end + 4
  }
  return undefined
}

type Head = {width: number; height: number; bits: number; colour: number; interlaced: boolean}

/** Joins the pieces of pixel data and picks the header and the palette. */
function chunks(bytes: Uint8Array): {head: Head; packed: Uint8Array; palette?: Uint8Array} {
  const problem = pngProblem(bytes)
  if (problem !== undefined) throw new PngProblem(problem)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let head: Head | undefined
  let palette: Uint8Array | undefined
  const pieces: Uint8Array[] = []
  for (let at = 8; ;) {
    if (at + 12 > bytes.length) throw new PngProblem('it is a PNG that is cut off')
    const length = view.getUint32(at)
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8))
    if (at + 12 + length > bytes.length) throw new PngProblem('it is a PNG that is cut off')
    const body = bytes.subarray(at + 8, at + 8 + length)
    at += 12 + length
    if (kind === 'IHDR' && length === 13) {
      const [bits, colour, , , interlace] = body.subarray(8)
      head = {width: view.getUint32(16), height: view.getUint32(20), bits: bits!, colour: colour!, interlaced: interlace === 1}
    } else if (kind === 'PLTE') palette = body
    else if (kind === 'IDAT') pieces.push(body)
    else if (kind === 'IEND') break
  }
  if (!head || pieces.length === 0) throw new PngProblem('it is a PNG without pixels')
  return {head, packed: pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces), ...(palette ? {palette} : {})}
}

/**
 * Undoes the line filters of one pass in place and returns its lines without their filter bytes; `step` is the bytes
 * of a pixel, at least one.
 */
function unfilter(lines: Uint8Array, pitch: number, rows: number, step: number): void {
  for (let row = 0; row < rows; row++) {
    const at = row * (pitch + 1) + 1
    const up = at - pitch - 1
    const filter = lines[at - 1]!
    if (filter === 0) continue
    if (filter > 4) throw new PngProblem('it is a PNG that is damaged (a line filter that does not exist)')
    for (let i = 0; i < pitch; i++) {
      const a = i >= step ? lines[at + i - step]! : 0
      const b = row > 0 ? lines[up + i]! : 0
      let guess = filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : 0
      if (filter === 4) {
        const c = i >= step && row > 0 ? lines[up + i - step]! : 0
        const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)]
        guess = pa <= pb && pa <= pc ? a : pb <= pc ? b : c
      }
      lines[at + i] = (lines[at + i]! + guess) & 255
    }
  }
}

/** Size and kind of a PNG by its first 33 bytes, for limits that are checked before anything is unpacked. */
export function pngSize(bytes: Uint8Array): {width: number; height: number} {
  if (bytes.length < 33) throw new PngProblem('it is a PNG that is cut off')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {width: view.getUint32(16), height: view.getUint32(20)}
}

/**
 * The numbers of a PNG. Throws PngProblem for one that is cut off, damaged, of an unknown kind, or in colours.
 *
 * Alpha is passed over. The caller has checked the signature and that the size is within its limit.
 */
export function readPng(bytes: Uint8Array): PngNumbers {
  const {head, packed, palette} = chunks(bytes)
  const {width, height, bits, colour, interlaced} = head
  const channels = CHANNELS[colour]
  if (
    !channels ||
    ![1, 2, 4, 8, 16].includes(bits) ||
    (channels > 1 && bits < 8) ||
    (colour === 3 && bits > 8) ||
    !width ||
    !height ||
    (colour === 3 && !palette)
  )
    throw new PngProblem('it is a PNG of a kind that does not exist')
  const passes = (interlaced ? ADAM7 : ([[0, 0, 1, 1]] as const))
    .map(([x, y, dx, dy]) => ({x, y, dx, dy, columns: Math.ceil((width - x) / dx), rows: Math.ceil((height - y) / dy)}))
    .filter(({columns, rows}) => columns > 0 && rows > 0)
  const pitch = (columns: number): number => Math.ceil((columns * channels * bits) / 8)
  const size = passes.reduce((sum, {columns, rows}) => sum + rows * (pitch(columns) + 1), 0)
  let lines: Buffer
  try {
    lines = inflateSync(packed, {maxOutputLength: size + 1})
  } catch {
    throw new PngProblem('it is a PNG that is damaged (its pixels cannot be unpacked)')
  }
  if (lines.length !== size) throw new PngProblem('it is a PNG whose pixels do not fill its size')
  const data = bits === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height)
  const step = Math.max(1, (channels * bits) >> 3)
  const low = (1 << bits) - 1
  let start = 0
  for (const {x, y, dx, dy, columns, rows} of passes) {
    const length = pitch(columns)
    const pass = lines.subarray(start, (start += rows * (length + 1)))
    unfilter(pass, length, rows, step)
    const number = (line: number, i: number): number =>
      bits === 16
        ? (pass[line + 2 * i]! << 8) | pass[line + 2 * i + 1]!
        : bits === 8
          ? pass[line + i]!
          : (pass[line + ((i * bits) >> 3)]! >> (8 - bits - ((i * bits) & 7))) & low
    for (let row = 0; row < rows; row++) {
      const line = row * (length + 1) + 1
      for (let column = 0; column < columns; column++) {
        const value = number(line, column * channels)
        if (channels >= 3 && (number(line, column * channels + 1) !== value || number(line, column * channels + 2) !== value))
          throw new PngProblem('it is a picture in colours, where one number a pixel is wanted (grey, or a palette whose indices count)')
        data[(y + row * dy) * width + x + column * dx] = value
      }
    }
  }
  return {width, height, bits, data, ...(palette ? {palette} : {})}
}
