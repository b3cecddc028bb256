/**
 * Pictures put together from pictures: a blank sheet, pasting, enlarging without smoothing, and fitting into a square.
 */
import {resample, type Raster} from '../data/image/resample.js'

/** A sheet of one grey level, [height, width, 3]. */
export const blankCanvas = (width: number, height: number, grey = 255): Raster => ({
  width,
  height,
  data: new Uint8Array(width * height * 3).fill(grey)
})

/** Copies a picture onto a sheet, its upper left corner at (x, y). Raises RangeError where it does not fit. */
export function paste(onto: Raster, {width, height, data}: Raster, x: number, y: number): void {
  if (x < 0 || y < 0 || x + width > onto.width || y + height > onto.height)
    throw new RangeError(
      `Expected a place for ${width} × ${height} pixels within ${onto.width} × ${onto.height} but received (${x}, ${y}).`
    )
  for (let row = 0; row < height; row++)
    onto.data.set(data.subarray(row * width * 3, (row + 1) * width * 3), ((y + row) * onto.width + x) * 3)
}

/** Every pixel becomes a square of `factor` × `factor`. */
export function enlarge({width, height, data}: Raster, factor: number): Raster {
  const out = blankCanvas(width * factor, height * factor)
  for (let y = 0; y < out.height; y++)
    for (let x = 0; x < out.width; x++) {
      const from = (Math.floor(y / factor) * width + Math.floor(x / factor)) * 3
      out.data.set(data.subarray(from, from + 3), (y * out.width + x) * 3)
    }
  return out
}

/** The whole picture, its longer side `side` pixels. */
export function fitSide(picture: Raster, side: number): Raster {
  const scale = side / Math.max(picture.width, picture.height)
  const size = {width: Math.max(1, Math.round(picture.width * scale)), height: Math.max(1, Math.round(picture.height * scale))}
  return {...size, data: resample(picture, size)}
}

/** The whole picture, made smaller where its longer side exceeds `most` pixels. */
export const fitWithin = (picture: Raster, most: number): Raster =>
  Math.max(picture.width, picture.height) > most ? fitSide(picture, most) : picture

/** The picture, enlarged by a whole number where it is less than two thirds of `side` pixels long. */
export function magnified(picture: Raster, side: number): Raster {
  const scale = Math.max(1, Math.round(side / Math.max(picture.width, picture.height)))
  const size = {width: picture.width * scale, height: picture.height * scale}
  return scale === 1 ? picture : {...size, data: resample(picture, size)}
}

/** The picture in the middle of a square sheet. */
export function centered(picture: Raster, side: number, grey = 255): Raster {
  const square = blankCanvas(side, side, grey)
  paste(square, picture, Math.floor((side - picture.width) / 2), Math.floor((side - picture.height) / 2))
  return square
}
