/**
 * Crops are drawn as torchvision draws them, each view on its own stream, and the same position gives the same bytes.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {changeColours, makeView as makePlanned, multiCrop} from '../../../src/data/augment/multi-crop.js'
import {gaussianBlur, solarize, toGrey} from '../../../src/data/augment/color.js'
import {
  BLUR,
  drawJitter,
  planView,
  randomCropBox,
  shrinkOf,
  viewBytes,
  type CropSettings,
  type CropView
} from '../../../src/data/augment/crop-params.js'
import {resample, type Raster} from '../../../src/data/image/resample.js'
import {rng, type Rng} from '../../../src/tensor/random.js'
import {draw} from '../../support/drawn.js'

const settings: CropSettings = {globalSize: 32, localSize: 16, globalScale: [0.32, 1], localScale: [0.05, 0.32], localCount: 4}
/** Draws a view and makes it. */
const makeView = (random: Rng, image: Raster, view: CropView, chosen: CropSettings, out: Uint8Array): void =>
  makePlanned(image, planView(random, image.width, image.height, view, chosen), out)
/** Nothing but the cut and what is asked for. */
const bare = (more: Partial<CropSettings> = {}): CropSettings => ({
  ...settings,
  flip: 0,
  grey: 0,
  solarize: 0,
  jitter: {brightness: 0, contrast: 0, saturation: 0, hue: 0, probability: 0},
  ...more
})

test('boxes lie inside, with areas and shapes of the asked-for range', () => {
  const [w, h] = [300, 200]
  const areas: number[] = []
  for (let i = 0; i < 4000; i++) {
    const box = randomCropBox(rng(1, i), w, h, [0.05, 0.32])
    assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= w && box.y + box.height <= h)
    const shape = box.width / box.height
    assert.ok(shape > 0.75 * 0.97 && shape < (4 / 3) * 1.03)
    areas.push((box.width * box.height) / (w * h))
  }
  const mean = areas.reduce((a, b) => a + b, 0) / areas.length
  assert.ok(Math.abs(mean - 0.185) < 0.006, `${mean}`) // even over [0.05, 0.32]; nothing of that is rejected in a 3:2 image
  assert.ok(Math.min(...areas) < 0.056 && Math.max(...areas) > 0.31)
})

test('an image too long for any try gives the centred rectangle of the nearest shape', () => {
  assert.deepEqual(randomCropBox(rng(1), 1000, 10, [0.9, 1]), {x: 493, y: 0, width: 13, height: 10})
  assert.deepEqual(randomCropBox(rng(1), 10, 1000, [0.9, 1]), {x: 0, y: 493, width: 10, height: 13})
  assert.deepEqual(randomCropBox(rng(1), 20000, 2, [0.5, 1]), {x: 9998, y: 0, width: 3, height: 2})
  const dot = randomCropBox(rng(1), 1, 1, [0.05, 0.32])
  assert.deepEqual(dot, {x: 0, y: 0, width: 1, height: 1})
})

test('a view without changes is the resized cut, and a flip is drawn for half of them', () => {
  const image = draw(60, 50)
  for (let i = 0; i < 20; i++) {
    const out = new Uint8Array(16 * 16 * 3)
    makeView(rng(2, i), image, 'local', bare({blur: 'paper', blurSigma: [0.01, 0.011]}), out) // a blur too narrow to move a byte
    const random = rng(2, i)
    const view = randomCropBox(random, 60, 50, settings.localScale)
    assert.deepEqual(out, resample(image, {width: 16, height: 16}, {view}))
  }
  let flips = 0
  for (let i = 0; i < 1000; i++) {
    const random = rng(3, i)
    const out = new Uint8Array(32 * 32 * 3)
    makeView(random, image, 'global1', {...bare(), flip: 0.5, globalScale: [1, 1], ratio: [1.2, 1.2]}, out)
    if (out[0]! > out[31 * 3]!) flips++ // red grows to the right
  }
  assert.ok(Math.abs(flips - 500) < 80, `${flips}`)
})

test('each kind of view gets its changes as often as it should', () => {
  const image = draw(40, 40)
  const often = (
    view: 'global1' | 'global2' | 'local',
    more: Partial<CropSettings>,
    change: (pixels: Uint8Array, size: number) => void
  ): number => {
    let count = 0
    const plain = bare({globalScale: [1, 1], localScale: [1, 1], ratio: [1, 1], blurSigma: [0.001, 0.0011], ...more})
    const size = view === 'local' ? 16 : 32
    const still = resample(image, {width: size, height: size})
    const changed = still.slice()
    change(changed, size)
    for (let i = 0; i < 600; i++) {
      const out = new Uint8Array(size * size * 3)
      makeView(rng(5, view, i), image, view, plain, out)
      if (Buffer.compare(out, changed) === 0) count++
      else assert.equal(Buffer.compare(out, still), 0)
    }
    return count / 600
  }
  const near = (value: number, expected: number): void => assert.ok(Math.abs(value - expected) < 0.085, `${value} instead of ${expected}`)
  const blur = (pixels: Uint8Array, size: number): void => gaussianBlur(pixels, size, 1)
  for (const kind of ['released', 'paper'] as const)
    for (const [i, view] of (['global1', 'global2', 'local'] as const).entries())
      near(often(view, {blur: kind, blurSigma: [1, 1]}, blur), BLUR[kind][i]!)
  for (const view of ['global1', 'global2', 'local'] as const) {
    near(often(view, {grey: 0.2}, toGrey), 0.2)
    near(
      often(view, {solarize: 0.2}, pixels => solarize(pixels, 128)),
      view === 'global2' ? 0.2 : 0
    )
  }
  assert.deepEqual(
    [BLUR.released, BLUR.paper],
    [
      [0, 0.9, 0.5],
      [1, 0.1, 0.5]
    ]
  )
})

test('jitter of no strength changes nothing, and order is drawn', () => {
  const image = draw(20, 20).data
  assert.deepEqual(drawJitter(rng(1), {brightness: 0, contrast: 0, saturation: 0, hue: 0}), [])
  const seen = new Set<string>()
  for (let i = 0; i < 60; i++) {
    const pixels = image.slice()
    for (const change of drawJitter(rng(6, i), {brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1})) changeColours(pixels, change)
    seen.add(Buffer.from(pixels).toString('latin1'))
  }
  assert.equal(seen.size, 60)
})

test('crops are a function of seed and position alone; views do not shift one another', () => {
  const image = draw(70, 50)
  const one = multiCrop(1, 12, image, settings)
  assert.equal(one.length, viewBytes(settings))
  assert.deepEqual(multiCrop(1, 12, image, settings), one)
  assert.notDeepEqual(multiCrop(1, 13, image, settings), one)
  assert.notDeepEqual(multiCrop(2, 12, image, settings), one)
  const fewer = multiCrop(1, 12, image, {...settings, localCount: 2})
  assert.deepEqual(fewer, one.subarray(0, fewer.length))
  const [first, second] = [one.subarray(0, 3072), one.subarray(3072, 6144)]
  assert.notDeepEqual(first, second)
})

test('a photo shrinks in decoding only so far that no crop comes out of fewer pixels than it has', () => {
  const published: CropSettings = {globalSize: 224, localSize: 98, globalScale: [0.32, 1], localScale: [0.05, 0.32], localCount: 8}
  assert.deepEqual(
    [shrinkOf(4032, 3024, published), shrinkOf(2000, 1500, published), shrinkOf(1000, 750, published), shrinkOf(300, 200, published)],
    [4, 2, 1, 1]
  )
  for (let i = 0; i < 300; i++) {
    const random = rng(7, i)
    const [width, height] = [100 + random.int(6000), 100 + random.int(6000)]
    const by = shrinkOf(width, height, published)
    if (by === 1) continue
    const {size, box} = planView(random, Math.floor(width / by), Math.floor(height / by), i % 2 ? 'local' : 'global1', published)
    const shape = width / height
    if (shape < 3 && shape > 1 / 3)
      assert.ok(box.width >= size - 1 && box.height >= size - 1, `${width} × ${height}: ${box.width} × ${box.height}`)
  }
})

test('turns and vertical flips come last, as often as asked, and leave all other draws as they are', () => {
  const image = draw(40, 40)
  const chosen = {...settings, verticalFlip: 0.25, quarterTurns: true}
  const seen = new Map<number, number>()
  for (let i = 0; i < 1000; i++) {
    const {orientation = 1, ...rest} = planView(rng(4, i), 40, 40, 'local', chosen)
    seen.set(orientation, (seen.get(orientation) ?? 0) + 1)
    assert.deepEqual(rest, planView(rng(4, i), 40, 40, 'local', settings))
  }
  for (const upright of [1, 6, 3, 8]) assert.ok(Math.abs(seen.get(upright)! - 187) < 50, `${upright}: ${seen.get(upright)}`)
  for (const mirrored of [4, 5, 2, 7]) assert.ok(Math.abs(seen.get(mirrored)! - 62) < 32, `${mirrored}: ${seen.get(mirrored)}`)

  // each view is the plain one, turned and mirrored as its plan says
  const only = (verticalFlip: number): Uint8Array => multiCrop(5, 1, image, {...settings, verticalFlip})
  const [plain, mirrored] = [only(0), only(1)]
  const row = 3 * settings.globalSize
  for (let y = 0; y < settings.globalSize; y++)
    assert.deepEqual(
      mirrored.subarray(y * row, (y + 1) * row),
      plain.subarray((settings.globalSize - 1 - y) * row, (settings.globalSize - y) * row)
    )
  const turned = multiCrop(5, 1, image, {...settings, quarterTurns: true})
  const sorted = (bytes: Uint8Array): Uint8Array => bytes.slice(0, 3 * settings.globalSize ** 2).sort()
  assert.deepEqual(sorted(turned), sorted(plain))
})
