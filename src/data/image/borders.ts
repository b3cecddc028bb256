/**
 * Letter-box bars: the even bands that a picture gets on two opposite sides when it is fitted into a frame of another
 * shape.
 *
 * To a network they are content, and the strongest of all: two photos on white bars look alike whatever they show.
 * They are cut off before anything else is done.
 */
import type {Box, Raster} from './resample.js'

/** How far a value of a bar may lie from the bar's colour: what JPEG leaves of white beside an edge. */
const tolerance = 16
/**
 * Bars belong together where the narrower has at least this share of the wider one's width: nobody centres a picture
 * worse.
 */
const balance = 2 / 3
/** More than this share of a side is not a bar; such a picture is one on an empty page, and is left alone. */
const most = 3 / 4

/** One line of pixels: the place of its first value, and how far apart its pixels lie. */
type Line = {readonly start: number; readonly step: number; readonly count: number}

function meanOf(data: Uint8Array, {start, step, count}: Line): [number, number, number] {
  const sums: [number, number, number] = [0, 0, 0]
  for (let i = 0, at = start; i < count; i++, at += step) for (let c = 0; c < 3; c++) sums[c]! += data[at + c]!
  return [sums[0] / count, sums[1] / count, sums[2] / count]
}

function isEven(data: Uint8Array, {start, step, count}: Line, [r, g, b]: readonly [number, number, number]): boolean {
  for (let i = 0, at = start; i < count; i++, at += step)
    if (Math.abs(data[at]! - r) > tolerance || Math.abs(data[at + 1]! - g) > tolerance || Math.abs(data[at + 2]! - b) > tolerance)
      return false
  return true
}

/** How many lines at both ends of `length` are bars of one colour; 0 and 0 where they are none, or no pair. */
function pair(data: Uint8Array, length: number, line: (i: number) => Line): [first: number, last: number] {
  const colour = meanOf(data, line(0))
  const other = meanOf(data, line(length - 1))
  if (colour.some((value, c) => Math.abs(value - other[c]!) > tolerance)) return [0, 0]
  const run = (from: (i: number) => number, own: readonly [number, number, number]): number => {
    let n = 0
    while (n < length && isEven(data, line(from(n)), own)) n++
    return n
  }
  const first = run(i => i, colour)
  if (first === 0 || first === length) return [0, 0]
  const last = run(i => length - 1 - i, other)
  const good = last > 0 && Math.min(first, last) >= balance * Math.max(first, last) - 1 && first + last <= most * length
  return good ? [first, last] : [0, 0]
}

/**
 * The part of an image within its bars; the whole image where it has none.
 *
 * A bar is a run of lines from the rim, every pixel of which is within 16 of 255 of the mean colour of the outermost
 * line, in each channel. Bars count in pairs alone, left with right or top with bottom, of one colour and about one
 * width: a white sky is on one side, a letter box on two. Of an image with both kinds the first pair found is cut off
 * first.
 */
export function withoutBars({width, height, data}: Raster): Box {
  const [left, right] = pair(data, width, x => ({start: 3 * x, step: 3 * width, count: height}))
  const [x, w] = [left, width - left - right]
  const [top, bottom] = pair(data, height, y => ({start: 3 * (y * width + x), step: 3, count: w}))
  return {x, y: top, width: w, height: height - top - bottom}
}

/** The image cut to `withoutBars`; itself where it has none. */
export function cropBorders(image: Raster): Raster {
  const {x, y, width, height} = withoutBars(image)
  if (width === image.width && height === image.height) return image
  const data = new Uint8Array(3 * width * height) // [height, width, 3]
  for (let row = 0; row < height; row++) {
    const from = 3 * ((y + row) * image.width + x)
    data.set(image.data.subarray(from, from + 3 * width), 3 * row * width)
  }
  return {width, height, data}
}
