/** Maps of the baselines that need no network. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {histogramMaps, pixelMaps, type MapFeatures} from '../../../src/tasks/embed/image-features.js'
import {normalizePixels} from '../../../src/tensor/ops/patches.js'
import {onPlain} from '../../support/engine.js'
import {dispose, memory} from '../../../src/tensor/tf.js'

/** Two patches of 4 × 4 pixels side by side: the left one half black and half white, the right one red. */
function image(order: 'rows' | 'columns'): Uint8Array {
  const bytes = new Uint8Array(4 * 8 * 3)
  for (let y = 0; y < 4; y++)
    for (let x = 0; x < 8; x++) {
      const white = (order === 'rows' ? y : x) % 2 === 0
      bytes.set(x >= 4 ? [250, 5, 5] : white ? [255, 255, 255] : [0, 0, 0], (y * 8 + x) * 3)
    }
  return bytes
}

test('the histogram of a patch counts its colours and says nothing of where they lie in it; the pixels do', async () => {
  await onPlain()
  const before = memory().numTensors
  const read = (maps: MapFeatures, order: 'rows' | 'columns'): Float32Array => {
    const pixels = normalizePixels(image(order), [1, 4, 8])
    const out = maps.compute(pixels)
    assert.deepEqual(out.shape, [1, 1, 2, maps.dim])
    const data = Float32Array.from(out.dataSync())
    dispose([pixels, out])
    return data
  }
  const histogram = histogramMaps({patch: 4})
  const found = read(histogram, 'rows')
  const bins = [...found.subarray(0, 64).entries()].filter(([, value]) => value > 0)
  assert.deepEqual(bins.map(([bin]) => bin), [0, 63]) // prettier-ignore
  for (const [, value] of bins) assert.ok(Math.abs(value - Math.SQRT1_2) < 1e-6)
  const red = [...found.subarray(histogram.dim, histogram.dim + 64).entries()].filter(([, value]) => value > 0)
  assert.deepEqual(red, [[3 * 16, 1]])
  // the position: the middle row, the left and the right column
  const position = Array.from(found.subarray(64, 69), x => x + 0)
  assert.deepEqual(position, [0, -0.5, 0, 0, 0.25])
  assert.deepEqual(read(histogram, 'columns'), found)
  const pixels = pixelMaps({patch: 4})
  assert.notDeepEqual(read(pixels, 'columns'), read(pixels, 'rows'))
  assert.equal(memory().numTensors, before)
})
