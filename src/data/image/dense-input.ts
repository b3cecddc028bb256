/** The sizes at which heads for depth and segmentation see an image. */
import {fitGeometry} from './geometry.js'
import {resample, type Raster, type Size} from './resample.js'

/**
 * The photo at the size that a depth head sees: its short side `size`, both sides multiples of `patch`; or as it is.
 */
export function resizeForModel(photo: Raster, {size, patch}: {readonly size?: number; readonly patch: number}): Raster {
  const {width, height} = size === undefined ? photo : fitGeometry(photo.width, photo.height, {resize: size, patch}).window
  return width === photo.width && height === photo.height ? photo : {width, height, data: resample(photo, {width, height})}
}

/**
 * The size of a picture whose short side is to be `size`: torchvision's rule; the long side at most four times as
 * long.
 */
export function resizedSize({width, height}: Size, size: number): Size {
  const short = Math.min(size, Math.max(1, Math.floor((4 * size * Math.min(width, height)) / Math.max(width, height))))
  return fitGeometry(width, height, {resize: short, patch: 1}).size
}
