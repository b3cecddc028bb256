/** Errors of depth: by hand, by numpy, and what must hold of the alignments; crops and valid pixels by hand. */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {test} from 'node:test'
import {
  align,
  cropBox,
  depthErrors,
  depthMeasures,
  fitLine,
  meanErrors,
  validPixels,
  type DepthAlignment,
  type DepthErrors
} from '../../src/metrics/depth.js'
import {golden} from '../support/scratch.js'

const close = (found: number, wanted: number, name: string, limit = 1e-12): void =>
  assert.ok(Math.abs(found - wanted) <= limit * Math.max(1, Math.abs(wanted)), `${name}: ${found} instead of ${wanted}`)

test('two pixels by hand', () => {
  const errors = depthErrors([2, 3], [1, 4])
  const wanted: DepthErrors = {
    a1: 0,
    a2: 0.5, // 4/3 lies between 1.25 and 1.5625
    a3: 0.5, // 2 lies above 1.953
    abs_rel: (1 + 0.25) / 2,
    rmse: 1,
    log10: (Math.log10(2) + Math.log10(4 / 3)) / 2,
    rmse_log: Math.sqrt((Math.log(2) ** 2 + Math.log(0.75) ** 2) / 2),
    silog: (100 * (Math.log(2) - Math.log(0.75))) / 2,
    sq_rel: (1 + 0.25) / 2
  }
  for (const measure of depthMeasures) close(errors[measure], wanted[measure], measure)
  const perfect = depthErrors([2, 3], [2, 3])
  for (const measure of depthMeasures) assert.equal(perfect[measure], measure.startsWith('a') && measure !== 'abs_rel' ? 1 : 0, measure)
  assert.throws(() => depthErrors([], []), RangeError)
})

test('images count the same whatever their number of pixels', () => {
  const [one, many] = [depthErrors([2], [1]), depthErrors([1, 1, 1], [1, 1, 1])]
  const mean = meanErrors([one, many])
  assert.equal(mean.rmse, 0.5)
  assert.equal(mean.a1, 0.5)
})

test('errors after every alignment agree with numpy', () => {
  const {predicted, truth, min, max, errors} = JSON.parse(readFileSync(golden('depth.json'), 'utf8')) as {
    predicted: number[]
    truth: number[]
    min: number
    max: number
    errors: Record<DepthAlignment, DepthErrors>
  }
  const kinds = ['none', 'median', 'depth', 'disparity'] as const
  assert.deepEqual(Object.keys(errors).sort(), [...kinds].sort())
  for (const how of kinds) {
    const found = depthErrors(align(predicted, truth, how, {min, max}), truth)
    for (const measure of depthMeasures) close(found[measure], errors[how][measure], `${how} ${measure}`, 1e-9)
  }
})

test('alignments take out exactly what they are named for', () => {
  const truth = Float64Array.from({length: 50}, (_, i) => 1 + 0.1 * i)
  const range = {min: 0.01, max: 100}
  const errorOf = (change: (depth: number) => number, alignment: Parameters<typeof align>[2]): number =>
    depthErrors(align(truth.map(change), truth, alignment, range), truth).rmse
  assert.ok(errorOf(t => 3 * t, 'median') < 1e-12)
  assert.ok(errorOf(t => 3 * t + 2, 'depth') < 1e-12)
  assert.ok(errorOf(t => 1 / (3 / t + 0.2), 'disparity') < 1e-12)
  assert.ok(errorOf(t => 3 * t, 'none') > 1)
  // What is not a number, or outside the range, is brought into it.
  assert.deepEqual([...align([NaN, Infinity, -1, 5], [1, 1, 1, 1], 'none', {min: 0.5, max: 8})], [0.5, 8, 0.5, 5])
  assert.deepEqual(fitLine([2, 2, 2], [1, 2, 3]), {scale: 0, shift: 2})
})

test('crops of the published protocols', () => {
  assert.deepEqual(cropBox('eigen', 480, 640), {top: 45, bottom: 471, left: 41, right: 601})
  assert.deepEqual(cropBox('garg', 375, 1242), {top: 153, bottom: 371, left: 44, right: 1197})
  assert.deepEqual(cropBox('none', 3, 5), {top: 0, bottom: 3, left: 0, right: 5})
  assert.deepEqual(cropBox('eigen', 240, 320), {top: 23, bottom: 236, left: 21, right: 301})
  const truth = Float32Array.of(0, 1, 2, 3, 4, 5, NaN, 0.5, 1.5)
  assert.deepEqual([...validPixels(truth, 3, cropBox('none', 3, 3), 0.5, 5)], [1, 2, 3, 4, 8])
  assert.deepEqual([...validPixels(truth, 3, {top: 1, bottom: 3, left: 1, right: 3}, 0.5, 5)], [4, 8])
})
