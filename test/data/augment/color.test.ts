/**
 * Colour changes equal the recorded ones of Pillow and torchvision: to the last bit, hue included; blur within one
 * level in few places.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  gaussianBlur,
  gaussianKernel,
  solarize,
  toGrey
} from '../../../src/data/augment/color.js'
import {cases, difference, raster} from '../../support/pixels.js'

const operations: Record<string, (pixels: Uint8Array, factor: number) => void> = {
  brightness: adjustBrightness,
  contrast: adjustContrast,
  saturation: adjustSaturation,
  hue: adjustHue,
  grey: toGrey,
  solarize
}

for (const {op, source, result, factor} of cases) {
  if (op in operations)
    test(`${op} ${factor ?? ''} as recorded`, () => {
      const {data} = raster(source)
      operations[op]!(data, factor ?? 0)
      assert.deepEqual(data, raster(result).data)
    })
  if (op === 'blur')
    test(`blur of σ ${factor} as recorded`, () => {
      const {data, width} = raster(source)
      gaussianBlur(data, width, factor!)
      const {most, unequal} = difference(data, raster(result).data)
      assert.ok(most <= 1 && unequal <= 2, `${unequal} bytes differ, by up to ${most}`) // one axis after the other rounds elsewhere than both at once
    })
}

test('the blur keeps a plain colour, and its weights sum to one', () => {
  const plain = new Uint8Array(12 * 12 * 3).fill(77)
  gaussianBlur(plain, 12, 1.3)
  assert.ok(plain.every(v => v === 77))
  assert.ok(Math.abs(gaussianKernel(9, 0.7).reduce((a, b) => a + b, 0) - 1) < 1e-12)
  assert.throws(() => gaussianBlur(new Uint8Array(27), 3, 1), /more than 4 pixels/)
})
