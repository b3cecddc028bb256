/**
 * Formats that are read here and not by sharp: the first picture of GIF, run-length coded bitmaps, portable
 * bitmaps. Their pixels are those of the reference loader (Pillow), and what is missing is never filled.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {decodedSize} from '../../../src/data/image/decoded-size.js'
import sharp from 'sharp'
import {decodeRgb, RefusedImage} from '../../../src/data/image/decode.js'
import {readDepth, readMask} from '../../../src/data/targets/depth-and-mask-files.js'
import {bmp, draw, gif, jpeg} from '../../support/drawn.js'

const image = draw(61, 43)
const raw = sharp(image.data, {raw: {width: 61, height: 43, channels: 3}})
const ref = (bytes: Uint8Array) => ({id: 'x', path: '', fields: {}, bytes})
const decode = (bytes: Uint8Array): Promise<Uint8Array> => decodeRgb(ref(bytes)).then(({data}) => new Uint8Array(data))
const refused = (work: Promise<unknown>, reason: RegExp): Promise<void> =>
  assert.rejects(work, (error: Error) => error instanceof RefusedImage && reason.test(error.message))

test('a GIF gives its colours, also below its transparency, interlaced, and on a larger canvas', async () => {
  const file = await gif(image)
  const shown = new Uint8Array(await sharp(file).removeAlpha().raw().toBuffer())
  assert.deepEqual(await decode(file), shown)
  assert.deepEqual(await decode(await raw.clone().gif({progressive: true}).toBuffer()), shown)
  const block = file.indexOf(',', 13 + (3 << ((file[10]! & 7) + 1)), 'latin1')
  const transparent = (index: number): Buffer =>
    Buffer.concat([file.subarray(0, block), Buffer.from([0x21, 0xf9, 4, 1, 0, 0, index, 0]), file.subarray(block)])
  assert.deepEqual(await decode(transparent(5)), shown)
  const wide = Buffer.from(file)
  wide.writeUInt16LE(64, 6)
  const {width, height, data} = await decodeRgb(ref(wide))
  assert.deepEqual([width, height], [64, 43])
  assert.deepEqual(data.subarray(0, 3 * 61), shown.subarray(0, 3 * 61))
  assert.deepEqual([...data.subarray(3 * 61, 3 * 62)], [...wide.subarray(13, 16)]) // the first colour beside the picture
  await assert.rejects(decodeRgb(ref(wide), {maxPixels: 1000}), /64 × 43 pixels, more than the limit/)
})

/** An 8-bit bitmap in run-length codes: runs, or copies of up to nine bytes where `copies`. */
function runLengths(file: Buffer, copies: boolean): Buffer {
  const start = file.readUInt32LE(10)
  const out: number[] = []
  for (let y = 0; y < 43; y++) {
    const row = file.subarray(start + 64 * y, start + 64 * y + 61)
    for (let x = 0; x < 61;) {
      let run = 1
      while (x + run < 61 && row[x + run] === row[x]) run++
      if (copies && run < 3 && x + 5 <= 61) {
        const length = Math.min(9, 61 - x)
        out.push(0, length, ...row.subarray(x, x + length), ...(length % 2 ? [0] : []))
        x += length
      } else {
        out.push(run, row[x]!)
        x += run
      }
    }
    out.push(0, 0)
  }
  const coded = Buffer.concat([file.subarray(0, start), Buffer.from([...out, 0, 1])])
  coded.writeUInt32LE(1, 30)
  return coded
}

test('run-length coded bitmaps are read, and refused where their codes end early', async () => {
  const plain = bmp(image, 8)
  const pixels = await decode(plain)
  for (const copies of [false, true]) {
    const file = runLengths(plain, copies)
    assert.deepEqual(await decode(file), pixels)
    assert.deepEqual((await readMask({path: '', bytes: file})).ids, (await readMask({path: '', bytes: plain})).ids)
    const half = Math.floor((1078 + file.length) / 2)
    await refused(decode(file.subarray(0, half)), /BMP that is cut off/)
    await refused(decode(Buffer.from(file).fill(0, half)), /BMP that is cut off/)
    await refused(decode(Buffer.concat([file.subarray(0, 1078), Buffer.from([5, 9, 0, 1])])), /run-length codes end early/)
  }
  assert.deepEqual(await decode(plain.subarray(0, plain.length - 3)), pixels) // only the padding of the last line is missing
  await refused(decode(plain.subarray(0, plain.length - 4)), /BMP that is cut off/)
  await refused(readMask({path: '', bytes: bmp(image, 24)}), /a picture in colours/)
})

test('portable bitmaps of all kinds, as pictures and as maps', async () => {
  const grey = Uint8Array.from({length: 6}, (_, i) => 40 * i)
  const text = (kind: number, more: string): Buffer => Buffer.from(`P${kind}\n# drawn\n3 2\n${more}`)
  const repeated = (values: ArrayLike<number>): Uint8Array =>
    Uint8Array.from({length: 3 * values.length}, (_, i) => values[Math.floor(i / 3)]!)
  assert.deepEqual(await decode(text(2, `255\n${grey.join(' ')}\n`)), repeated(grey))
  assert.deepEqual(await decode(Buffer.concat([text(5, '255\n'), grey])), repeated(grey))
  assert.deepEqual(await decode(Buffer.concat([text(6, '255\n'), repeated(grey)])), repeated(grey))
  assert.deepEqual(await decode(text(3, `255 ${repeated(grey).join('\n')}`)), repeated(grey))
  for (const bits of [text(1, '101 010'), Buffer.concat([text(4, ''), Buffer.from([0b1010_0000, 0b0100_0000])])])
    assert.deepEqual(await decode(bits), repeated([0, 255, 0, 255, 0, 255]))
  assert.deepEqual(await decode(Buffer.concat([text(5, '15\n'), Buffer.from([0, 3, 5, 9, 12, 15])])), repeated([0, 51, 85, 153, 204, 255]))
  const wide = Buffer.concat([text(5, '65535\n'), Buffer.from([1, 0, 0, 9, 255, 255, 0, 0, 7, 208, 0, 1])])
  assert.deepEqual(await decode(wide), repeated([1, 0, 255, 0, 7, 0]))
  assert.deepEqual([...(await readMask({path: '', bytes: wide})).ids], [256, 9, 65_535, 0, 2000, 1])
  assert.equal((await readDepth({path: '', bytes: wide})).metres[4], 2)
  assert.deepEqual(await decodedSize(ref(wide)), {width: 3, height: 2})
  await refused(decode(wide.subarray(0, wide.length - 1)), /PNM that is cut off/)
  await refused(decode(text(2, '255\n1 2 3')), /PNM that is cut off/)
  await refused(decode(Buffer.concat([text(5, '15\n'), Buffer.from([0, 3, 5, 9, 12, 16])])), /damaged \(a value is above 15\)/)
  await refused(readMask({path: '', bytes: Buffer.concat([text(6, '255\n'), repeated(grey)])}), /PPM\), where one number a pixel/)
})

test('a JPEG or WebP that was filled up with zeros is refused; bytes between the parts of a JPEG cost nothing', async () => {
  const coded = await jpeg(image)
  const pixels = await decode(coded)
  for (const part of [0.5, 0.8, 0.95]) {
    await refused(decode(Buffer.from(coded).fill(0, Math.floor(coded.length * part))), /a JPEG that is cut off/)
    for (const lossless of [false, true]) {
      const file = await raw.clone().webp({lossless}).toBuffer()
      await refused(decode(Buffer.from(file).fill(0, Math.min(file.length - 80, Math.floor(file.length * part)))), /a WebP that is cut off/)
    }
  }
  const header = 4 + coded.readUInt16BE(4)
  const gap = Buffer.concat([coded.subarray(0, header), Buffer.from([0, 7, 0]), coded.subarray(header)])
  assert.deepEqual(await decode(gap), pixels)
  assert.deepEqual(await decode(Buffer.concat([coded, Buffer.alloc(200)])), pixels) // zeros behind the end are no part of it
})

test('relatives of the formats that are read are named', async () => {
  for (const [bytes, reason] of [
    ['\0\0\0\x1cftypavis\0\0\0\0avifmif1', /animated AVIF.* save its first picture/],
    ['qoif\0\0\0\x01', /QOI, which is not read; convert it to PNG/],
    ['P7\nWIDTH 3\n', /portable arbitrary map/],
    [`${'\0'.repeat(128)}DICM\x02\0`, /DICOM.*export its pictures/]
  ] as const)
    await refused(decode(Buffer.from(bytes, 'latin1')), reason)
  await refused(
    decodeRgb({...ref(Buffer.from('\0\0\x02\0\0\0\0\0\0\0\0\0\x04\0\x04\0\x18\0aaaaaaaaaaaa', 'latin1')), id: 'a/b.tga'}),
    /Targa picture, which is not read; convert it to PNG/
  )
  for (const [id, bytes, reason] of [
    ['a.xbm', '#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0x0f};\n', /it is an X bitmap \(XBM\), which is not read/],
    ['a.XPM', '/* XPM */\nstatic char *a[] = {"1 1 1 1", "a c #000000", "a"};\n', /it is an X pixmap \(XPM\)/],
    ['a.spi', '\x3f\x80\0\0'.repeat(64), /it is a SPIDER image, which is not read; convert it to PNG/]
  ] as const)
    await refused(decodeRgb({...ref(Buffer.from(bytes, 'latin1')), id}), reason)
})
