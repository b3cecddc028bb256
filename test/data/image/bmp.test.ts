/** Bitmaps whose header states what cannot be, or what other decoders do not look at. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {decodeRgb, type DecodedImage} from '../../../src/data/image/decode.js'
import {bmp, draw} from '../../support/drawn.js'

const image = draw(32, 24)
const decode = (bytes: Uint8Array): Promise<DecodedImage> => decodeRgb({id: 'x', path: '', fields: {}, bytes})
const colours = async (bytes: Uint8Array): Promise<Uint8Array> => new Uint8Array((await decode(bytes)).data)
/** A copy in which numbers of 32 bits are replaced. */
function edited(file: Buffer, numbers: Readonly<Record<number, number>>): Buffer {
  const copy = Buffer.from(file)
  for (const [at, value] of Object.entries(numbers)) copy.writeUInt32LE(value, Number(at))
  return copy
}

test('pixels begin behind header, masks and palette, or the file is refused', async () => {
  for (const depth of [8, 24, 32] as const) {
    const file = bmp(image, depth)
    assert.deepEqual(await colours(edited(file, {10: 0})), await colours(file), `${depth} bits, no place`)
    for (const place of [1, 14, 40, 53])
      await assert.rejects(decode(edited(file, {10: place})), new RegExp(`at byte ${place}, within its header`))
  }
  const indexed = bmp(image, 8)
  for (const place of [55, 58, 54 + 4 * 20]) await assert.rejects(decode(edited(indexed, {10: place})), /colour \d+ of a palette of \d+/)
})

/** 32 bits with masks of red, green, blue and alpha in a header of version 4. */
function masked(pixels: (at: number) => readonly number[], masks: readonly number[]): Buffer {
  const file = Buffer.alloc(122 + 32 * 24 * 4)
  file.write('BM')
  for (const [at, value] of [[10, 122], [14, 108], [18, 32], [22, 24]] as const) file.writeUInt32LE(value, at) // prettier-ignore
  file.writeUInt16LE(1, 26)
  file.writeUInt16LE(32, 28)
  file.writeUInt32LE(3, 30)
  masks.forEach((mask, k) => file.writeUInt32LE(mask, 54 + 4 * k))
  for (let i = 0; i < 32 * 24; i++) file.set(pixels(i), 122 + 4 * i)
  return file
}

test('alpha that holds the drawing of a bitmap counts as it does in PNG', async () => {
  const masks = [0xff0000, 0xff00, 0xff, 0xff000000]
  const lines = (i: number): number => (i % 5 === 0 ? 255 : 0)
  const art = await decode(masked(i => [0, 0, 0, lines(i)], masks))
  assert.equal(art.ground, 'white')
  assert.equal(new Set(art.data).size, 2)
  const photo = await decode(masked(i => [i % 251, i % 13, i % 7, lines(i)], masks))
  assert.equal(photo.ground, undefined)
  assert.equal(new Set(photo.data).size, 251)
})

test('masks out of which no picture comes are refused, never shown black', async () => {
  const pixels = (i: number): readonly number[] => [i % 251, i % 13, i % 7, 255]
  const right = await colours(masked(pixels, [0xff0000, 0xff00, 0xff, 0]))
  assert.deepEqual(await colours(masked(pixels, [0, 0, 0, 0])), right) // as Pillow has it
  for (const masks of [
    [0, 0xff00, 0xff, 0],
    [0xffff00, 0xff00, 0xff, 0],
    [0xf0f000, 0x0f00, 0xff, 0],
    [0xff0000, 0xff00, 0xff, 0xff],
    [0xffffffff, 0xff00, 0xff, 0]
  ])
    await assert.rejects(decode(masked(pixels, masks)), /BMP that is damaged \(its colours lie in the bits 0x/)
})

test('a PNG whose first part is not its size is not measured by what stands there', async () => {
  const file = Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n\0\0\0\x04tEXta\0bcdefgijklmnop', 'latin1'), Buffer.alloc(40)])
  await assert.rejects(decode(file), /a PNG that is damaged \(its size is not its first part\)/)
})
