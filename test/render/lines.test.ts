/** Lines and dots: where they lie, and that nothing outside of the picture is touched. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {blankCanvas} from '../../src/render/canvas.js'
import {drawDot, drawLine, hueColor} from '../../src/render/lines.js'

test('a line covers its ends and its middle, and no other rows', () => {
  const canvas = blankCanvas(20, 11, 0)
  drawLine(canvas, [2, 5], [17, 5], 2, [9, 9, 9])
  const rows = Array.from({length: 11}, (_, y) => canvas.data.subarray(y * 60, (y + 1) * 60).filter(value => value === 9).length / 3)
  assert.deepEqual(rows.map(count => count > 0), rows.map((_, y) => y >= 4 && y <= 6)) // prettier-ignore
  for (const x of [2, 10, 17]) assert.equal(canvas.data[(5 * 20 + x) * 3], 9)
  drawDot(canvas, [-2, 20], 40, [7, 7, 7]) // larger than the picture
  assert.ok(canvas.data.every(value => value === 7))
})

test('hues go from red over green and blue, and every colour is bright', () => {
  const strongest = [0, 1 / 3, 2 / 3].map(hue => hueColor(hue).indexOf(255))
  assert.deepEqual(strongest, [0, 1, 2])
  for (let hue = 0; hue < 1; hue += 0.05) assert.ok(Math.max(...hueColor(hue)) > 200)
})
