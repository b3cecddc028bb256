/**
 * TIFF beyond what sharp writes: Zstandard, palettes and signed numbers as they are stored, files with tags of other
 * programs, and damage that the decoder only warns of.
 */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {test} from 'node:test'
import sharp from 'sharp'
import {decodeTiffNumbers} from '../../../src/data/image/decode-numbers.js'
import {decodeRgb, RefusedImage} from '../../../src/data/image/decode.js'
import {readDepth, readMask} from '../../../src/data/targets/depth-and-mask-files.js'
import {rng} from '../../../src/tensor/random.js'
import {golden} from '../../support/scratch.js'
import {draw} from '../../support/drawn.js'

type Recorded = {
  readonly pictures: Readonly<Record<string, string>>
  readonly numbers: Readonly<Record<string, {readonly file: string; readonly values: readonly number[]}>>
  readonly refused: Readonly<Record<string, string>>
}
const recorded = JSON.parse(readFileSync(golden('tiff.json'), 'utf8')) as Recorded
const bytesOf = (base64: string): Buffer => Buffer.from(base64, 'base64')
const decode = (bytes: Uint8Array): Promise<Uint8Array> =>
  decodeRgb({id: 'x', path: '', fields: {}, bytes}).then(({data}) => new Uint8Array(data))

test('Zstandard in strips, tiles, planes, BigTIFF and with predictors gives the pixels that were stored', async () => {
  const pixels = draw(24, 16).data
  for (const [name, file] of Object.entries(recorded.pictures)) assert.deepEqual(await decode(bytesOf(file)), pixels, name)
})

test('numbers stay as they are stored: signed, of 1 and of 32 bits, indices of a palette', async () => {
  for (const [name, {file, values}] of Object.entries(recorded.numbers)) {
    const {width, height, kind, data} = await decodeTiffNumbers(bytesOf(file))
    assert.deepEqual([width, height, kind], [24, 16, name.startsWith('float') ? 'float' : 'whole'], name)
    assert.ok(
      values.every((value, i) => Math.abs(value - data[i]!) < 1e-4),
      name
    )
  }
  const {file, values} = recorded.numbers['indices']!
  const mask = await readMask({path: '', bytes: bytesOf(file)})
  assert.deepEqual([...mask.ids], values)
  // colour c of index k is 80 (256 c + k) of 65,536 in the file, whose upper byte counts
  const colour = (k: number, c: number): number => ((256 * c + k) * 80) >> 8
  for (const k of [0, 1, 255]) for (const c of [0, 1, 2]) assert.equal(mask.palette![3 * k + c], colour(k, c) & 255)
  await assert.rejects(readMask({path: '', bytes: bytesOf(recorded.numbers['signed 8']!.file)}), /holds -3, where class ids/)
  const depth = await readDepth({path: '', bytes: bytesOf(recorded.numbers['float']!.file)})
  assert.ok(Math.abs(depth.metres[25]! - (0.13 + 0.7 + 0.5)) < 1e-5)
})

test('what is not read is refused by name and says what to do', async () => {
  for (const [name, file] of Object.entries(recorded.refused)) {
    const reason = (error: Error): boolean =>
      error instanceof RefusedImage && new RegExp(name).test(error.message) && /; save it /.test(error.message)
    await assert.rejects(decode(bytesOf(file)), reason, name)
    await assert.rejects(decodeTiffNumbers(bytesOf(file)), reason, name)
  }
})

/** The file with three more tags, which only programs for maps know. */
function withForeignTags(file: Buffer): Buffer {
  const start = file.readUInt32LE(4)
  const count = file.readUInt16LE(start)
  const entries = Array.from({length: count}, (_, i) => file.subarray(start + 2 + 12 * i, start + 14 + 12 * i))
  for (const tag of [33550, 34735, 42113]) {
    const entry = Buffer.alloc(12)
    entry.writeUInt16LE(tag, 0)
    entry.writeUInt16LE(4, 2)
    entry.writeUInt32LE(1, 4)
    entries.push(entry)
  }
  entries.sort((a, b) => a.readUInt16LE(0) - b.readUInt16LE(0))
  const head = Buffer.alloc(2)
  head.writeUInt16LE(entries.length)
  const out = Buffer.concat([file, head, ...entries, Buffer.alloc(4)])
  out.writeUInt32LE(file.length, 4)
  return out
}

const image = draw(61, 45)
const raw = sharp(image.data, {raw: {width: 61, height: 45, channels: 3}})

test('a strip or tile that does not unpack is refused, also beside tags that only others know', async () => {
  for (const compression of ['lzw', 'packbits', 'deflate'] as const)
    for (const tile of [false, true]) {
      const file = await raw.clone().tiff({compression, predictor: 'none', tile, tileWidth: 16, tileHeight: 16}).toBuffer()
      const maps = withForeignTags(file)
      assert.deepEqual(await decode(maps), image.data)
      const name = `${compression}${tile ? ' in tiles' : ''}`
      for (const whole of [file, maps])
        for (const part of [0.3, 0.6, 0.9]) {
          const [from, to] = [Math.floor(8 + (file.length - 400) * part), file.length - 300]
          const zeros = Buffer.from(whole).fill(0, from, Math.max(from + 8, Math.min(to, from + 4000)))
          await assert.rejects(decode(zeros), RefusedImage, `${name}, zeros from ${part} on`)
        }
      if (compression === 'packbits') continue // its codes all exist
      let refused = 0
      for (let i = 0; i < 12; i++) {
        const damaged = Buffer.from(maps)
        const at = 40 + rng(5, name, i).int(file.length - 700)
        for (let k = 0; k < 16; k++) damaged[at + k] = rng(6, name, i, k).int(256)
        await decode(damaged).catch((error: unknown) => {
          assert.ok(error instanceof RefusedImage)
          refused++
        })
      }
      assert.ok(refused >= 8, `${name}: ${refused} of 12 damaged files were refused`)
    }
})

test('a directory or a palette that is cut off is refused; other pictures of the file do not count', async () => {
  const palette = bytesOf(recorded.numbers['indices']!.file)
  const start = palette.readUInt32LE(4)
  await assert.rejects(decode(palette.subarray(0, start + 40)), RefusedImage)
  const without = Buffer.from(palette)
  for (let i = 0; i < without.readUInt16LE(start); i++)
    if (without.readUInt16LE(start + 2 + 12 * i) === 320) without.writeUInt16LE(60_000, start + 2 + 12 * i)
  await assert.rejects(decode(without), /its palette is missing/)
  const file = await raw.clone().tiff({compression: 'lzw'}).toBuffer()
  const directory = file.readUInt32LE(4)
  const next = directory + 2 + 12 * file.readUInt16LE(directory)
  const two = Buffer.from(file)
  two.writeUInt32LE(file.length - 3, next) // a second picture that is not there
  assert.deepEqual(await decode(two), image.data)
})

test('a strip that would begin within the header is refused', async () => {
  const file = await raw.clone().tiff({compression: 'none'}).toBuffer()
  const view = new DataView(file.buffer, file.byteOffset, file.length)
  const at = view.getUint32(4, true)
  const entry = Array.from({length: view.getUint16(at, true)}, (_, i) => at + 2 + 12 * i).find(p => view.getUint16(p, true) === 273)!
  const place = view.getUint32(entry + 4, true) === 1 ? entry + 8 : view.getUint32(entry + 8, true)
  for (const value of [0, 1, 7]) {
    view.setUint32(place, value, true)
    await assert.rejects(decode(file), /a strip or tile would begin within its header/)
  }
})
