/**
 * Frozen patch features for dense tasks (`model/dense-maps.ts`) of a backbone that was loaded, within its memory.
 *
 * In shape comments: B images, H × W pixels, h = ⌈H/P⌉, w = ⌈W/P⌉, D channels.
 */
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import type {VitConfig} from '../../model/config.js'
import {denseMaps, mapSize, type DenseSettings} from '../../model/dense-maps.js'
import type {MapSize} from '../../tensor/ops/resize.js'
import type {Tensor4D} from '../../tensor/tf.js'
import type {Backbone} from './load-backbone.js'
import {assertPassFits} from './pass-memory.js'

/**
 * The last `n` blocks, or the blocks named, in ascending order. Throws a `UserError` (exit 2) for blocks that the
 * model does not have.
 */
export function blocksOf({depth}: VitConfig, layers: number | readonly number[]): number[] {
  const blocks =
    typeof layers === 'number' ? Array.from({length: layers}, (_, i) => depth - layers + i) : [...new Set(layers)].sort((a, b) => a - b)
  if (blocks.length === 0 || blocks.some(block => !Number.isInteger(block) || block < 0 || block >= depth))
    throw new UserError(`--layers ${String(layers)} does not fit the model, which has ${counted(depth, 'block')}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give a number from 1 to ${depth}, or a list of blocks from 0 to ${depth - 1}.`
    })
  return blocks
}

/**
 * Normalized images [B, H, W, 3] (`normalizePixels`) of any size → maps [B, h, w, D] float32, which the caller owns.
 *
 * The residual stream is held in the backbone's precision, as for embedding. Throws a RangeError for blocks the model
 * does not have.
 */
export function denseFeatures(
  {params, config, precision}: Pick<Backbone, 'params' | 'config' | 'precision'>,
  images: Tensor4D,
  {layers, cls, norm}: DenseSettings
): Tensor4D {
  const [B, H, W] = images.shape
  assertPassFits(config, {images: B, height: H, width: W, layers: layers.length}, precision)
  return denseMaps(params, images, config, {layers, cls, norm, stream: precision})
}

/**
 * How many images of a size are computed at once where nobody says: about 4,096 tokens on a CPU, more where a device
 * wants to be filled.
 */
export function denseBatch(config: VitConfig, size: MapSize, device: string): number {
  const [h, w] = mapSize(config, size)
  return Math.max(1, Math.min(256, Math.round((device.startsWith('cuda') ? 32_768 : 4096) / (h * w + 1))))
}
