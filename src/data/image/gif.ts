/**
 * The first picture of a GIF.
 *
 * The decoder for the other formats fills what is missing without a word, and makes transparent pixels black; the
 * reference loaders keep their colours. Format: GIF89a specification.
 */
import {tooManyPixels} from './decode-strictly.js'
import {RefusedImage} from './read-bytes.js'
import type {Raster} from './resample.js'

/** The bytes of the sub-blocks from `at` on, joined. */
function subBlocks(bytes: Uint8Array, at: number): {data: Uint8Array; next: number} {
  const parts: Uint8Array[] = []
  while (at < bytes.length && bytes[at] !== 0) {
    const length = bytes[at]!
    parts.push(bytes.subarray(at + 1, Math.min(bytes.length, at + 1 + length)))
    at += 1 + length
  }
  return {data: Buffer.concat(parts), next: at + 1}
}

/**
 * Follows LZW codes into `out` until it is full or they end; returns how many pixels there are, -1 where a code does
 * not exist.
 */
function unpackLzw(data: Uint8Array, minimum: number, out: Uint8Array): number {
  const clear = 1 << minimum
  /** What each code stands for: the pixels of `prefix`, then `last`. */
  const prefix = new Int16Array(4096)
  const [first, last] = [new Uint8Array(4096), new Uint8Array(4096)]
  const lengths = new Int32Array(4096)
  for (let code = 0; code < clear; code++) [first[code], last[code], lengths[code]] = [code, code, 1]
  let [next, size, previous, pixels, word, bits, at] = [clear + 2, minimum + 1, -1, 0, 0, 0, 0]
  /** Writes the pixels of a code, from the last to the first. */
  const write = (code: number): void => {
    const length = lengths[code]!
    for (let k = length - 1; k >= 0; k--) {
      if (pixels + k < out.length) out[pixels + k] = last[code]!
      code = prefix[code]!
    }
    pixels += length
  }
  while (pixels < out.length) {
    while (bits < size) {
      if (at === data.length) return pixels
      word |= data[at++]! << bits
      bits += 8
    }
    const code = word & ((1 << size) - 1)
    word >>>= size
    bits -= size
    if (code === clear) {
      ;[next, size, previous] = [clear + 2, minimum + 1, -1]
      continue
    }
    if (code === clear + 1) return pixels
    if (previous < 0 ? code >= clear : code > next || (code === next && next > 4095)) return -1
    if (previous >= 0 && next < 4096) {
      // The code before and the first pixel of this one, which may be the new code itself.
      ;[prefix[next], lengths[next], first[next]] = [previous, lengths[previous]! + 1, first[previous]!]
      last[next] = first[code]!
      next++
      if (next === 1 << size && size < 12) size++
    }
    write(code)
    previous = code
  }
  return out.length
}

/** The lines of an interlaced picture in the order in which they are stored. */
function* lineOrder(height: number, interlaced: boolean): Generator<number> {
  for (const [start, step] of interlaced
    ? ([
        [0, 8],
        [4, 8],
        [2, 4],
        [1, 2]
      ] as const)
    : ([[0, 1]] as const))
    // prettier-ignore
    for (let y: number = start; y < height; y += step) yield y
}

/** One picture of the file: its place on the canvas, its colours and its codes. */
type Frame = {
  readonly x: number
  readonly y: number
  readonly width: number
  readonly height: number
  readonly interlaced: boolean
  readonly minimum: number
  readonly codes: Uint8Array
  /** Three bytes a colour; absent where index and grey level are one. */
  readonly palette: Uint8Array | undefined
  readonly transparent: number | undefined
}

/** Finds the first picture. */
function firstFrame(bytes: Uint8Array): Frame {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const table = (flags: number, at: number): Uint8Array | undefined =>
    flags & 0x80 ? bytes.subarray(at, at + (3 << ((flags & 7) + 1))) : undefined
  const shared = table(bytes[10] ?? 0, 13)
  let transparent: number | undefined
  for (let at = 13 + (shared?.length ?? 0); at < bytes.length;) {
    const kind = bytes[at]!
    if (kind === 0x21) {
      const {data, next} = subBlocks(bytes, at + 2)
      if (bytes[at + 1] === 0xf9 && data.length >= 4 && data[0]! & 1) transparent = data[3]
      at = next
    } else if (kind === 0x2c) {
      if (at + 11 > bytes.length) break
      const flags = bytes[at + 9]!
      const own = table(flags, at + 10)
      const codes = at + 10 + (own?.length ?? 0)
      return {
        x: view.getUint16(at + 1, true),
        y: view.getUint16(at + 3, true),
        width: view.getUint16(at + 5, true),
        height: view.getUint16(at + 7, true),
        interlaced: (flags & 64) !== 0,
        minimum: bytes[codes] ?? 0,
        codes: subBlocks(bytes, codes + 1).data,
        palette: own ?? shared,
        transparent
      }
    } else if (kind === 0x3b) break
    else at++ // decoders pass over stray bytes between blocks
  }
  throw new RefusedImage('it is a GIF without a picture')
}

/**
 * The first picture of a GIF on its canvas: RGB, [height, width, 3], or where a colour counts as transparent RGBA,
 * [height, width, 4]. Raises RefusedImage where it is not all there, is damaged, or has more than `maxPixels`.
 */
export function decodeGif(bytes: Uint8Array, maxPixels: number): Raster & {readonly channels: 3 | 4} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const {x, y, width, height, interlaced, minimum, codes, palette, transparent} = firstFrame(bytes)
  const canvas = {width: Math.max(view.getUint16(6, true), x + width), height: Math.max(view.getUint16(8, true), y + height)}
  if (canvas.width * canvas.height > maxPixels) throw tooManyPixels(canvas.width, canvas.height, maxPixels)
  if (width * height === 0) throw new RefusedImage(`it is a GIF of ${width} × ${height} pixels`)
  if (minimum < 1 || minimum > 8) throw new RefusedImage('it is a GIF that is damaged (a code size that does not exist)')
  const stored = new Uint8Array(width * height) // [height, width]
  const pixels = unpackLzw(codes, minimum, stored)
  if (pixels < 0) throw new RefusedImage('it is a GIF that is damaged (a code that does not exist)')
  if (pixels < stored.length)
    throw new RefusedImage(`it is a GIF that is cut off or damaged (${pixels} of ${stored.length} pixels are there)`)

  const indices = new Uint8Array(canvas.width * canvas.height).fill(transparent ?? 0)
  let from = 0
  for (const line of lineOrder(height, interlaced)) {
    indices.set(stored.subarray(from, from + width), (y + line) * canvas.width + x)
    from += width
  }
  const channels = transparent === undefined ? 3 : 4
  const colours = palette ? palette.length / 3 : 256
  const data = new Uint8Array(indices.length * channels) // [height, width, 3 or 4]
  for (let i = 0, o = 0; i < indices.length; i++, o += channels) {
    const index = indices[i]!
    if (index >= colours && index !== transparent)
      throw new RefusedImage(`it is a GIF that is damaged (colour ${index} of a palette of ${colours})`)
    for (let c = 0; c < 3; c++) data[o + c] = palette ? (palette[3 * index + c] ?? 0) : index
    if (channels === 4) data[o + 3] = index === transparent ? 0 : 255
  }
  return {...canvas, data, channels}
}
