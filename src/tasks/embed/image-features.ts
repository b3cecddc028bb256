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
  type Tensor2D,
  type Tensor4D
} from '../../tensor/tf.js'
import {disposeTree} from '../../tensor/tree.js'
import {denseWidth, mapSize, padToPatches, type DenseSettings} from '../../model/dense-maps.js'
import {denseBatch, denseFeatures} from './dense-features.js'
import type {Backbone} from './load-backbone.js'

/** Whatever turns images into features. Dispose it to free what it owns. */
export type ImageFeatures<Out extends Tensor = Tensor> = {
  /** The candidate that an evaluation scores by them, e.g. `model`, `untrained`, `pixels`. */
  readonly name: string
  /** Numbers of a vector, or channels of a map. */
  readonly dim: number
  readonly precision: Precision
  /** Normalized images of one size [B, H, W, 3] → [B, D] or [B, h, w, D], the caller's. */
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

/** What a baseline of maps reads of patches: rows [n, 3 · P²] → [n, `channels`]. */
type PatchReader = {
  readonly name: string
  readonly channels: number
  readonly read: (rows: Tensor2D) => Tensor
  readonly batch: (size: MapSize) => number
}

/** Maps of what is read of each patch, joined with the position of the patch. */
function patchMaps({name, channels, read, batch}: PatchReader, patch: number): MapFeatures {
  const grid = ([height, width]: MapSize): [number, number] => [Math.ceil(height / patch), Math.ceil(width / patch)]
  return {
    name,
    dim: channels + POSITIONS,
    precision: 'fp32',
    compute(images) {
      const [B, H, W] = images.shape
      const [h, w] = grid([H, W])
      return tidy(() => {
        const values = read(patchRows(padToPatches(images, patch), patch)) // [B · h · w, channels]
        return concat([reshape(values, [B, h, w, channels]), positionsOf(B, h, w)], 3) as Tensor4D // [B, h, w, D]
      })
    },
    grid,
    batch,
    [Symbol.dispose]: () => undefined
  }
}

/** The baseline `pixels` for maps: the 3 · P² pixels of every patch and its position; it needs no network. */
export const pixelMaps = ({patch}: Pick<VitConfig, 'patch'>): MapFeatures =>
  patchMaps({name: 'pixels', channels: 3 * patch * patch, read: rows => rows, batch: () => 16}, patch)

/** Bins of each channel in the histogram of a patch. */
const BINS = 4

/**
 * The baseline `histogram` for maps: how often each colour occurs in a patch (4 bins a channel, square roots of
 * shares) and the position of the patch. It says nothing of the shapes within a patch.
 */
export function histogramMaps({patch}: Pick<VitConfig, 'patch'>): MapFeatures {
  const bins = BINS ** 3
  /** Normalized values of channel `c` → the number of their bin. */
  const binOf = (values: Tensor, c: number): Tensor =>
    floor(clipByValue(mul(add(mul(values, imageStd[c]!), imageMean[c]!), BINS), 0, BINS - 1e-3))
  const read = (rows: Tensor2D): Tensor => {
    const channels = unstack(reshape(rows, [-1, 3, patch * patch]), 1) // 3 × [n, P²]
    const index = channels.map(binOf).reduce((sum, bin) => add(mul(sum, BINS), bin)) // [n, P²]
    return sqrt(mean(oneHot(cast(index, 'int32'), bins).toFloat(), 1)) // [n, 4³]
  }
  // while it is computed, each pixel takes 64 numbers
  const batch = ([height, width]: MapSize): number => Math.max(1, Math.min(16, Math.floor(2 ** 18 / (height * width))))
  return patchMaps({name: 'histogram', channels: bins, read, batch}, patch)
}
