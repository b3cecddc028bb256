/** The histogram of colours, against counting by hand. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {colorHistogram, histogramDim} from '../../../../src/tasks/eval/shared/color-histogram.js'

test('a histogram counts the pixels of each bin and has length 1, wherever the pixels lie', () => {
  const pixels = Uint8Array.from([0, 0, 0, 31, 31, 31, 255, 255, 255, 255, 0, 32])
  const histogram = colorHistogram(pixels)
  assert.equal(histogram.length, histogramDim)
  const found = [...histogram.entries()].filter(([, value]) => value > 0).map(([bin, value]) => [bin, Number((value ** 2).toFixed(6))])
  // two dark pixels share bin (0, 0, 0); white is (7, 7, 7); the last is (7, 0, 1)
  assert.deepEqual(found, [
    [0, 0.5],
    [7 * 64 + 1, 0.25],
    [7 * 64 + 7 * 8 + 7, 0.25]
  ])
  assert.ok(Math.abs(Math.hypot(...histogram) - 1) < 1e-6)
  const shuffled = Uint8Array.from([255, 0, 32, 31, 31, 31, 255, 255, 255, 0, 0, 0])
  assert.deepEqual(colorHistogram(shuffled), histogram)
})
