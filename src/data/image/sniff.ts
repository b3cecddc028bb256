/**
 * What a file is by its first bytes: which decoder reads it, or a sentence saying what was found instead of an image.
 *
 * The name plays no part (a PNG called .jpg is a PNG), but for camera raw files, which would pass for TIFF and give
 * their thumbnail, and for the name of Targa, which has no mark.
 */

/** Formats that are decoded. */
export type ImageFormat = 'jpeg' | 'png' | 'gif' | 'webp' | 'tiff' | 'avif' | 'bmp' | 'pnm'

export type Found = {readonly format: ImageFormat; readonly width?: number; readonly height?: number} | {readonly reason: string}

const CAMERA_RAW = /\.(dng|nef|nrw|cr2|cr3|arw|srf|sr2|orf|rw2|raf|pef|srw|erf|kdc|dcr|mos|iiq|3fr|mef|mrw|x3f)$/i

/** Targa has no mark at its beginning. */
const TARGA = /\.(tga|icb|vda|vst)$/i

const startsWith = (bytes: Uint8Array, magic: string, at = 0): boolean => {
  if (bytes.length < at + magic.length) return false
  for (let i = 0; i < magic.length; i++) if (bytes[at + i] !== magic.charCodeAt(i)) return false
  return true
}

/** Kinds of images that no first bytes mark by themselves: by ending and a look at the beginning. */
const OTHER_KINDS: readonly {readonly what: string; readonly ending: RegExp; readonly begins: RegExp}[] = [
  {what: 'an X bitmap (XBM)', ending: /\.xbm$/i, begins: /#define\s+\S*width/},
  {what: 'an X pixmap (XPM)', ending: /\.xpm$/i, begins: /\/\*\s*XPM/},
  {what: 'a SPIDER image', ending: /\.(spi|spider|stk)$/i, begins: /^/},
  {what: 'an MRC map', ending: /\.(mrc|mrcs|rec|ccp4)$/i, begins: /^/},
  {what: 'an IM picture', ending: /\.im$/i, begins: /^/},
  {what: 'a McIdas area file', ending: /\.area$/i, begins: /^/}
]

const REFUSED: readonly (readonly [magic: string, reason: string])[] = [
  ['PK\x03\x04', 'it is a zip archive (or an office document), not an image'],
  ['PK\x05\x06', 'it is an empty zip archive, not an image'],
  ['\x1f\x8b', 'it is gzip-compressed data, not an image'],
  ['BZh', 'it is bzip2-compressed data, not an image'],
  ['\xfd7zXZ\0', 'it is xz-compressed data, not an image'],
  ['\x28\xb5\x2f\xfd', 'it is zstd-compressed data, not an image'],
  ['7z\xbc\xaf\x27\x1c', 'it is a 7-zip archive, not an image'],
  ['Rar!', 'it is a rar archive, not an image'],
  ['%PDF', 'it is a PDF document; export its pages as images first'],
  ['%!PS', 'it is PostScript, not an image'],
  ['\x7fELF', 'it is a program, not an image'],
  ['MZ', 'it is a Windows program, not an image'],
  ['\0\0\0\x0cjP  \r\n\x87\n', 'it is JPEG 2000, which this build cannot decode; convert it to PNG or JPEG'],
  ['\xff\x4f\xff\x51', 'it is a JPEG 2000 code stream, which this build cannot decode; convert it to PNG or JPEG'],
  ['\0\0\0\x0cJXL \r\n\x87\n', 'it is JPEG XL, which this build cannot decode; convert it to PNG or JPEG'],
  ['\xff\x0a', 'it is JPEG XL, which this build cannot decode; convert it to PNG or JPEG'],
  ['8BPS', 'it is a Photoshop document; export it as PNG or JPEG'],
  ['\0\0\x01\0', 'it is a Windows icon, which is not read; convert it to PNG'],
  ['SIMPLE  =', 'it is a FITS file, which is not read; save its picture as TIFF'],
  ['icns', 'it is an icon of macOS, which is not read; convert it to PNG'],
  ['DDS ', 'it is a DirectDraw surface, which is not read; convert it to PNG'],
  ['qoif', 'it is QOI, which is not read; convert it to PNG'],
  ['\x01\xda', 'it is an SGI picture, which is not read; convert it to PNG'],
  ['\x0a\x05\x01', 'it is PCX, which is not read; convert it to PNG'],
  ['II\xbc', 'it is JPEG XR, which is not read; convert it to PNG or JPEG'],
  ['Image type: ', 'it is an IFUNC picture (IM), which is not read; convert it to PNG'],
  ['gimp xcf', 'it is a document of GIMP; export it as PNG or JPEG'],
  ['NRRD', 'it is NRRD, which is not read; save its slices as PNG or TIFF'],
  ['P7\n', 'it is a portable arbitrary map (PAM), which is not read; convert it to PNG'],
  ['Pf\n', 'it is a portable float map (PFM), which is not read; save it as TIFF or .npy'],
  ['PF\n', 'it is a portable float map (PFM), which is not read; save it as TIFF or .npy'],
  ['\x93NUMPY', 'it is a NumPy array, not an image'],
  ['\x89HDF', 'it is an HDF5 file, not an image'],
  ['\x76\x2f\x31\x01', 'it is OpenEXR, which this build cannot decode; convert it to PNG'],
  ['version https://git-lfs', 'it is a Git LFS pointer; the image itself was not downloaded (try: git lfs pull)'],
  ['\xd0\xcf\x11\xe0', 'it is an old office document or a thumbnail cache, not an image'],
  ['ID3', 'it is sound (MP3), not an image'],
  ['OggS', 'it is sound or film (Ogg), not an image'],
  ['fLaC', 'it is sound (FLAC), not an image'],
  ['\x1a\x45\xdf\xa3', 'it is a film (Matroska), not an image'],
  ['SQLite format 3', 'it is a database, not an image']
]

const HEIC = new Set(['heic', 'heix', 'hevc', 'hevx', 'heim', 'heis', 'hevm', 'hevs'])

/** Which kind of ISO media file: AVIF is read, its relatives are named. */
function media(bytes: Uint8Array): Found {
  const brand = (at: number): string => String.fromCharCode(...bytes.subarray(at, at + 4))
  const length = Math.min(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0), bytes.length)
  const brands = [brand(8)]
  for (let at = 16; at + 4 <= length; at += 4) brands.push(brand(at))
  if (brands[0] === 'avis') return {reason: 'it is an animated AVIF, which this build cannot decode; save its first picture as PNG or AVIF'}
  if (brands.includes('avif') || brands.includes('avis')) return {format: 'avif'}
  if (brands.some(b => HEIC.has(b))) return {reason: 'it is HEIC (HEVC-coded), which this build cannot decode; convert it to JPEG'}
  if (brands.includes('mif1') || brands.includes('msf1'))
    return {reason: 'it is a HEIF image of a coding that this build cannot decode; convert it to JPEG'}
  if (brands.some(b => b === 'crx ')) return {reason: 'it is a camera raw file; develop it to TIFF or JPEG first'}
  return {reason: 'it is a film (MP4 or QuickTime), not an image'}
}

/**
 * Whether an XML text in small letters is a drawing: its root stands behind declarations and comments, any number of
 * them. Each is stepped over once, so that the work grows with the length and no faster.
 */
function isSvg(words: string): boolean {
  let at = 0
  for (;;) {
    while (at < words.length && words.charCodeAt(at) <= 0x20) at++
    const [open, close] = words.startsWith('<!--', at) ? ['<!--', '-->'] : ['<?', '?>']
    const end = words.startsWith(open, at) ? words.indexOf(close, at + open.length) : -1
    if (end < 0) break
    at = end + close.length
  }
  const root = words.slice(at, at + 16)
  return root.startsWith('<!doctype svg') || /^<svg[\s>/]/.test(root) || (words.startsWith('<?xml') && words.includes('<svg'))
}

/** Files of this program and of its neighbours that are named in the place of images, by their first bytes. */
const NO_IMAGES: readonly (readonly [begin: RegExp, what: string])[] = [
  [/^DINOV2IX/, 'a search index'],
  [/^(\xff{4}[^]{3}[\0-\x7f]|ARROW1)/, 'a table of Apache Arrow, perhaps of embeddings'],
  [/^[^]{5}\0{3}\{"/, 'a file of safetensors, of weights or embeddings']
]

/** Text of any kind: SVG, a saved web page, XML, JSON, or plain words. */
function text(bytes: Uint8Array): string | undefined {
  const head = bytes.subarray(0, 1024)
  let odd = 0
  for (const byte of head) if (byte < 0x09 || (byte > 0x0d && byte < 0x20 && byte !== 0x1b) || byte === 0x7f) odd++
  if (odd > 0) return undefined
  const words = Buffer.from(head.buffer, head.byteOffset, head.length)
    .toString('utf8')
    .replace(/^\uFEFF/, '')
    .trimStart()
    .toLowerCase()
  if (words.includes('\ufffd') && !words.startsWith('<')) return undefined // not UTF-8: bytes that happen to avoid the controls
  if (isSvg(words))
    return 'it is an SVG drawing; drawings are not rasterized here (XML from strangers can be made to do harm), so export it as PNG'
  if (words.startsWith('<!doctype html') || words.startsWith('<html') || words.includes('<body'))
    return 'it is an HTML page, not an image (a saved error page?)'
  if (words.startsWith('<')) return 'it is XML, not an image'
  if (words.startsWith('{') || words.startsWith('[')) return 'it is JSON or other text, not an image'
  return 'it is text, not an image'
}

function bitmapSize(bytes: Uint8Array): Found {
  if (bytes.length < 26) return {reason: 'it is a BMP cut off in its header'}
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const old = view.getUint32(14, true) === 12
  const [width, height] = old
    ? [view.getUint16(18, true), view.getUint16(20, true)]
    : [view.getInt32(18, true), Math.abs(view.getInt32(22, true))]
  return {format: 'bmp', width, height}
}

/**
 * What the bytes are (the first 4096 are enough); width and height where they stand in a fixed place of the header.
 *
 * `name` is looked at for the endings of camera raw files and Targa only.
 */
export function sniff(bytes: Uint8Array, name = ''): Found {
  if (bytes.length === 0) return {reason: 'the file is empty'}
  if (startsWith(bytes, '\xff\xd8\xff'))
    return bytes.length < 20 ? {reason: `it is a JPEG cut off after ${bytes.length} bytes`} : {format: 'jpeg'}
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (startsWith(bytes, '\x89PNG\r\n\x1a\n'))
    return bytes.length < 33
      ? {reason: `it is a PNG cut off after ${bytes.length} bytes`}
      : !startsWith(bytes, 'IHDR', 12)
        ? {reason: 'it is a PNG that is damaged (its size is not its first part)'}
        : {format: 'png', width: view.getUint32(16), height: view.getUint32(20)}
  if (startsWith(bytes, 'GIF87a') || startsWith(bytes, 'GIF89a'))
    return bytes.length < 13
      ? {reason: `it is a GIF cut off after ${bytes.length} bytes`}
      : {format: 'gif', width: view.getUint16(6, true), height: view.getUint16(8, true)}
  if (startsWith(bytes, 'RIFF'))
    return startsWith(bytes, 'WEBP', 8) ? {format: 'webp'} : {reason: 'it is sound or film (RIFF), not an image'}
  if (startsWith(bytes, 'II*\0') || startsWith(bytes, 'MM\0*') || startsWith(bytes, 'II+\0') || startsWith(bytes, 'MM\0+')) {
    if (CAMERA_RAW.test(name) || startsWith(bytes, 'CR', 8)) return {reason: 'it is a camera raw file; develop it to TIFF or JPEG first'}
    return {format: 'tiff'}
  }
  if (startsWith(bytes, 'ftyp', 4)) return bytes.length < 16 ? {reason: 'it is cut off in its header'} : media(bytes)
  for (const [magic, reason] of REFUSED) if (startsWith(bytes, magic)) return {reason}
  if (CAMERA_RAW.test(name)) return {reason: 'it is a camera raw file; develop it to TIFF or JPEG first'}
  if (startsWith(bytes, 'BM')) {
    const words = text(bytes)
    return words && bytes.length < 54 ? {reason: words} : bitmapSize(bytes)
  }
  if (/^P[1-6][\s#]/.test(String.fromCharCode(...bytes.subarray(0, 3)))) return {format: 'pnm'}
  if (startsWith(bytes, 'DICM', 128)) return {reason: 'it is DICOM, which is not read; export its pictures as PNG or TIFF'}
  const other = OTHER_KINDS.find(
    ({ending, begins}) => ending.test(name) && begins.test(Buffer.from(bytes.subarray(0, 256)).toString('latin1'))
  )
  if (other) return {reason: `it is ${other.what}, which is not read; convert it to PNG`}
  if (TARGA.test(name)) return {reason: 'it is a Targa picture, which is not read; convert it to PNG'}
  if (bytes.subarray(0, 1024).every(byte => byte === 0)) return {reason: 'it holds nothing but zeros (an interrupted download?)'}
  const head = Buffer.from(bytes.subarray(0, 16)).toString('latin1')
  const known = NO_IMAGES.find(([begin]) => begin.test(head))
  if (known) return {reason: `it is ${known[1]}, not an image`}
  return {reason: text(bytes) ?? 'its content is of no known kind of image'}
}
