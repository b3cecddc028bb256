/**
 * Training of the linear segmentation head on frozen features (docs/spec.md §5.5): AdamW, poly schedule with warm-up,
 * cross-entropy that leaves ignored pixels out.
 *
 * Two ways to get at features. By random views: every step decodes, resizes, crops, mirrors and distorts pictures anew
 * and runs the backbone (the published protocol). Or cached: the backbone runs once over every whole picture and once
 * over its mirror image, and every step draws from those maps; there is nothing then for a small machine to wait for
 * but the head.
 *
 * In shape comments: B pictures, h × w patches, T places of all maps together, D channels, K classes.
 */
import {IGNORED} from '../../../data/targets/class-map.js'
import {maskView, resizeLabels, type MaskViewSettings} from '../../../data/targets/mask-augment.js'
import {resample} from '../../../data/image/resample.js'
import {adamw} from '../../../optim/adamw.js'
import {pixelLoss} from '../../../heads/pixel-loss.js'
import {
  initSegmentHead,
  polyLearningRate,
  setTrainable,
  segmentBackward,
  segmentForward,
  trainable,
  type SegmentHead
} from '../../../heads/segment-head.js'
import {normalizePixels} from '../../../tensor/ops/patches.js'
import {resizeBackward, resizeForward} from '../../../tensor/ops/resize.js'
import {rng} from '../../../tensor/random.js'
import {concat, dispose, mul, reshape, slice, stack, tensor, tensor1d, tidy, zerosLike} from '../../../tensor/tf.js'
import type {Scalar, Tensor2D, Tensor4D} from '../../../tensor/tf.js'
import {disposeTree} from '../../../tensor/tree.js'
import {featureCache, type FeatureCache} from '../../embed/dense-feature-cache.js'
import {oneAhead} from '../../embed/one-ahead.js'
import type {MapFeatures} from '../../embed/image-features.js'
import {resizedSize} from '../../../data/image/dense-input.js'
import {yieldToEvents} from './inference.js'
import type {SampleSet} from './dataset.js'

export type TrainSettings = {
  readonly steps: number
  /** Pictures a step. */
  readonly batch: number
  readonly lr: number
  readonly weightDecay: number
  /** First steps with a growing rate; Meta's 1,500 of 40,000 if absent. */
  readonly warmup?: number
  readonly seed: number
  /** How views are drawn; absent: cached features of whole pictures. */
  readonly views?: MaskViewSettings
  /** Short side of whole pictures (cached). */
  readonly size: number
  /** Bytes of features kept in memory and beyond that on disk (cached). */
  readonly cache: {readonly memory: number; readonly disk: number}
}

export type TrainProgress =
  /** Features of so many pictures were computed (cached). */
  | {readonly kind: 'features'; readonly done: number; readonly of: number}
  | {readonly kind: 'step'; readonly step: number; readonly of: number; readonly loss: number; readonly lr: number}

/**
 * One batch: rows of all maps [T, D], and of each picture its grid and the class numbers that its scores are compared
 * with.
 */
type Batch = {
  readonly rows: Tensor2D
  readonly pictures: readonly {
    readonly grid: readonly [number, number]
    readonly size: readonly [number, number]
    readonly labels: Uint16Array
  }[]
}

/** Pictures in the order of training: every one once a round, each round in an order of its own. */
function trainingOrder(count: number, seed: number): (position: number) => number {
  let [round, order] = [-1, new Uint32Array()]
  return position => {
    const now = Math.floor(position / count)
    if (now !== round) {
      round = now
      order = rng(seed, 'pictures', round).permutation(count) as Uint32Array<ArrayBuffer>
    }
    return order[position % count]!
  }
}

/**
 * Trains a head on the features of a set; yields how far it is and returns the head, which the caller owns. When
 * `signal` aborts, the head is as far as it came.
 *
 * The same set, settings and seed give the same head. The loss is divided by all pixels of a batch, ignored ones too,
 * as mmsegmentation divides it.
 */
export async function* trainHead(
  set: SampleSet,
  features: MapFeatures,
  classes: number,
  settings: TrainSettings,
  signal?: AbortSignal
): AsyncGenerator<TrainProgress, SegmentHead> {
  const {steps, batch, lr: base, weightDecay, seed, views} = settings
  const warmup = settings.warmup ?? Math.round((1500 / 40_000) * steps)
  const head = initSegmentHead(features.dim, classes, seed)
  const zeros = (): Map<string, Tensor2D> => new Map([...trainable(head)].map(([name, leaf]) => [name, zerosLike(leaf) as Tensor2D]))
  const moments = {m: zeros(), v: zeros()}
  using cache = featureCache({...settings.cache, precision: features.precision})
  const at = trainingOrder(set.length, seed)
  try {
    if (!views) {
      let done = 0
      const numbers = (async function* () {
        for (let i = 0; i < set.length; i++) {
          await yieldToEvents()
          if (signal?.aborted) return
          yield i
        }
      })()
      for await (const _ of oneAhead(numbers, i => computeMaps(set, features, settings.size, i, cache)))
        yield {kind: 'features', done: ++done, of: set.length}
      if (signal?.aborted) return head
    }
    for (let step = 0; step < steps; step++) {
      await yieldToEvents()
      if (signal?.aborted) break
      const chosen = Array.from({length: batch}, (_, b) => at(step * batch + b))
      const made = views
        ? await drawViews(set, features, chosen, step * batch, seed, views)
        : await drawCached({set, features, cache}, chosen, {first: step * batch, seed, size: settings.size})
      const lr = polyLearningRate(base, step, steps, warmup)
      const loss = trainStep(head, made, moments, {lr, weightDecay, step: step + 1, classes})
      yield {kind: 'step', step: step + 1, of: steps, loss, lr}
    }
    return head
  } catch (error) {
    disposeTree(head)
    throw error
  } finally {
    dispose([...moments.m.values(), ...moments.v.values()])
  }
}

/** One step; consumes the rows of the batch. Returns the loss. */
function trainStep(
  head: SegmentHead,
  {rows, pictures}: Batch,
  moments: {m: Map<string, Tensor2D>; v: Map<string, Tensor2D>},
  {lr, weightDecay, step, classes: K}: {lr: number; weightDecay: number; step: number; classes: number}
): number {
  const {scores, trace} = segmentForward(rows, head) //                                                [T, K]
  const pixels = pictures.reduce((sum, {labels}) => sum + labels.length, 0)
  let start = 0
  const losses: Scalar[] = []
  const slopes: Tensor2D[] = []
  for (const {grid, size, labels} of pictures) {
    const [h, w] = grid
    // Picture by picture: scores at the size of the picture are the largest tensors here.
    const one = tidy(() => {
      const maps = reshape(slice(scores, [start, 0], [h * w, K]), [1, h, w, K]) as Tensor4D
      const wide = resizeForward(maps, size) //                                                        [1, y, x, K]
      const target = tensor1d(Int32Array.from(labels), 'int32')
      const {loss, gradient} = pixelLoss(reshape(wide, [-1, K]), target, IGNORED)
      const dy = resizeBackward(reshape(gradient, wide.shape), [h, w])
      return {loss: mul<Scalar>(loss, 1 / pixels), dy: mul<Tensor2D>(reshape(dy, [h * w, K]), 1 / pixels)}
    })
    losses.push(one.loss)
    slopes.push(one.dy)
    start += h * w
  }
  const dy = concat(slopes, 0)
  const grads = segmentBackward(dy, trace, head)
  const named = trainable(head)
  adamw(named, grads, moments, {betas: [0.9, 0.999], eps: 1e-8, step, rates: () => ({lr, wd: weightDecay})})
  setTrainable(head, named)
  const each = tidy(() => stack(losses))
  const loss = each.dataSync<'float32'>().reduce((sum, one) => sum + one, 0)
  dispose([rows, scores, trace.normal, dy, each, ...slopes, ...losses, ...grads.values()])
  return loss
}

/** Views drawn anew, through the features. */
async function drawViews(
  set: SampleSet,
  features: MapFeatures,
  chosen: readonly number[],
  first: number,
  seed: number,
  views: MaskViewSettings
): Promise<Batch> {
  const {crop} = views
  const drawn = []
  for (const [b, i] of chosen.entries()) {
    const {photo, labels} = await set.sample(i)
    drawn.push(maskView(photo, labels, rng(seed, 'view', first + b), views))
  }
  const at = features.batch([crop, crop])
  const parts: Tensor2D[] = []
  for (let start = 0; start < drawn.length; start += at) {
    const some = drawn.slice(start, start + at)
    const bytes = new Uint8Array(some.length * crop * crop * 3)
    some.forEach(({pixels}, i) => bytes.set(pixels, i * crop * crop * 3))
    parts.push(
      tidy(() => {
        const images = normalizePixels(bytes, [some.length, crop, crop])
        const whole = some.every(({height, width}) => height === crop && width === crop)
        const seen = whole ? images : mul<Tensor4D>(images, tensor(validMask(some, crop), [some.length, crop, crop, 1])) // padding is zero after normalization
        return reshape(features.compute(seen), [-1, features.dim]) as Tensor2D
      })
    )
  }
  const rows = parts.length === 1 ? parts[0]! : concat(parts, 0)
  if (parts.length > 1) dispose(parts)
  const grid = features.grid([crop, crop])
  return {rows, pictures: drawn.map(({labels}) => ({grid, size: [crop, crop] as const, labels}))}
}

/** Ones where views hold picture, zeros where they are padded. */
function validMask(views: readonly {readonly height: number; readonly width: number}[], crop: number): Float32Array {
  const out = new Float32Array(views.length * crop * crop)
  for (const [i, {height, width}] of views.entries())
    for (let y = 0; y < height; y++) out.fill(1, (i * crop + y) * crop, (i * crop + y) * crop + width)
  return out
}

/** Maps of picture i, upright (2i) and mirrored (2i + 1), as numbers; kept where the budget allows. */
async function computeMaps(
  set: SampleSet,
  features: MapFeatures,
  size: number,
  i: number,
  cache: FeatureCache
): Promise<{upright: Float32Array; mirrored: Float32Array; grid: readonly [number, number]}> {
  const {photo} = await set.sample(i)
  const to = resizedSize(photo, size)
  const bytes = new Uint8Array(2 * to.width * to.height * 3)
  bytes.set(resample(photo, to))
  bytes.set(resample(photo, to, {flip: true}), bytes.length / 2)
  const maps = tidy(() => features.compute(normalizePixels(bytes, [2, to.height, to.width]))) //        [2, h, w, D]
  const [, h, w] = maps.shape
  const data = await maps.data<'float32'>()
  maps.dispose()
  const [upright, mirrored] = [data.subarray(0, data.length / 2), data.subarray(data.length / 2)]
  cache.put(2 * i, {height: h, width: w, data: upright})
  cache.put(2 * i + 1, {height: h, width: w, data: mirrored})
  return {upright, mirrored, grid: [h, w]}
}

/**
 * Scores of cached maps are compared with labels at so many places along a patch at most. Between patches scores are
 * interpolated anyway: more places cost much on a small machine and change the head little.
 */
const LABELS_PER_PATCH = 4

/** Whole pictures, each mirrored or not, their features from the cache or computed again. */
async function drawCached(
  {set, features, cache}: {readonly set: SampleSet; readonly features: MapFeatures; readonly cache: FeatureCache},
  chosen: readonly number[],
  {first, seed, size}: {readonly first: number; readonly seed: number; readonly size: number}
): Promise<Batch> {
  const parts: Float32Array[] = []
  const pictures = []
  for (const [b, i] of chosen.entries()) {
    const flip = rng(seed, 'mirror', first + b).chance(0.5)
    const kept = cache.get(flip ? 2 * i + 1 : 2 * i)
    const made = kept ? undefined : await computeMaps(set, features, size, i, cache)
    parts.push(kept?.data ?? (flip ? made!.mirrored : made!.upright))
    const {photo, labels} = await set.sample(i)
    const to = resizedSize(photo, size)
    const grid = kept ? ([kept.height, kept.width] as const) : made!.grid
    const seen = {width: Math.min(to.width, LABELS_PER_PATCH * grid[1]), height: Math.min(to.height, LABELS_PER_PATCH * grid[0])}
    pictures.push({grid, size: [seen.height, seen.width] as const, labels: resizeLabels(labels, photo, seen, {x: 0, y: 0, ...seen}, flip)})
  }
  const all = new Float32Array(parts.reduce((sum, {length}) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  const rows: Tensor2D = tensor(all, [all.length / features.dim, features.dim])
  return {rows, pictures}
}
