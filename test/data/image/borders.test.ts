/** Letter-box bars are found and cut off; white skies, night and empty pages are not taken for them. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {cropBorders, withoutBars} from '../../../src/data/image/borders.js'
import {loadPixels} from '../../../src/data/image/decode.js'
import type {Raster} from '../../../src/data/image/resample.js'
import {draw, jpeg, png} from '../../support/drawn.js'

/** The picture on a larger page of one colour, its corner at (x, y). */
function onPage(picture: Raster, width: number, height: number, x: number, y: number, colour: readonly [number, number, number]): Raster {
  const data = new Uint8Array(3 * width * height)
  for (let i = 0; i < data.length; i++) data[i] = colour[i % 3]!
  for (let row = 0; row < picture.height; row++)
    data.set(picture.data.subarray(3 * row * picture.width, 3 * (row + 1) * picture.width), 3 * ((y + row) * width + x))
  return {width, height, data}
}
const white = [255, 255, 255] as const
const picture = draw(40, 30)
const boxOf = (image: Raster): number[] => {
  const {x, y, width, height} = withoutBars(image)
  return [x, y, width, height]
}

test('bars left and right, above and below, and of any colour, are cut off to the pixel', () => {
  assert.deepEqual(boxOf(onPage(picture, 60, 30, 10, 0, white)), [10, 0, 40, 30])
  assert.deepEqual(boxOf(onPage(picture, 40, 46, 0, 8, [0, 0, 0])), [0, 8, 40, 30])
  assert.deepEqual(boxOf(onPage(picture, 61, 47, 10, 9, [200, 30, 90])), [10, 9, 40, 30], 'both, a pixel off the middle')
  const cut = cropBorders(onPage(picture, 60, 30, 10, 0, white))
  assert.deepEqual([cut.width, cut.height], [40, 30])
  assert.deepEqual(cut.data, picture.data)
})

test('what is even on one side only, of two colours, or of very unequal width, stays', () => {
  for (const image of [
    picture,
    onPage(picture, 40, 40, 0, 10, white),
    onPage(picture, 60, 30, 18, 0, white),
    onPage(draw(10, 30), 60, 30, 25, 0, white),
    {width: 9, height: 7, data: new Uint8Array(9 * 7 * 3).fill(255)},
    {width: 1, height: 1, data: new Uint8Array(3)}
  ])
    assert.deepEqual(boxOf(image), [0, 0, image.width, image.height])
  const two = onPage(picture, 60, 30, 10, 0, white)
  for (let y = 0; y < 30; y++) two.data.fill(0, 3 * (60 * y + 50), 3 * (60 * y + 60))
  assert.deepEqual(boxOf(two), [0, 0, 60, 30])
  assert.equal(cropBorders(picture), picture, 'nothing is copied where nothing is cut')
})

test('what JPEG leaves of white beside an edge is still a bar', async () => {
  const framed = onPage(draw(96, 64), 160, 64, 32, 0, white)
  const {width, height} = await loadPixels(
    {id: 'x', path: '', fields: {}, bytes: await jpeg(framed)},
    {resize: 64, patch: 1, cropBorders: true}
  )
  assert.ok(Math.abs(width - 96) <= 3 && height === 64, `${width} × ${height}`)
})

test('made ready with bars cut off, a framed picture equals the picture alone', async () => {
  const ready = async (image: Raster, cut: boolean): Promise<Raster> =>
    loadPixels({id: 'x', path: '', fields: {}, bytes: await png(image)}, {resize: 16, crop: 14, cropBorders: cut})
  const framed = onPage(picture, 60, 30, 10, 0, white)
  assert.deepEqual((await ready(framed, true)).data, (await ready(picture, false)).data)
  assert.notDeepEqual((await ready(framed, false)).data, (await ready(picture, false)).data)
})
