/**
 * Features of images as evaluations read them: one vector an image, or one map of patch features; by a model, by the
 * same architecture with fresh weights, or from the pixels themselves.
 *
 * In shape comments: B images, H × W pixels, h × w patches, P side of a patch, D numbers of a vector or channels.
 */
import type {VitConfig} from '../../model/config.js'
import {initVit} from '../../model/init.js'
import {imageMean, imageStd, patchRows} from '../../tensor/ops/patches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import type {MapSize} from '../../tensor/ops/resize.js'
import {
  add,
  cast,
  clipByValue,
  concat,
  floor,
  mean,
  mul,
  oneHot,
  reshape,
  sqrt,
  tensor4d,
  tidy,
  tile,
  unstack,
  type Tensor,
  type Tensor4D
} from '../../tensor/tf.js'
import {disposeTree} from '../../tensor/tree.js'
import {denseBatch, denseFeatures, denseWidth, mapSize, padToPatches, type DenseSettings} from './dense-features.js'
import type {Backbone} from './load-backbone.js'

/** Whatever turns images into features. Dispose it to free what it owns. */
export type ImageFeatures<Out extends Tensor = Tensor> = {
  /** The candidate that an evaluation scores by them, e.g. `model`, `untrained`, `pixels`. */
  readonly name: string
  /** Numbers of a vector, or channels of a map. */
  readonly dim: number
  readonly precision: Precision
  /** Normalised images of one size [B, H, W, 3] → [B, D] or [B, h, w, D], the caller's. */
  compute(images: Tensor4D): Out
  [Symbol.dispose](): void
}

/** Maps of patch features. */
export type MapFeatures = ImageFeatures<Tensor4D> & {
  /** Patches along the sides of an image, [h, w]. */
  grid(size: MapSize): [number, number]
  /** Images of a size that are computed at once. */
  batch(size: MapSize): number
}

/** The parts of a backbone that compute. */
export type ComputingBackbone = Pick<Backbone, 'config' | 'params' | 'precision'>

/**
 * The baseline `untrained`: an architecture with fresh weights, which shows what the architecture alone contributes.
 * LayerScale starts at 1: from 1e-5, as in the recipes, all images would have the same features.
 */
export function untrainedBackbone(
  config: VitConfig,
  seed: number
): Pick<Backbone, 'config' | 'params' | 'precision' | 'fingerprint'> & Disposable {
  const params = initVit(config, seed, 1)
  return {config, params, precision: 'fp32', fingerprint: `untrained ${seed}`, [Symbol.dispose]: () => disposeTree(params)}
}

/** Patch features of a backbone, which stays the caller's. */
export function backboneMaps(
  backbone: ComputingBackbone,
  settings: DenseSettings,
  {name, device, batch}: {readonly name: string; readonly device: string; readonly batch?: number | undefined}
): MapFeatures {
  const {config, precision} = backbone
  return {
    name,
    dim: denseWidth(config, settings),
    precision,
    compute: images => denseFeatures(backbone, images, settings),
    grid: size => mapSize(config, size),
    batch: size => batch ?? denseBatch(config, size, device),
    [Symbol.dispose]: () => undefined
  }
}

/** Numbers that say where a patch lies: y, x, y², xy and x², from −1 to 1. */
const POSITIONS = 5

/** The positions of a grid of patches for each of B images, [B, h, w, 5]. */
function positionsOf(B: number, h: number, w: number): Tensor4D {
  const positions = new Float32Array(h * w * POSITIONS)
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const [v, u] = [(2 * y + 1) / h - 1, (2 * x + 1) / w - 1]
      positions.set([v, u, v * v, u * v, u * u], (y * w + x) * POSITIONS)
    }
  return tile(tensor4d(positions, [1, h, w, POSITIONS]), [B, 1, 1, 1])
}

/**
 * The baseline `pixels` for maps: the 3 · P² pixels of every patch and its position, which need no network at all.
 */
export function pixelMaps({patch}: Pick<VitConfig, 'patch'>): MapFeatures {
  const sizeOf = (length: number): number => Math.ceil(length / patch)
  const channels = 3 * patch * patch
  return {
    name: 'pixels',
    dim: channels + POSITIONS,
    precision: 'fp32',
    compute(images) {
      const [B, H, W] = images.shape
      const [h, w] = [sizeOf(H), sizeOf(W)]
      return tidy(() => {
        const pixels = reshape(patchRows(padToPatches(images, patch), patch), [B, h, w, channels]) // [B, h, w, 3 · P²]
        return concat([pixels, positionsOf(B, h, w)], 3) as Tensor4D // [B, h, w, D]
      })
    },
    grid: ([height, width]) => [sizeOf(height), sizeOf(width)],
    batch: () => 16,
    [Symbol.dispose]: () => undefined
  }
}

/** Bins of each channel in the histogram of a patch. */
const BINS = 4

/**
 * The baseline `histogram` for maps: how often each color occurs in a patch (4 bins a channel, square roots of shares)
 * and the position of the patch. It says nothing of the shapes within a patch.
 */
export function histogramMaps({patch}: Pick<VitConfig, 'patch'>): MapFeatures {
  const sizeOf = (length: number): number => Math.ceil(length / patch)
  const bins = BINS ** 3
  return {
    name: 'histogram',
    dim: bins + POSITIONS,
    precision: 'fp32',
    compute(images) {
      const [B, H, W] = images.shape
      const [h, w] = [sizeOf(H), sizeOf(W)]
      return tidy(() => {
        const rows = patchRows(padToPatches(images, patch), patch) // [B · h · w, 3 · P²]
        const channels = unstack(reshape(rows, [B * h * w, 3, patch * patch]), 1) // 3 × [B · h · w, P²]
        const index = channels
          .map((values, c) => floor(clipByValue(mul(add(mul(values, imageStd[c]!), imageMean[c]!), BINS), 0, BINS - 1e-3)))
          .reduce((sum, bin) => add(mul(sum, BINS), bin)) // [B · h · w, P²]
        const shares = mean(oneHot(cast(index, 'int32'), bins).toFloat(), 1) // [B · h · w, 4³]
        return concat([reshape(sqrt(shares), [B, h, w, bins]), positionsOf(B, h, w)], 3) as Tensor4D // [B, h, w, D]
      })
    },
    grid: ([height, width]) => [sizeOf(height), sizeOf(width)],
    // while it is computed, each pixel takes 64 numbers
    batch: ([height, width]) => Math.max(1, Math.min(16, Math.floor(2 ** 18 / (height * width)))),
    [Symbol.dispose]: () => undefined
  }
}
