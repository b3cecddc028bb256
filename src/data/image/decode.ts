/**
 * From a file to upright sRGB pixels, or to a sentence that says why not. With `encode.ts` the only file that touches
 * sharp.
 *
 * What comes out is what the reference loaders see (Pillow's `convert('RGB')`), so features agree: the first frame;
 * upright by EXIF; alpha is dropped, not composited (what lies under transparent pixels shows, as in Pillow; in a GIF
 * that is black here); grey three times over; 16 bits scaled to 8 by their upper byte; CMYK through its profile or a
 * standard one; an embedded colour profile is applied unless it is sRGB itself or broken. JPEGs are decoded in full
 * size unless training asks for less: shrinking while loading is faster and gives other pixels. Resizing is our own
 * (`resample.ts`), equal to Pillow's.
 */
import {closeSync, fstatSync, lstatSync, openSync, readSync, statSync} from 'node:fs'
import sharp from 'sharp'
import {decodeBmp} from './bmp.js'
import {cropBorders} from './borders.js'
import {fitGeometry, type Transform} from './geometry.js'
import type {ImageRef} from '../sources/image-ref.js'
import type {NativePixels} from './native.js'
import {resample, type Raster} from './resample.js'
import {sniff, type ImageFormat} from './sniff.js'

export {fitGeometry, type Transform} from './geometry.js'
export type {Raster} from './resample.js'

sharp.cache(false) // every image is read once
sharp.concurrency(1) // parallel over images, not within one

/** More pixels than this are refused before decoding, unless the caller says otherwise. */
export const MAX_PIXELS = 200_000_000

const MAX_BYTES = 1 << 30
const MAX_OUTPUT = 1 << 24

export type DecodeOptions = {
  /** Width × height above which an image is refused before anything of it is decoded; 200 million by default. */
  readonly maxPixels?: number
  /**
   * By how much to shrink the sides of an upright JPEG of that size while decoding it: 1, 2, 4 or 8. Other formats and
   * sizes are decoded in full.
   */
  readonly shrink?: ((width: number, height: number) => number) | undefined
}

/** An input that is not used. Its message is one clause in plain words: `the file is empty`. */
export class RefusedImage extends Error {
  constructor(reason: string) {
    super(reason)
    this.name = 'RefusedImage'
  }
}

const SYSTEM: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  ELOOP: 'it is a link that leads round in a circle',
  EACCES: 'it may not be read (permission denied)',
  EPERM: 'it may not be read (not permitted)',
  ENAMETOOLONG: 'its name is longer than the file system allows',
  EMFILE: 'too many files are open',
  EIO: 'the disk reports an error'
}

/** The encoded bytes of an image: those it brought along, a member's place in its shard, or the whole file. */
export function readBytes({path, bytes, range}: Pick<ImageRef, 'path' | 'bytes' | 'range'>): Uint8Array {
  if (bytes) return bytes
  const name = typeof path === 'string' ? path : Buffer.from(path)
  let file: number | undefined
  try {
    const kind = statSync(name) // before opening: opening a pipe would wait for ever
    if (kind.isDirectory()) throw new RefusedImage('it is a folder, not a file')
    if (!kind.isFile()) throw new RefusedImage('it is a device or a pipe, not a file')
    file = openSync(name, 'r')
    const {offset, size} = range ?? {offset: 0, size: fstatSync(file).size}
    if (size > MAX_BYTES) throw new RefusedImage(`the file is ${size} bytes long; more than ${MAX_BYTES} is not read`)
    const buffer = Buffer.allocUnsafe(size)
    let at = 0
    while (at < size) {
      const n = readSync(file, buffer, at, size - at, offset + at)
      if (n === 0) break
      at += n
    }
    return at < size ? buffer.subarray(0, at) : buffer
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    const {code, message} = error as NodeJS.ErrnoException
    throw new RefusedImage(
      code === 'ENOENT' && isLink(name)
        ? 'it is a link to something that is not there'
        : (SYSTEM[code ?? ''] ?? `it cannot be read (${message})`)
    )
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

function isLink(name: string | Buffer): boolean {
  try {
    return lstatSync(name).isSymbolicLink()
  } catch {
    return false
  }
}

const WORD: Readonly<Record<ImageFormat, string>> = {
  jpeg: 'a JPEG',
  png: 'a PNG',
  gif: 'a GIF',
  webp: 'a WebP',
  tiff: 'a TIFF',
  avif: 'an AVIF',
  bmp: 'a BMP'
}

const tooMany = (width: number, height: number, limit: number): RefusedImage =>
  new RefusedImage(`it has ${width} × ${height} pixels, more than the limit of ${limit}`)

/**
 * Whether a colour profile may be attached: a search for its marker, which costs little; formats that hide it are
 * asked.
 */
function mayHaveProfile(format: ImageFormat, bytes: Uint8Array): boolean {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (format === 'jpeg') return view.subarray(0, 1 << 20).includes('ICC_PROFILE')
  if (format === 'png') return view.subarray(0, 1 << 16).includes('iCCP')
  if (format === 'webp') return view.subarray(0, 64).includes('ICCP')
  return format === 'tiff' || format === 'avif'
}

/**
 * Profiles that say they are sRGB change nothing but the last bit, and cost more than decoding: they are passed over.
 */
const isSrgb = (profile: Buffer): boolean => profile.includes('sRGB') || profile.includes(Buffer.from('sRGB', 'utf16le').swap16())

/** One clause out of what libvips says. */
function explain(format: ImageFormat, message: string): string {
  const first = message.split('\n').find(line => line.trim() !== '') ?? message
  const said = first
    .replace(/^Input (buffer|file) (has corrupt header:?|contains unsupported image format)\s*/i, '')
    .replace(/^\w+: /, '')
    .trim()
  const cut = /premature end|unexpected end|truncat|read error|not enough|bad seek|EOF|too short/i.test(message)
  return `it is ${WORD[format]} that is ${cut ? 'cut off or damaged' : 'damaged or of a kind that is not read'}${said ? ` (${said})` : ''}`
}

/**
 * What is left of an upright JPEG when its sides shrink, undefined where they do not: no fewer times than the decoder
 * can, so that it does nearly all of it.
 */
async function shrunkSize(
  bytes: Uint8Array,
  shrink: (width: number, height: number) => number
): Promise<{width: number; height: number} | undefined> {
  const {autoOrient} = await sharp(bytes, {limitInputPixels: false}).metadata()
  const by = shrink(autoOrient.width, autoOrient.height)
  return by > 1 ? {width: Math.floor(autoOrient.width / by), height: Math.floor(autoOrient.height / by)} : undefined
}

async function decodeWithSharp(
  bytes: Uint8Array,
  format: ImageFormat,
  maxPixels: number,
  shrink: DecodeOptions['shrink']
): Promise<Raster> {
  const input = {failOn: 'truncated', limitInputPixels: maxPixels} as const
  let ignoreIcc = true
  if (mayHaveProfile(format, bytes)) {
    const {icc, depth, channels} = await sharp(bytes, {...input, limitInputPixels: false}).metadata()
    if (depth !== undefined && depth !== 'uchar' && depth !== 'ushort')
      throw new RefusedImage(`it is ${WORD[format]} with samples of kind ${depth}, whose range is not known; save it with 8 or 16 bits`)
    if (channels !== undefined && channels > 5)
      throw new RefusedImage(`it is ${WORD[format]} of ${channels} channels; save the three that show`)
    ignoreIcc = icc === undefined || isSrgb(icc)
  }
  const size = format === 'jpeg' && shrink ? await shrunkSize(bytes, shrink) : undefined
  const render = (without: boolean) =>
    sharp(bytes, {...input, ignoreIcc: without})
      .autoOrient()
      .resize(size ? {...size, fit: 'fill'} : {})
      .toColourspace('srgb')
      .removeAlpha()
      .raw({depth: 'uchar'})
      .toBuffer({resolveWithObject: true})
  const {data, info} = await render(ignoreIcc).catch((error: unknown) => {
    if (ignoreIcc) throw error
    return render(true) // a broken profile is no reason to lose the picture
  })
  const {width, height, channels} = info
  if (channels === 3) return {width, height, data}
  if (channels !== 1) throw new RefusedImage(`it is ${WORD[format]} of ${channels as number} channels, which is not read`)
  const grey = new Uint8Array(width * height * 3)
  for (let i = 0; i < data.length; i++) grey.fill(data[i]!, 3 * i, 3 * i + 3)
  return {width, height, data: grey}
}

/**
 * Decodes one image to upright sRGB: `data` of [height, width, 3]. The rules stand at the head of this file.
 *
 * Raises RefusedImage, whose message is the reason, for whatever is not an image that can be used; nothing else is
 * raised for bad input.
 */
export async function decodeRgb(ref: ImageRef, {maxPixels = MAX_PIXELS, shrink}: DecodeOptions = {}): Promise<Raster> {
  if (ref.problem !== undefined) throw new RefusedImage(ref.problem)
  const bytes = readBytes(ref)
  const found = sniff(bytes.subarray(0, 4096), ref.id)
  if ('reason' in found) throw new RefusedImage(found.reason)
  const {format, width = 0, height = 0} = found
  if (width * height > maxPixels) throw tooMany(width, height, maxPixels)
  try {
    return format === 'bmp' ? decodeBmp(bytes) : await decodeWithSharp(bytes, format, maxPixels, shrink)
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    const {message} = error as Error
    if (format === 'bmp') throw new RefusedImage(message)
    if (/pixel limit/i.test(message)) {
      const size = await sharp(bytes, {limitInputPixels: false}).metadata()
      throw tooMany(size.width, size.height, maxPixels)
    }
    throw new RefusedImage(explain(format, message))
  }
}

/** Numbers of a TIFF of one channel, as they are stored: no colour management, nothing scaled, NaN kept. */
export type TiffNumbers = {
  readonly width: number
  readonly height: number
  /** Whether the file holds whole numbers of 8 or 16 bits, or floating-point ones. */
  readonly kind: 'whole' | 'float'
  readonly data: Uint8Array | Uint16Array | Float32Array // [height, width]
}

/**
 * Reads such a TIFF, its first page. Raises RefusedImage where it has several channels, samples of another kind, or
 * more pixels than `maxPixels`.
 */
export async function decodeTiffNumbers(bytes: Uint8Array, {maxPixels = MAX_PIXELS}: DecodeOptions = {}): Promise<TiffNumbers> {
  try {
    const {width, height, channels, depth} = await sharp(bytes, {limitInputPixels: false}).metadata()
    if (width * height > maxPixels) throw tooMany(width, height, maxPixels)
    if (channels !== 1) throw new RefusedImage(`it is a TIFF of ${channels} channels, where one number a pixel is wanted`)
    const how = depth === 'float' || depth === 'double' ? 'float' : depth === 'ushort' ? 'ushort' : depth === 'uchar' ? 'uchar' : undefined
    if (how === undefined)
      throw new RefusedImage(`it is a TIFF with samples of kind ${depth}; 8 and 16 bits without sign and floating point are read`)
    const {data, info} = await sharp(bytes, {failOn: 'truncated', limitInputPixels: maxPixels})
      .toColourspace(how === 'ushort' ? 'grey16' : 'b-w')
      .raw({depth: how})
      .toBuffer({resolveWithObject: true})
    if (info.channels !== 1) throw new RefusedImage(`it is a TIFF of ${info.channels} channels, where one number a pixel is wanted`)
    const own = new Uint8Array(data) // at the start of a buffer of its own, whatever the alignment of sharp's
    const typed = how === 'float' ? new Float32Array(own.buffer) : how === 'ushort' ? new Uint16Array(own.buffer) : own
    return {width: info.width, height: info.height, kind: how === 'float' ? 'float' : 'whole', data: typed}
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    throw new RefusedImage(explain('tiff', (error as Error).message))
  }
}

/**
 * Decodes and makes ready: [H, W, 3] bytes by `fitGeometry`, bicubic, equal to Pillow's to the last bit, with `native`
 * or without.
 *
 * Raises RefusedImage as `decodeRgb`, and where an image without a crop would become larger than 16 million pixels (a
 * very long one).
 */
export async function loadPixels(
  ref: ImageRef,
  transform: Transform,
  {native, ...options}: DecodeOptions & {readonly native?: NativePixels | undefined} = {}
): Promise<Raster> {
  const whole = await decodeRgb(ref, options)
  const image = transform.cropBorders ? cropBorders(whole) : whole
  const {size, window} = fitGeometry(image.width, image.height, transform)
  if (window.width * window.height > MAX_OUTPUT)
    throw new RefusedImage(
      `it is ${image.width} × ${image.height} and would become ${window.width} × ${window.height} pixels, more than ${MAX_OUTPUT}; crop it`
    )
  return {width: window.width, height: window.height, data: native ? native.resize(image, size, {window}) : resample(image, size, {window})}
}
