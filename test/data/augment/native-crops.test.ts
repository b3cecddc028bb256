/**
 * The compiled code gives the bytes of the TypeScript, for every change of colour, every order of passes and any
 * size; and refuses what does not fit.
 */
import assert from 'node:assert/strict'
import {chmodSync, mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {makeView, multiCrop} from '../../../src/data/augment/multi-crop.js'
import {ImageCache, makeCache} from '../../../src/data/loader/cache.js'
import {fitGeometry} from '../../../src/data/image/geometry.js'
import {loadNative, prebuildNative, readyNative, type NativePixels} from '../../../src/data/augment/native-crops.js'
import {planView, viewBytes, type ColourChange, type CropSettings, type ViewPlan} from '../../../src/data/augment/crop-params.js'
import {resample, type Raster} from '../../../src/data/image/resample.js'
import {rng, type Rng} from '../../../src/tensor/random.js'
import {cases, raster} from '../../support/pixels.js'
import {folderFor} from '../../support/drawn.js'

let path: string
let native: NativePixels
before(async () => {
  const found = await readyNative()
  assert.ok(found, 'these tests need a C++ compiler')
  path = found
  native = loadNative(path)
})

/** Noise, or bands of few colours (greys and pure colours among them), since both ends of every range matter. */
function picture(random: Rng, width: number, height: number): Raster {
  const kind = random.int(3)
  const data = new Uint8Array(width * height * 3)
  let colour = [0, 0, 0]
  for (let i = 0; i < data.length; i += 3) {
    if (kind === 0 || random.chance(0.1))
      colour = random.chance(0.2) ? Array<number>(3).fill(random.int(256)) : [0, 1, 2].map(() => random.int(256))
    if (kind === 2) colour = colour.map(v => (v < 128 ? 0 : 255))
    data.set(colour, i)
  }
  return {width, height, data}
}

const side = (random: Rng): number =>
  random.chance(0.15) ? 1 + random.int(4) : random.chance(0.1) ? 200 + random.int(500) : 1 + random.int(90)

test('crops are equal byte for byte, at the sizes of training too', () => {
  const settings = (random: Rng): CropSettings => ({
    globalSize: random.chance(0.05) ? 224 : 5 + random.int(60),
    localSize: random.chance(0.1) ? 98 : 5 + random.int(30),
    globalScale: [0.32, 1],
    localScale: [0.05, 0.32],
    localCount: 1 + random.int(4),
    blur: random.chance(0.5) ? 'paper' : 'released',
    blurSigma: [0.05, 3],
    jitter: {brightness: 1, contrast: 1, saturation: 1, hue: 0.5, probability: 0.9},
    solarize: 0.5,
    verticalFlip: random.chance(0.5) ? 0.5 : 0,
    quarterTurns: random.chance(0.5)
  })
  for (let i = 0; i < 150; i++) {
    const random = rng(11, i)
    const image = picture(random, side(random), side(random))
    const chosen = settings(random)
    const expected = multiCrop(3, i, image, chosen)
    assert.equal(Buffer.compare(multiCrop(3, i, image, chosen, {native}), expected), 0, `${i}: ${image.width} × ${image.height}`)
  }
})

test('every colour there is turns, pales and blurs alike', () => {
  // 16.7 million colours are too many for a test of seconds; these are all pairs of channels with some thirds.
  const data = new Uint8Array(256 * 256 * 3)
  const changes: readonly ColourChange[] = [
    {kind: 'hue', turn: 0.1},
    {kind: 'hue', turn: -0.37},
    {kind: 'saturation', factor: 1.2},
    {kind: 'saturation', factor: 0},
    {kind: 'saturation', factor: 1},
    {kind: 'brightness', factor: 0},
    {kind: 'brightness', factor: 1},
    {kind: 'brightness', factor: 1.399},
    {kind: 'contrast', factor: 0},
    {kind: 'contrast', factor: 0.61},
    {kind: 'grey'}
  ]
  for (const [k, change] of changes.entries()) {
    const third = (k * 53) & 255
    for (let i = 0; i < 65536; i++) {
      const three = [i >> 8, i & 255, third]
      for (let c = 0; c < 3; c++) data[3 * i + c] = three[(c + k) % 3]!
    }
    const image = {width: 256, height: 256, data}
    const plan: ViewPlan = {size: 256, box: {x: 0, y: 0, width: 256, height: 256}, flip: false, changes: [change], solarize: false}
    const [ours, theirs] = [new Uint8Array(data.length), new Uint8Array(data.length)]
    makeView(image, plan, ours)
    native.views(image, [plan], theirs)
    assert.equal(Buffer.compare(ours, theirs), 0, JSON.stringify(change))
  }
})

test('resizing is equal byte for byte, in whole and in part, and to what Pillow recorded', () => {
  for (let i = 0; i < 250; i++) {
    const random = rng(12, i)
    const image = picture(random, side(random), side(random))
    const part = (width: number, height: number) => {
      const [w, h] = [1 + random.int(width), 1 + random.int(height)]
      return {x: random.int(width - w + 1), y: random.int(height - h + 1), width: w, height: h}
    }
    const view = random.chance(0.5) ? part(image.width, image.height) : {x: 0, y: 0, width: image.width, height: image.height}
    const size = {
      width: random.chance(0.2) ? view.width : side(random),
      height: random.chance(0.2) ? view.height : side(random)
    }
    const options = {view, flip: random.chance(0.5), ...(random.chance(0.5) ? {window: part(size.width, size.height)} : {})}
    const expected = resample(image, size, options)
    const found = native.resize(image, size, options)
    assert.equal(Buffer.compare(found, expected), 0, `${i}: ${JSON.stringify({image: [image.width, image.height], size, options})}`)
  }
  let recorded = 0
  for (const {op, source, result, box, flip, resize, crop} of cases) {
    if (!['resize', 'crop', 'eval'].includes(op)) continue
    recorded++
    const image = raster(source)
    const area = box && {x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1]}
    const made =
      op === 'resize'
        ? native.resize(image, result)
        : op === 'crop'
          ? native.resize(image, result, {view: area!, flip: flip!})
          : (({size, window}) => native.resize(image, size, {window}))(
              fitGeometry(image.width, image.height, {resize: resize!, crop: crop!})
            )
    assert.deepEqual(made, raster(result).data)
  }
  assert.ok(recorded > 10)
})

test('images in memory that workers share are read where they lie', () => {
  const handle = makeCache(1, 1 << 20)!
  const image = picture(rng(1), 40, 30)
  new ImageCache(handle).put(0, image)
  const shared = new ImageCache(handle).get(0)!
  const chosen: CropSettings = {globalSize: 28, localSize: 14, globalScale: [0.32, 1], localScale: [0.05, 0.32], localCount: 2}
  assert.deepEqual(multiCrop(1, 0, shared, chosen, {native}), multiCrop(1, 0, image, chosen))
})

test('what does not fit is refused with a sentence, and no byte is touched', () => {
  const image = picture(rng(2), 20, 10)
  const good = planView(rng(3), 20, 10, 'local', {
    globalSize: 8,
    localSize: 6,
    globalScale: [0.3, 1],
    localScale: [0.1, 0.3],
    localCount: 1
  })
  const out = new Uint8Array(6 * 6 * 3)
  const wrong = (plan: Partial<ViewPlan>, words: RegExp, picture = image): void =>
    assert.throws(() => native.views(picture, [{...good, ...plan}], out), words)
  wrong({box: {x: 15, y: 0, width: 6, height: 3}}, /cut to lie within 20 x 10/)
  wrong({box: {x: -1, y: 0, width: 6, height: 3}}, /whole number/)
  wrong({box: {x: NaN, y: 0, width: 6, height: 3}}, /whole number/)
  wrong({box: {x: 0.5, y: 0, width: 6, height: 3}}, /whole number/)
  wrong({box: {x: 0, y: 0, width: 0, height: 3}}, /whole number/)
  wrong({size: 7}, /147 bytes to write the views to but received 108/)
  wrong({size: 0}, /side of a view/)
  wrong({size: 1e9}, /side of a view/)
  wrong({size: 4, blur: 1}, /more than 4 pixels/)
  wrong({changes: [{kind: 'brightness', factor: NaN}]}, /a factor/)
  wrong({changes: [{kind: 'contrast', factor: -1}]}, /a factor/)
  wrong({changes: Array<ColourChange>(6).fill({kind: 'grey'})}, /at most 5 changes/)
  wrong({blur: NaN}, /weight of the blur/)
  wrong({}, /600 bytes for 20 x 10 pixels but received 597/, {...image, data: image.data.subarray(3)})
  wrong({}, /the height/, {width: 20, height: 0, data: new Uint8Array(0)})
  wrong({}, /Uint8Array/, {...image, data: new Uint16Array(600) as unknown as Uint8Array})
  assert.ok(out.every(v => v === 0))
  assert.throws(() => native.views(image, [], out), /for each view/)
  assert.throws(() => native.resize(image, {width: 5, height: 5}, {view: {x: 0, y: 0, width: 21, height: 3}}), /view to lie within 20 x 10/)
  assert.throws(
    () => native.resize(image, {width: 5, height: 5}, {window: {x: 0, y: 0, width: 6, height: 3}}),
    /window to lie within 5 x 5/
  )
  assert.throws(() => native.resize(image, {width: 0, height: 5}), /width to resize to|window/)
  assert.equal(viewBytes({globalSize: 8, localSize: 6, globalScale: [0.3, 1], localScale: [0.1, 0.3], localCount: 1}), 492)
})

/** Asks for the addon in a process of its own, with a compiler of ours; → where it is, and what was said. */
async function ask(folder: string, cxx: string): Promise<{path?: string; said: string[]}> {
  const {execFile} = await import('node:child_process')
  const script = `import {readyNative} from '${new URL('../../../src/data/augment/native-crops.js', import.meta.url).href}'
    const said = []
    const path = await readyNative(sentence => said.push(sentence))
    console.log(JSON.stringify({path, said}))`
  return new Promise((resolve, reject) => {
    const env = {...process.env, CXX: cxx, XDG_CACHE_HOME: join(folder, 'cache')}
    execFile(process.execPath, ['--input-type=module', '-e', script], {env}, (error, stdout) =>
      error ? reject(error) : resolve(JSON.parse(stdout) as {path?: string; said: string[]})
    )
  })
}

test('without a compiler, or with a wrong one, one sentence is said and the TypeScript is used', async t => {
  const folder = folderFor(t)
  const none = await ask(folder, join(folder, 'no-such-compiler'))
  assert.equal(none.path, undefined)
  assert.equal(none.said.length, 1)
  assert.match(none.said[0]!, /compiler .* cannot be started .* several times slower\. To mend it: .*(apt install g\+\+|xcode-select)/)

  // A compiler that ends well and leaves something that is no addon.
  const fake = join(folder, 'cxx')
  mkdirSync(join(folder, 'cache'), {recursive: true})
  writeFileSync(fake, '#!/bin/sh\nfor out; do :; done\necho made > "$out"\n')
  chmodSync(fake, 0o755)
  const odd = await ask(folder, fake)
  assert.equal(odd.path, undefined)
  assert.match(odd.said.at(-1)!, /cannot be loaded .* several times slower/)
})

test('the addon that is compiled for the package gives the bytes of the references', async t => {
  const packed = loadNative(await prebuildNative(folderFor(t)))
  const image: Raster = {width: 20, height: 10, data: Uint8Array.from({length: 600}, (_, i) => (i * 37) % 256)}
  const size = {width: 9, height: 13}
  assert.deepEqual(packed.resize(image, size), resample(image, size))
})
