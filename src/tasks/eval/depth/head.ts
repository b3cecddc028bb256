/** A depth head ready to be asked: one that was trained here, or a published one, linear or DPT. */
import {mirrorMap, mirror} from '../../../data/targets/depth-augment.js'
import type {Raster} from '../../../data/image/resample.js'
import {depthForward, upsampleDepth, type LinearDepthHead} from '../../../heads/depth-head.js'
import {dptForward, dptOf} from '../../../heads/dpt.js'
import {dispose, tensor, type Tensor, type Tensor4D} from '../../../tensor/tf.js'
import {disposeTree, unflatten} from '../../../tensor/tree.js'
import type {DenseSettings} from '../../../model/dense-maps.js'
import type {DepthRange} from './dataset.js'
import type {FeatureSource} from './features.js'
import {readDepthHead, type DepthHeadOptions, type DepthHeadSpec} from './head-file.js'

export type LoadedDepthHead = {
  readonly kind: 'linear' | 'dpt'
  readonly dense: DenseSettings
  readonly range: DepthRange
  /** Short side of the images that it wants to see, where it says. */
  readonly size?: number
  /** Features [B, h, w, D] → depth [B, ·, ·, 1] in metres, not clamped; the caller's. */
  depth(features: Tensor4D): Tensor4D
  [Symbol.dispose](): void
}

/** A linear head as a probe, which takes over its tensors. */
export const loadedLinearHead = (head: LinearDepthHead, {dense, bins, size}: DepthHeadSpec): LoadedDepthHead => ({
  kind: 'linear',
  dense,
  range: bins,
  size,
  depth(features) {
    const {depth, logits, total} = depthForward(features, head, bins)
    dispose([logits, total])
    return depth
  },
  [Symbol.dispose]: () => disposeTree(head)
})

/**
 * The depth of a photo at a size [Y, X], row by row, in metres within the range; with `flip` the mean of what is seen
 * in it and in its mirror image.
 */
export async function predictDepth(
  source: FeatureSource,
  probe: Pick<LoadedDepthHead, 'depth' | 'range'>,
  photo: Raster,
  [Y, X]: readonly [number, number],
  flip: boolean
): Promise<Float32Array> {
  const features = source.compute(flip ? [photo, mirror(photo)] : [photo])
  const coarse = probe.depth(features)
  dispose(features)
  const shown = upsampleDepth(coarse, probe.range, [Y, X]) //                             [1 or 2, Y, X, 1]
  dispose(coarse)
  const values = await shown.data<'float32'>()
  dispose(shown)
  if (!flip) return values
  const [straight, turned] = [values.subarray(0, Y * X), mirrorMap(values.subarray(Y * X), X)]
  return straight.map((depth, i) => (depth + turned[i]!) / 2)
}

/** Opens a head for a backbone, on the running engine. Throws what `readDepthHead` throws. */
export async function openDepthHead(name: string, options: DepthHeadOptions): Promise<LoadedDepthHead> {
  const {kind, dense, range, bins, size, tensors} = await readDepthHead(name, options)
  const named = [...tensors].map(([key, {shape, data}]): [string, Tensor] => [key, tensor(data, [...shape])])
  if (bins) return loadedLinearHead(unflatten<LinearDepthHead>(named), {dense, bins, size})
  const head = dptOf(named)
  return {kind, dense, range, depth: features => dptForward(features, head, range.min), [Symbol.dispose]: () => disposeTree(head)}
}
