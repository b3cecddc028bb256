/**
 * Windows bitmaps: the one common format that libvips does not read here.
 *
 * Uncompressed bitmaps of 1, 4, 8, 16, 24 and 32 bits and bit fields, bottom-up and top-down, with the old and the
 * later headers (the layout is that of BITMAPCOREHEADER, BITMAPINFOHEADER and its successors). Run-length coded ones
 * are refused; they are rare and can be converted.
 */
import type {Raster} from './resample.js'

const RGB = 0
const FIELDS = 3
const ALPHA_FIELDS = 6

/**
 * Position and width of a channel in a pixel word, and a table to 8 bits (channels of n bits are stretched to 0 …
 * 255).
 */
type Channel = {readonly shift: number; readonly mask: number; readonly top: number}

function channel(bits: number): Channel {
  if (bits === 0) return {shift: 0, mask: 0, top: 1}
  const shift = 31 - Math.clz32(bits & -bits)
  const mask = bits >>> shift
  return {shift, mask, top: mask}
}

const take = (word: number, {shift, mask, top}: Channel): number => Math.round((((word >>> shift) & mask) * 255) / top)

/**
 * Where the pixels begin. Some writers forget the palette and give the place where it begins: its length is added, as
 * Pillow does. Other places are taken as they stand, also within the palette.
 */
function pixelsStart(view: DataView, old: boolean, header: number, depth: number): number {
  const start = view.getUint32(10, true)
  if (depth > 8 || start !== 14 + header) return start
  const stated = old ? 0 : view.getUint32(46, true)
  return start + (old ? 3 : 4) * Math.min(stated || 1 << depth, 1 << depth)
}

/**
 * Decodes a bitmap; bytes are those of the whole file.
 *
 * Raises Error with a sentence where it is cut off, run-length coded or inconsistent. The caller has checked the size
 * against its limit.
 */
export function decodeBmp(bytes: Uint8Array): Raster {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const header = view.getUint32(14, true)
  const old = header === 12
  if ((!old && header < 40) || 14 + header > bytes.length) throw new Error('it is a BMP with a header that is damaged or unknown')
  const width = old ? view.getUint16(18, true) : view.getInt32(18, true)
  const signed = old ? view.getUint16(20, true) : view.getInt32(22, true)
  const height = Math.abs(signed)
  const depth = view.getUint16(old ? 24 : 28, true)
  const coding = old ? RGB : view.getUint32(30, true)
  if (!(width > 0 && height > 0)) throw new Error(`it is a BMP of ${width} × ${height} pixels`)
  if (coding !== RGB && coding !== FIELDS && coding !== ALPHA_FIELDS)
    throw new Error('it is a compressed BMP, which is not read; convert it to PNG')
  if (![1, 4, 8, 16, 24, 32].includes(depth) || (coding !== RGB && depth !== 16 && depth !== 32))
    throw new Error(`it is a BMP of ${depth} bits per pixel, which is not read`)

  const pitch = Math.ceil((width * depth) / 32) * 4
  const start = pixelsStart(view, old, header, depth)
  if (start + pitch * height > bytes.length) throw new Error('it is a BMP that is cut off')
  const data = new Uint8Array(width * height * 3)
  const line = (y: number): number => start + (signed < 0 ? y : height - 1 - y) * pitch

  if (depth <= 8) {
    const entry = old ? 3 : 4
    const table = 14 + header
    const stated = old ? 0 : view.getUint32(46, true)
    const colours = Math.min(stated || 1 << depth, 1 << depth)
    if (table + colours * entry > bytes.length) throw new Error('it is a BMP that is cut off')
    const perByte = 8 / depth
    for (let y = 0, o = 0; y < height; y++) {
      const row = line(y)
      for (let x = 0; x < width; x++, o += 3) {
        const shift = 8 - depth * ((x % perByte) + 1)
        const index = (bytes[row + Math.floor(x / perByte)]! >> shift) & ((1 << depth) - 1)
        if (index >= colours) throw new Error(`it is a BMP that is damaged (colour ${index} of a palette of ${colours})`)
        const p = table + index * entry
        data[o] = bytes[p + 2]!
        data[o + 1] = bytes[p + 1]!
        data[o + 2] = bytes[p]!
      }
    }
  } else if (depth === 24 || (depth === 32 && coding === RGB)) {
    const step = depth / 8
    for (let y = 0, o = 0; y < height; y++) {
      for (let x = 0, p = line(y); x < width; x++, o += 3, p += step) {
        data[o] = bytes[p + 2]!
        data[o + 1] = bytes[p + 1]!
        data[o + 2] = bytes[p]!
      }
    }
  } else {
    const masks =
      coding === RGB ? [0x7c00, 0x03e0, 0x001f] : [54, 58, 62].map(at => (at + 4 <= bytes.length ? view.getUint32(at, true) : 0))
    const [r, g, b] = masks.map(channel) as [Channel, Channel, Channel]
    for (let y = 0, o = 0; y < height; y++) {
      for (let x = 0, p = line(y); x < width; x++, o += 3, p += depth / 8) {
        const word = depth === 16 ? view.getUint16(p, true) : view.getUint32(p, true)
        data[o] = take(word, r)
        data[o + 1] = take(word, g)
        data[o + 2] = take(word, b)
      }
    }
  }
  return {width, height, data}
}
