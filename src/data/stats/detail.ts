/**
 * The fine detail of an image as a vector, by which two images are compared pixel for pixel.
 *
 * The image is brought to 48 × 48 grey pixels and the mean of each pixel's surroundings is subtracted, so that neither
 * brightness nor a common layout counts. Copies that were re-encoded, resized, blurred or recoloured have inner
 * products above 0.7; images that only resemble each other lie below it, as do crops.
 */
import type {Raster} from '../image/resample.js'
import {greyOf, shrink} from '../image/area-downsample.js'

const side = 48
const reach = 2
/** Variance, in grey levels, below which detail counts less: flat images have none. */
const floor = 0.01 * side * side

/** Inner product from which on two images have the same detail. */
export const sameDetail = 0.7

/** The detail of an image, [48 · 48]; its length is below 1. */
export function detailOf(image: Raster): Float32Array {
  const {data} = shrink(greyOf(image), side, side)
  const out = new Float32Array(side * side)
  let squares = floor
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      let [sum, count] = [0, 0]
      for (let v = Math.max(0, y - reach); v <= Math.min(side - 1, y + reach); v++)
        for (let u = Math.max(0, x - reach); u <= Math.min(side - 1, x + reach); u++) {
          sum += data[v * side + u]!
          count++
        }
      const value = data[y * side + x]! - sum / count
      squares += Math.abs(value)
      out[y * side + x] = Math.sign(value) * Math.sqrt(Math.abs(value))
    }
  return out.map(value => value / Math.sqrt(squares))
}

/** The same detail mirrored and turned: all eight positions of a square, the given one first. */
export function detailPositions(detail: Float32Array): Float32Array[] {
  const last = side - 1
  const at = (source: (y: number, x: number) => number): Float32Array =>
    Float32Array.from(detail, (_, i) => detail[source(Math.floor(i / side), i % side)]!)
  return [
    detail,
    at((y, x) => y * side + last - x),
    at((y, x) => (last - y) * side + x),
    at((y, x) => (last - y) * side + last - x),
    at((y, x) => x * side + y),
    at((y, x) => x * side + last - y),
    at((y, x) => (last - x) * side + y),
    at((y, x) => (last - x) * side + last - y)
  ]
}
