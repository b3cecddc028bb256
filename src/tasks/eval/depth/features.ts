/**
 * What depth heads read of an image: patch features of a backbone, or, for the baseline, the colours of each patch and
 * where it lies.
 *
 * Both give maps of one grid for one image, so that the same head and the same training serve both.
 */
import type {Raster} from '../../../data/image/resample.js'
import type {VitConfig} from '../../../model/config.js'
import {normalizePixels} from '../../../tensor/ops/patches.js'
import {concat, dispose, tensor4d, tidy, type Tensor4D} from '../../../tensor/tf.js'
import type {MapSize} from '../../../tensor/ops/resize.js'
import {mapSize} from '../../../model/dense-maps.js'
import type {MapFeatures} from '../../embed/image-features.js'

/** Features of photos. */
export type FeatureSource = {
  /** Channels of a map. */
  readonly dim: number
  /** Photos of a size that are computed at once. */
  batch(size: MapSize): number
  /** Maps of photos of one size; → [B, h, w, D], the caller's. */
  compute(photos: readonly Raster[]): Tensor4D
}

/** Photos of one size as normalized pixels, [B, H, W, 3]. */
function pixelsOf(photos: readonly Raster[]): Tensor4D {
  const {width, height} = photos[0]!
  const all = new Uint8Array(photos.length * width * height * 3)
  photos.forEach(({data}, i) => all.set(data, i * width * height * 3))
  return normalizePixels(all, [photos.length, height, width])
}

/** Patch features, computed from photos. */
export const photoFeatures = (maps: MapFeatures): FeatureSource => ({
  dim: maps.dim,
  batch: size => maps.batch(size),
  compute(photos) {
    const pixels = pixelsOf(photos)
    const features = maps.compute(pixels)
    dispose(pixels)
    return features
  }
})

/** Cells of a patch along each side, whose mean colours are the baseline's features. */
const CELLS = 2
/** Horizontal and vertical place, their squares and their product. */
const PLACES = 5

/**
 * Mean colours of the cells of every patch, and its place: what a linear head can say of depth without any feature
 * learnt.
 */
export function pixelFeatures(config: VitConfig): FeatureSource {
  const D = CELLS * CELLS * 3 + PLACES
  const one = ({width, height, data}: Raster): {map: Float32Array; h: number; w: number} => {
    const [h, w] = mapSize(config, [height, width])
    const [rows, columns] = [h * CELLS, w * CELLS]
    const map = new Float32Array(h * w * D)
    for (let y = 0; y < rows; y++) {
      const [top, bottom] = cellSpan(y, rows, height)
      for (let x = 0; x < columns; x++) {
        const [left, right] = cellSpan(x, columns, width)
        const to = (Math.floor(y / CELLS) * w + Math.floor(x / CELLS)) * D + ((y % CELLS) * CELLS + (x % CELLS)) * 3
        const count = (bottom - top) * (right - left) * 255
        for (let c = 0; c < 3; c++) {
          let sum = 0
          for (let row = top; row < bottom; row++)
            for (let column = left; column < right; column++) sum += data[(row * width + column) * 3 + c]!
          map[to + c] = sum / count - 0.5
        }
      }
    }
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const [v, u] = [(2 * (y + 0.5)) / h - 1, (2 * (x + 0.5)) / w - 1]
        map.set([u, v, u * u, v * v, u * v], (y * w + x) * D + D - PLACES)
      }
    return {map, h, w}
  }
  return {
    dim: D,
    batch: () => 16,
    compute: photos =>
      tidy(() =>
        concat(
          photos.map(photo => {
            const {map, h, w} = one(photo)
            return mapTensor(map, h, w)
          })
        )
      )
  }
}

/** The pixels under cell `i` of `cells` along a side; at least one. */
function cellSpan(i: number, cells: number, side: number): [from: number, to: number] {
  const from = Math.min(side - 1, Math.floor((i * side) / cells))
  return [from, Math.max(from + 1, Math.floor(((i + 1) * side) / cells))]
}

/** One map [h, w, D] as a tensor [1, h, w, D]. */
export const mapTensor = (map: Float32Array, h: number, w: number): Tensor4D => tensor4d(map, [1, h, w, map.length / (h * w)])
