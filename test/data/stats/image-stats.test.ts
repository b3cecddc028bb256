/**
 * What is said of pictures without a model: known values of drawn ones, and what changes a descriptor and what does
 * not.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {decodeRgb} from '../../../src/data/image/decode.js'
import {encodeImage} from '../../../src/data/image/encode.js'
import {measureImages} from '../../../src/data/loader/measure-images.js'
import {measure, perceptual, perceptualDim, perceptualThreshold} from '../../../src/data/stats/image-stats.js'
import {refOf, type ImageRef} from '../../../src/data/sources/image-ref.js'
import {resample, type Raster} from '../../../src/data/image/resample.js'
import {greyOf, shrink} from '../../../src/data/image/area-downsample.js'
import {rng} from '../../../src/tensor/random.js'
import {drawnImage} from '../../support/drawn-images.js'

const flat = (width: number, height: number, of: (x: number, y: number) => number): Raster => {
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.fill(of(x, y), (y * width + x) * 3, (y * width + x) * 3 + 3)
  return {width, height, data}
}
const photo = async (kind: number, n = 0): Promise<Raster> => decodeRgb({...refOf('drawn.png'), bytes: await drawnImage(kind, n, 120, 90)})
const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0)

test('averaging keeps the mean, and whole factors are means of blocks', () => {
  const random = rng(1)
  const picture = greyOf(flat(12, 8, () => random.int(256)))
  const small = shrink(picture, 4, 2)
  for (let y = 0; y < 2; y++)
    for (let x = 0; x < 4; x++) {
      let sum = 0
      for (let j = 0; j < 4; j++) for (let i = 0; i < 3; i++) sum += picture.data[(y * 4 + j) * 12 + x * 3 + i]!
      assert.ok(Math.abs(small.data[y * 4 + x]! - sum / 12) < 1e-3)
    }
  const mean = (data: Float32Array): number => data.reduce((a, b) => a + b, 0) / data.length
  for (const [w, h] of [
    [5, 3],
    [7, 7],
    [1, 1],
    [30, 20]
  ] as const)
    assert.ok(Math.abs(mean(shrink(picture, w, h).data) - mean(picture.data)) < 1e-3)
})

test('measures are those of the definition', () => {
  const half = measure(flat(64, 64, x => (x < 32 ? 0 : 255))).measures
  assert.deepEqual([half.width, half.height, half.contrast, half.entropy], [64, 64, 127.5, 1])
  assert.deepEqual([half.brightness, half.overexposed, half.colorfulness], [127.5, 0.5, 0])
  // One colour everywhere: red − green is 100, yellow − blue 50, nothing spreads.
  const single = {width: 2, height: 2, data: Uint8Array.from([100, 0, 0, 100, 0, 0, 100, 0, 0, 100, 0, 0])}
  assert.ok(Math.abs(measure(single).measures.colorfulness - 0.3 * Math.hypot(100, 50)) < 1e-3)
  const plain = measure(flat(50, 40, () => 80)).measures
  assert.ok(plain.contrast < 1e-3)
  assert.deepEqual([plain.entropy, plain.sharpness], [0, 0])
  const random = rng(2)
  const noise = measure(flat(200, 200, () => Math.max(0, Math.min(255, Math.round(random.normal(128, 30)))))).measures
  assert.ok(Math.abs(noise.noise - 1) < 0.05, `white noise ${noise.noise}`)
  const slope = measure(flat(128, 128, x => 2 * x)).measures
  assert.ok(slope.sharpness < 1e-3 && slope.contrast > 50)
  const one = measure(flat(1, 1, () => 7))
  assert.ok([...one.descriptor].every(Number.isFinite) && one.measures.sharpness === 0)
})

test('re-encoding, resizing and brightness change a descriptor little, another picture or a mirror much', async () => {
  const picture = await photo(1)
  const own = perceptual(picture)
  assert.equal(own.length, perceptualDim)
  const jpeg = await decodeRgb({...refOf('a.jpg'), bytes: await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 40})})
  const half = {width: 60, height: 45, data: resample(picture, {width: 60, height: 45})}
  const bright = {...picture, data: picture.data.map(x => Math.min(255, x * 1.15 + 10))}
  for (const copy of [jpeg, half, bright]) assert.ok(dot(own, perceptual(copy)) > perceptualThreshold, String(dot(own, perceptual(copy))))
  for (const kind of [0, 2, 3]) assert.ok(dot(own, perceptual(await photo(kind))) < 0.8)
  const mirror = {...picture, data: resample(picture, picture, {flip: true})}
  assert.ok(dot(own, perceptual(mirror)) < perceptualThreshold)
  assert.ok(dot(own, own) <= 1)
})

test('pictures without detail are not like each other by chance', () => {
  const slopes = [1, 1.5, 1.9].map(k => perceptual(flat(128, 128, x => k * x)))
  for (const [i, a] of slopes.entries()) for (const b of slopes.slice(i + 1)) assert.ok(dot(a, b) < perceptualThreshold)
})

test('a hash keeps to its picture through re-encoding and differs for others', async () => {
  const bitsApart = (a: string, b: string): number =>
    [...(BigInt(`0x${a}`) ^ BigInt(`0x${b}`)).toString(2)].filter(bit => bit === '1').length
  const [one, other] = [await photo(1), await photo(3)]
  const hash = measure(one).measures.hash
  assert.match(hash, /^[0-9a-f]{16}$/)
  const jpeg = await decodeRgb({...refOf('a.jpg'), bytes: await encodeImage(one.data, {...one, format: 'jpeg', quality: 50})})
  assert.ok(bitsApart(hash, measure(jpeg).measures.hash) <= 6)
  assert.ok(bitsApart(hash, measure(other).measures.hash) > 10)
})

test('images stream through threads and without them alike, in order, bad ones reported', async () => {
  async function* refs(): AsyncGenerator<ImageRef> {
    for (let i = 0; i < 40; i++) yield {...refOf(`${i}.png`), bytes: i === 17 ? Buffer.from('no') : await drawnImage(i % 4, i)}
  }
  const take = async (workers: number) => {
    const ids: string[] = []
    const bad: string[] = []
    const numbers: number[] = []
    for await (const {refs: some, measures, descriptors} of measureImages(refs(), {workers, onRejected: ({id}) => bad.push(id)})) {
      assert.equal(descriptors.length, some.length * perceptualDim)
      ids.push(...some.map(({id}) => id))
      numbers.push(...descriptors, ...measures.map(({sharpness}) => sharpness))
    }
    return {ids, bad, numbers}
  }
  const [plain, threaded] = [await take(0), await take(2)]
  assert.deepEqual(threaded, plain)
  assert.deepEqual(plain.bad, ['17.png'])
  assert.deepEqual(
    plain.ids,
    [...Array(40).keys()].filter(i => i !== 17).map(i => `${i}.png`)
  )
})
