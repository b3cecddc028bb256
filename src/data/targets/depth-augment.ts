/**
 * An image and its depth made ready together: brought to one size, and cut, turned, mirrored and coloured at random
 * for training as the published depth heads were (docs/spec.md §5.4).
 *
 * Depth is never blended: a pixel takes the depth of the nearest one, and what comes from outside the image is unknown
 * (0).
 */
import type {Rng} from '../../tensor/random.js'
import {type Box, type Raster, type Size} from '../image/resample.js'

/** A photo and the depth of each of its pixels in metres, 0 where unknown; of one size. */
export type DepthView = {readonly photo: Raster; readonly truth: Float32Array /* [height, width] */}

export type DepthAugmentation = {
  /** Part of the image that is used at all, as shares of its sides (the white rim of NYU images is cut off). */
  readonly box?: Box
  /** Size of the random crop; an image that is smaller is cut less. */
  readonly crop?: Size
  /** Half the range of rotation, in degrees, and how often. */
  readonly rotate: {readonly degrees: number; readonly probability: number}
  readonly flip: number
  /** Gamma, brightness and the three channels, each by a factor from its range, all or none. */
  readonly colour: {
    readonly probability: number
    readonly gamma: readonly [number, number]
    readonly brightness: readonly [number, number]
    readonly channels: readonly [number, number]
  }
}

/** The augmentation of the published heads, without crop. */
export const publishedAugmentation: DepthAugmentation = {
  rotate: {degrees: 2.5, probability: 0.5},
  flip: 0.5,
  colour: {probability: 0.5, gamma: [0.9, 1.1], brightness: [0.75, 1.25], channels: [0.9, 1.1]}
}

/** Depth [H, W] at another size, each pixel that of the nearest centre. */
export function resizeDepth(truth: Float32Array, from: Size, to: Size): Float32Array {
  if (from.width === to.width && from.height === to.height) return truth
  const out = new Float32Array(to.width * to.height)
  const columns = Int32Array.from({length: to.width}, (_, x) => Math.min(from.width - 1, Math.floor(((x + 0.5) * from.width) / to.width)))
  for (let y = 0; y < to.height; y++) {
    const row = Math.min(from.height - 1, Math.floor(((y + 0.5) * from.height) / to.height)) * from.width
    for (let x = 0; x < to.width; x++) out[y * to.width + x] = truth[row + columns[x]!]!
  }
  return out
}

/** A picture from left to right. */
export function mirror({width, height, data}: Raster): Raster {
  const out = new Uint8Array(data.length)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [from, to] = [(y * width + x) * 3, (y * width + width - 1 - x) * 3]
      out[to] = data[from]!
      out[to + 1] = data[from + 1]!
      out[to + 2] = data[from + 2]!
    }
  return {width, height, data: out}
}

/** A map [height, width] from left to right. */
export function mirrorMap(values: Float32Array, width: number): Float32Array {
  const out = new Float32Array(values.length)
  for (let start = 0; start < values.length; start += width) for (let x = 0; x < width; x++) out[start + width - 1 - x] = values[start + x]!
  return out
}

/** Cuts a box of whole pixels out of both. */
export function cutView({photo, truth}: DepthView, {x, y, width, height}: Box): DepthView {
  if (x === 0 && y === 0 && width === photo.width && height === photo.height) return {photo, truth}
  const data = new Uint8Array(width * height * 3)
  const depth = new Float32Array(width * height)
  for (let row = 0; row < height; row++) {
    const from = (y + row) * photo.width + x
    data.set(photo.data.subarray(3 * from, 3 * (from + width)), 3 * row * width)
    depth.set(truth.subarray(from, from + width), row * width)
  }
  return {photo: {width, height, data}, truth: depth}
}

/**
 * Both turned about the middle by an angle in degrees, the photo blended from four pixels, black and unknown beyond
 * its rim.
 */
export function rotateView({photo, truth}: DepthView, degrees: number): DepthView {
  const {width, height, data} = photo
  const [cos, sin] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)]
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2]
  const pixels = new Uint8Array(data.length)
  const depth = new Float32Array(truth.length)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const u = cos * (x - cx) + sin * (y - cy) + cx
      const v = -sin * (x - cx) + cos * (y - cy) + cy
      const [i, j] = [Math.floor(u), Math.floor(v)]
      const at = y * width + x
      if (i < -1 || j < -1 || i >= width || j >= height) continue
      const [fx, fy] = [u - i, v - j]
      for (let c = 0; c < 3; c++) {
        let value = 0
        for (const [dx, dy, weight] of [
          [0, 0, (1 - fx) * (1 - fy)],
          [1, 0, fx * (1 - fy)],
          [0, 1, (1 - fx) * fy],
          [1, 1, fx * fy]
        ] as const) {
          const [px, py] = [i + dx, j + dy]
          if (px >= 0 && py >= 0 && px < width && py < height) value += weight * data[(py * width + px) * 3 + c]!
        }
        pixels[3 * at + c] = Math.round(value)
      }
      const [nx, ny] = [Math.round(u), Math.round(v)]
      if (nx >= 0 && ny >= 0 && nx < width && ny < height) depth[at] = truth[ny * width + nx]!
    }
  return {photo: {width, height, data: pixels}, truth: depth}
}

/** Gamma, brightness and channels by factors; photo bytes are changed in place. */
function recolour(data: Uint8Array, gamma: number, brightness: number, channels: readonly number[]): void {
  const tables = channels.map(factor =>
    Uint8Array.from({length: 256}, (_, i) => Math.min(255, Math.max(0, Math.round(255 * (i / 255) ** gamma * brightness * factor))))
  )
  for (let i = 0; i < data.length; i++) data[i] = tables[i % 3]![data[i]!]!
}

/**
 * A random view for training: box, rotation, mirroring, crop, colour, in this order. The same draws give the same
 * view.
 */
export function augmentView(view: DepthView, {box, crop, rotate, flip, colour}: DepthAugmentation, random: Rng): DepthView {
  let out = view
  if (box) {
    const {width, height} = view.photo
    const [x, y] = [Math.round(box.x * width), Math.round(box.y * height)]
    out = cutView(out, {x, y, width: Math.round((box.x + box.width) * width) - x, height: Math.round((box.y + box.height) * height) - y})
  }
  // All draws are made in all cases, so that one setting does not shift the others.
  const [turns, angle, flips] = [random.uniform(), random.uniform(), random.uniform()]
  const [left, top] = [random.uniform(), random.uniform()]
  const [colours, ...factors] = Array.from({length: 6}, () => random.uniform())
  if (turns < rotate.probability && rotate.degrees > 0) out = rotateView(out, (2 * angle - 1) * rotate.degrees)
  if (flips < flip) out = {photo: mirror(out.photo), truth: mirrorMap(out.truth, out.photo.width)}
  if (crop) {
    const [width, height] = [Math.min(crop.width, out.photo.width), Math.min(crop.height, out.photo.height)]
    const x = Math.floor(left * (out.photo.width - width + 1))
    const y = Math.floor(top * (out.photo.height - height + 1))
    out = cutView(out, {x, y, width, height})
  }
  if (colours! < colour.probability) {
    const within = ([low, high]: readonly [number, number], share: number): number => low + (high - low) * share
    const photo = {...out.photo, data: out.photo.data.slice()}
    recolour(
      photo.data,
      within(colour.gamma, factors[0]!),
      within(colour.brightness, factors[1]!),
      factors.slice(2).map(share => within(colour.channels, share))
    )
    out = {photo, truth: out.truth}
  }
  return out
}

/** The size of a view after box and crop, for images of `width` × `height`. */
export function augmentedSize({width, height}: Size, {box, crop}: DepthAugmentation): Size {
  const side = (length: number, start: number, share: number): number => Math.round((start + share) * length) - Math.round(start * length)
  const whole = box ? {width: side(width, box.x, box.width), height: side(height, box.y, box.height)} : {width, height}
  return crop ? {width: Math.min(crop.width, whole.width), height: Math.min(crop.height, whole.height)} : whole
}
