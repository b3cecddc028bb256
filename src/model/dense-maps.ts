/**
 * Patch features for dense tasks: maps of what chosen blocks say of every patch, for images of any size.
 *
 * An image whose sides are no multiples of the patch is padded with zeros on both sides, after normalization and so
 * with the mean colour, as the published depth and segmentation heads were trained (docs/spec.md §5.5). What reads the
 * maps stretches them over the image without its padding, as those heads did: see `mapSize`.
 *
 * In shape comments: B images, H × W pixels, P patch side, h = ⌈H/P⌉, w = ⌈W/P⌉, C width, n blocks, D = n · C, or n ·
 * 2C with cls.
 */
import type {Precision} from '../tensor/ops/precision.js'
import type {MapSize} from '../tensor/ops/resize.js'
import {concat, expandDims, pad, reshape, tidy, tile, type Tensor3D, type Tensor4D} from '../tensor/tf.js'
import type {VitConfig} from './config.js'
import {intermediateLayers, type Vit} from './vit.js'

/** What is taken from the model at every patch. */
export type DenseSettings = {
  /** Blocks counted from 0, in ascending order; their channels lie side by side in this order. */
  readonly layers: readonly number[]
  /**
   * After the patch's channels of each block, that block's cls token, the same at every place (the linear depth
   * heads).
   */
  readonly cls: boolean
  /**
   * Whether the final norm is applied to each block's output: true for segmentation, false for the published depth
   * heads.
   */
  readonly norm: boolean
}

/** Channels of a map: D. */
export const denseWidth = ({width}: VitConfig, {layers, cls}: DenseSettings): number => layers.length * width * (cls ? 2 : 1)

/** Patches along the sides of an image of `height` × `width` pixels, padded where they are no multiples: [h, w]. */
export const mapSize = ({patch}: VitConfig, [height, width]: MapSize): [number, number] => [
  Math.ceil(height / patch),
  Math.ceil(width / patch)
]

/**
 * Zeros around images [B, H, W, 3] up to the next multiples of `patch`, half of them (rounded down) before; the images
 * themselves where nothing is missing.
 */
export function padToPatches(images: Tensor4D, patch: number): Tensor4D {
  const [, H, W] = images.shape
  const sides = (length: number): [number, number] => {
    const missing = Math.ceil(length / patch) * patch - length
    return [Math.floor(missing / 2), missing - Math.floor(missing / 2)]
  }
  const [rows, columns] = [sides(H), sides(W)]
  return pad(images, [[0, 0], rows, columns, [0, 0]])
}

/**
 * Normalized images [B, H, W, 3] (`normalizePixels`) of any size → maps [B, h, w, D] float32, which the caller owns.
 * Throws a RangeError for blocks the model does not have.
 */
export function denseMaps(
  params: Vit,
  images: Tensor4D,
  config: VitConfig,
  {layers, cls, norm, stream}: DenseSettings & {readonly stream?: Precision}
): Tensor4D {
  const [B, H, W] = images.shape
  const [h, w] = mapSize(config, [H, W])
  return tidy(() => {
    const padded = padToPatches(images, config.patch)
    const outputs = intermediateLayers(params, padded, config, {n: layers, norm, stream})
    const parts = outputs.flatMap(({patches, cls: token}): Tensor3D[] =>
      cls ? [patches, tile(expandDims<Tensor3D>(token, 1), [1, h * w, 1])] : [patches]
    )
    return reshape(parts.length === 1 ? parts[0]! : concat(parts, 2), [B, h, w, -1]) //     [B, h, w, D]
  })
}
