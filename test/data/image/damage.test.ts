/**
 * A picture that is cut off, damaged, or coded in a way that is not read is refused by name: never black,
 * never half a picture.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import sharp from 'sharp'
import {decodeTiffNumbers} from '../../../src/data/image/decode-numbers.js'
import {decodeRgb, RefusedImage} from '../../../src/data/image/decode.js'
import {decodedSize} from '../../../src/data/image/decoded-size.js'
import {decodeGif} from '../../../src/data/image/gif.js'
import {readMask} from '../../../src/data/targets/depth-and-mask-files.js'
import {rng} from '../../../src/tensor/random.js'
import {bmp, draw, gif, jpeg, png, tiff, webp} from '../../support/drawn.js'

const image = draw(61, 43)
const raw = sharp(image.data, {raw: {width: 61, height: 43, channels: 3}})
const decode = (bytes: Uint8Array): Promise<Uint8Array> =>
  decodeRgb({id: 'x', path: '', fields: {}, bytes}).then(({data}) => new Uint8Array(data))
/** The pixels, or undefined where the file is refused; everything else that is thrown fails the test. */
const decodeOrRefuse = (bytes: Uint8Array): Promise<Uint8Array | undefined> =>
  decode(bytes).catch((error: unknown) => {
    assert.ok(error instanceof RefusedImage, String(error))
    return undefined
  })

const files: Readonly<Record<string, () => Promise<Buffer> | Buffer>> = {
  jpeg: () => jpeg(image),
  'progressive jpeg': () => raw.clone().jpeg({progressive: true}).toBuffer(),
  png: () => png(image),
  'interlaced png': () => raw.clone().png({progressive: true}).toBuffer(),
  gif: () => gif(image),
  webp: () => webp(image),
  'lossy webp': () => raw.clone().webp({quality: 80}).toBuffer(),
  avif: () => raw.clone().avif().toBuffer(),
  bmp: () => bmp(image, 24),
  'palette bmp': () => bmp(image, 8),
  'lzw tiff': () => tiff(image),
  'lzw tiff in tiles': () => raw.clone().tiff({compression: 'lzw', tile: true, tileWidth: 16, tileHeight: 16}).toBuffer(),
  'plain tiff': () => raw.clone().tiff({compression: 'none'}).toBuffer(),
  'deflate tiff': () => raw.clone().tiff({compression: 'deflate', predictor: 'none'}).toBuffer(),
  'packbits tiff': () => raw.clone().tiff({compression: 'packbits'}).toBuffer(),
  'jpeg tiff': () => raw.clone().tiff({compression: 'jpeg'}).toBuffer(),
  'fax tiff': () => raw.clone().threshold().toColourspace('b-w').tiff({compression: 'ccittfax4', bitdepth: 1}).toBuffer()
}

test('a file cut at any place gives all its pixels or is refused', async () => {
  for (const [name, make] of Object.entries(files)) {
    const whole = await make()
    const pixels = await decode(whole)
    let refused = 0
    for (let part = 1; part < 24; part++) {
      const cut = await decodeOrRefuse(whole.subarray(0, Math.floor((whole.length * part) / 24)))
      if (cut === undefined) refused++
      else assert.deepEqual(cut, pixels, `${name} cut at ${part}/24`)
    }
    assert.ok(refused >= 20, `${name}: only ${refused} of 23 cuts were refused`)
  }
})

test('formats with checksums or strict codes notice damage within', async () => {
  for (const name of ['png', 'deflate tiff'] as const) {
    const whole = await files[name]!()
    const pixels = await decode(whole)
    for (let i = 0; i < 60; i++) {
      const damaged = Buffer.from(whole)
      damaged[60 + rng(7, name, i).int(whole.length - 60)]! ^= 1 << (i % 8)
      const found = await decodeOrRefuse(damaged)
      if (found && found.length === pixels.length) assert.deepEqual(found, pixels, `${name} ${i}`)
    }
  }
  const coded = await jpeg(image)
  let refused = 0
  for (let i = 0; i < 20; i++) {
    const damaged = Buffer.from(coded)
    const at = coded.length >> 1
    for (let k = 0; k < 8; k++) damaged[at + k] = rng(8, i, k).int(255)
    if ((await decodeOrRefuse(damaged)) === undefined) refused++
  }
  assert.ok(refused > 5, `${refused} of 20 damaged JPEGs were refused`)
})

test('harmless warnings cost no picture: bytes between JPEG segments, unknown tags of a TIFF', async () => {
  const coded = await jpeg(image)
  const padded = Buffer.concat([coded.subarray(0, coded.length - 2), Buffer.alloc(3), coded.subarray(coded.length - 2)])
  assert.deepEqual(await decode(padded), await decode(coded))
  const file = await tiff(image)
  const directory = file.readUInt32LE(4)
  const tagged = Buffer.from(file)
  for (let i = 0; i < file.readUInt16LE(directory); i++) {
    const at = directory + 2 + 12 * i
    if (tagged.readUInt16LE(at) === 283) tagged.writeUInt16LE(284 + 60000, at) // the vertical resolution becomes a tag that nobody knows
  }
  assert.deepEqual(await decode(tagged), image.data)
})

/** The same TIFF with another number in one of its tags. */
function retag(file: Buffer, tag: number, value: number): Buffer {
  const out = Buffer.from(file)
  const directory = out.readUInt32LE(4)
  for (let i = 0; i < out.readUInt16LE(directory); i++)
    if (out.readUInt16LE(directory + 2 + 12 * i) === tag) out.writeUInt16LE(value, directory + 2 + 12 * i + 8)
  return out
}

test('TIFFs of codings and colours that are not decoded are refused by name, as masks too', async () => {
  const colours = await tiff(image)
  const grey = await sharp(new Uint8Array(61 * 43).fill(3), {raw: {width: 61, height: 43, channels: 1}})
    .toColourspace('b-w')
    .tiff({compression: 'lzw'})
    .toBuffer()
  assert.equal((await readMask({path: '', bytes: grey})).ids[0], 3)
  for (const [coding, name] of [
    [34925, 'LZMA'],
    [34887, 'LERC'],
    [65000, 'method 65000']
  ] as const) {
    const reason = new RegExp(`TIFF compressed by ${name}, which this build cannot decode`)
    await assert.rejects(decode(retag(colours, 259, coding)), reason)
    await assert.rejects(readMask({path: '', bytes: retag(grey, 259, coding)}), reason)
    await assert.rejects(decodeTiffNumbers(retag(grey, 259, coding)), RefusedImage)
  }
  await assert.rejects(decode(retag(colours, 262, 6)), /TIFF in YCbCr colours without JPEG compression/)
  await assert.rejects(decode(retag(colours, 262, 32803)), /raw sensor data/)
  const long = await sharp(
    Uint8Array.from({length: 6000}, (_, i) => i * i),
    {raw: {width: 100, height: 60, channels: 1}}
  )
    .toColourspace('b-w')
    .tiff({compression: 'lzw'})
    .toBuffer()
  const damaged = Buffer.from(long).fill(0xff, 200, 900)
  await assert.rejects(readMask({path: '', bytes: damaged}), RefusedImage)
})

test('a GIF tells how many of its pixels are there, whatever its bytes', async () => {
  const whole = await gif(image)
  assert.equal(decodeGif(whole, 1e6).data.length, 3 * 2623)
  assert.throws(() => decodeGif(whole.subarray(0, whole.length - 60), 1e6), /cut off or damaged \(\d+ of 2623 pixels are there\)/)
  for (let i = 0; i < 400; i++) {
    const damaged = Buffer.from(whole)
    for (let k = 0; k < 5; k++) damaged[rng(3, 'gif', i, k).int(damaged.length)] = rng(4, 'gif', i, k).int(256)
    try {
      decodeGif(damaged, 1e6)
    } catch (error) {
      assert.ok(error instanceof RefusedImage, String(error))
    }
  }
})

test('a BMP whose pixels are said to begin where its palette does is read as Pillow reads it', async () => {
  const file = bmp(image, 8)
  const pixels = await decode(file)
  const moved = Buffer.from(file)
  moved.writeUInt32LE(54, 10)
  assert.deepEqual(await decode(moved), pixels)
  const short = Buffer.from(file)
  short.writeUInt32LE(2, 46)
  await assert.rejects(decode(short), /BMP that is damaged \(colour \d+ of a palette of 2\)/)
})

test('a PNG whose chunks do not match their checksums is refused, as a picture and as a mask', async () => {
  const file = await raw.clone().png({palette: true, colours: 16}).toBuffer()
  const at = (kind: string): number => file.indexOf(kind, 0, 'latin1')
  for (const kind of ['PLTE', 'IHDR']) {
    const changed = Buffer.from(file)
    changed[at(kind) + 4 + (kind === 'PLTE' ? 3 : 7)]! ^= 4
    assert.equal(await decodeOrRefuse(changed), undefined, kind)
    await assert.rejects(readMask({path: 'x', bytes: changed}), RefusedImage, kind)
  }
  const start = at('PLTE') - 4
  const bare = Buffer.concat([file.subarray(0, start), file.subarray(start + 12 + file.readUInt32BE(start))])
  await assert.rejects(readMask({path: 'x', bytes: bare}), RefusedImage)
})

test('an AVIF that claims sides which no decoder makes is refused before the decoder complains on stderr', async () => {
  const file = await raw.clone().avif({effort: 0}).toBuffer()
  assert.equal((await decode(file)).length, 61 * 43 * 3)
  const at = file.indexOf('ispe', 0, 'latin1') + 8
  assert.deepEqual([file.readUInt32BE(at), file.readUInt32BE(at + 4)], [61, 43])
  for (const place of [at, at + 4]) {
    const changed = Buffer.from(file)
    changed.writeUInt32BE(134217752, place)
    await assert.rejects(decode(changed), /AVIF that is damaged \(it claims \d+ × \d+ pixels\)/)
    assert.equal(await decodedSize({id: 'x', path: '', fields: {}, bytes: changed}), undefined)
  }
})
