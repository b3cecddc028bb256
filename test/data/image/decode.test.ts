/**
 * Good images of every kind come out upright, in sRGB; bad ones are refused with a sentence that says what they are.
 */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {fileURLToPath} from 'node:url'
import sharp from 'sharp'
import {decodeRgb, loadPixels, RefusedImage} from '../../../src/data/image/decode.js'
import {listImages, type ImageRef, type SourceNote} from '../../../src/data/sources/source.js'
import {bmp, draw, folderFor, gif, jpeg, png, tiff, webp} from '../../support/drawn.js'
import {resample} from '../../../src/data/image/resample.js'
import {difference} from '../../support/pixels.js'

const image = draw(37, 23)
const of = (bytes: Uint8Array, id = 'x'): ImageRef => ({id, path: '', fields: {}, bytes})
const refused = (bytes: Uint8Array, reason: RegExp, options?: {maxPixels?: number}): Promise<void> =>
  assert.rejects(decodeRgb(of(bytes), options), (error: Error) => error instanceof RefusedImage && reason.test(error.message))

test('lossless formats give back their pixels', async () => {
  for (const write of [png, webp, tiff]) {
    const {width, height, data} = await decodeRgb(of(await write(image)))
    assert.deepEqual([width, height], [37, 23])
    assert.deepEqual(new Uint8Array(data), image.data)
  }
  assert.ok(difference(new Uint8Array((await decodeRgb(of(await gif(image)))).data), image.data).mean < 12)
  assert.ok(difference(new Uint8Array((await decodeRgb(of(await jpeg(image)))).data), image.data).mean < 3)
})

test('bitmaps of all depths, bottom-up and top-down', async () => {
  for (const depth of [24, 32] as const)
    for (const down of [false, true]) assert.deepEqual((await decodeRgb(of(bmp(image, depth, down)))).data, image.data)
  for (const depth of [1, 4, 8] as const) {
    const levels = (1 << depth) - 1
    const {data} = await decodeRgb(of(bmp(image, depth)))
    const expected = Uint8Array.from(image.data, (_, i) => Math.round(((image.data[i - (i % 3)]! >> (8 - depth)) * 255) / levels))
    assert.deepEqual(data, expected)
  }
  await refused(bmp(image, 24).subarray(0, 900), /BMP that is cut off/)
  const coded = bmp(image, 8)
  coded.writeUInt32LE(4, 30)
  await refused(coded, /BMP compressed by method 4, which is not read; convert it to PNG/)
})

test('all eight orientations give the same upright picture', async () => {
  const upright = (await decodeRgb(of(await jpeg(image, 1)))).data
  for (let orientation = 2; orientation <= 8; orientation++) {
    // Stored so that the orientation turns it upright again.
    const back = [0, 1, 2, 3, 4, 5, 8, 7, 6][orientation]!
    const stored = await sharp(
      await sharp(Buffer.from(image.data), {raw: {width: 37, height: 23, channels: 3}})
        .withMetadata({orientation: back})
        .jpeg()
        .toBuffer()
    )
      .autoOrient()
      .raw()
      .toBuffer({resolveWithObject: true})
    const made = await decodeRgb(of(await jpeg({width: stored.info.width, height: stored.info.height, data: stored.data}, orientation)))
    assert.deepEqual([made.width, made.height], [37, 23], `orientation ${orientation}`)
    assert.ok(difference(new Uint8Array(made.data), new Uint8Array(upright)).mean < 4, `orientation ${orientation}`)
  }
})

test('alpha is dropped, grey is replicated, 16 bits keep their upper byte', async () => {
  const rgba = new Uint8Array(37 * 23 * 4)
  for (let i = 0; i < 37 * 23; i++) rgba.set([image.data[3 * i]!, image.data[3 * i + 1]!, image.data[3 * i + 2]!, i % 256], 4 * i)
  const veiled = await sharp(rgba, {raw: {width: 37, height: 23, channels: 4}})
    .png()
    .toBuffer()
  assert.deepEqual(new Uint8Array((await decodeRgb(of(veiled))).data), image.data)

  const grey = Uint8Array.from({length: 37 * 23}, (_, i) => (i * 3) % 256)
  const single = await sharp(grey, {raw: {width: 37, height: 23, channels: 1}})
    .toColourspace('b-w')
    .png()
    .toBuffer()
  assert.deepEqual(
    new Uint8Array((await decodeRgb(of(single))).data),
    Uint8Array.from({length: grey.length * 3}, (_, i) => grey[Math.floor(i / 3)]!)
  )

  const wide = Uint16Array.from({length: 37 * 23 * 3}, (_, i) => (i * 977) % 65536)
  const deep = await sharp(wide, {raw: {width: 37, height: 23, channels: 3}})
    .toColourspace('rgb16')
    .png()
    .toBuffer()
  assert.deepEqual(
    new Uint8Array((await decodeRgb(of(deep))).data),
    Uint8Array.from(wide, v => v >> 8)
  )
})

test('what is no image is named', async () => {
  await refused(Buffer.alloc(0), /the file is empty/)
  await refused(Buffer.from('hello there'), /it is text/)
  await refused(Buffer.from('<!DOCTYPE html><html><body>404'), /HTML page/)
  await refused(Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4'), /Git LFS pointer/)
  await refused(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), /SVG drawing/)
  await refused(Buffer.from('<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaa">]><svg>&a;</svg>'), /SVG drawing/)
  await refused(Buffer.from('PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), /zip archive/)
  await refused(Buffer.alloc(4096), /nothing but zeros/)
  await refused(Buffer.from('\0\0\0\x18ftypheic\0\0\0\0heicmif1', 'latin1'), /HEIC/)
  await refused(Buffer.from('\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0', 'latin1'), /JPEG 2000/)
  await refused(Buffer.from('%PDF-1.7 and so on'), /PDF/)
  const photo = await jpeg(draw(200, 150))
  await refused(photo.subarray(0, Math.floor(photo.length * 0.6)), /JPEG that is cut off or damaged/)
  await refused(photo.subarray(0, 3), /cut off after 3 bytes/)
  const half = await png(draw(200, 150))
  await refused(half.subarray(0, half.length >> 1), /PNG that is cut off or damaged/)
  await assert.rejects(decodeRgb({id: 'n', path: '/nowhere/at/all.png', fields: {}}), /there is no such file/)
  await assert.rejects(decodeRgb({id: 'n', path: '/', fields: {}}), /it is a folder/)
  await assert.rejects(decodeRgb({id: 'n', path: '/dev/null', fields: {}}), /a device or a pipe/)
  await assert.rejects(decodeRgb({id: 'n', path: '', fields: {}, problem: 'line 3 of a.csv has no path'}), /line 3 of a.csv/)
})

test('too many pixels are refused before decoding', async () => {
  const large = await png(draw(300, 200))
  await refused(large, /300 × 200 pixels, more than the limit of 50000/, {maxPixels: 50_000})
  await refused(await jpeg(draw(300, 200)), /300 × 200 pixels, more than the limit of 50000/, {maxPixels: 50_000})
  large.writeUInt32BE(2147483647, 16)
  large.writeUInt32BE(2147483647, 20)
  await refused(large, /2147483647 × 2147483647/)
  await assert.rejects(
    loadPixels(of(await png(draw(2000, 1))), {resize: 256, patch: 14}),
    /would become 512008 × 252|would become \d+ × \d+ pixels/
  )
})

test('made ready: the size that was asked for, whatever the shape', async () => {
  for (const [w, h] of [
    [1, 1],
    [2, 3],
    [13, 13],
    [223, 517],
    [5000, 2]
  ] as const) {
    const {width, height, data} = await loadPixels(of(await png(draw(w, h))), {resize: 256, crop: 224})
    assert.deepEqual([width, height, data.length], [224, 224, 224 * 224 * 3])
  }
  const whole = await loadPixels(of(await png(draw(100, 60))), {resize: 56, patch: 14})
  assert.deepEqual([whole.width, whole.height], [98, 56])
})

type Expected = {path: string; expect: string}

/** Holds a folder of odd files to what is expected of each. */
async function judge(folder: string, rows: readonly Expected[]): Promise<void> {
  const notes: SourceNote[] = []
  const seen = new Map<string, {ref: ImageRef; outcome: string}>()
  for await (const ref of listImages([folder], {onSkipped: note => notes.push(note)})) {
    const outcome = await loadPixels(ref, {resize: 256, crop: 224}).then(
      ({data}) => (data.length === 150528 ? 'decode' : 'odd size'),
      (error: Error) => (error instanceof RefusedImage ? `refuse: ${error.message}` : `defect: ${error.stack}`)
    )
    assert.ok(!outcome.startsWith('defect'), outcome)
    assert.ok(!seen.has(ref.id), `${ref.id} comes twice`)
    seen.set(ref.id, {ref, outcome})
  }
  for (const {path, expect} of rows) {
    const id = `${folder}/${path}`
    const outcome = seen.get(id)?.outcome
    const skipped = notes.find(note => note.path === id || note.path.startsWith(`${id}/`))
    const said = `${path} (${expect}): ${outcome ?? `skipped: ${skipped?.reason ?? 'and nothing said'}`}`
    if (/^decode or skip|^skip|^do not recurse/.test(expect)) assert.ok(outcome === 'decode' || (outcome === undefined && skipped), said)
    else if (/^(clear error or|decode or|decode with garbage|refuse or)/.test(expect)) assert.ok(outcome !== undefined, said)
    else if (/^(clear error|refuse)/.test(expect)) assert.match(outcome ?? '', /^refuse: .{10}/, said)
    else assert.equal(outcome, 'decode', said)
  }
}

test('a folder of hostile files, made here', async t => {
  const folder = folderFor(t)
  const good = await jpeg(draw(60, 40))
  const rows: Expected[] = []
  const put = (path: string, bytes: Uint8Array | string, expect: string): void => {
    mkdirSync(join(folder, path, '..'), {recursive: true})
    writeFileSync(join(folder, path), bytes)
    rows.push({path, expect})
  }
  for (const name of [
    'ok.jpg',
    'UPPER.JPG',
    'no_extension',
    'png_by_name.png',
    'a/b/c/d/e/leaf.jpg',
    'names/with space.jpg',
    'names/new\nline.jpg',
    'names/-dash.jpg',
    'names/%2e%2e%2f.jpg',
    'names/ünï_図_🌲.jpg'
  ])
    put(name, good, 'decode')
  put('ok.bmp', bmp(draw(9, 9), 8), 'decode')
  put('empty.jpg', '', 'clear error')
  put('text.jpg', 'not a picture', 'clear error')
  put('cut.jpg', good.subarray(0, good.length >> 1), 'clear error')
  const bomb = await png(draw(8, 8))
  bomb.writeUInt32BE(60_000, 16)
  bomb.writeUInt32BE(60_000, 20)
  put('bomb.png', bomb, 'refuse before decoding')
  put('.hidden.jpg', good, 'decode or skip, said so')
  put('Thumbs.db', 'x', 'skip')
  put('dir_named.jpg/.keep', '', 'skip')
  symlinkSync('../ok.jpg', join(folder, 'names/good_link.jpg'))
  symlinkSync('nowhere.jpg', join(folder, 'dangling.jpg'))
  symlinkSync('loop.jpg', join(folder, 'loop.jpg'))
  symlinkSync('..', join(folder, 'a/parent'))
  rows.push(
    {path: 'names/good_link.jpg', expect: 'decode'},
    {path: 'dangling.jpg', expect: 'clear error'},
    {path: 'loop.jpg', expect: 'clear error'},
    {path: 'a/parent', expect: 'do not recurse for ever'}
  )
  const odd = Buffer.concat([Buffer.from(`${folder}/latin1_`), Buffer.from([0xe9]), Buffer.from('.jpg')])
  writeFileSync(odd, good)
  rows.push({path: 'latin1_\\xe9.jpg', expect: 'decode'})
  await judge(folder, rows)
})

const shared = fileURLToPath(new URL('../../../../../shared/data/hostile/', import.meta.url))

// Lies beside some checkouts only; the folder made above holds equivalents and is judged everywhere.
if (existsSync(shared))
  test('the recorded hostile set', async t => {
    const folder = folderFor(t)
    execFileSync('tar', ['xf', join(shared, 'hostile.tar'), '-C', folder])
    const rows = readFileSync(join(shared, 'expect.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Expected)
    assert.ok(rows.length > 80)
    await judge(join(folder, 'hostile'), rows)
    const turned = async (n: number) => decodeRgb({id: '', path: join(folder, `hostile/exif/orientation_${n}.jpg`), fields: {}})
    const upright = await turned(1)
    for (let n = 2; n <= 8; n++) {
      const other = await turned(n)
      assert.deepEqual([other.width, other.height], [upright.width, upright.height])
      assert.ok(difference(new Uint8Array(other.data), new Uint8Array(upright.data)).mean < 4, `orientation ${n}`)
    }
  })

test('a JPEG shrinks while it is decoded where that is asked for: upright, floor of its sides, nearly as if it was resized afterwards', async t => {
  const folder = folderFor(t)
  const image = draw(417, 301)
  const ref = (name: string): ImageRef => ({id: name, path: join(folder, name), fields: {}})
  writeFileSync(
    join(folder, 'plain.jpg'),
    await sharp(image.data, {raw: {width: 417, height: 301, channels: 3}})
      .jpeg({quality: 95})
      .toBuffer()
  )
  writeFileSync(
    join(folder, 'turned.jpg'),
    await sharp(image.data, {raw: {width: 417, height: 301, channels: 3}})
      .jpeg({quality: 95})
      .withMetadata({orientation: 6})
      .toBuffer()
  )
  writeFileSync(join(folder, 'plain.png'), await png(image))
  const asked: string[] = []
  const by = (factor: number) => ({
    shrink: (width: number, height: number): number => {
      asked.push(`${width} × ${height}`)
      return factor
    }
  })
  for (const name of ['plain.jpg', 'turned.jpg']) {
    const full = await decodeRgb(ref(name))
    assert.deepEqual(await decodeRgb(ref(name), by(1)), full)
    for (const factor of [2, 4, 8]) {
      const small = await decodeRgb(ref(name), by(factor))
      const size = {width: Math.floor(full.width / factor), height: Math.floor(full.height / factor)}
      assert.deepEqual({width: small.width, height: small.height}, size)
      const {mean} = difference(new Uint8Array(small.data), resample(full, size))
      assert.ok(mean < 4, `${name} ${factor}: ${mean}`)
    }
  }
  assert.deepEqual([...new Set(asked)], ['417 × 301', '301 × 417'])
  assert.deepEqual(await decodeRgb(ref('plain.png'), by(4)), await decodeRgb(ref('plain.png')))
  writeFileSync(join(folder, 'cut.jpg'), readFileSync(join(folder, 'plain.jpg')).subarray(0, 900))
  await assert.rejects(decodeRgb(ref('cut.jpg'), by(4)), RefusedImage)
})
