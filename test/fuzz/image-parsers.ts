/**
 * Parsers of pictures and of maps that lie beside them: the entries of `parsers.ts` that hand foreign bytes to an
 * image library, or read them by hand.
 */
import {createHash} from 'node:crypto'
import {crc32, deflateSync} from 'node:zlib'
import {readFile} from 'node:fs/promises'
import sharp, {type Sharp} from 'sharp'
import {UserError} from '../../src/config/errors.js'
import {decodeRgb, RefusedImage} from '../../src/data/image/decode.js'
import {decodedSize} from '../../src/data/image/decoded-size.js'
import {encodeGrey16, encodeGrey8} from '../../src/data/image/encode.js'
import {isPlainSrgb} from '../../src/data/image/icc-profile.js'
import {encodeMask} from '../../src/data/image/png-write.js'
import {readDepth, readMask} from '../../src/data/targets/depth-and-mask-files.js'
import {golden} from '../support/scratch.js'
import {bmp, draw, gif, jpeg, png, tiff, webp} from '../support/drawn.js'
import type {Parser} from './parsers.js'
import {moved, npyHeader, numbers} from './structured.js'

const image = draw(24, 16)
const pipe = (): Sharp => sharp(image.data, {raw: {width: 24, height: 16, channels: 3}})

const digest = (data: ArrayBufferView): string =>
  createHash('sha1')
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest('hex')

/** Reads one image or map; a refusal by a clause counts as one by a sentence. */
const refusing =
  (read: (path: string) => Promise<string>) =>
  async (path: string): Promise<string> => {
    try {
      return await read(path)
    } catch (error) {
      throw error instanceof RefusedImage ? new UserError(error.message, {cause: error}) : error
    }
  }

const readImage = refusing(async path => {
  const {width, height, data} = await decodeRgb({id: 'x', path, fields: {}}, {maxPixels: 1 << 22})
  if (data.length !== width * height * 3) throw new Error('pixels of another number than the size says')
  return `${width} × ${height} ${digest(data)}`
})

/** The chunks of a PNG with their checksums as they should be: changed bytes that no checksum gives away. */
function sealPng(bytes: Buffer): Buffer {
  const out = Buffer.from(bytes)
  for (let at = 8; at + 12 <= out.length;) {
    const length = out.readUInt32BE(at)
    if (at + 12 + length > out.length) break
    out.writeUInt32BE(crc32(out.subarray(at + 4, at + 8 + length)), at + 8 + length)
    at += 12 + length
  }
  return out
}

const picture = (name: string, seeds: () => Promise<Buffer[]>, rest: Partial<Parser> = {}): Parser => ({
  name,
  inputs: 300,
  editable: true,
  lenient: true, // what changes pixels and no length is a picture
  structured: [numbers, moved],
  seeds,
  read: readImage,
  ...rest
})

const xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
const withProfiles = (): Sharp =>
  pipe()
    .withIccProfile('p3')
    .withExif({IFD0: {Orientation: '6'}})
    .withXmp(xmp)
const pngSeeds = async (): Promise<Buffer[]> => [
  await png(image),
  await withProfiles().png().toBuffer(),
  await pipe().png({palette: true, colours: 16}).toBuffer(),
  await pipe().ensureAlpha(0.5).toColourspace('rgb16').png().toBuffer(),
  await pipe().png({progressive: true}).toBuffer(),
  ...(await packedTexts())
]

/** A chunk of a PNG. */
function chunk(kind: string, body: Buffer): Buffer {
  const out = Buffer.concat([Buffer.alloc(4), Buffer.from(kind, 'latin1'), body, Buffer.alloc(4)])
  out.writeUInt32BE(body.length, 0)
  out.writeUInt32BE(crc32(out.subarray(4, -4)), out.length - 4)
  return out
}

/** PNGs that say how they are turned in texts that are packed: EXIF in hexadecimal digits, and XMP. */
async function packedTexts(): Promise<Buffer[]> {
  const plain = await png(image)
  const exif = Buffer.from('Exif\0\0II*\0\b\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0', 'latin1')
  const raw = deflateSync(`\nexif\n${String(exif.length).padStart(8)}\n${exif.toString('hex')}\n`)
  const texts = [
    chunk('zTXt', Buffer.concat([Buffer.from('Raw profile type exif\0\0'), raw])),
    chunk('iTXt', Buffer.concat([Buffer.from('XML:com.adobe.xmp\0\x01\0\0\0', 'latin1'), deflateSync(xmp)]))
  ]
  return texts.map(text => Buffer.concat([plain.subarray(0, 33), text, plain.subarray(33)]))
}

/** A bitmap whose channels lie where its masks say. */
function maskedBmp(): Buffer {
  const plain = bmp(image, 32)
  const masks = Buffer.alloc(12)
  for (const [i, mask] of [0xff, 0xff00, 0xff0000].entries()) masks.writeUInt32LE(mask, 4 * i)
  const file = Buffer.concat([plain.subarray(0, 54), masks, plain.subarray(54)])
  file.writeUInt32LE(66, 10)
  file.writeUInt32LE(3, 30)
  return file
}

const profiles = async (): Promise<Buffer[]> => [
  (await sharp(await withProfiles().png().toBuffer()).metadata()).icc!,
  (await sharp(await pipe().withIccProfile('srgb').png().toBuffer()).metadata()).icc!
]

/** A profile with the name and primaries of sRGB, whose tone curve is a table of `count` numbers, 1 a power of x. */
function withTable(profile: Buffer, count: 1 | 10): Buffer {
  const table = Buffer.alloc(12 + 2 * count)
  table.write('curv', 'latin1')
  table.writeUInt32BE(count, 8)
  for (let k = 0; k < count; k++) table.writeUInt16BE(count === 1 ? 563 : Math.round(65535 * (k / 9) ** 2.2), 12 + 2 * k)
  const out = Buffer.concat([profile, table])
  out.write('sRGB', 4, 'latin1')
  const primaries = new Map(
    Object.entries({rXYZ: [0.4361, 0.2225, 0.0139], gXYZ: [0.3851, 0.7169, 0.0971], bXYZ: [0.1431, 0.0606, 0.7141]})
  )
  for (let i = 0; i < out.readUInt32BE(128); i++) {
    const tag = 132 + 12 * i
    const [name, at] = [out.toString('latin1', tag, tag + 4), out.readUInt32BE(tag + 4)]
    for (const [k, value] of (primaries.get(name) ?? []).entries()) out.writeInt32BE(Math.round(value * 65536), at + 8 + 4 * k)
    if (!/^[rgb]TRC$/.test(name)) continue
    out.writeUInt32BE(profile.length, tag + 4)
    out.writeUInt32BE(table.length, tag + 8)
  }
  return out
}

/** A bitmap of eight bits in run-length codes: a run and a copy a line. */
function runLengthBmp(): Buffer {
  const plain = bmp(image, 8)
  const start = plain.readUInt32LE(10)
  const lines = Array.from({length: 16}, (_, y) => [20, 9 * y, 0, 4, 1, 2, 3, 4, 0, 0])
  const file = Buffer.concat([plain.subarray(0, start), Buffer.from([...lines.flat(), 0, 1])])
  file.writeUInt32LE(1, 30)
  return file
}

/** An array of NumPy's with one number a pixel. */
function npy(dtype: string, shape: string, bytes: Uint8Array): Buffer {
  const text = `{'descr': '${dtype}', 'fortran_order': False, 'shape': (${shape}), }`
  const header = text.padEnd(128 - 10 - 1) + '\n'
  return Buffer.concat([Buffer.from(`\x93NUMPY\x01\0${String.fromCharCode(header.length)}\0${header}`, 'latin1'), bytes])
}

const floats = Float32Array.from({length: 24 * 16}, (_, i) => 1 + i / 7)
const ids = Uint8Array.from({length: 24 * 16}, (_, i) => i % 5)
/** Ids and depths in arrays of every other kind of number; zeros are ids and unknown depths in each. */
const otherIds = (): Buffer[] =>
  ['|i1', '|b1', '<u2', '<i2', '<u4', '<i4', '<u8', '<i8', '>u2'].map(dtype => npy(dtype, '4, 6', new Uint8Array(24 * Number(dtype[2]))))
const otherDepths = (): Buffer[] => ['<f2', '<f8', '>f4', '<u2'].map(dtype => npy(dtype, '4, 6', new Uint8Array(24 * Number(dtype[2]))))
/** A TIFF of 32-bit floating-point numbers in one strip. */
function floatTiff(): Buffer {
  const entries: readonly (readonly [tag: number, type: 3 | 4, value: number])[] = [
    [256, 3, 24],
    [257, 3, 16],
    [258, 3, 32],
    [259, 3, 1],
    [262, 3, 1],
    [273, 4, 8],
    [277, 3, 1],
    [278, 3, 16],
    [279, 4, floats.byteLength],
    [339, 3, 3]
  ]
  const directory = Buffer.alloc(2 + 12 * entries.length + 4)
  directory.writeUInt16LE(entries.length, 0)
  for (const [i, [tag, type, value]] of entries.entries()) {
    directory.writeUInt16LE(tag, 2 + 12 * i)
    directory.writeUInt16LE(type, 4 + 12 * i)
    directory.writeUInt32LE(1, 6 + 12 * i)
    directory.writeUInt32LE(value, 10 + 12 * i)
  }
  const head = Buffer.from('II*\0....', 'latin1')
  head.writeUInt32LE(8 + floats.byteLength, 4)
  return Buffer.concat([head, new Uint8Array(floats.buffer), directory])
}

const map = (name: string, seeds: () => Promise<Buffer[]>, read: (path: string) => Promise<string>, rest: Partial<Parser> = {}): Parser =>
  picture(name, seeds, {read: refusing(read), ...rest})

const asMask = async (path: string): Promise<string> => {
  const {width, height, ids: found, palette} = await readMask({path}, {maxPixels: 1 << 22})
  if (found.length !== width * height) throw new Error('ids of another number than the size says')
  return `${width} × ${height} ${digest(found)} ${palette ? digest(palette) : ''}`
}
const asDepth = async (path: string): Promise<string> => {
  const {width, height, metres, known} = await readDepth({path}, {maxPixels: 1 << 22})
  if (metres.length !== width * height || metres.some(x => !Number.isFinite(x) || x < 0)) throw new Error('depths that cannot be')
  return `${width} × ${height} ${known} ${digest(metres)}`
}
const maskPngs = async (): Promise<Buffer[]> => [
  Buffer.from(encodeMask(ids, {width: 24, height: 16, palette: Uint8Array.from({length: 15}, (_, i) => 17 * i)})),
  Buffer.from(await encodeGrey8(ids, {width: 24, height: 16}))
]
const depthPng = async (): Promise<Buffer[]> => [
  Buffer.from(
    await encodeGrey16(
      Uint16Array.from(floats, x => x * 100),
      {width: 24, height: 16}
    )
  )
]

export const imageParsers: readonly Parser[] = [
  picture('jpeg', async () => [
    await jpeg(image, 6),
    await withProfiles().jpeg().toBuffer(),
    await pipe().jpeg({progressive: true}).toBuffer()
  ]),
  // apart, for its profile takes 40 ms
  picture('jpeg-cmyk', async () => [await pipe().toColourspace('cmyk').jpeg().toBuffer()], {inputs: 100}),
  picture('png', pngSeeds, {editable: false}),
  picture('png-sealed', pngSeeds, {seal: sealPng}),
  picture('gif', async () => [await gif(image)]),
  picture('webp', async () => [await webp(image), await pipe().webp().toBuffer(), await withProfiles().ensureAlpha(0.5).webp().toBuffer()]),
  picture('tiff', async () => [
    await tiff(image),
    await withProfiles().tiff({compression: 'none'}).toBuffer(),
    await pipe().tiff({compression: 'deflate', predictor: 'horizontal'}).toBuffer(),
    await pipe().tiff({compression: 'packbits', tile: true, tileWidth: 16, tileHeight: 16}).toBuffer(),
    await pipe().tiff({compression: 'jpeg'}).toBuffer()
  ]),
  picture('avif', async () => [await pipe().avif({effort: 0}).toBuffer()], {inputs: 100}),
  picture('bmp', async () => [...([1, 4, 8, 24, 32] as const).map(depth => bmp(image, depth)), runLengthBmp(), maskedBmp()]),
  picture('pnm', async () => [
    Buffer.concat([Buffer.from('P6\n24 16\n255\n'), image.data]),
    Buffer.concat([Buffer.from('P5 24 16 65535\n'), Buffer.alloc(2 * 24 * 16, 7)]),
    Buffer.concat([Buffer.from('P4\n24 16\n'), Buffer.alloc(3 * 16, 0x5a)]),
    Buffer.from(`P2\n# grey\n4 3\n15\n${[...ids.subarray(0, 12)].join(' ')}\n`)
  ]),
  picture('tiff-zstd', async () => {
    const {pictures} = JSON.parse(await readFile(golden('tiff.json'), 'utf8')) as {pictures: Record<string, string>}
    return Object.values(pictures).map(file => Buffer.from(file, 'base64'))
  }),
  picture('sizes', async () => [await png(image), await jpeg(image, 6), await tiff(image), bmp(image, 24), Buffer.from('P5 24 16 255\n')], {
    read: async path => JSON.stringify(await decodedSize({id: 'x', path, fields: {}})) ?? 'not told'
  }),
  picture('jpeg-small', async () => [await jpeg(image, 6), await withProfiles().jpeg().toBuffer()], {
    read: refusing(async path => {
      const {width, height, data} = await decodeRgb({id: 'x', path, fields: {}}, {maxPixels: 1 << 22, shrink: () => 2})
      return `${width} × ${height} ${digest(data)}`
    })
  }),
  picture(
    'icc',
    async () => [...(await profiles()), ...(await profiles()).flatMap(profile => [withTable(profile, 1), withTable(profile, 10)])],
    {
      inputs: 2000,
      read: async path => String(isPlainSrgb(await readFile(path)))
    }
  ),
  map('mask-png', maskPngs, asMask, {inputs: 500, editable: false}),
  map('mask-png-sealed', maskPngs, asMask, {inputs: 500, seal: sealPng}),
  map('mask-npy', async () => [npy('|u1', '16, 24', ids), ...otherIds()], asMask, {inputs: 1000, structured: [npyHeader]}),
  map('depth-png', depthPng, asDepth, {inputs: 500, editable: false}),
  map('depth-tiff', async () => [floatTiff()], asDepth),
  map('depth-npy', async () => [npy('<f4', '16, 24', new Uint8Array(floats.buffer)), ...otherDepths()], asDepth, {
    inputs: 1000,
    structured: [npyHeader]
  })
]
