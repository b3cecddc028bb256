/**
 * Maps keep their numbers: every PNG, TIFF and NumPy array that can hold a mask or depth, against what other decoders
 * read; the rest is refused with its reason.
 */
import assert from 'node:assert/strict'
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import sharp from 'sharp'
import {RefusedImage} from '../../../src/data/image/decode.js'
import {readDepth, readMask} from '../../../src/data/targets/depth-and-mask-files.js'
import {mapFinder, pairs, type Pair} from '../../../src/data/targets/pairs.js'
import {readPng} from '../../../src/data/image/png.js'
import {listImages} from '../../../src/data/sources/source.js'
import {draw, folderFor, jpeg, png} from '../../support/drawn.js'

const [width, height] = [37, 23]
const bytes = (bytes: Uint8Array) => ({path: '', bytes})
const refused = (work: Promise<unknown>, reason: RegExp): Promise<void> =>
  assert.rejects(work, (error: Error) => error instanceof RefusedImage && reason.test(error.message))

/** A little-endian NumPy file. */
function npy(descr: string, shape: readonly number[], data: ArrayBufferView, more = ''): Buffer {
  const header =
    `{'descr': '${descr}', 'fortran_order': ${more || 'False'}, 'shape': (${shape.join(', ')}${shape.length === 1 ? ',' : ''}), }`.padEnd(
      117
    ) + '\n'
  const head = Buffer.alloc(10)
  head.write('\x93NUMPY\x01\x00', 'latin1')
  head.writeUInt16LE(header.length, 8)
  return Buffer.concat([head, Buffer.from(header), Buffer.from(data.buffer, data.byteOffset, data.byteLength)])
}

const levels = (bits: 8 | 16): Uint8Array | Uint16Array => {
  const data = bits === 8 ? new Uint8Array(width * height) : new Uint16Array(width * height)
  return data.map((_, i) => (i * i * 7 + 13 * (i % width)) % (1 << bits)) as Uint8Array | Uint16Array
}
const grey = (bits: 8 | 16) => sharp(levels(bits), {raw: {width, height, channels: 1}}).toColourspace(bits === 16 ? 'grey16' : 'b-w')

test('grey PNGs of 8 and 16 bits, filtered in every way, interlaced or not', async () => {
  for (const bits of [8, 16] as const)
    for (const progressive of [false, true])
      for (const adaptiveFiltering of [false, true]) {
        const mask = await readMask(bytes(await grey(bits).png({progressive, adaptiveFiltering}).toBuffer()))
        assert.deepEqual([mask.width, mask.height], [width, height])
        assert.deepEqual(mask.ids, levels(bits), `${bits} bits, interlaced ${progressive}`)
      }
})

test('palette PNGs of 1, 2, 4 and 8 bits give indices, and their palette gives the colours', async () => {
  const picture = draw(width, height)
  for (const colours of [2, 4, 16, 200])
    for (const progressive of [false, true]) {
      const file = await sharp(picture.data, {raw: {width, height, channels: 3}})
        .png({palette: true, colours, dither: 0, progressive})
        .toBuffer()
      const {bits, data, palette} = readPng(file)
      assert.equal(bits, {2: 1, 4: 2, 16: 4, 200: 8}[colours])
      const shown = await sharp(file).toColourspace('srgb').removeAlpha().raw().toBuffer()
      const looked = Uint8Array.from({length: width * height * 3}, (_, i) => palette![data[Math.floor(i / 3)]! * 3 + (i % 3)]!)
      assert.deepEqual(looked, new Uint8Array(shown), `${colours} colours`)
      assert.deepEqual((await readMask(bytes(file))).ids, data)
    }
})

test('grey saved as colour counts, colours do not', async () => {
  const same = await sharp(levels(8), {raw: {width, height, channels: 1}})
    .toColourspace('srgb')
    .png()
    .toBuffer()
  assert.equal((await sharp(same).metadata()).channels, 3)
  assert.deepEqual((await readMask(bytes(same))).ids, levels(8))
  await refused(readMask(bytes(await png(draw(width, height)))), /picture in colours/)
})

test('depth in PNG is in millimetres by default; 0 is unknown', async () => {
  const file = await grey(16).png().toBuffer()
  const {metres, known} = await readDepth(bytes(file))
  const data = levels(16)
  assert.ok(data.some(value => value === 0))
  data.forEach((value, i) => assert.equal(metres[i], Math.fround(value * 0.001)))
  assert.equal(known, Array.from(data).filter(value => value > 0).length)
  assert.equal((await readDepth(bytes(file), {scale: 1 / 256})).metres[5], Math.fround(data[5]! / 256))
  await refused(readDepth(bytes(await grey(8).png().toBuffer())), /8 bits a pixel.*--depth-scale/)
  assert.equal((await readDepth(bytes(await grey(8).png().toBuffer()), {scale: 0.1})).metres[1], Math.fround(levels(8)[1]! * 0.1))
})

test('whole-number TIFFs keep their numbers', async () => {
  for (const bits of [8, 16] as const) {
    const file = await grey(bits).tiff({compression: 'lzw'}).toBuffer()
    assert.deepEqual((await readMask(bytes(file))).ids, levels(bits))
  }
  await refused(
    readMask(
      bytes(
        await sharp(await png(draw(4, 4)))
          .tiff()
          .toBuffer()
      )
    ),
    /TIFF of 3 channels/
  )
})

/** A floating-point TIFF of one strip, written by hand: sharp reads them but does not write them. */
function floatTiff(data: Float32Array): Buffer {
  const tags = [
    [256, 4, width],
    [257, 4, height],
    [258, 3, 32],
    [259, 3, 1],
    [262, 3, 1],
    [273, 4, 8],
    [277, 3, 1],
    [278, 4, height],
    [279, 4, data.byteLength],
    [339, 3, 3]
  ] as const
  const head = Buffer.alloc(8)
  head.write('II*\0')
  head.writeUInt32LE(8 + data.byteLength, 4)
  const table = Buffer.alloc(2 + tags.length * 12 + 4)
  table.writeUInt16LE(tags.length, 0)
  tags.forEach(([tag, type, value], i) => {
    table.writeUInt16LE(tag, 2 + i * 12)
    table.writeUInt16LE(type, 4 + i * 12)
    table.writeUInt32LE(1, 6 + i * 12)
    if (type === 3) table.writeUInt16LE(value, 10 + i * 12)
    else table.writeUInt32LE(value, 10 + i * 12)
  })
  return Buffer.concat([head, Buffer.from(data.buffer), table])
}

test('floating-point depth is metres; what is not finite or not above 0 is unknown', async () => {
  const metres = Float32Array.from({length: width * height}, (_, i) => 0.25 * i + 0.1)
  metres.set([NaN, Infinity, -1, 0], 3)
  const wanted = metres.map(value => (value > 0 && value < Infinity ? value : 0))
  for (const file of [floatTiff(metres), npy('<f4', [height, width], metres), npy('<f8', [1, height, width], Float64Array.from(metres))]) {
    const depth = await readDepth(bytes(file))
    assert.deepEqual(depth.metres, wanted)
    assert.equal(depth.known, metres.length - 4)
  }
  assert.equal((await readDepth(bytes(npy('<u2', [1, 2], Uint16Array.of(1500, 0))))).metres[0], 1.5)
  assert.equal((await readDepth(bytes(npy('<f2', [1, 2], Uint16Array.of(0x3e00, 0x7e00))))).metres[0], 1.5)
  await refused(readMask(bytes(npy('<f4', [height, width], metres))), /holds 0\.1.* where class ids/)
  assert.deepEqual((await readMask(bytes(npy('<i8', [1, 3], BigInt64Array.of(0n, 300n, 2n))))).ids, Uint16Array.of(0, 300, 2))
})

test('what is no map is refused with its reason', async () => {
  const file = await grey(16).png().toBuffer()
  await refused(readDepth(bytes(file.subarray(0, file.length - 40))), /PNG that is cut off/)
  const flipped = Buffer.from(file)
  flipped[flipped.indexOf('IDAT') + 20]! ^= 0xff
  await refused(readDepth(bytes(flipped)), /damaged/)
  await refused(readDepth(bytes(await jpeg(draw(8, 8)))), /a JPEG, a format for pictures/)
  await refused(readDepth(bytes(new Uint8Array())), /empty/)
  await refused(readDepth({path: '/no/such/file.png'}), /no such file/)
  await refused(readDepth(bytes(file), {maxPixels: 100}), /37 × 23 pixels, more than the limit/)
  await refused(readDepth(bytes(npy('<c8', [2, 2], new Float32Array(8)))), /NumPy array of <c8/)
  await refused(readDepth(bytes(npy('<f4', [2, 2, 2], new Float32Array(8)))), /shape \(2, 2, 2\)/)
  await refused(readDepth(bytes(npy('<f4', [4, 2], new Float32Array(7)))), /8 numbers of 4 bytes, but 28/)
  const columns = await readMask(bytes(npy('|u1', [2, 3], Uint8Array.of(1, 4, 2, 5, 3, 6), 'True')))
  assert.deepEqual([columns.width, columns.height, [...columns.ids]], [3, 2, [1, 2, 3, 4, 5, 6]])
  assert.deepEqual((await readMask(bytes(npy('>u2', [1, 2], Uint8Array.of(1, 0, 0, 7))))).ids, Uint16Array.of(256, 7))
})

test('maps are found by a field of the list or under the same path in a folder', async t => {
  const root = folderFor(t)
  for (const folder of ['images/train/a', 'images/val', 'depth/train/a', 'depth/val', 'two'])
    mkdirSync(join(root, folder), {recursive: true})
  const picture = await png(draw(8, 8))
  const map = await sharp(new Uint16Array(64).fill(900), {raw: {width: 8, height: 8, channels: 1}})
    .toColourspace('grey16')
    .png()
    .toBuffer()
  for (const name of ['images/train/a/1.png', 'images/train/a/2.jpg', 'images/val/3.png', 'images/val/4.png'])
    writeFileSync(join(root, name), picture)
  for (const name of [
    'depth/train/a/1.png',
    'depth/train/a/2.tif',
    'depth/val/3.npy',
    'depth/val/4.npy',
    'depth/val/4.png',
    'depth/val/4.txt'
  ])
    writeFileSync(join(root, name), map)
  const collect = async (inputs: string[], options: Omit<Parameters<typeof pairs>[1], 'field'>) => {
    const bad: string[] = []
    const found: Pair[] = []
    for await (const pair of pairs(listImages(inputs), {
      field: 'depth',
      ...options,
      onRejected: ({path, reason}) => bad.push(`${path.slice(root.length + 1)}: ${reason}`)
    }))
      found.push(pair)
    return {found: found.map(({image, map}) => [image.path.slice(root.length + 1), String(map.path).slice(root.length + 1)]), bad}
  }
  const [train, val] = [join(root, 'images/train'), join(root, 'images/val')]
  const both = await collect([train, val], {folder: join(root, 'depth'), roots: [train, val]})
  assert.deepEqual(both.found, [
    ['images/train/a/1.png', 'depth/train/a/1.png'],
    ['images/train/a/2.jpg', 'depth/train/a/2.tif'],
    ['images/val/3.png', 'depth/val/3.npy']
  ])
  assert.match(both.bad.join(), /images\/val\/4\.png: it has 2 depth maps: 4\.npy, 4\.png/)
  // One folder: relative to it, or to it and its name.
  for (const folder of ['depth/train', 'depth'])
    assert.equal((await collect([train], {folder: join(root, folder), roots: [train]})).found.length, 2, folder)
  // Two folders never share the maps of one: names that come in both would be mixed up.
  assert.equal((await collect([train, val], {folder: join(root, 'depth/train'), roots: [train, val]})).found.length, 0)
  assert.match(
    (await collect([train], {folder: join(root, 'two'), roots: [train]})).bad[0]!,
    /no depth map: there is no .*two\/a\/1\.png, \.tif or \.npy/
  )

  writeFileSync(join(root, 'images/list.csv'), 'path,depth\ntrain/a/1.png,../depth/val/3.npy\nval/3.png,\n')
  const listed = await collect([join(root, 'images/list.csv')], {})
  assert.deepEqual(listed.found, [['images/train/a/1.png', 'depth/val/3.npy']])
  assert.match(listed.bad[0]!, /its row has no field depth/)
  const mask = await mapFinder({field: 'mask'})({id: 'x', path: 'x', fields: {mask: 'm.png'}})
  assert.deepEqual(mask, {path: 'm.png'})
})
