/**
 * Pictures brought to a small size by averaging: each small pixel is the mean of the ground that it covers, to
 * fractions of a pixel.
 */
import type {Raster} from './resample.js'

/** Grey levels between 0 and 255, `data` of [height, width]. */
export type Grey = {readonly width: number; readonly height: number; readonly data: Float32Array}

/** Rec. 601 luma. */
export function greyOf({width, height, data}: Raster): Grey {
  const out = new Float32Array(width * height)
  for (let i = 0, p = 0; i < out.length; i++, p += 3) out[i] = 0.299 * data[p]! + 0.587 * data[p + 1]! + 0.114 * data[p + 2]!
  return {width, height, data: out}
}

/** First source pixel and weights of each output along one axis; outputs may be more than inputs. */
function spans(from: number, to: number): {readonly first: Int32Array; readonly weights: readonly Float64Array[]} {
  const first = new Int32Array(to)
  const weights: Float64Array[] = []
  for (let i = 0; i < to; i++) {
    const [low, high] = [(i * from) / to, ((i + 1) * from) / to]
    const start = Math.floor(low)
    const end = Math.min(from, Math.max(start + 1, Math.ceil(high - 1e-9)))
    first[i] = start
    weights.push(
      Float64Array.from({length: end - start}, (_, j) => (Math.min(high, start + j + 1) - Math.max(low, start + j)) / (high - low))
    )
  }
  return {first, weights}
}

/** The picture in another size; its shape is not kept. Larger than it is, pixels are repeated. */
export function shrink({width: W, height: H, data}: Grey, width: number, height: number): Grey {
  const [across, down] = [spans(W, width), spans(H, height)]
  const out = new Float32Array(width * height)
  const line = new Float64Array(W)
  for (let y = 0; y < height; y++) {
    line.fill(0)
    for (const [j, weight] of down.weights[y]!.entries())
      for (let x = 0, at = (down.first[y]! + j) * W; x < W; x++) line[x]! += weight * data[at + x]!
    for (let x = 0; x < width; x++) {
      const weights = across.weights[x]!
      let sum = 0
      for (let i = 0, at = across.first[x]!; i < weights.length; i++) sum += weights[i]! * line[at + i]!
      out[y * width + x] = sum
    }
  }
  return {width, height, data: out}
}
