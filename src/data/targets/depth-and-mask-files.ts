/**
 * Maps that lie beside images: masks of class ids and maps of depth, with their numbers as they are stored.
 *
 * Depth is read from 16-bit PNG and PGM (millimetres by default), TIFF of floating-point or whole numbers, and
 * `.npy`; masks from PNG and BMP (grey levels or palette indices), TIFF, PGM and `.npy`. The kind is known by
 * content, not by name. Lossy formats are refused: a JPEG of class ids is no mask. A map that cannot be used is
 * refused with a clause, as images are, so that it counts as one bad input.
 */
import {MAX_PIXELS, readBytes, RefusedImage, type DecodeOptions} from '../image/decode.js'
import {readBmpIndices} from '../image/bmp.js'
import {decodeTiffNumbers} from '../image/decode-numbers.js'
import {nameOf, tooManyPixels} from '../image/decode-strictly.js'
import {PngProblem, pngSize, readPng} from '../image/png.js'
import {readPnm} from '../image/pnm.js'
import type {ImageRef} from '../sources/image-ref.js'
import {sniff} from '../image/sniff.js'

/** Where a map lies: a file, or its bytes. */
export type MapRef = Pick<ImageRef, 'path' | 'bytes' | 'range'>

/** Class ids, one a pixel. */
export type Mask = {
  readonly width: number
  readonly height: number
  readonly ids: Uint8Array | Uint16Array // [height, width]
  /** The colours that the file gives to ids, 3 bytes each. */
  readonly palette?: Uint8Array
}

/** Depth in metres, one number a pixel; 0 where it is unknown (stored as 0, below 0, or not finite). */
export type Depth = {
  readonly width: number
  readonly height: number
  readonly metres: Float32Array // [height, width]
  /** Pixels whose depth is known. */
  readonly known: number
}

export type DepthOptions = DecodeOptions & {
  /**
   * Metres that one unit of the file stands for; if absent 0.001 for whole numbers (millimetres) and 1 for
   * floating-point ones.
   */
  readonly scale?: number
}

type Numbers = {
  readonly width: number
  readonly height: number
  readonly kind: 'whole' | 'float'
  /** Bits a whole number. */
  readonly bits: number
  readonly data: ArrayLike<number>
  readonly palette?: Uint8Array
}

const isNpy = (bytes: Uint8Array): boolean => bytes[0] === 0x93 && Buffer.from(bytes.subarray(1, 6)).toString('latin1') === 'NUMPY'

/** IEEE 754 binary16 to a number. */
function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const size =
    exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -size : size
}

type Reader = readonly [bytes: number, kind: 'whole' | 'float', read: (view: DataView, at: number, little: boolean) => number]
/** By kind and size, without the mark of the byte order. */
const npyKinds: Readonly<Record<string, Reader>> = {
  b1: [1, 'whole', (view, at) => view.getUint8(at)],
  u1: [1, 'whole', (view, at) => view.getUint8(at)],
  i1: [1, 'whole', (view, at) => view.getInt8(at)],
  u2: [2, 'whole', (view, at, little) => view.getUint16(at, little)],
  i2: [2, 'whole', (view, at, little) => view.getInt16(at, little)],
  u4: [4, 'whole', (view, at, little) => view.getUint32(at, little)],
  i4: [4, 'whole', (view, at, little) => view.getInt32(at, little)],
  u8: [8, 'whole', (view, at, little) => Number(view.getBigUint64(at, little))],
  i8: [8, 'whole', (view, at, little) => Number(view.getBigInt64(at, little))],
  f2: [2, 'float', (view, at, little) => half(view.getUint16(at, little))],
  f4: [4, 'float', (view, at, little) => view.getFloat32(at, little)],
  f8: [8, 'float', (view, at, little) => view.getFloat64(at, little)]
}

/** An array [height, width] (axes of length 1 before or behind are passed over) of a NumPy file, versions 1 to 3. */
function readNpyMap(bytes: Uint8Array, maxPixels: number): Numbers {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const wide = (bytes[6] ?? 0) >= 2
  const start = wide ? 12 : 10
  const length = bytes.length < start ? Infinity : wide ? view.getUint32(8, true) : view.getUint16(8, true)
  if (start + length > bytes.length) throw new RefusedImage('it is a NumPy array cut off in its header')
  const head = Buffer.from(bytes.subarray(start, start + length)).toString('latin1')
  if (/[^\x20-\x7e\n\t]/.test(head)) throw new RefusedImage('it is a NumPy array whose header is damaged')
  const type = /'descr':\s*'([^']+)'/.exec(head)?.[1] ?? 'unknown'
  const little = type[0] !== '>'
  const reader = /^[<>|=]/.test(type) && Object.hasOwn(npyKinds, type.slice(1)) ? npyKinds[type.slice(1)] : undefined
  if (!reader) throw new RefusedImage(`it is a NumPy array of ${type}; whole numbers and floating-point ones are read`)
  const byColumns = /'fortran_order':\s*True/.test(head)
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(head)?.[1] ?? '').split(',').flatMap(n => (n.trim() === '' ? [] : [Number(n)]))
  const sides = shape.length === 3 && shape[0] === 1 ? shape.slice(1) : shape.length === 3 && shape[2] === 1 ? shape.slice(0, 2) : shape
  const [height, width] = sides
  if (sides.length !== 2 || !(height! > 0) || !(width! > 0))
    throw new RefusedImage(`it is a NumPy array of shape (${shape.join(', ')}), where height × width is wanted`)
  if (width! * height! > maxPixels) throw tooManyPixels(width!, height!, maxPixels)
  const [size, kind, read] = reader
  const count = width! * height!
  if (bytes.length !== start + length + count * size)
    throw new RefusedImage(`it is a NumPy array of ${count} numbers of ${size} bytes, but ${bytes.length - start - length} bytes are there`)
  const data = new Float64Array(count)
  for (let i = 0; i < count; i++) {
    const to = byColumns ? (i % height!) * width! + Math.floor(i / height!) : i // Fortran order: column by column
    data[to] = read(view, start + length + i * size, little)
  }
  return {width: width!, height: height!, kind, bits: 8 * size, data}
}

/** The numbers of a map in any format that is read. */
async function readNumbers(ref: MapRef, {maxPixels = MAX_PIXELS}: DecodeOptions): Promise<Numbers> {
  const bytes = readBytes(ref)
  if (isNpy(bytes)) return readNpyMap(bytes, maxPixels)
  const found = sniff(bytes.subarray(0, 4096))
  if ('reason' in found) throw new RefusedImage(found.reason)
  if (found.format === 'png') {
    try {
      const {width, height} = pngSize(bytes)
      if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
      const image = readPng(bytes)
      return {...image, kind: 'whole'}
    } catch (error) {
      if (error instanceof PngProblem) throw new RefusedImage(error.message)
      throw error
    }
  }
  if (found.format === 'tiff') {
    return decodeTiffNumbers(bytes, {maxPixels})
  }
  if (found.format === 'bmp') {
    const {width = 0, height = 0} = found
    if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
    return {...readBmpIndices(bytes), kind: 'whole'}
  }
  if (found.format === 'pnm') {
    const image = readPnm(bytes, maxPixels)
    if (image.channels > 1) throw new RefusedImage('it is a pixmap in colours (PPM), where one number a pixel is wanted; save it as PGM')
    return {...image, bits: image.top > 255 ? 16 : 8, kind: 'whole'}
  }
  throw new RefusedImage(
    `it is ${nameOf(found.format)}, a format for pictures; maps are PNG, TIFF, PGM, BMP or .npy, which keep their numbers`
  )
}

/**
 * Reads a mask: the ids as stored, palette indices included, never colours.
 *
 * Raises RefusedImage for whatever is not one number a pixel between 0 and 65535.
 */
export async function readMask(ref: MapRef, options: DecodeOptions = {}): Promise<Mask> {
  const {width, height, kind, data, palette} = await readNumbers(ref, options)
  if (data instanceof Uint8Array || data instanceof Uint16Array) return {width, height, ids: data, ...(palette ? {palette} : {})}
  let most = 0
  for (let i = 0; i < data.length; i++) {
    const id = data[i]!
    if (!Number.isInteger(id) || id < 0 || id > 65535)
      throw new RefusedImage(
        `it holds ${id}${kind === 'float' ? ' (floating-point numbers)' : ''}, where class ids from 0 to 65535 are wanted`
      )
    if (id > most) most = id
  }
  return {width, height, ids: most < 256 ? Uint8Array.from(data) : Uint16Array.from(data)}
}

/**
 * Reads a depth map in metres; unknown depth is 0.
 *
 * Raises RefusedImage for what holds no depth: another format, several channels, 8 bits without a scale that was asked
 * for.
 */
export async function readDepth(ref: MapRef, {scale, ...options}: DepthOptions = {}): Promise<Depth> {
  const {width, height, kind, bits, data} = await readNumbers(ref, options)
  if (kind === 'whole' && bits <= 8 && scale === undefined)
    throw new RefusedImage(`it has ${bits} bits a pixel, too few for millimetres; say with --depth-scale what one unit is`)
  const unit = scale ?? (kind === 'whole' ? 0.001 : 1)
  const metres = new Float32Array(width * height)
  let known = 0
  for (let i = 0; i < metres.length; i++) {
    const value = Math.fround(data[i]! * unit)
    if (!(value > 0 && value < Infinity)) continue // NaN fails both
    metres[i] = value
    known++
  }
  return {width, height, metres, known}
}
