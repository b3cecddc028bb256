/**
 * Where pixels go when an image is made ready for the network: torchvision's Resize and CenterCrop, and the rule
 * without a crop.
 */
import type {Box, Size} from './resample.js'

/** How images are made ready. `crop` absent: the whole image is kept, its shape too. */
export type Transform = {
  /** Length of the short side after resizing, in pixels. */
  readonly resize: number
  /** Side of the square cut from the middle, in pixels; at most `resize`. */
  readonly crop?: number
  /** Without a crop: both sides become multiples of it. */
  readonly patch?: number
  /** Letter-box bars are cut off before anything else (`borders.ts`). */
  readonly cropBorders?: boolean
}

/** Size after resizing, and the window that is kept of it. */
export type Fit = {readonly size: Size; readonly window: Box}

/** Rounds to the nearest whole number, halves to the even one, as Python's `round`. */
export function roundHalfEven(x: number): number {
  const low = Math.floor(x)
  const rest = x - low
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low
}

/**
 * The geometry for one image of the given size.
 *
 * With a crop, as torchvision: the short side becomes `resize`, the long one trunc(resize · long / short); the square
 * starts at round((side - crop) / 2), halves to the even number. Without: the same sides, each then rounded to the
 * nearest multiple of `patch` (halves upwards, at least one patch), and the image is resized to that in one step.
 * Raises RangeError where the crop exceeds the resized side.
 */
export function fitGeometry(width: number, height: number, {resize, crop, patch = 14}: Transform): Fit {
  const long = (side: number, short: number): number => Math.trunc((resize * side) / short)
  const size = width <= height ? {width: resize, height: long(height, width)} : {width: long(width, height), height: resize}
  if (crop === undefined) {
    const whole = (side: number): number => Math.max(1, Math.round(side / patch)) * patch
    const fitted = {width: whole(size.width), height: whole(size.height)}
    return {size: fitted, window: {x: 0, y: 0, ...fitted}}
  }
  if (crop > resize) throw new RangeError(`Expected a crop of at most the resized side (${resize} pixels) but received ${crop}.`)
  const start = (side: number): number => roundHalfEven((side - crop) / 2)
  return {size, window: {x: start(size.width), y: start(size.height), width: crop, height: crop}}
}
