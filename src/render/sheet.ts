/**
 * Sheets: pictures in rows with their titles, captions and colour bars, as one picture. Every PNG that a command draws
 * is laid out here.
 */
import type {Raster} from '../data/image/resample.js'
import {blankCanvas, paste} from './canvas.js'
import {colorBar, type Colormap} from './colormap.js'
import {drawText, lineHeight, shortened, textWidth, type TextColor} from './text.js'

export type Panel = {
  readonly picture: Raster
  /** One line above the picture; shortened where it is wider. */
  readonly caption?: string
  /** The bar of the colours under the picture, with what stands at its ends. */
  readonly bar?: {readonly ramp: Colormap; readonly low: string; readonly high: string}
}

/** What is shown of one image: a title, and rows of panels. An absent panel leaves its place empty. */
export type SheetBlock = {readonly title: string; readonly rows: readonly (readonly (Panel | undefined)[])[]}

export type SheetOptions = {
  /** Blocks beside each other; 1 if absent. */
  readonly columns?: number
  /** Lines at the top of the sheet. */
  readonly notes?: readonly string[]
  /** Colours with their names, below the notes. */
  readonly legend?: readonly {readonly name: string; readonly color: TextColor}[]
}

const [GAP, MARGIN, BAR] = [6, 16, 8]

/** Panels narrower than this many pixels get small letters. */
const NARROW = 180

/** How wide a sheet is at least, so that notes and the legend can be read. */
const MIN_WIDTH = 320

type Layout = {readonly scale: number; readonly widths: readonly number[]; readonly line: number}

const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0)
const largest = (numbers: readonly number[]): number => Math.max(0, ...numbers)

/** The height of a row of panels: captions, pictures and bars. */
function rowHeight(row: SheetBlock['rows'][number], line: number): number {
  const caption = row.some(panel => panel?.caption !== undefined) ? line : 0
  const bar = row.some(panel => panel?.bar) ? GAP / 2 + BAR + GAP / 2 + line : 0
  return caption + largest(row.map(panel => panel?.picture.height ?? 0)) + bar
}

const blockHeight = ({rows}: SheetBlock, line: number): number => line + sum(rows.map(row => rowHeight(row, line) + GAP)) - GAP

function drawPanel(canvas: Raster, {picture, caption, bar}: Panel, x: number, y: number, layout: Layout, captioned: boolean): void {
  const {scale, line} = layout
  if (caption !== undefined) drawText(canvas, shortened(caption, picture.width, scale), {x, y, scale})
  const top = captioned ? y + line : y
  paste(canvas, picture, x, top)
  if (!bar) return
  const under = top + picture.height + GAP / 2
  paste(canvas, colorBar(bar.ramp, picture.width, BAR), x, under)
  const numbers = under + BAR + GAP / 2
  drawText(canvas, bar.low, {x, y: numbers, scale})
  drawText(canvas, bar.high, {x: x + picture.width - textWidth(bar.high, scale), y: numbers, scale})
}

function drawBlock(canvas: Raster, {title, rows}: SheetBlock, left: number, top: number, layout: Layout): void {
  const {scale, widths, line} = layout
  drawText(canvas, shortened(title, sum(widths) + GAP * (widths.length - 1), scale), {x: left, y: top, scale, color: [0, 0, 0]})
  let y = top + line
  for (const row of rows) {
    let x = left
    const captioned = row.some(panel => panel?.caption !== undefined)
    for (const [i, panel] of row.entries()) {
      if (panel) drawPanel(canvas, panel, x, y, layout, captioned)
      x += widths[i]! + GAP
    }
    y += rowHeight(row, line) + GAP
  }
}

/** Names of colours in lines of at most `width` pixels: where each stands. */
function legendPlaces(names: readonly string[], width: number, scale: number, line: number): {places: [number, number][]; height: number} {
  let [x, y] = [0, 0]
  const places = names.map((name): [number, number] => {
    const wide = line + textWidth(name, scale)
    if (x > 0 && x + wide > width) [x, y] = [0, y + line]
    const place: [number, number] = [x, y]
    x += wide + line
    return place
  })
  return {places, height: names.length > 0 ? y + line : 0}
}

/** Words in lines of at most `width` pixels. */
function wrapped(text: string, width: number, scale: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && textWidth(`${last} ${word}`, scale) <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** Draws the sheet on white. */
export function drawSheet(blocks: readonly SheetBlock[], {columns = 1, notes = [], legend = []}: SheetOptions = {}): Raster {
  const panels = blocks.flatMap(({rows}) => rows.flatMap(row => row.map((panel, i) => ({i, width: panel?.picture.width ?? 0}))))
  const widths = Array.from({length: largest(panels.map(({i}) => i + 1))}, (_, i) =>
    largest(panels.filter(panel => panel.i === i).map(({width}) => width))
  )
  const scale = Math.min(...panels.map(({width}) => width).filter(width => width > 0)) < NARROW ? 1 : 2
  const layout: Layout = {scale, widths, line: lineHeight(scale)}
  const {line} = layout
  const across = sum(widths) + GAP * (widths.length - 1)
  const inside = Math.max(MIN_WIDTH, columns * (across + MARGIN) - MARGIN)
  const noted = notes.flatMap(note => wrapped(note, inside, scale))
  const {places, height} = legendPlaces(
    legend.map(({name}) => name),
    inside,
    scale,
    line
  )
  const above = noted.length * line + height + (noted.length + legend.length > 0 ? GAP : 0)
  const lines = Array.from({length: Math.ceil(blocks.length / columns)}, (_, i) => blocks.slice(i * columns, (i + 1) * columns))
  const heights = lines.map(blocksOfLine => largest(blocksOfLine.map(block => blockHeight(block, line))))
  const canvas = blankCanvas(inside + 2 * MARGIN, MARGIN + above + sum(heights.map(high => high + MARGIN)))
  for (const [i, note] of noted.entries()) drawText(canvas, note, {x: MARGIN, y: MARGIN + i * line, scale})
  for (const [i, {name, color}] of legend.entries()) {
    const [x, y] = [MARGIN + places[i]![0], MARGIN + noted.length * line + places[i]![1]]
    const swatch = blankCanvas(8 * scale, 8 * scale)
    for (let at = 0; at < swatch.data.length; at += 3) swatch.data.set(color, at)
    if (x + swatch.width <= canvas.width) paste(canvas, swatch, x, y)
    drawText(canvas, name, {x: x + line, y, scale})
  }
  let y = MARGIN + above
  for (const [i, blocksOfLine] of lines.entries()) {
    for (const [c, block] of blocksOfLine.entries()) drawBlock(canvas, block, MARGIN + c * (across + MARGIN), y, layout)
    y += heights[i]! + MARGIN
  }
  return canvas
}
