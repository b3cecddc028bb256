/** What stands beside the pixels counts as the reference loaders have it: orientation, colour profiles, alpha. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {crc32, deflateSync} from 'node:zlib'
import sharp from 'sharp'
import {decodeRgb, type DecodedImage} from '../../../src/data/image/decode.js'
import {isPlainSrgb} from '../../../src/data/image/icc-profile.js'
import {draw, jpeg, png, webp} from '../../support/drawn.js'

const image = draw(24, 16)
const decode = (bytes: Uint8Array): Promise<DecodedImage> => decodeRgb({id: 'x', path: '', fields: {}, bytes})

function pngChunk(kind: string, body: Uint8Array): Buffer {
  const out = Buffer.alloc(12 + body.length)
  out.writeUInt32BE(body.length, 0)
  out.write(kind, 4, 'latin1')
  out.set(body, 8)
  out.writeUInt32BE(crc32(out.subarray(4, 8 + body.length)), 8 + body.length)
  return out
}
/** A PNG with chunks behind its header. */
const withChunks = (file: Buffer, ...chunks: Buffer[]): Buffer => Buffer.concat([file.subarray(0, 33), ...chunks, file.subarray(33)])

const exif = (orientation: number): Buffer => {
  const block = Buffer.alloc(32)
  block.write('Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0', 'latin1')
  block[25] = orientation
  return block
}
const rawProfile = (block: Buffer): Buffer =>
  Buffer.from(`\nexif\n      ${block.length}\n${block.toString('hex').replace(/.{72}/g, '$&\n')}\n`)
const xmp = (orientation: number, element = false): Buffer =>
  Buffer.from(
    element
      ? `<x:xmpmeta><rdf:Description><tiff:Orientation>${orientation}</tiff:Orientation></rdf:Description></x:xmpmeta>`
      : `<x:xmpmeta><rdf:Description tiff:Orientation="${orientation}"/></x:xmpmeta>`
  )
const itxt = (packet: Buffer): Buffer => pngChunk('iTXt', Buffer.concat([Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1'), packet]))

/** The picture as EXIF of that number turns it. */
const turned = async (orientation: number): Promise<Uint8Array> => {
  const {data} = await decode(
    await sharp(await png(image))
      .withMetadata({orientation})
      .png()
      .toBuffer()
  )
  return new Uint8Array(data)
}

test('orientation in PNG raw profiles and in XMP turns pictures as EXIF does', async () => {
  const file = await png(image)
  for (let n = 1; n <= 8; n++) {
    const wanted = await turned(n)
    const variants: Record<string, Buffer> = {
      text: withChunks(file, pngChunk('tEXt', Buffer.concat([Buffer.from('Raw profile type exif\0'), rawProfile(exif(n))]))),
      packed: withChunks(
        file,
        pngChunk('zTXt', Buffer.concat([Buffer.from('Raw profile type APP1\0\0'), deflateSync(rawProfile(exif(n)))]))
      ),
      attribute: withChunks(file, itxt(xmp(n))),
      element: withChunks(file, itxt(xmp(n, true)))
    }
    for (const [name, bytes] of Object.entries(variants)) {
      const {width, height, data} = await decode(bytes)
      assert.deepEqual([width, height], n < 5 ? [24, 16] : [16, 24], `${name} ${n}`)
      assert.deepEqual(new Uint8Array(data), wanted, `${name} ${n}`)
    }
  }
  const packet = xmp(6).toString()
  const packed = await sharp(await webp(image))
    .withXmp(packet)
    .webp({lossless: true})
    .toBuffer()
  assert.deepEqual(new Uint8Array((await decode(packed)).data), await turned(6))
  const photo = await decode(
    await sharp(await jpeg(image))
      .withXmp(packet)
      .jpeg()
      .toBuffer()
  )
  assert.deepEqual([photo.width, photo.height], [16, 24])
})

test('EXIF goes before XMP, and damaged metadata turns nothing', async () => {
  const file = await png(image)
  const both = withChunks(file, pngChunk('eXIf', exif(1).subarray(6)), itxt(xmp(6)))
  assert.deepEqual(new Uint8Array((await decode(both)).data), image.data)
  for (const bytes of [
    withChunks(file, pngChunk('tEXt', Buffer.from('Raw profile type exif\0no profile'))),
    withChunks(file, pngChunk('zTXt', Buffer.from('Raw profile type exif\0\0not packed'))),
    withChunks(file, itxt(Buffer.from('<a tiff:Orientation="9"/>')))
  ])
    assert.deepEqual(new Uint8Array((await decode(bytes)).data), image.data)
})

test('orientation counts wherever in a PNG it stands, and however its XMP is set', async () => {
  const file = await png(image)
  const wanted = await turned(6)
  const end = file.length - 12
  const behind = (chunk: Buffer): Buffer => Buffer.concat([file.subarray(0, end), chunk, file.subarray(end)])
  const bare = exif(6).subarray(6)
  const international = Buffer.concat([Buffer.from('Raw profile type exif\0\0\0\0\0'), rawProfile(exif(6))])
  const packets = [
    `<a tiff:Orientation = '6'/>`,
    `<tiff:Orientation>\r\n  6\r\n</tiff:Orientation>`,
    `<a of="tiff:Orientation" tiff:Orientation="6"/>`
  ].map(text => Buffer.from(text))
  const variants: Record<string, Buffer> = {
    'behind the pixels': behind(pngChunk('eXIf', bare)),
    'with the prefix of JPEG': withChunks(file, pngChunk('eXIf', exif(6))),
    'text behind the pixels': behind(pngChunk('tEXt', Buffer.concat([Buffer.from('Raw profile type exif\0'), rawProfile(exif(6))]))),
    'international text': withChunks(file, pngChunk('iTXt', international)),
    'behind long texts': withChunks(file, pngChunk('tEXt', Buffer.alloc(3 << 20, 'a\0b')), pngChunk('eXIf', bare)),
    'XMP in UTF-16': withChunks(file, itxt(Buffer.from(`\uFEFF${xmp(6).toString()}`, 'utf16le'))),
    ...Object.fromEntries(packets.map(packet => [packet.toString(), withChunks(file, itxt(packet))]))
  }
  for (const [name, bytes] of Object.entries(variants)) assert.deepEqual(new Uint8Array((await decode(bytes)).data), wanted, name)
  const none = withChunks(file, pngChunk('eXIf', exif(0).subarray(6)), itxt(xmp(6)))
  assert.deepEqual(new Uint8Array((await decode(none)).data), image.data, 'EXIF that names no orientation')
})

test('of many texts that unpack to a thousand times their length, the first eight are looked at', async () => {
  const packed = (packet: Buffer): Buffer =>
    pngChunk('iTXt', Buffer.concat([Buffer.from('XML:com.adobe.xmp\0\x01\0\0\0', 'latin1'), deflateSync(packet)]))
  const long = packed(Buffer.alloc(1 << 20, 'tiff:Orientation'))
  const turning = packed(xmp(6))
  const sides = async (before: number): Promise<number[]> => {
    const {width, height} = await decode(withChunks(await png(image), ...new Array<Buffer>(before).fill(long), turning))
    return [width, height]
  }
  assert.deepEqual(await sides(7), [16, 24])
  assert.deepEqual(await sides(8), [24, 16])
})

/** A matrix profile of version 2 with one curve: the primaries of sRGB, or with red and green exchanged. */
function profile(description: string, curve: Buffer, swapped = false): Buffer {
  const xyz = (...values: number[]): Buffer => {
    const out = Buffer.alloc(20)
    out.write('XYZ ', 'latin1')
    values.forEach((value, i) => out.writeInt32BE(Math.round(value * 65536), 8 + 4 * i))
    return out
  }
  const text = Buffer.alloc(12 + description.length + 1 + 78)
  text.write('desc', 'latin1')
  text.writeUInt32BE(description.length + 1, 8)
  text.write(description, 12, 'latin1')
  const [red, green] = [xyz(0.4361, 0.2225, 0.0139), xyz(0.3851, 0.7169, 0.0971)]
  const tags: [string, Buffer][] = [
    ['desc', text],
    ['wtpt', xyz(0.9642, 1, 0.8249)],
    ['rXYZ', swapped ? green : red],
    ['gXYZ', swapped ? red : green],
    ['bXYZ', xyz(0.1431, 0.0606, 0.7141)],
    ['rTRC', curve],
    ['gTRC', curve],
    ['bTRC', curve]
  ]
  const head = Buffer.alloc(132 + 12 * tags.length)
  let at = head.length
  const bodies: Buffer[] = []
  for (const [i, [name, body]] of tags.entries()) {
    head.write(name, 132 + 12 * i, 'latin1')
    head.writeUInt32BE(at, 136 + 12 * i)
    head.writeUInt32BE(body.length, 140 + 12 * i)
    const padded = Buffer.concat([body, Buffer.alloc(-body.length & 3)])
    bodies.push(padded)
    at += padded.length
  }
  head.writeUInt32BE(at, 0)
  head.write('\x02\x40\0\0mntrRGB XYZ ', 8, 'latin1')
  head.write('acsp', 36, 'latin1')
  head.writeInt32BE(Math.round(0.9642 * 65536), 68)
  head.writeInt32BE(65536, 72)
  head.writeInt32BE(Math.round(0.8249 * 65536), 76)
  head.writeUInt32BE(tags.length, 128)
  return Buffer.concat([head, ...bodies])
}
const linear = Buffer.from('curv\0\0\0\0\0\0\0\0', 'latin1')
const srgbCurve = (() => {
  const out = Buffer.alloc(12 + 2 * 1024)
  out.write('curv', 'latin1')
  out.writeUInt32BE(1024, 8)
  for (let i = 0; i < 1024; i++) {
    const x = i / 1023
    out.writeUInt16BE(Math.round(65535 * (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)), 12 + 2 * i)
  }
  return out
})()

test('a profile is passed over where its numbers are those of sRGB, whatever it is called', async () => {
  assert.ok(isPlainSrgb(profile('sRGB built-in', srgbCurve)))
  assert.ok(!isPlainSrgb(profile('GIMP built-in Linear sRGB', linear)))
  assert.ok(!isPlainSrgb(profile('not sRGB', srgbCurve, true)))
  assert.ok(!isPlainSrgb(profile('some camera', srgbCurve)))
  const whole = profile('sRGB', srgbCurve)
  for (let length = 0; length < whole.length; length += 37) isPlainSrgb(whole.subarray(0, length)) // throws nothing

  const file = await png(image)
  const attach = (icc: Buffer): Buffer =>
    withChunks(file, pngChunk('iCCP', Buffer.concat([Buffer.from('p\0\0', 'latin1'), deflateSync(icc)])))
  assert.deepEqual(new Uint8Array((await decode(attach(profile('sRGB built-in', srgbCurve)))).data), image.data)
  const encode = (value: number): number => {
    const x = value / 255
    return 255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055)
  }
  const light = (await decode(attach(profile('Linear sRGB', linear)))).data
  image.data.forEach((value, i) => assert.ok(Math.abs(light[i]! - encode(value)) < 3, `${value} became ${light[i]}`))
  const wide = Uint16Array.from(image.data, value => value * 257)
  const deep = await sharp(wide, {raw: {width: 24, height: 16, channels: 3}})
    .toColourspace('rgb16')
    .png()
    .toBuffer()
  const deepLight = (
    await decode(
      withChunks(deep, pngChunk('iCCP', Buffer.concat([Buffer.from('p\0\0', 'latin1'), deflateSync(profile('Linear sRGB', linear))])))
    )
  ).data
  deepLight.forEach((value, i) => assert.ok(Math.abs(value - light[i]!) < 3, `16 bits: ${value}, 8 bits: ${light[i]}`))
  const swapped = (await decode(attach(profile('mentions sRGB', srgbCurve, true)))).data
  assert.ok(Math.abs(swapped[0]! - image.data[1]!) < 3 && Math.abs(swapped[300 * 3]! - image.data[300 * 3 + 1]!) < 3)
})

test('a profile counts however much stands in front of it, and a gamma of 2.2 is not sRGB', async () => {
  const packed = (icc: Buffer): Buffer => pngChunk('iCCP', Buffer.concat([Buffer.from('p\0\0', 'latin1'), deflateSync(icc)]))
  const icc = profile('Linear sRGB', linear)
  const file = await png(image)
  const {data} = await decode(withChunks(file, packed(icc)))
  const long = withChunks(file, pngChunk('tEXt', Buffer.alloc(100_000, 'a\0b')), packed(icc))
  assert.deepEqual((await decode(long)).data, data)
  const photo = await jpeg(image)
  const segment = (marker: number, body: Buffer): Buffer => {
    const head = Buffer.from([0xff, marker, 0, 0])
    head.writeUInt16BE(body.length + 2, 2)
    return Buffer.concat([head, body])
  }
  const profiled = (...before: Buffer[]): Buffer => {
    const part = segment(0xe2, Buffer.concat([Buffer.from('ICC_PROFILE\0\x01\x01', 'latin1'), icc]))
    return Buffer.concat([photo.subarray(0, 2), ...before, part, photo.subarray(2)])
  }
  const comments = Array.from({length: 20}, () => segment(0xfe, Buffer.alloc(65_000, 'a')))
  assert.deepEqual((await decode(profiled(...comments))).data, (await decode(profiled())).data)
  assert.notDeepEqual((await decode(profiled())).data, (await decode(photo)).data)

  const gamma = Buffer.from('curv\0\0\0\0\0\0\0\x01\x02\x33', 'latin1')
  assert.ok(!isPlainSrgb(profile('sRGB gamma 2.2', gamma)))
})

test('alpha is dropped, and counts only where it holds the drawing', async () => {
  const veil = (colour: (i: number) => number, channels: 2 | 4, alpha: (i: number) => number): Promise<Buffer> =>
    sharp(
      Uint8Array.from({length: 24 * 16 * channels}, (_, i) =>
        i % channels === channels - 1 ? alpha(Math.floor(i / channels)) : colour(i)
      ),
      {raw: {width: 24, height: 16, channels}}
    )
      .png()
      .toBuffer()
  const lines = (i: number): number => (i % 5 === 0 ? 255 : i % 7 === 0 ? 128 : 0)
  for (const channels of [2, 4] as const) {
    const black = await decode(await veil(() => 0, channels, lines))
    assert.equal(black.ground, 'white')
    assert.deepEqual([black.data[0], black.data[3], black.data[21]], [0, 255, 127])
    const white = await decode(await veil(() => 255, channels, lines))
    assert.equal(white.ground, 'black')
    assert.deepEqual([white.data[0], white.data[3], white.data[21]], [255, 0, 128])
    const photo = await decode(await veil(i => (i * 7) % 256, channels, lines))
    assert.equal(photo.ground, undefined)
    assert.equal(photo.data[3 * 9 + 1], channels === 4 ? ((9 * 4 + 1) * 7) % 256 : (9 * 2 * 7) % 256)
    assert.equal(
      (
        await decode(
          await veil(
            () => 0,
            channels,
            () => 255
          )
        )
      ).ground,
      undefined
    )
  }
})
