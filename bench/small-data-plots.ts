/**
 * The plots of docs/small-data.md, from the numbers recorded there and in bench/RESULTS.md:
 *
 *   node dist/bench/small-data-plots.js      writes docs/pictures/small-data-*.svg
 */
import {writeFileSync} from 'node:fs'
import {fileURLToPath} from 'node:url'
import {ticks} from '../src/render/chart.js'

type Point = {readonly x: number; readonly y: number; /** Standard deviation over seeds. */ readonly spread?: number}
type Plot = {
  readonly name: string
  readonly title: string
  readonly x: string
  /** Labels of the horizontal axis; distances are logarithmic. */
  readonly marks: readonly number[]
  readonly lines: readonly {readonly name: string; readonly points: readonly Point[]}[]
  /** Levels that do not depend on x. */
  readonly levels: readonly {readonly name: string; readonly y: number}[]
  readonly range: readonly [low: number, high: number]
}

const plots: readonly Plot[] = [
  {
    name: 'temperature',
    title: 'Drawn pictures, backbone of tiny, 1,200 steps of 64: top-1 of 10 neighbours, %',
    x: 'temperature of the teacher',
    marks: [0.01, 0.02, 0.04],
    lines: [
      {
        name: 'trained',
        points: [
          {x: 0.01, y: 61.8},
          {x: 0.02, y: 56.5},
          {x: 0.04, y: 39.8}
        ]
      }
    ],
    levels: [
      {name: 'raw pixels', y: 35.4},
      {name: 'untrained', y: 25.6}
    ],
    range: [20, 70]
  },
  {
    name: 'images',
    title: 'Scenes, 96 pixels, backbone of tiny: top-1 of 20 neighbours, %',
    x: 'images seen in training',
    marks: [25_600, 44_800, 76_800, 230_400],
    lines: [
      {
        name: 'trained (44,800: three seeds)',
        points: [
          {x: 25_600, y: 60},
          {x: 44_800, y: 60.9, spread: 1.8},
          {x: 76_800, y: 60.3},
          {x: 230_400, y: 66.8}
        ]
      }
    ],
    levels: [
      {name: 'histogram of colors', y: 55},
      {name: 'raw pixels', y: 49},
      {name: 'untrained', y: 46.2}
    ],
    range: [40, 70]
  }
]

const [width, height, left, right, top, bottom] = [560, 320, 48, 168, 44, 48]
const COLORS: Readonly<Record<string, string>> = {'raw pixels': '#c60', untrained: '#888', 'histogram of colors': '#46c'}
const TRAINED = '#087f5b'

function draw({title, x, marks, lines, levels, range: [low, high]}: Plot): string {
  const [first, last] = [Math.log(marks[0]!), Math.log(marks.at(-1)!)]
  const across = (value: number): number => left + 14 + ((Math.log(value) - first) / (last - first)) * (width - left - right - 28)
  const up = (value: number): number => height - bottom - ((value - low) / (high - low)) * (height - top - bottom)
  const text = (at: readonly [number, number], words: string, rest = ''): string =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" ${rest}>${words}</text>`
  const parts = ticks(low, high, 5).map(
    y =>
      `<path d="M${left} ${up(y).toFixed(1)}H${width - right}" stroke="#ddd"/>` +
      text([left - 6, up(y) + 4], String(y), 'text-anchor="end"')
  )
  for (const mark of marks) parts.push(text([across(mark), height - bottom + 18], mark.toLocaleString('en'), 'text-anchor="middle"'))
  parts.push(text([(left + width - right) / 2, height - 8], x, 'text-anchor="middle"'))
  for (const {name, points} of lines) {
    const color = TRAINED
    const path = points.map(point => `${across(point.x).toFixed(1)} ${up(point.y).toFixed(1)}`).join('L')
    parts.push(`<path d="M${path}" fill="none" stroke="${color}" stroke-width="2"/>`)
    for (const {x: at, y, spread = 0} of points)
      parts.push(
        `<path d="M${across(at).toFixed(1)} ${up(y - spread).toFixed(1)}V${up(y + spread).toFixed(1)}" stroke="${color}" stroke-width="5" opacity=".35"/>` +
          `<circle cx="${across(at).toFixed(1)}" cy="${up(y).toFixed(1)}" r="4" fill="${color}"/>` +
          text([across(at), up(y + spread) - 9], y.toFixed(1), 'text-anchor="middle"')
      )
    parts.push(text([left + 8, top - 6], name, `fill="${color}"`))
  }
  for (const {name, y} of levels) {
    const color = COLORS[name]!
    parts.push(`<path d="M${left} ${up(y).toFixed(1)}H${width - right}" stroke="${color}" stroke-dasharray="6 4" stroke-width="1.5"/>`)
    parts.push(text([width - right + 6, up(y) + 4], `${name} ${y.toFixed(1)}`, `fill="${color}"`))
  }
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#333">` +
    `<title>${title}</title><rect width="${width}" height="${height}" fill="#fff"/>${text([8, 18], title, 'font-weight="600"')}${parts.join('')}</svg>\n`
  )
}

const folder = fileURLToPath(new URL('../../docs/pictures/', import.meta.url))
for (const plot of plots) writeFileSync(`${folder}small-data-${plot.name}.svg`, draw(plot))
