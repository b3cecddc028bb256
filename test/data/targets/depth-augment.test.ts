/**
 * Views of an image with its depth: pixels and depth stay together whatever is done to them; draws are those of the
 * published augmentation.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {colorAt, colorize} from '../../../src/render/colormap.js'
import {
  augmentedSize,
  augmentView,
  cutView,
  mirror,
  mirrorMap,
  publishedAugmentation,
  resizeDepth,
  rotateView,
  type DepthView
} from '../../../src/data/targets/depth-augment.js'
import {rng} from '../../../src/tensor/random.js'

/**
 * A view whose red tells its depth: depth = red / 10, so that what belongs together can be checked after any change of
 * place.
 */
function view(width: number, height: number): DepthView {
  const data = new Uint8Array(width * height * 3)
  const truth = new Float32Array(width * height)
  for (let at = 0; at < truth.length; at++) {
    const red = 40 + (at % width) + 3 * Math.floor(at / width) // at most 247, so that no byte runs over
    data.set([red, 90, 200], 3 * at)
    truth[at] = red / 10
  }
  return {photo: {width, height, data}, truth}
}

const together = ({photo, truth}: DepthView, limit = 1e-3): void =>
  truth.forEach((depth, at) => {
    // Green is the same everywhere, but where the rim was blended with what lies outside.
    if (depth > 0 && photo.data[3 * at + 1] === 90)
      assert.ok(Math.abs(photo.data[3 * at]! - 10 * depth) <= limit, `pixel ${at}: red ${photo.data[3 * at]}, depth ${depth}`)
  })

test('cutting and mirroring keep pixels and depth together', () => {
  const whole = view(20, 12)
  const cut = cutView(whole, {x: 3, y: 2, width: 9, height: 7})
  assert.deepEqual([cut.photo.width, cut.photo.height, cut.truth[0]], [9, 7, whole.truth[2 * 20 + 3]])
  together(cut)
  const turned = {photo: mirror(whole.photo), truth: mirrorMap(whole.truth, 20)}
  assert.equal(turned.truth[0], whole.truth[19])
  together(turned)
  assert.deepEqual(mirrorMap(turned.truth, 20), whole.truth)
})

test('rotation moves both alike, about the middle; what comes from outside is unknown', () => {
  const whole = view(41, 31)
  const turned = rotateView(whole, 10)
  together(turned, 8) // depth takes the nearest pixel, the photo a mean of four
  assert.equal(turned.truth[15 * 41 + 20], whole.truth[15 * 41 + 20])
  assert.equal(turned.truth[0], 0)
  assert.deepEqual(rotateView(whole, 0), whole)
  const quarter = rotateView(view(15, 15), 90)
  assert.ok(quarter.truth.every(depth => depth > 0))
})

test('depth is resized without blending', () => {
  const truth = Float32Array.of(1, 5, 1, 5)
  assert.deepEqual([...resizeDepth(truth, {width: 2, height: 2}, {width: 4, height: 2})], [1, 1, 5, 5, 1, 1, 5, 5])
  assert.deepEqual([...resizeDepth(Float32Array.of(1, 2, 3, 4), {width: 4, height: 1}, {width: 2, height: 1})], [2, 4])
})

test('random views: sizes, shares of what happens, the same draws for the same key', () => {
  const whole = view(64, 48)
  const settings = {...publishedAugmentation, crop: {width: 50, height: 80}, box: {x: 0.0625, y: 0.25, width: 0.875, height: 0.5}}
  assert.deepEqual(augmentedSize(whole.photo, settings), {width: 50, height: 24})
  let [flips, colours] = [0, 0]
  for (let i = 0; i < 200; i++) {
    const made = augmentView(whole, {...settings, rotate: {degrees: 0, probability: 0}}, rng(0, i))
    assert.deepEqual([made.photo.width, made.photo.height], [50, 24])
    if (made.truth[0]! > made.truth[1]!) flips++
    if (made.photo.data[1] !== 90 || made.photo.data[2] !== 200) colours++
    else together(made)
  }
  assert.ok(flips > 70 && flips < 130, `${flips} of 200 are mirrored`)
  assert.ok(colours > 70 && colours < 130, `${colours} of 200 are recoloured`)
  assert.deepEqual(augmentView(whole, settings, rng(1, 'x')), augmentView(whole, settings, rng(1, 'x')))
  together(whole) // the source is left alone
})

test('colours grow darker with depth, and the unknown is neither near nor far', () => {
  const luma = ([r, g, b]: readonly number[]): number => 0.3 * r! + 0.59 * g! + 0.11 * b!
  const shades = Array.from({length: 20}, (_, i) => luma(colorAt('depth', i / 19)))
  assert.ok(shades.every((shade, i) => i === 0 || shade < shades[i - 1]!))
  const {data} = colorize(Float32Array.of(1, 3, NaN, 9), {width: 4, height: 1}, {ramp: 'depth', low: 1, high: 3})
  assert.deepEqual([...data.subarray(0, 3)], colorAt('depth', 0))
  assert.deepEqual([...data.subarray(3, 6)], colorAt('depth', 1))
  assert.deepEqual([...data.subarray(9, 12)], colorAt('depth', 1))
  assert.deepEqual([...data.subarray(6, 9)], [128, 134, 140])
})
