/** Resizing equals Pillow's recorded results to the last bit, and its options mean what they say. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {fitGeometry, roundHalfEven} from '../../../src/data/image/geometry.js'
import {resample, type Raster} from '../../../src/data/image/resample.js'
import {rng} from '../../../src/tensor/random.js'
import {cases, raster} from '../../support/pixels.js'

const noise = (width: number, height: number): Raster => {
  const random = rng(1, width, height)
  return {width, height, data: Uint8Array.from({length: width * height * 3}, () => random.int(256))}
}

for (const {op, source, result, box, flip, resize, crop} of cases) {
  if (!['resize', 'box', 'crop', 'eval'].includes(op)) continue
  test(`${op} ${source.width} × ${source.height} → ${result.width} × ${result.height} ${box ? `of ${box.join(' ')}` : ''}${flip ? ' flipped' : ''}`, () => {
    const image = raster(source)
    const area = box && {x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1]}
    const made =
      op === 'resize'
        ? resample(image, result)
        : op === 'box'
          ? resample(image, result, {box: area!})
          : op === 'crop'
            ? resample(image, result, {view: area!, flip: flip!})
            : (({size, window}) => resample(image, size, {window}))(fitGeometry(image.width, image.height, {resize: resize!, crop: crop!}))
    assert.deepEqual(made, raster(result).data)
  })
}

test('a window is the same part of the whole, for every order of passes', () => {
  for (const [w, h, ow, oh] of [
    [40, 30, 60, 50],
    [90, 70, 31, 29],
    [20, 200, 30, 40],
    [30, 30, 30, 17],
    [30, 30, 17, 30],
    [30, 30, 30, 30]
  ] as const)
    for (const flip of [false, true]) {
      const image = noise(w, h)
      const whole = resample(image, {width: ow, height: oh}, {flip})
      const window = {x: 3, y: 5, width: ow - 9, height: oh - 11}
      const part = resample(image, {width: ow, height: oh}, {flip, window})
      for (let y = 0; y < window.height; y++)
        assert.deepEqual(
          part.subarray(y * window.width * 3, (y + 1) * window.width * 3),
          whole.subarray(((y + 5) * ow + 3) * 3, ((y + 5) * ow + 3 + window.width) * 3)
        )
    }
})

test('a plain colour stays as it is, and a flip is a flip', () => {
  const plain: Raster = {width: 31, height: 17, data: new Uint8Array(31 * 17 * 3).fill(201)}
  assert.ok(resample(plain, {width: 113, height: 7}).every(v => v === 201))
  const image = noise(25, 14)
  const straight = resample(image, {width: 16, height: 9})
  const turned = resample(image, {width: 16, height: 9}, {flip: true})
  for (let y = 0; y < 9; y++)
    for (let x = 0; x < 16; x++)
      for (let c = 0; c < 3; c++) {
        // The weights of mirrored places are mirrored up to rounding of their 22nd bit, so at most one level apart.
        assert.ok(Math.abs(straight[(y * 16 + x) * 3 + c]! - turned[(y * 16 + 15 - x) * 3 + c]!) <= 1)
      }
})

test('rectangles outside the image are refused with a sentence', () => {
  assert.throws(() => resample(noise(8, 8), {width: 4, height: 4}, {view: {x: 4, y: 0, width: 5, height: 4}}), /view to lie within 8 × 8/)
  assert.throws(
    () => resample(noise(8, 8), {width: 4, height: 4}, {window: {x: 0, y: 0, width: 4, height: 5}}),
    /window to lie within 4 × 4/
  )
  assert.throws(() => resample(noise(8, 8), {width: 4, height: 4}, {out: new Uint8Array(3)}), /48 bytes/)
})

test('geometry follows torchvision: cut-off long side, half-even centre', () => {
  assert.deepEqual(
    [0.5, 1.5, 2.5, -0.5, -1.5, 2.4, 2.6].map(roundHalfEven),
    [0, 2, 2, 0, -2, 2, 3].map(x => x)
  )
  assert.deepEqual(fitGeometry(300, 200, {resize: 256, crop: 224}), {
    size: {width: 384, height: 256},
    window: {x: 80, y: 16, width: 224, height: 224}
  })
  assert.deepEqual(fitGeometry(533, 400, {resize: 256, crop: 224}).size, {width: 341, height: 256}) // 341.12 is cut
  assert.equal(fitGeometry(533, 400, {resize: 256, crop: 224}).window.x, 58) // 58.5 goes to the even number
  assert.equal(fitGeometry(535, 400, {resize: 256, crop: 224}).window.x, 59)
  assert.deepEqual(fitGeometry(300, 200, {resize: 256, patch: 14}).size, {width: 378, height: 252})
  assert.deepEqual(fitGeometry(1, 1, {resize: 4, patch: 14}).size, {width: 14, height: 14})
  assert.throws(() => fitGeometry(10, 10, {resize: 224, crop: 256}), /crop of at most the resized side/)
})
