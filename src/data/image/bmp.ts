/**
 * Windows bitmaps: the one common format that libvips does not read here.
 *
 * Bitmaps of 1, 4, 8, 16, 24 and 32 bits, bit fields, and run-length coded ones; bottom-up and top-down, with the old
 * and the later headers (the layout is that of BITMAPCOREHEADER, BITMAPINFOHEADER and its successors). What the
 * reference loader makes of doubtful ones is what is made here.
 */
import {RefusedImage} from './read-bytes.js'
import type {Raster} from './resample.js'
import {dropAlpha} from './transparency.js'

const RGB = 0
const RLE8 = 1
const RLE4 = 2
const FIELDS = 3
const ALPHA_FIELDS = 6

/** What a bitmap of a palette stores. */
export type BmpIndices = {
  readonly width: number
  readonly height: number
  readonly data: Uint8Array // [height, width]
  /** Three bytes a colour. */
  readonly palette: Uint8Array
}

type Head = {
  readonly view: DataView
  /** BITMAPCOREHEADER: short numbers, palettes of three bytes a colour. */
  readonly old: boolean
  readonly width: number
  readonly height: number
  readonly topDown: boolean
  readonly depth: number
  readonly coding: number
  /** Where the palette begins, and how many colours it has. */
  readonly table: number
  readonly colours: number
  /** Where the pixels begin. */
  readonly start: number
}

const cutOff = (): RefusedImage => new RefusedImage('it is a BMP that is cut off')

/**
 * Where the pixels begin: behind header, masks and palette. Writers that forget masks or palette state where those
 * begin, others state 0; their length is added. Raises RefusedImage for a place within the header.
 */
function pixelsStart(stated: number, table: number, maskBytes: number, paletteBytes: number): number {
  const least = table + maskBytes
  if (stated === 0 || stated === table) return least + paletteBytes
  if (stated < least) throw new RefusedImage(`it is a BMP that is damaged (its pixels would begin at byte ${stated}, within its header)`)
  return stated
}

function readHead(bytes: Uint8Array): Head {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const header = view.getUint32(14, true)
  const old = header === 12
  if ((!old && header < 40) || 14 + header > bytes.length) throw new RefusedImage('it is a BMP with a header that is damaged or unknown')
  const width = old ? view.getUint16(18, true) : view.getInt32(18, true)
  const signed = old ? view.getUint16(20, true) : view.getInt32(22, true)
  const height = Math.abs(signed)
  const depth = view.getUint16(old ? 24 : 28, true)
  const coding = old ? RGB : view.getUint32(30, true)
  if (!(width > 0 && height > 0)) throw new RefusedImage(`it is a BMP of ${width} × ${height} pixels`)
  if (![RGB, RLE8, RLE4, FIELDS, ALPHA_FIELDS].includes(coding))
    throw new RefusedImage(`it is a BMP compressed by method ${coding}, which is not read; convert it to PNG`)
  const fits = coding === RLE8 ? depth === 8 : coding === RLE4 ? depth === 4 : coding === RGB || depth === 16 || depth === 32
  if (![1, 4, 8, 16, 24, 32].includes(depth) || !fits)
    throw new RefusedImage(
      `it is a BMP of ${depth} bits per pixel${fits ? '' : ' in a coding of others'}, which is not read; convert it to PNG`
    )
  const all = 1 << Math.min(depth, 8)
  const stated = Math.min((old ? 0 : view.getUint32(46, true)) || all, all)
  const [table, entry] = [14 + header, old ? 3 : 4]
  const maskBytes = header > 40 ? 0 : coding === FIELDS ? 12 : coding === ALPHA_FIELDS ? 16 : 0
  const start = pixelsStart(view.getUint32(10, true), table, maskBytes, depth > 8 ? 0 : entry * stated)
  const colours = Math.min(stated, Math.floor((start - table) / entry)) // pixels are no colours
  return {view, old, width, height, topDown: signed < 0, depth, coding, table, colours, start}
}

/** Where each line begins, top to bottom. Raises RefusedImage where they are not all there; padding may be missing. */
function lines({view, width, height, topDown, depth, start}: Head): (y: number) => number {
  const pitch = Math.ceil((width * depth) / 32) * 4
  if (start + pitch * (height - 1) + Math.ceil((width * depth) / 8) > view.byteLength) throw cutOff()
  return y => start + (topDown ? y : height - 1 - y) * pitch
}

/** Indices of 1, 4 or 8 bits, one a byte, top to bottom. */
function plainIndices(bytes: Uint8Array, head: Head): Uint8Array {
  const {width, height, depth} = head
  const line = lines(head)
  const data = new Uint8Array(width * height)
  const perByte = 8 / depth
  for (let y = 0, o = 0; y < height; y++) {
    const row = line(y)
    for (let x = 0; x < width; x++, o++) {
      const shift = 8 - depth * ((x % perByte) + 1)
      data[o] = (bytes[row + Math.floor(x / perByte)]! >> shift) & ((1 << depth) - 1)
    }
  }
  return data
}

/**
 * Indices of run-length codes, top to bottom. Pixels that a code leaves out (the end of a line, a step to another
 * place) are 0. Raises RefusedImage where the codes end before the picture does.
 */
function runIndices(bytes: Uint8Array, {width, height, topDown, coding, start}: Head): Uint8Array {
  const stored = new Uint8Array(width * height) // in the order of the file
  const nibble = (byte: number, k: number): number => (coding === RLE8 ? byte : k % 2 === 0 ? byte >> 4 : byte & 15)
  let [to, at, x] = [0, start, 0]
  while (to < stored.length) {
    if (at + 2 > bytes.length) throw cutOff()
    const [count, value] = [bytes[at]!, bytes[at + 1]!]
    at += 2
    if (count > 0) {
      const fits = Math.max(0, Math.min(count, width - x)) // a run ends with its line
      for (let k = 0; k < fits; k++) stored[to++] = nibble(value, k)
      x += fits
    } else if (value === 0) {
      to = Math.ceil(to / width) * width // a line that is full stays where it is, so that zeros are no picture
      x = 0
    } else if (value === 1) throw new RefusedImage('it is a BMP that is cut off or damaged (its run-length codes end early)')
    else if (value === 2) {
      if (at + 2 > bytes.length) throw cutOff()
      to += bytes[at]! + bytes[at + 1]! * width
      x = to % width
      at += 2
    } else {
      const length = coding === RLE8 ? value : Math.ceil(value / 2)
      if (at + length > bytes.length) throw cutOff()
      for (let k = 0; k < value && to < stored.length; k++) stored[to++] = nibble(bytes[at + (coding === RLE8 ? k : k >> 1)]!, k)
      x += value
      at += length + (length & 1) // to a whole word
    }
  }
  if (topDown) return stored
  const data = new Uint8Array(stored.length)
  for (let y = 0; y < height; y++) data.set(stored.subarray((height - 1 - y) * width, (height - y) * width), y * width)
  return data
}

function readIndices(bytes: Uint8Array, head: Head): BmpIndices {
  const {old, width, height, coding, table, colours} = head
  const entry = old ? 3 : 4
  if (table + colours * entry > bytes.length) throw cutOff()
  const palette = new Uint8Array(3 * colours)
  for (let k = 0; k < colours; k++) for (let c = 0; c < 3; c++) palette[3 * k + c] = bytes[table + k * entry + 2 - c]!
  const data = coding === RGB ? plainIndices(bytes, head) : runIndices(bytes, head) // [height, width]
  const wrong = data.find(index => index >= colours)
  if (wrong !== undefined) throw new RefusedImage(`it is a BMP that is damaged (colour ${wrong} of a palette of ${colours})`)
  return {width, height, data, palette}
}

/** Position and width of a channel in a pixel word, and its greatest value. */
type Channel = {readonly shift: number; readonly top: number}

function channel(bits: number): Channel {
  if (bits === 0) return {shift: 0, top: 0}
  const shift = 31 - Math.clz32(bits & -bits)
  return {shift, top: bits >>> shift}
}

/** The bits of red, green and blue in a pixel word where the file does not say. */
const USUAL: Readonly<Record<number, readonly number[]>> = {16: [0x7c00, 0x03e0, 0x001f], 32: [0xff0000, 0xff00, 0xff]}

/**
 * Red, green and blue, and alpha where it has bits. Raises RefusedImage for masks out of which no picture comes: a
 * colour without bits, bits that lie apart, or that two share.
 */
function channels({view, table, depth, coding}: Head): Channel[] {
  const usual = USUAL[depth]!.map(channel)
  if (coding === RGB) return usual
  const has = table >= 14 + 56 || coding === ALPHA_FIELDS ? 4 : 3
  if (54 + 4 * has > view.byteLength) throw cutOff()
  const masks = Array.from({length: has}, (_, k) => view.getUint32(54 + 4 * k, true))
  if (depth === 32 && masks.every(bits => bits === 0)) return usual // as Pillow has it
  const found = masks.map(channel)
  const apart = found.some(({top}) => (top & (top + 1)) !== 0)
  const shared = masks.some((a, i) => masks.some((b, k) => k < i && (a & b) !== 0))
  if (found.slice(0, 3).some(({top}) => top === 0) || apart || shared)
    throw new RefusedImage(
      `it is a BMP that is damaged (its colours lie in the bits ${masks.map(bits => `0x${bits.toString(16)}`).join(', ')})`
    )
  return found.filter(({top}) => top > 0)
}

/** A channel of n bits stretched to 0 … 255 and cut off, not rounded: as Pillow has it. */
const take = (word: number, {shift, top}: Channel): number => (top === 0 ? 0 : Math.floor((((word >>> shift) & top) * 255) / top))

function readColours(bytes: Uint8Array, head: Head): Raster & {readonly ground?: 'white' | 'black'} {
  const {view, width, height, depth, coding} = head
  const line = lines(head)
  const step = depth / 8
  if (depth === 24 || (depth === 32 && coding === RGB)) {
    const data = new Uint8Array(width * height * 3) // [height, width, 3]
    for (let y = 0, o = 0; y < height; y++)
      for (let x = 0, p = line(y); x < width; x++, o += 3, p += step) {
        data[o] = bytes[p + 2]!
        data[o + 1] = bytes[p + 1]!
        data[o + 2] = bytes[p]!
      }
    return {width, height, data}
  }
  const parts = channels(head)
  const data = new Uint8Array(width * height * parts.length) // [height, width, 3 or 4]
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0, p = line(y); x < width; x++, p += step) {
      const word = depth === 16 ? view.getUint16(p, true) : view.getUint32(p, true)
      for (const part of parts) data[o++] = take(word, part)
    }
  return parts.length === 4 ? dropAlpha({width, height, data}, 4) : {width, height, data}
}

/**
 * Decodes a bitmap; bytes are those of the whole file.
 *
 * Raises RefusedImage where it is cut off, inconsistent or of a kind that is not read. The caller has checked the size
 * against its limit.
 */
export function decodeBmp(bytes: Uint8Array): Raster & {readonly ground?: 'white' | 'black'} {
  const head = readHead(bytes)
  if (head.depth > 8) return readColours(bytes, head)
  const {width, height, data: indices, palette} = readIndices(bytes, head)
  const data = new Uint8Array(indices.length * 3) // [height, width, 3]
  for (let i = 0; i < indices.length; i++) for (let c = 0; c < 3; c++) data[3 * i + c] = palette[3 * indices[i]! + c]!
  return {width, height, data}
}

/** The indices of a bitmap with a palette: ids of a mask. Raises RefusedImage as `decodeBmp`, and for colours. */
export function readBmpIndices(bytes: Uint8Array): BmpIndices & {readonly bits: number} {
  const head = readHead(bytes)
  if (head.depth > 8)
    throw new RefusedImage('it is a picture in colours, where one number a pixel is wanted (a palette whose indices count); save it as PNG')
  return {...readIndices(bytes, head), bits: head.depth}
}
