/**
 * From a file to upright sRGB pixels, or to a sentence that says why not. Only the files called `decode…` and `encode`
 * import sharp.
 *
 * The pixels are those of the reference loaders (Pillow's `convert('RGB')`), so that features agree: the first frame;
 * upright by EXIF or XMP; alpha dropped (`transparency.ts` names the exception); grey repeated in three channels; of
 * 16 bits the upper byte; CMYK through its profile or a standard one; an embedded colour profile applied unless it is
 * sRGB itself or broken. A JPEG is decoded in full size unless training asks for less, because scaling while loading
 * is faster and gives other pixels. Resizing is our own (`resample.ts`) and equals Pillow's.
 *
 * A file that is cut off or damaged is refused, also where the decoder would fill the missing pixels and go on.
 */
import {isMainThread} from 'node:worker_threads'
import sharp from 'sharp'
import {noteOnStderr} from '../../system/compile.js'
import type {ImageRef} from '../sources/image-ref.js'
import {avifProblem} from './avif-check.js'
import {decodeBmp} from './bmp.js'
import {cropBorders} from './borders.js'
import {decodeStrictly, explainFailure, nameOf, tooManyPixels} from './decode-strictly.js'
import {fitGeometry, type Transform} from './geometry.js'
import {decodeGif} from './gif.js'
import {isPlainSrgb} from './icc-profile.js'
import {checkedJpeg} from './jpeg-check.js'
import type {NativePixels} from '../augment/native-crops.js'
import {hiddenOrientation, turnUpright} from './orientation.js'
import {pngProblem} from './png.js'
import {decodePnm} from './pnm.js'
import {readBytes, RefusedImage} from './read-bytes.js'
import {resample, type Raster} from './resample.js'
import {sniff, type ImageFormat} from './sniff.js'
import {firstTiffPicture} from './tiff-picture.js'
import {dropAlpha} from './transparency.js'
import {webpProblem} from './webp-check.js'

export {fitGeometry, type Transform} from './geometry.js'
export {readBytes, RefusedImage} from './read-bytes.js'
export type {Raster} from './resample.js'

sharp.cache(false) // every image is read once
sharp.concurrency(1) // parallel over images, not within one

/** More pixels than this are refused before decoding, unless the caller says otherwise. */
export const MAX_PIXELS = 200_000_000

/** An image without a crop that would become larger than this is refused. */
export const MAX_OUTPUT = 1 << 24

export type DecodeOptions = {
  /** Width × height above which an image is refused before anything of it is decoded; 200 million by default. */
  readonly maxPixels?: number
  /**
   * By how much to shrink the sides of an upright JPEG of that size while decoding it: 1, 2, 4 or 8. Other formats and
   * sizes are decoded in full.
   */
  readonly shrink?: ((width: number, height: number) => number) | undefined
}

/** A decoded picture; `ground` where its alpha was laid on white or black instead of being dropped. */
export type DecodedImage = Raster & {readonly ground?: 'white' | 'black'}

/**
 * Whether a colour profile may be attached: a search for its marker, which costs little and goes over the whole file,
 * because other metadata of any length may stand in front of it; formats that hide it are asked.
 */
function mayHaveProfile(format: ImageFormat, bytes: Uint8Array): boolean {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (format === 'jpeg') return view.includes('ICC_PROFILE')
  if (format === 'png') return view.includes('iCCP')
  if (format === 'webp') return view.includes('ICCP')
  return format === 'tiff' || format === 'avif'
}

/** How a profile counts: passed over, or applied, for 16 bits a sample to the upper bytes in the space `first`. */
type ProfileUse = {readonly ignored: boolean; readonly first?: 'srgb' | 'b-w'}

/**
 * What becomes of the profile of a file. sharp brings 16-bit colours to the profile of Display P3 instead of sRGB, and
 * leaves that of 16-bit grey alone: both are brought to 8 bits first. Raises RefusedImage for samples and channels
 * that are not read.
 */
async function profileUse(bytes: Uint8Array, format: ImageFormat): Promise<ProfileUse> {
  if (!mayHaveProfile(format, bytes)) return {ignored: true}
  const {icc, depth, channels, space} = await sharp(bytes, {limitInputPixels: false}).metadata()
  if (depth !== undefined && depth !== 'uchar' && depth !== 'ushort')
    throw new RefusedImage(`it is ${nameOf(format)} with samples of kind ${depth}, whose range is not known; save it with 8 or 16 bits`)
  if (channels !== undefined && channels > 5)
    throw new RefusedImage(`it is ${nameOf(format)} of ${channels} channels; save the three that show`)
  if (icc === undefined || isPlainSrgb(icc)) return {ignored: true}
  return space === 'rgb16' ? {ignored: false, first: 'srgb'} : space === 'grey16' ? {ignored: false, first: 'b-w'} : {ignored: false}
}

/**
 * The size to which an upright JPEG shrinks, undefined where it does not: no fewer times than the decoder can, so that
 * it does nearly all of it.
 */
async function shrunkSize(
  bytes: Uint8Array,
  shrink: (width: number, height: number) => number
): Promise<{width: number; height: number} | undefined> {
  const {autoOrient} = await sharp(bytes, {limitInputPixels: false}).metadata()
  const by = shrink(autoOrient.width, autoOrient.height)
  return by > 1 ? {width: Math.floor(autoOrient.width / by), height: Math.floor(autoOrient.height / by)} : undefined
}

/** A GIF, its colours kept below its transparency. */
function colouredGif(bytes: Uint8Array, maxPixels: number): DecodedImage {
  const {channels, ...image} = decodeGif(bytes, maxPixels)
  return channels === 4 ? dropAlpha(image, channels) : image
}

/** Grey repeated in three channels. */
function repeatGrey({width, height, data}: Raster): Raster {
  const out = new Uint8Array(width * height * 3) // [height, width, 3]
  for (let i = 0; i < data.length; i++) out.fill(data[i]!, 3 * i, 3 * i + 3)
  return {width, height, data: out}
}

/** The bytes themselves, where a search for what is wrong with them finds nothing. */
const checkedBy =
  (problemOf: (bytes: Uint8Array) => string | undefined) =>
  (bytes: Uint8Array): Uint8Array => {
    const problem = problemOf(bytes)
    if (problem !== undefined) throw new RefusedImage(problem)
    return bytes
  }

/** What the decoder is given. They raise RefusedImage for damage that it would take for a picture. */
const CHECKS: Readonly<Partial<Record<ImageFormat, (bytes: Uint8Array) => Uint8Array>>> = {
  jpeg: checkedJpeg,
  png: checkedBy(pngProblem),
  webp: checkedBy(webpProblem),
  avif: checkedBy(avifProblem),
  tiff: firstTiffPicture
}

async function decodeWithSharp(
  file: Uint8Array,
  format: ImageFormat,
  maxPixels: number,
  shrink: DecodeOptions['shrink']
): Promise<DecodedImage> {
  const bytes = CHECKS[format]?.(file) ?? file
  const {ignored, first} = await profileUse(bytes, format)
  const size = format === 'jpeg' && shrink ? await shrunkSize(bytes, shrink) : undefined
  const render = (ignoreIcc: boolean) =>
    decodeStrictly(failOn => {
      const image = sharp(bytes, {failOn, limitInputPixels: maxPixels, ignoreIcc})
      return (first && !ignoreIcc ? image.pipelineColourspace(first) : image)
        .autoOrient()
        .resize(size ? {...size, fit: 'fill'} : {})
        .toColourspace('srgb')
        .raw({depth: 'uchar'})
        .toBuffer({resolveWithObject: true})
    })
  const {data, info} = await render(ignored).catch((error: unknown) => {
    if (ignored) throw error
    return render(true) // a broken profile is no reason to lose the picture
  })
  const image = {width: info.width, height: info.height, data}
  const channels = info.channels as number
  if (channels < 1 || channels > 4)
    throw new RefusedImage(`it is ${nameOf(format)} of ${channels} channels, which is not read; save the three that show`)
  const colours: DecodedImage = channels === 3 ? image : channels === 1 ? repeatGrey(image) : dropAlpha(image, channels as 2 | 4)
  return {...turnUpright(colours, hiddenOrientation(format, file)), ...(colours.ground ? {ground: colours.ground} : {})}
}

let groundReported = false

/** Reports once a process that the alpha of a picture counted. The main thread calls it: workers hand the fact on. */
export function reportGround(id: string, ground: 'white' | 'black'): void {
  if (groundReported) return
  groundReported = true
  noteOnStderr(`${id} is of one colour below its transparency, which holds the drawing: such pictures are laid on ${ground}`)
}

/**
 * Decodes one image to upright sRGB: `data` of [height, width, 3]. The rules stand at the head of this file.
 *
 * Raises RefusedImage, whose message is the reason, for whatever is not an image that can be used; nothing else is
 * raised for bad input.
 */
export async function decodeRgb(ref: ImageRef, {maxPixels = MAX_PIXELS, shrink}: DecodeOptions = {}): Promise<DecodedImage> {
  if (ref.problem !== undefined) throw new RefusedImage(ref.problem)
  const bytes = readBytes(ref)
  const found = sniff(bytes.subarray(0, 4096), ref.id)
  if ('reason' in found) throw new RefusedImage(found.reason)
  const {format, width = 0, height = 0} = found
  if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
  try {
    if (format === 'pnm') return decodePnm(bytes, maxPixels)
    const image =
      format === 'bmp'
        ? decodeBmp(bytes)
        : format === 'gif'
          ? colouredGif(bytes, maxPixels)
          : await decodeWithSharp(bytes, format, maxPixels, shrink)
    if (image.ground && isMainThread) reportGround(ref.id, image.ground)
    return image
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    const {message} = error as Error
    if (/pixel limit/i.test(message)) {
      const size = await sharp(CHECKS[format]?.(bytes) ?? bytes, {limitInputPixels: false}).metadata()
      throw tooManyPixels(size.width, size.height, maxPixels)
    }
    throw new RefusedImage(explainFailure(format, message))
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
): Promise<DecodedImage> {
  const whole = await decodeRgb(ref, options)
  const image = transform.cropBorders ? cropBorders(whole) : whole
  const {size, window} = fitGeometry(image.width, image.height, transform)
  if (window.width * window.height > MAX_OUTPUT)
    throw new RefusedImage(
      `it is ${image.width} × ${image.height} and would become ${window.width} × ${window.height} pixels, more than ${MAX_OUTPUT}; crop it`
    )
  const data = native ? native.resize(image, size, {window}) : resample(image, size, {window}) // [H, W, 3]
  return {width: window.width, height: window.height, data, ...(whole.ground ? {ground: whole.ground} : {})}
}
