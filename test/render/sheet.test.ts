/** Sheets of pictures: titles, captions and colour bars lie where they belong, and letters can be distinguished. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import type {Raster} from '../../src/data/image/resample.js'
import {blankCanvas} from '../../src/render/canvas.js'
import {drawSheet} from '../../src/render/sheet.js'
import {drawText, shortened, textWidth} from '../../src/render/text.js'

/** Rows of a picture, `#` for a dark pixel. */
const dots = ({width, height, data}: Raster): string[] =>
  Array.from({length: height}, (_, y) => Array.from({length: width}, (_, x) => (data[(y * width + x) * 3]! < 128 ? '#' : '.')).join(''))

const written = (text: string, scale = 1): string[] => {
  const canvas = blankCanvas(Math.max(1, textWidth(text, scale)), 8 * scale)
  drawText(canvas, text, {x: 0, y: 0, scale})
  return dots(canvas)
}

test('letters are drawn dot by dot, at any scale, cut at the edge', () => {
  assert.deepEqual(written('7'), ['#####', '....#', '...#.', '..#..', '.#...', '.#...', '.#...', '.....'])
  assert.deepEqual(written('.', 2).slice(10, 12), ['..####....', '..####....'])
  const all = Array.from({length: 94}, (_, i) => String.fromCharCode(33 + i)).concat('…', '–', '×', '·', '°', '日')
  assert.equal(new Set(all.map(letter => written(letter).join())).size, all.length, 'two letters look alike')
  assert.deepEqual(written('é'), written('e'))
  const small = blankCanvas(3, 3)
  assert.doesNotThrow(() => drawText(small, 'M', {x: -1, y: -1, scale: 1}))
})

test('a text that does not fit keeps its beginning and its end', () => {
  assert.equal(shortened('short', 60, 1), 'short')
  assert.equal(shortened('a-long-name-0001.jpg', 60, 1), 'a-lon….jpg')
  assert.ok(textWidth(shortened('a-long-name-0001.jpg', 61, 2), 2) <= 61)
})

test('a sheet has a title, captions above the pictures and a bar with its numbers under them', () => {
  const dark = (width: number, height: number): Raster => blankCanvas(width, height, 40)
  const block = {
    title: 'one.jpg',
    rows: [
      [
        {picture: dark(100, 50), caption: 'image'},
        {picture: dark(60, 50), caption: 'map', bar: {ramp: 'depth', low: '0 m', high: '9 m'}}
      ]
    ]
  } as const
  const canvas = drawSheet([block, block], {columns: 1})
  assert.deepEqual(canvas.data, drawSheet([block, block], {columns: 1}).data)
  const rows = dots(canvas)
  const ink = (x: number, y: number, width: number, height: number): boolean =>
    rows.slice(y, y + height).some(row => row.slice(x, x + width).includes('#'))
  assert.ok(ink(16, 16, 100, 10) && ink(16, 26, 100, 10) && ink(122, 26, 60, 10), 'title and captions')
  assert.ok(
    rows.slice(36, 86).every(row => row.slice(16, 116) === '#'.repeat(100)),
    'the picture'
  )
  assert.ok(!ink(116, 16, 6, 100), 'nothing lies between the pictures')
  const bar = (x: number): number[] => [...canvas.data.subarray((92 * canvas.width + x) * 3, (92 * canvas.width + x) * 3 + 3)]
  assert.deepEqual(
    [bar(122), bar(181)],
    [
      [252, 255, 164],
      [0, 0, 4]
    ]
  )
  assert.ok(ink(122, 100, 20, 10) && ink(162, 100, 20, 10) && !ink(142, 100, 20, 10), 'numbers at both ends of the bar')
  assert.equal(canvas.height, 16 + 2 * (10 + 10 + 50 + 24 + 16))
})

test('a sheet has notes in lines and a legend', () => {
  const block = {title: 'a', rows: [[{picture: blankCanvas(40, 40, 0)}]]}
  const plain = drawSheet([block])
  const noted = drawSheet([block], {
    notes: ['word '.repeat(30).trim()],
    legend: [
      {name: 'sky', color: [250, 0, 0]},
      {name: 'road', color: [0, 0, 250]}
    ]
  })
  assert.ok(noted.height >= plain.height + 3 * 10)
  const colors = new Set(Array.from({length: noted.width * noted.height}, (_, i) => noted.data.subarray(3 * i, 3 * i + 3).join()))
  assert.ok(colors.has('250,0,0') && colors.has('0,0,250'))
})
