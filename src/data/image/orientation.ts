/**
 * The orientation of a picture where the decoder does not look for it: EXIF in a text chunk of a PNG ("Raw profile
 * type exif", as ImageMagick writes it) and XMP (`tiff:Orientation`) in JPEG, PNG, WebP and TIFF.
 *
 * The order is that of Pillow's `exif_transpose`: EXIF first, whatever it says; XMP where EXIF says nothing.
 */
import {inflateSync} from 'node:zlib'
import type {Raster} from './resample.js'
import type {ImageFormat} from './sniff.js'
import {ORIENTATION, readTiffTags, tiffTagBytes, XMP} from './tiff-tags.js'

/** The most that one text unpacks to, and how many packed ones are looked at. */
const MAX_TEXT = 1 << 20
const MAX_PACKED = 8

/**
 * What was found in the metadata: whether the decoder itself sees an orientation, and the one that it does
 * not see.
 */
type Found = {seen: boolean; rawExif?: number; xmp?: number}

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')

const hasPrefix = (block: Uint8Array): boolean => latin1(block.subarray(0, 4)) === 'Exif'

/** What an EXIF block says of the orientation, with its `Exif\0\0` in front or without; also what is none. */
const fromExif = (block: Uint8Array): number | undefined =>
  readTiffTags(hasPrefix(block) ? block.subarray(6) : block)?.get(ORIENTATION)?.[0]

/** The orientation in an XMP packet, written as an attribute or as an element, in UTF-8 or UTF-16. */
function fromXmp(packet: Uint8Array): number | undefined {
  const name = 'tiff:Orientation'
  const text = latin1(packet).replaceAll('\0', '')
  const behindSpace = (at: number): number => {
    while (at < text.length && text.charCodeAt(at) <= 0x20) at++
    return at
  }
  for (let at = text.indexOf(name); at >= 0; at = text.indexOf(name, at + 1)) {
    let next = behindSpace(at + name.length)
    const mark = text[next]
    if (mark !== '=' && mark !== '>') continue
    next = behindSpace(next + 1)
    if (mark === '=' && text[next] !== '"' && text[next] !== "'") continue
    const digit = text[behindSpace(mark === '=' ? next + 1 : next)]
    if (digit !== undefined && digit >= '0' && digit <= '9') return Number(digit)
  }
  return undefined
}

/**
 * The bytes of a profile that ImageMagick writes as text: its name, its length, then hexadecimal digits over
 * many lines.
 */
function fromHex(text: string): Uint8Array {
  let start = 0
  for (let line = 0; line < 3; line++) {
    const end = text.indexOf('\n', start)
    if (end < 0) return new Uint8Array()
    start = end + 1
  }
  return Buffer.from(text.slice(start).replaceAll('\n', '').replaceAll(' ', ''), 'hex')
}

function inflate(bytes: Uint8Array): Uint8Array {
  try {
    return inflateSync(bytes, {maxOutputLength: MAX_TEXT})
  } catch {
    return new Uint8Array()
  }
}

/** Where the text of an international text chunk begins, behind its language and its translated keyword. */
function internationalText(body: Uint8Array, keywordEnd: number): Uint8Array | undefined {
  const language = body.indexOf(0, keywordEnd + 3)
  const translated = language < 0 ? -1 : body.indexOf(0, language + 1)
  return translated < 0 ? undefined : body.subarray(translated + 1)
}

/**
 * The decoder sees EXIF that stands in front of the pixels without the prefix that it has in JPEG. Few packed texts
 * are unpacked: many small ones could take minutes.
 */
function inPng(bytes: Uint8Array): Found {
  const found: Found = {seen: false}
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let [pixels, packed] = [false, 0]
  const unpack = (text: Uint8Array): Uint8Array => (packed++ < MAX_PACKED ? inflate(text) : new Uint8Array())
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at)
    const kind = latin1(bytes.subarray(at + 4, at + 8))
    const body = bytes.subarray(at + 8, Math.min(bytes.length, at + 8 + length))
    if (kind === 'IDAT') pixels = true
    if (kind === 'eXIf' && fromExif(body) !== undefined) {
      if (pixels || hasPrefix(body)) found.rawExif ??= fromExif(body)!
      else found.seen = true
    }
    if (kind === 'tEXt' || kind === 'zTXt' || kind === 'iTXt') {
      const end = body.subarray(0, 80).indexOf(0)
      const keyword = end < 0 ? '' : latin1(body.subarray(0, end))
      const isExif = keyword === 'Raw profile type exif' || keyword === 'Raw profile type APP1'
      const isXmp = kind === 'iTXt' && keyword === 'XML:com.adobe.xmp'
      if ((isExif && found.rawExif === undefined) || (isXmp && found.xmp === undefined)) {
        const stored = kind === 'iTXt' ? internationalText(body, end) : body.subarray(kind === 'zTXt' ? end + 2 : end + 1)
        const text = stored && (kind === 'zTXt' || (kind === 'iTXt' && body[end + 1] === 1) ? unpack(stored) : stored)
        const value = text && (isXmp ? fromXmp(text) : fromExif(fromHex(latin1(text.subarray(0, MAX_TEXT)))))
        if (value !== undefined) found[isXmp ? 'xmp' : 'rawExif'] = value
      }
    }
    at += 12 + length
  }
  return found
}

function inJpeg(bytes: Uint8Array): Found {
  const found: Found = {seen: false}
  const namespace = 'http://ns.adobe.com/xap/1.0/\0'
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff;) {
    const marker = bytes[at + 1]!
    if (marker === 0xff) {
      at++
      continue
    }
    if (marker === 0xda || marker === 0xd9) break
    const length = marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8) ? 0 : bytes[at + 2]! * 256 + bytes[at + 3]!
    const body = bytes.subarray(at + 4, at + 2 + length)
    if (marker === 0xe1) {
      const head = latin1(body.subarray(0, namespace.length))
      if (head.startsWith('Exif\0\0') && fromExif(body) !== undefined) found.seen = true
      else if (head === namespace) found.xmp ??= fromXmp(body.subarray(namespace.length))
    }
    at += 2 + length
  }
  return found
}

function inWebp(bytes: Uint8Array): Found {
  const found: Found = {seen: false}
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = 12; at + 8 <= bytes.length;) {
    const kind = latin1(bytes.subarray(at, at + 4))
    const size = view.getUint32(at + 4, true)
    const body = bytes.subarray(at + 8, Math.min(bytes.length, at + 8 + size))
    if (kind === 'EXIF' && fromExif(body) !== undefined) found.seen = true
    if (kind === 'XMP ') found.xmp ??= fromXmp(body)
    at += 8 + size + (size & 1)
  }
  return found
}

function inTiff(bytes: Uint8Array): Found {
  const seen = readTiffTags(bytes)?.get(ORIENTATION)?.[0] !== undefined
  const packet = seen ? undefined : tiffTagBytes(bytes, XMP)
  return {seen, ...(packet ? {xmp: fromXmp(packet)!} : {})}
}

const FINDERS: Readonly<Partial<Record<ImageFormat, (bytes: Uint8Array) => Found>>> = {png: inPng, jpeg: inJpeg, webp: inWebp, tiff: inTiff}

/** The orientation, 1 to 8, that still has to be undone once the decoder has turned the picture by what it saw. */
export function hiddenOrientation(format: ImageFormat, bytes: Uint8Array): number {
  const found = FINDERS[format]?.(bytes)
  const value = !found || found.seen ? 1 : (found.rawExif ?? found.xmp ?? 1)
  return value >= 1 && value <= 8 ? value : 1
}

/** The picture turned upright by an orientation of EXIF (1 to 8). */
export function turnUpright(image: Raster, orientation: number): Raster {
  if (orientation <= 1) return image
  const {width, height, data} = image
  const swapped = orientation >= 5
  const [outWidth, outHeight] = swapped ? [height, width] : [width, height]
  const out = new Uint8Array(width * height * 3) // [outHeight, outWidth, 3]
  const flipX = [2, 3, 7, 8].includes(orientation)
  const flipY = [3, 4, 6, 7].includes(orientation)
  for (let y = 0, o = 0; y < outHeight; y++)
    for (let x = 0; x < outWidth; x++, o += 3) {
      const [u, v] = swapped ? [y, x] : [x, y]
      const p = 3 * ((flipY ? height - 1 - v : v) * width + (flipX ? width - 1 - u : u))
      out[o] = data[p]!
      out[o + 1] = data[p + 1]!
      out[o + 2] = data[p + 2]!
    }
  return {width: outWidth, height: outHeight, data: out}
}
