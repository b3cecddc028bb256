/**
 * The training pairs of a depth head: one pass over them says which can be used and what their depths are, and keeps
 * features where asked to; then batches for training, from those features or from random views.
 *
 * h × w patches, D channels, H × W pixels, B images.
 */
import {augmentedSize, augmentView, mirror, mirrorMap, resizeDepth} from '../../../data/targets/depth-augment.js'
import type {Pair} from '../../../data/targets/pairs.js'
import type {Raster} from '../../../data/image/resample.js'
import type {LinearDepthHead} from '../../../heads/depth-head.js'
import {rng} from '../../../tensor/random.js'
import {concat, dispose, tensor3d, tidy, type Tensor4D} from '../../../tensor/tf.js'
import {featureCache, type FeatureCache, type StoredMap} from '../../embed/dense-feature-cache.js'
import {oneAhead} from '../../embed/one-ahead.js'
import type {EvalEvent} from '../shared/evaluation.js'
import type {DepthContext} from './context.js'
import {loadSample, readSamples, type DepthSample} from './dataset.js'
import {mapTensor, type FeatureSource} from './features.js'
import type {DepthFeatures} from './report.js'
import {ChannelMoments, countBins, trainDepthHead, type DepthBatch} from './train.js'

/** Grid of the mean depth by place, over the whole image. */
export const PLACE_GRID = {width: 64, height: 48}

/** What one pass over the training pairs leaves behind. */
export type TrainingPass = {
  /** The pairs that can be used. */
  readonly pairs: readonly Pair[]
  /**
   * Truth at the size of the photos, and features of each image (2i) and of its mirror image (2i + 1), where features
   * are kept.
   */
  readonly truths: FeatureCache
  readonly maps: FeatureCache
  readonly moments: ChannelMoments | undefined
  /** How often the depth of each bin occurs. */
  readonly frequency: Float64Array
  /** Images by the size of their views. */
  readonly groups: readonly (readonly number[])[]
  /** Mean over images of the mean depth of their valid pixels, in metres. */
  readonly mean: number
  /** Sums and counts of depth by place in `PLACE_GRID`. */
  readonly places: {readonly sum: Float64Array; readonly count: Float64Array}
  /** Releases the kept features; may be called twice. */
  [Symbol.dispose](): void
}

/** Adds the valid depths of an image to the places that they lie at; returns their mean. */
function addPlaces({sum, count}: TrainingPass['places'], {truth, valid, width, height}: DepthSample): number {
  let total = 0
  for (const at of valid) {
    const [y, x] = [Math.floor(at / width), at % width]
    const place = Math.floor((y * PLACE_GRID.height) / height) * PLACE_GRID.width + Math.floor((x * PLACE_GRID.width) / width)
    sum[place]! += truth[at]!
    count[place]!++
    total += truth[at]!
  }
  return total / valid.length
}

/**
 * Reads all training pairs once. With `source` and cached training, keeps the features of every image and its mirror
 * image.
 */
export async function* readTrainingPairs(
  {options, data, bins, augmentation, onRejected}: DepthContext,
  all: readonly Pair[],
  source: FeatureSource | undefined,
  features: DepthFeatures
): AsyncGenerator<EvalEvent, TrainingPass> {
  const {cached, cacheMemory, cacheDisk, signal} = options
  const maps = featureCache({memory: cacheMemory, disk: cacheDisk})
  const truths = featureCache({memory: cacheMemory})
  const kept = cached && source ? {source, moments: new ChannelMoments(source.dim)} : undefined
  const cells = PLACE_GRID.width * PLACE_GRID.height
  const places = {sum: new Float64Array(cells), count: new Float64Array(cells)}
  const frequency = new Float64Array(bins.count)
  const pairs: Pair[] = []
  const sizes = new Map<string, number[]>()
  let total = 0
  const withMaps = async (sample: DepthSample) => ({
    sample,
    computed: kept ? await computeMaps(kept.source, [sample.photo, mirror(sample.photo)]) : []
  })
  for await (const {sample, computed} of oneAhead(readSamples(all, data, onRejected, signal), withMaps)) {
    const index = pairs.length
    pairs.push(sample.pair)
    total += addPlaces(places, sample)
    countBins(frequency, sample.truth, sample.valid, bins)
    const {photo} = sample
    const {width, height} = cached ? photo : augmentedSize(photo, augmentation)
    const group = sizes.get(`${width} ${height}`)
    if (group) group.push(index)
    else sizes.set(`${width} ${height}`, [index])
    if (kept) {
      truths.put(index, truthMap(sample))
      for (const [i, map] of computed.entries()) {
        maps.put(2 * index + i, map)
        kept.moments.add(map.data)
      }
    }
    yield {kind: 'progress', stage: 'reading', features, set: 'train', done: index + 1, total: all.length}
  }
  return {
    pairs,
    truths,
    maps,
    moments: kept?.moments,
    frequency,
    groups: [...sizes.values()],
    mean: total / Math.max(1, pairs.length),
    places,
    [Symbol.dispose]() {
      maps[Symbol.dispose]()
      truths[Symbol.dispose]()
    }
  }
}

/** Trains a head on the pairs of a pass; yields every step. */
export async function* trainOnPass(
  context: DepthContext,
  pass: TrainingPass,
  source: FeatureSource,
  features: DepthFeatures
): AsyncGenerator<EvalEvent, {head: LinearDepthHead; loss: number}> {
  const {recipe, bins} = context
  const {seed, cached, signal} = context.options
  const queue: EvalEvent[] = []
  let wake = (): void => undefined
  let done = false
  const training = trainDepthHead({
    width: source.dim,
    bins,
    recipe,
    seed,
    groups: pass.groups,
    load: (images, step) => (cached ? cachedBatch : viewBatch)(context, pass, source, images, step),
    ...(recipe.standardize && pass.moments ? {scale: pass.moments.finish(), frequency: pass.frequency} : {}),
    signal,
    onStep: (step, loss) => {
      queue.push({kind: 'progress', stage: 'training', features, done: step, total: recipe.steps, loss})
      wake()
    }
  }).finally(() => {
    done = true
    wake()
  })
  training.catch(() => undefined) // reported where it is awaited
  while (!done || queue.length > 0) {
    if (queue.length > 0) yield queue.shift()!
    else await new Promise<void>(resolve => (wake = resolve))
  }
  return training
}

/**
 * A batch of kept features; a draw for each image says whether it is mirrored. What the cache turned away is computed
 * again.
 */
async function cachedBatch(
  {options: {seed}, data}: DepthContext,
  pass: TrainingPass,
  source: FeatureSource,
  images: readonly number[],
  step: number
): Promise<DepthBatch> {
  const maps: StoredMap[] = []
  const truths: StoredMap[] = []
  for (const image of images) {
    const turn = rng(seed, 'depth flip', step, image).uniform() < 0.5 ? 1 : 0
    let [map, truth] = [pass.maps.get(2 * image + turn), pass.truths.get(image)]
    if (!map || !truth) {
      const sample = await loadSample(pass.pairs[image]!, data)
      truth ??= truthMap(sample)
      map ??= (await computeMaps(source, [turn ? mirror(sample.photo) : sample.photo]))[0]!
    }
    maps.push(map)
    truths.push(turn ? {...truth, data: mirrorMap(truth.data, truth.width)} : truth)
  }
  return batchOf(
    maps.map(({data: map, height, width}) => mapTensor(map, height, width)),
    truths
  )
}

/** A batch of random views, and their features. */
async function viewBatch(
  {options: {seed}, data, augmentation}: DepthContext,
  {pairs}: TrainingPass,
  source: FeatureSource,
  images: readonly number[],
  step: number
): Promise<DepthBatch> {
  const views = await Promise.all(
    images.map(async (image, place) => {
      const sample = await loadSample(pairs[image]!, data)
      return augmentView({photo: sample.photo, truth: truthMap(sample).data}, augmentation, rng(seed, 'depth view', step, place))
    })
  )
  const {width, height} = views[0]!.photo
  const most = source.batch([height, width])
  const parts: Tensor4D[] = []
  for (let i = 0; i < views.length; i += most) parts.push(source.compute(views.slice(i, i + most).map(({photo}) => photo)))
  return batchOf(
    parts,
    views.map(({truth}) => ({width, height, data: truth}))
  )
}

/**
 * Truth at the size of the photo. What the crop leaves out of the scores still counts for training; what is out of the
 * range does not.
 */
const truthMap = ({photo, truth, width, height}: DepthSample): StoredMap => ({
  height: photo.height,
  width: photo.width,
  data: resizeDepth(truth, {width, height}, photo)
})

/** Maps of photos of one size as numbers, one each. */
async function computeMaps(source: FeatureSource, photos: readonly Raster[]): Promise<StoredMap[]> {
  const all = source.compute(photos)
  const [, height, width, D] = all.shape
  const data = await all.data<'float32'>()
  dispose(all)
  const one = height * width * D
  return photos.map((_, i) => ({height, width, data: data.subarray(i * one, (i + 1) * one)}))
}

/** Features, consumed, and truths of one size as one batch. */
function batchOf(parts: Tensor4D[], truths: readonly StoredMap[]): DepthBatch {
  const {width, height} = truths[0]!
  const features = parts.length === 1 ? parts[0]! : tidy(() => concat(parts)) //             [B, h, w, D]
  if (parts.length > 1) dispose(parts)
  const all = new Float32Array(truths.length * width * height)
  truths.forEach(({data}, i) => all.set(data, i * width * height))
  return {features, truth: tensor3d(all, [truths.length, height, width])} //                 [B, H, W]
}
