/**
 * Random views of an image with its mask, for training a segmentation head (docs/spec.md §5.5; mmsegmentation's
 * training pipeline): resized by a drawn ratio, cropped so that no class fills the crop, mirrored, colours distorted,
 * and padded where the resized image is smaller than the crop.
 *
 * Pictures are resized as everywhere here (bicubic, as Pillow), masks by the nearest pixel.
 */
import type {Rng} from '../../tensor/random.js'
import {IGNORED} from './class-map.js'
import {adjustHue} from '../augment/color.js'
import {resample, type Raster} from '../image/resample.js'

export type MaskViewSettings = {
  /** Short side at ratio 1; the long side is at most four times as long. */
  readonly size: number
  /** Between which the ratio is drawn, evenly. */
  readonly ratio: readonly [low: number, high: number]
  /** Side of the square crop. */
  readonly crop: number
  /** Up to ten crops are drawn until the commonest class has less than this share of the pixels that count. */
  readonly mostOfOne: number
  /** Whether colours are distorted. */
  readonly colours: boolean
}

/**
 * A view: the upper left `height` × `width` of the crop is picture, what is beyond is padding (black, not counted).
 */
export type MaskView = {
  readonly pixels: Uint8Array // [crop, crop, 3]
  readonly labels: Uint16Array // [crop, crop]
  readonly height: number
  readonly width: number
}

/**
 * Class numbers [height, width] at another size by the nearest pixel, then the window cut out; mirrored first where
 * asked.
 */
export function resizeLabels(
  labels: Uint16Array,
  from: {width: number; height: number},
  to: {width: number; height: number},
  window: {x: number; y: number; width: number; height: number} = {x: 0, y: 0, ...to},
  flip = false
): Uint16Array {
  const out = new Uint16Array(window.width * window.height)
  const columns = Int32Array.from({length: window.width}, (_, x) => {
    const at = flip ? to.width - 1 - (window.x + x) : window.x + x
    return Math.min(from.width - 1, Math.floor(((at + 0.5) * from.width) / to.width))
  })
  for (let y = 0; y < window.height; y++) {
    const row = Math.min(from.height - 1, Math.floor(((window.y + y + 0.5) * from.height) / to.height)) * from.width
    for (let x = 0; x < window.width; x++) out[y * window.width + x] = labels[row + columns[x]!]!
  }
  return out
}

/** Whether several classes are there and none has the share `most` of the pixels that count. */
function varied(labels: Uint16Array, most: number): boolean {
  const counts = new Map<number, number>()
  let all = 0
  for (const label of labels) {
    if (label === IGNORED) continue
    counts.set(label, (counts.get(label) ?? 0) + 1)
    all++
  }
  return counts.size > 1 && Math.max(...counts.values()) / all < most
}

/**
 * mmsegmentation's photometric distortion, in place: each with probability ½ brightness ±32, contrast 0.5–1.5 (before
 * or behind the others), saturation 0.5–1.5 and hue ±18 of 180 degrees.
 */
export function distortColours(pixels: Uint8Array, random: Rng): void {
  const line = (factor: number, plus: number): void => {
    const table = Uint8Array.from({length: 256}, (_, v) => Math.max(0, Math.min(255, Math.trunc(v * factor + plus))))
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[pixels[i]!]!
  }
  if (random.chance(0.5)) line(1, random.uniform(-32, 32))
  const contrastFirst = random.chance(0.5)
  const contrast = random.chance(0.5) ? random.uniform(0.5, 1.5) : undefined
  if (contrast !== undefined && contrastFirst) line(contrast, 0)
  if (random.chance(0.5)) saturate(pixels, random.uniform(0.5, 1.5))
  if (random.chance(0.5)) adjustHue(pixels, random.uniform(-18, 18) / 180)
  if (contrast !== undefined && !contrastFirst) line(contrast, 0)
}

/** Saturation (of hue, saturation, value) times a factor, at most 1: every channel moves away from the largest one. */
function saturate(pixels: Uint8Array, factor: number): void {
  for (let i = 0; i < pixels.length; i += 3) {
    const [r, g, b] = [pixels[i]!, pixels[i + 1]!, pixels[i + 2]!]
    const value = Math.max(r, g, b)
    const range = value - Math.min(r, g, b)
    if (range === 0) continue
    const by = Math.min(factor, value / range)
    pixels[i] = Math.round(value - (value - r) * by)
    pixels[i + 1] = Math.round(value - (value - g) * by)
    pixels[i + 2] = Math.round(value - (value - b) * by)
  }
}

/** A random view of a picture with class numbers [height, width]; all draws come from `random`. */
export function maskView(photo: Raster, labels: Uint16Array, random: Rng, settings: MaskViewSettings): MaskView {
  const {size, ratio, crop, mostOfOne, colours} = settings
  const drawn = random.uniform(ratio[0], ratio[1]) * size
  const scale = Math.min(drawn / Math.min(photo.width, photo.height), (4 * drawn) / Math.max(photo.width, photo.height))
  const to = {width: Math.max(1, Math.round(photo.width * scale)), height: Math.max(1, Math.round(photo.height * scale))}
  const [width, height] = [Math.min(crop, to.width), Math.min(crop, to.height)]
  const flip = random.chance(0.5)
  let window = {x: 0, y: 0, width, height}
  let cut: Uint16Array = new Uint16Array()
  for (let tries = 0; tries < 10; tries++) {
    window = {x: random.int(to.width - width + 1), y: random.int(to.height - height + 1), width, height}
    cut = resizeLabels(labels, photo, to, window, flip)
    if (varied(cut, mostOfOne)) break
  }
  const picture = resample(photo, to, {window, flip})
  if (colours) distortColours(picture, random)
  if (width === crop && height === crop) return {pixels: picture, labels: cut, height, width}
  const padded = new Uint8Array(crop * crop * 3)
  const counted = new Uint16Array(crop * crop).fill(IGNORED)
  for (let y = 0; y < height; y++) {
    padded.set(picture.subarray(y * width * 3, (y + 1) * width * 3), y * crop * 3)
    counted.set(cut.subarray(y * width, (y + 1) * width), y * crop)
  }
  return {pixels: padded, labels: counted, height, width}
}
