/**
 * Depth from frozen features (docs/spec.md §5.4): trains a linear head, or opens one, and scores it on any number of
 * sets, beside what needs no features at all.
 *
 * Scores are those of the published protocol: depth clamped to its range, stretched to the size of the truth, averaged
 * with that of the mirrored image, compared at the valid pixels within the crop, image by image, images averaged.
 * Because a head can only tell metres where cameras and scenes are as in training, every set is scored again with the
 * scale taken out (median), with scale and shift taken out in depth, and in disparity, image by image. Baselines see
 * the same training pairs: the mean depth, the mean depth of every place, a linear head of colour and place, and a
 * head of the same kind on the same architecture with fresh weights.
 */
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import {
  augmentedSize,
  augmentView,
  mirror,
  mirrorMap,
  publishedAugmentation,
  resizeDepth,
  type DepthAugmentation
} from '../../../data/targets/depth-augment.js'
import type {Pair} from '../../../data/targets/pairs.js'
import type {Raster} from '../../../data/image/resample.js'
import type {SourceNote} from '../../../data/sources/source.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../../engine/start.js'
import {refuseExisting} from '../../../system/atomic.js'
import {saveHead} from '../../../files/checkpoint/head-file.js'
import {align, depthErrors, meanErrors} from '../../../metrics/depth.js'
import type {DepthAlignment, DepthCrop, DepthErrors, DepthMeasure} from '../../../metrics/depth.js'
import {differenceOf, meanOf, type Interval} from '../../../metrics/intervals.js'
import {initVit} from '../../../model/init.js'
import type {DepthBins, LinearDepthHead} from '../../../heads/depth-head.js'
import {rng} from '../../../tensor/random.js'
import {concat, dispose, tensor3d, tidy, type Tensor4D} from '../../../tensor/tf.js'
import {free} from '../../../tensor/tree.js'
import {loadBackbone, type Backbone} from '../../embed/load-backbone.js'
import {blocksOf, denseBatch, featureCache, type DenseSettings, type FeatureCache, type StoredMap} from '../../embed/dense-features.js'
import {gatherPairs, loadSample, readSamples, type DepthDataOptions, type DepthRange, type DepthSample} from './dataset.js'
import {backboneFeatures, pixelFeatures, mapTensor, type FeatureSource} from './features.js'
import {depthPage} from './page.js'
import {fourBlocks, loadedLinearHead, openDepthHead, predictDepth, type DepthHeadSpec} from './head.js'
import {cachedRecipe, ChannelMoments, countBins, publishedRecipe, trainDepthHead, type DepthBatch, type DepthRecipe} from './train.js'

export type DepthBaseline = 'mean' | 'mean-map' | 'pixels' | 'untrained'
export type DepthSetKind = 'val' | 'test' | 'out-of-domain'

export type DepthEvalOptions = {
  readonly train: readonly string[]
  readonly val: readonly string[]
  readonly tests: readonly string[]
  readonly outOfDomain: readonly string[]
  /** Folder of depth maps, for images that are not listed with theirs. */
  readonly depths?: string
  readonly model: string
  /** `lin1` or `lin4` to train one; else a file or a released head. */
  readonly head: string
  readonly headOut?: string
  readonly force?: boolean
  /** Blocks read by a head that is trained; by default those of its kind. */
  readonly layers?: number | readonly number[]
  /** Whether the final norm is applied to what a trained head reads; the published heads do without. */
  readonly norm: boolean
  readonly bins: Pick<DepthBins, 'count' | 'spacing'>
  readonly min?: number
  readonly max?: number
  readonly scale?: number
  readonly crop: DepthCrop
  /** How random views are cut out of images, where features are not cached. */
  readonly view: Pick<DepthAugmentation, 'box' | 'crop'>
  readonly size?: number
  /** Whether predictions are averaged with those of the mirrored image. */
  readonly flip: boolean
  /** Features are computed once, of each training image and its mirror image, instead of anew for random views. */
  readonly cached: boolean
  /** Bytes of features kept in memory and on disk. */
  readonly cacheMemory: number
  readonly cacheDisk: number
  /** What differs from the published recipe, or with `cached` from that for few images. */
  readonly recipe: Partial<DepthRecipe>
  readonly baselines: readonly DepthBaseline[]
  readonly seed: number
  readonly nul?: boolean
  readonly engine: EngineRequest
  readonly maxPixels?: number
  readonly toolVersion: string
  /** Whether a page with pictures is wanted. */
  readonly page: boolean
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  /**
   * Asked before anything is computed, and again once all training pairs were looked at: throws where too many were
   * refused. `pending` pairs are still to be looked at.
   */
  readonly judge?: (good: number, pending: number) => Promise<void>
  readonly signal?: AbortSignal
}

/** One row of scores: whose, after which alignment. */
export type DepthScore = DepthErrors & {
  readonly features: 'model' | DepthBaseline
  readonly alignment: DepthAlignment
  /** 95 % intervals, by drawing the images with replacement. */
  readonly intervals: Readonly<Record<'rmse' | 'abs_rel' | 'a1', Interval>>
}

/** How much lower the model's error is than a baseline's on the same images; negative is better. */
export type DepthGain = {
  readonly over: DepthBaseline
  readonly alignment: DepthAlignment
  readonly measure: 'rmse' | 'abs_rel'
  readonly difference: number
  readonly interval: Interval
}

export type DepthSetReport = {
  readonly name: string
  readonly kind: DepthSetKind
  readonly images: number
  readonly scores: readonly DepthScore[]
  readonly gains: readonly DepthGain[]
  /** What is to be said of the model beside each baseline, in a sentence each. */
  readonly verdicts: readonly string[]
  /** The model's errors of every image, without alignment. */
  readonly perImage: readonly ({readonly id: string} & DepthErrors)[]
}

export type DepthReport = {
  readonly task: 'depth'
  readonly model: string
  readonly fingerprint: string
  readonly head: {
    readonly kind: 'linear' | 'dpt'
    readonly file?: string
    readonly layers: readonly number[]
    readonly norm: boolean
    readonly bins?: DepthBins
    readonly trained?: DepthRecipe & {readonly images: number; readonly cached: boolean; readonly loss: number; readonly seconds: number}
  }
  readonly range: DepthRange
  readonly crop: DepthCrop
  readonly size: number | null
  readonly flip: boolean
  readonly averaging: 'per image, then over images'
  readonly train: number
  readonly sets: readonly DepthSetReport[]
  readonly engine: EngineInfo
  readonly notes: readonly string[]
}

export type DepthEvent =
  | {readonly kind: 'looked'; readonly what: string; readonly done: number; readonly total: number}
  | {readonly kind: 'step'; readonly what: string; readonly step: number; readonly steps: number; readonly loss: number}
  | {readonly kind: 'scored'; readonly set: string; readonly done: number; readonly total: number}

type Alignments = Readonly<Record<DepthAlignment, DepthErrors>>
const ALIGNMENTS: readonly DepthAlignment[] = ['none', 'median', 'depth', 'disparity']

/** Grid of the mean depth of every place, over the whole image. */
const PLACES = {width: 64, height: 48}

/** A set of pairs under the name it was given by. */
type NamedSet = {readonly name: string; readonly kind: DepthSetKind; readonly pairs: readonly Pair[]}

/** How depth is told for an image: by a head, or by the mean. */
type Teller = {
  readonly features: 'model' | DepthBaseline
  readonly tell: (sample: DepthSample) => Promise<Float32Array>
}

/**
 * Runs the evaluation; yields how far it is and returns the report, and the page where one is wanted.
 *
 * Throws `UserError`: no pairs (exit 3), settings that do not fit (exit 2), a head that does not fit (exit 1), what
 * engine, model and `judge` throw.
 */
export async function* depthEval(options: DepthEvalOptions): AsyncGenerator<DepthEvent, {report: DepthReport; page?: string}> {
  const trains = options.head === 'lin1' || options.head === 'lin4'
  if (options.headOut !== undefined) await refuseExisting(options.headOut, options.force ? {force: true} : {})
  const {train, sets} = await gatherSets(options, trains)
  const pending = sets.reduce((sum, {pairs}) => sum + pairs.length, 0)
  await options.judge?.(0, train.length + pending)
  const info = await startEngine(options.engine)
  using backbone = await loadBackbone(options.model, {precision: info.precision})
  const notes: string[] = []
  const work = new Work(options, backbone, info)
  const tellers: Teller[] = []
  const held: (() => void)[] = []
  try {
    const opened = trains ? undefined : await openDepthHead(options.head, {backbone, ...ends(options)})
    const range: DepthRange = {min: options.min ?? opened?.range.min ?? 0.001, max: options.max ?? opened?.range.max ?? 10}
    const size = options.size ?? opened?.size
    const data: DepthDataOptions = {
      patch: backbone.config.patch,
      range,
      crop: options.crop,
      ...(size === undefined ? {} : {size}),
      ...(options.scale === undefined ? {} : {scale: options.scale}),
      ...(options.maxPixels === undefined ? {} : {maxPixels: options.maxPixels})
    }
    const dense: DenseSettings = opened?.dense ?? {layers: blocksFor(options, backbone), cls: true, norm: options.norm}
    const bins: DepthBins = {...options.bins, ...range}
    const source = backboneFeatures(backbone, dense)
    if (opened) held.push(() => opened[Symbol.dispose]())
    let probe = opened
    let trained: DepthReport['head']['trained']
    let good: readonly Pair[] = []
    if (train.length > 0) {
      const first = yield* work.look(train, data, trains ? source : undefined, bins, 'train')
      held.push(() => first.let())
      good = first.pairs
      if (good.length === 0)
        throw new UserError('None of the training pairs can be used.', {exit: 3, code: 'NO_INPUT', hint: 'The reasons are named above.'})
      await options.judge?.(
        good.length,
        sets.reduce((sum, {pairs}) => sum + pairs.length, 0)
      )
      if (trains) {
        const begun = performance.now()
        const {head, loss} = yield* work.train(first, data, source, bins, 'head')
        const made = loadedLinearHead(head, {dense, bins, ...(size === undefined ? {} : {size})})
        held.push(() => made[Symbol.dispose]())
        probe = made
        trained = {
          ...work.recipe,
          images: good.length,
          cached: options.cached,
          loss,
          seconds: Math.round((performance.now() - begun) / 100) / 10
        }
        if (options.headOut !== undefined)
          await keepHead(options.headOut, head, {dense, bins, ...(size === undefined ? {} : {size})}, options, backbone, trained)
      }
      first.let()
      tellers.push(...means(first, options.baselines))
    } else if (options.baselines.length > 0) notes.push('no baselines: they need training pairs (--train)')
    const asked = probe! // opened, or trained above
    tellers.unshift({
      features: 'model',
      tell: sample => predictDepth(source, asked, sample.photo, [sample.height, sample.width], options.flip)
    })
    if (train.length > 0) {
      if (options.baselines.includes('pixels'))
        tellers.push(yield* work.baseline('pixels', good, data, pixelFeatures(backbone.config), bins, held))
      if (options.baselines.includes('untrained')) {
        // As for nearest neighbours: from 1e-5, as in the recipes, all images would come out alike.
        const params = initVit(backbone.config, options.seed, 1)
        held.push(() => free(params))
        const fresh = backboneFeatures({params, config: backbone.config, precision: 'fp32'}, dense)
        tellers.push(yield* work.baseline('untrained', good, data, fresh, bins, held))
      }
    }
    const reports: DepthSetReport[] = []
    for (const set of sets) reports.push(yield* work.score(set, tellers, data))
    const report: DepthReport = {
      task: 'depth',
      model: options.model,
      fingerprint: backbone.fingerprint,
      head: {
        kind: asked.kind,
        ...(trains ? {} : {file: options.head}),
        layers: dense.layers,
        norm: dense.norm,
        ...(asked.kind === 'linear' && trains ? {bins} : {}),
        ...(trained ? {trained} : {})
      },
      range,
      crop: options.crop,
      size: size ?? null,
      flip: options.flip,
      averaging: 'per image, then over images',
      train: good.length,
      sets: reports,
      engine: info,
      notes
    }
    if (!options.page) return {report}
    const cases = []
    for (const [i, set] of reports.entries()) cases.push(await work.cases(set, sets[i]!, tellers[0]!, data))
    return {report, page: await depthPage(report, cases)}
  } finally {
    for (const release of held) release()
  }
}

const ends = ({min, max}: DepthEvalOptions): {min?: number; max?: number} => ({
  ...(min === undefined ? {} : {min}),
  ...(max === undefined ? {} : {max})
})

/** Blocks that a head reads which is trained here. */
const blocksFor = ({head, layers}: DepthEvalOptions, {config}: Backbone): number[] =>
  blocksOf(config, layers ?? (head === 'lin1' ? 1 : [...new Set(fourBlocks(config.depth))]))

/** All pairs that are named, before anything is opened: a wrong folder is told at once. */
async function gatherSets(options: DepthEvalOptions, trains: boolean): Promise<{train: Pair[]; sets: NamedSet[]}> {
  if (trains && options.train.length === 0)
    throw new UserError('A head is to be trained, but no training pairs were named.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --train, or an existing head with --head FILE.'
    })
  const named: {kind: DepthSetKind; inputs: readonly string[]}[] = [
    ...(options.val.length > 0 ? [{kind: 'val' as const, inputs: options.val}] : []),
    ...options.tests.map(input => ({kind: 'test' as const, inputs: [input]})),
    ...options.outOfDomain.map(input => ({kind: 'out-of-domain' as const, inputs: [input]}))
  ]
  if (named.length === 0)
    throw new UserError('No set to score was named.', {exit: 2, code: 'USAGE', hint: 'Give --val, --test or --out-of-domain.'})
  const roots = [...options.train, ...named.flatMap(({inputs}) => inputs)]
  const gather = (inputs: readonly string[]): Promise<Pair[]> =>
    gatherPairs({
      inputs,
      roots,
      ...(options.depths === undefined ? {} : {depths: options.depths}),
      ...(options.nul ? {nul: true} : {}),
      ...(options.onRejected ? {onRejected: options.onRejected} : {}),
      ...(options.onSkipped ? {onSkipped: options.onSkipped} : {})
    })
  const train = options.train.length > 0 ? await gather(options.train) : []
  const sets: NamedSet[] = []
  for (const {kind, inputs} of named) sets.push({kind, name: inputs.join(' '), pairs: await gather(inputs)})
  return {train, sets}
}

async function keepHead(
  path: string,
  {conv_depth}: LinearDepthHead,
  spec: DepthHeadSpec,
  {force = false, model, toolVersion, seed}: DepthEvalOptions,
  {fingerprint}: Backbone,
  trained: NonNullable<DepthReport['head']['trained']>
): Promise<void> {
  const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
  for (const [name, leaf] of Object.entries(conv_depth))
    tensors.set(`conv_depth.${name}`, {shape: leaf.shape, data: await leaf.data<'float32'>()})
  const {seconds: _, ...settings} = trained
  const trainedOn = {fingerprint, model, seed, toolVersion, ...settings}
  await saveHead(path, {task: 'depth', tensors, spec, trainedOn}, {force})
}

/** What one pass over the training pairs leaves behind. */
type Looked = {
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
  /** Sums and counts of depth by place. */
  readonly places: {readonly sum: Float64Array; readonly count: Float64Array}
  let(): void
}

/** Adds the valid depths of an image to the places that they lie at. */
function addPlaces({sum, count}: Looked['places'], {truth, valid, width, height}: DepthSample): number {
  let total = 0
  for (const at of valid) {
    const [y, x] = [Math.floor(at / width), at % width]
    const place = Math.floor((y * PLACES.height) / height) * PLACES.width + Math.floor((x * PLACES.width) / width)
    sum[place]! += truth[at]!
    count[place]!++
    total += truth[at]!
  }
  return total / valid.length
}

/** The mean depth, of all and of every place, as tellers of depth. */
function means({mean, places}: Looked, baselines: readonly DepthBaseline[]): Teller[] {
  const grid = Float32Array.from(places.sum, (sum, i) => (places.count[i]! > 0 ? sum / places.count[i]! : mean))
  const all: Teller[] = [
    {features: 'mean', tell: async ({width, height}) => new Float32Array(width * height).fill(mean)},
    {features: 'mean-map', tell: async sample => resizeDepth(grid, PLACES, sample)}
  ]
  return all.filter(({features}) => (baselines as readonly string[]).includes(features))
}

/** The stages of one evaluation, which share model, options and engine. */
class Work {
  readonly #told = new Set<string>()
  readonly recipe: DepthRecipe
  readonly augmentation: DepthAugmentation

  constructor(
    readonly options: DepthEvalOptions,
    readonly backbone: Backbone,
    readonly info: EngineInfo
  ) {
    this.recipe = {...(options.cached ? cachedRecipe : publishedRecipe), ...options.recipe}
    this.augmentation = {...publishedAugmentation, ...options.view}
  }

  /** A pair that is refused is told once, however often its set is read. */
  readonly #onRejected = (bad: RejectedImage): void => {
    const key = `${bad.id}\0${bad.path}`
    if (this.#told.has(key)) return
    this.#told.add(key)
    this.options.onRejected?.(bad)
  }

  /**
   * Looks at all training pairs once: which can be used, what their mean depth is, and, where they are kept, their
   * features.
   */
  async *look(
    all: readonly Pair[],
    data: DepthDataOptions,
    source: FeatureSource | undefined,
    bins: DepthBins,
    what: string
  ): AsyncGenerator<DepthEvent, Looked> {
    const {cached, cacheMemory, cacheDisk, signal} = this.options
    const keep = cached && source !== undefined
    const maps = featureCache({memory: cacheMemory, disk: cacheDisk})
    const truths = featureCache({memory: cacheMemory})
    const moments = keep ? new ChannelMoments(source.width) : undefined
    const places = {sum: new Float64Array(PLACES.width * PLACES.height), count: new Float64Array(PLACES.width * PLACES.height)}
    const frequency = new Float64Array(bins.count)
    const pairs: Pair[] = []
    const sizes = new Map<string, number[]>()
    let total = 0
    for await (const sample of readSamples(all, data, this.#onRejected, signal)) {
      const index = pairs.length
      pairs.push(sample.pair)
      total += addPlaces(places, sample)
      countBins(frequency, sample.truth, sample.valid, bins)
      const {photo} = sample
      const {width, height} = cached ? photo : augmentedSize(photo, this.augmentation)
      const group = sizes.get(`${width} ${height}`)
      if (group) group.push(index)
      else sizes.set(`${width} ${height}`, [index])
      if (keep) {
        truths.put(index, truthOf(sample))
        for (const [i, map] of (await mapsOf(source, [photo, mirror(photo)])).entries()) {
          maps.put(2 * index + i, map)
          moments!.add(map.data)
        }
      }
      yield {kind: 'looked', what, done: index + 1, total: all.length}
    }
    return {
      pairs,
      truths,
      maps,
      moments,
      frequency,
      groups: [...sizes.values()],
      mean: total / Math.max(1, pairs.length),
      places,
      let() {
        maps[Symbol.dispose]()
        truths[Symbol.dispose]()
      }
    }
  }

  /** Trains a head on what was looked at. */
  async *train(
    looked: Looked,
    data: DepthDataOptions,
    source: FeatureSource,
    bins: DepthBins,
    what: string
  ): AsyncGenerator<DepthEvent, {head: LinearDepthHead; loss: number}> {
    const {recipe} = this
    const {seed, cached, signal} = this.options
    const queue: DepthEvent[] = []
    let wake = (): void => undefined
    let done = false
    const training = trainDepthHead({
      width: source.width,
      bins,
      recipe,
      seed,
      groups: looked.groups,
      load: cached
        ? (images, step) => this.#kept(looked, data, source, images, step)
        : (images, step) => this.#views(looked.pairs, data, source, images, step),
      ...(recipe.standardize && looked.moments ? {scale: looked.moments.finish(), frequency: looked.frequency} : {}),
      ...(signal ? {signal} : {}),
      onStep: (step, loss) => {
        queue.push({kind: 'step', what, step, steps: recipe.steps, loss})
        wake()
      }
    }).finally(() => {
      done = true
      wake()
    })
    training.catch(() => undefined) // told when it is awaited
    while (!done || queue.length > 0) {
      if (queue.length > 0) yield queue.shift()!
      else await new Promise<void>(resolve => (wake = resolve))
    }
    return training
  }

  /**
   * A batch of kept features; each image as it is or mirrored, by a draw of its own. What the cache turned away is
   * computed again.
   */
  async #kept(looked: Looked, data: DepthDataOptions, source: FeatureSource, images: readonly number[], step: number): Promise<DepthBatch> {
    const maps: StoredMap[] = []
    const truths: StoredMap[] = []
    for (const image of images) {
      const turn = rng(this.options.seed, 'depth flip', step, image).uniform() < 0.5 ? 1 : 0
      let [map, truth] = [looked.maps.get(2 * image + turn), looked.truths.get(image)]
      if (!map || !truth) {
        const sample = await loadSample(looked.pairs[image]!, data)
        truth ??= truthOf(sample)
        map ??= (await mapsOf(source, [turn ? mirror(sample.photo) : sample.photo]))[0]!
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
  async #views(
    pairs: readonly Pair[],
    data: DepthDataOptions,
    source: FeatureSource,
    images: readonly number[],
    step: number
  ): Promise<DepthBatch> {
    const {seed} = this.options
    const views = await Promise.all(
      images.map(async (image, place) => {
        const sample = await loadSample(pairs[image]!, data)
        const {photo, truth} = truthView(sample)
        return augmentView({photo, truth}, this.augmentation, rng(seed, 'depth view', step, place))
      })
    )
    const {width, height} = views[0]!.photo
    const most = denseBatch(this.backbone.config, [height, width], this.info.device)
    const parts: Tensor4D[] = []
    for (let i = 0; i < views.length; i += most) parts.push(source.compute(views.slice(i, i + most).map(({photo}) => photo)))
    return batchOf(
      parts,
      views.map(({truth}) => ({width, height, data: truth}))
    )
  }

  /** Trains a baseline's head as the model's was, and gives it as a teller; what lets it go is added to `held`. */
  async *baseline(
    features: DepthBaseline,
    pairs: readonly Pair[],
    data: DepthDataOptions,
    source: FeatureSource,
    bins: DepthBins,
    held: (() => void)[]
  ): AsyncGenerator<DepthEvent, Teller> {
    const looked = yield* this.look(pairs, data, source, bins, features)
    try {
      const {head} = yield* this.train(looked, data, source, bins, features)
      const probe = loadedLinearHead(head, {dense: {layers: [], cls: false, norm: false}, bins})
      held.push(() => probe[Symbol.dispose]())
      return {features, tell: sample => predictDepth(source, probe, sample.photo, [sample.height, sample.width], this.options.flip)}
    } finally {
      looked.let()
    }
  }

  /** Scores a set by all tellers. */
  async *score(
    {name, kind, pairs}: NamedSet,
    tellers: readonly Teller[],
    data: DepthDataOptions
  ): AsyncGenerator<DepthEvent, DepthSetReport> {
    const ids: string[] = []
    const errors = new Map(tellers.map(({features}) => [features, [] as Alignments[]]))
    for await (const sample of readSamples(pairs, data, this.#onRejected, this.options.signal)) {
      const {truth, valid} = sample
      const wanted = Float32Array.from(valid, at => truth[at]!)
      for (const {features, tell} of tellers) {
        const told = await tell(sample)
        const predicted = Float32Array.from(valid, at => told[at]!)
        const all = Object.fromEntries(
          ALIGNMENTS.map(how => [how, depthErrors(align(predicted, wanted, how, data.range), wanted)])
        ) as Alignments
        errors.get(features)!.push(all)
      }
      ids.push(sample.pair.image.id)
      yield {kind: 'scored', set: name, done: ids.length, total: pairs.length}
    }
    if (ids.length === 0)
      throw new UserError(`None of the pairs of ${name} can be used.`, {exit: 3, code: 'NO_INPUT', hint: 'The reasons are named above.'})
    return judgeSet(name, kind, ids, errors, this.options.seed)
  }

  /** The best, typical and worst images of a set by the model's abs_rel, told again for pictures. */
  async cases(report: DepthSetReport, {pairs}: NamedSet, {tell}: Teller, data: DepthDataOptions): Promise<DepthCases> {
    const order = [...report.perImage].sort((a, b) => a.abs_rel - b.abs_rel)
    const n = Math.min(3, Math.ceil(order.length / 3))
    const middle = Math.max(0, Math.floor((order.length - n) / 2))
    const picked = [
      {title: 'Best', images: order.slice(0, n)},
      {title: 'Typical', images: order.slice(middle, middle + n)},
      {title: 'Worst', images: order.slice(-n).reverse()}
    ]
    const groups = []
    for (const {title, images} of picked) {
      const shown = []
      for (const image of images) {
        const pair = pairs.find(({image: {id}}) => id === image.id)!
        const sample = await loadSample(pair, data)
        shown.push({id: image.id, errors: image, sample, depth: await tell(sample)})
      }
      groups.push({title, shown})
    }
    return {set: report.name, groups}
  }
}

/** Images of a set that are shown. */
export type DepthCases = {
  readonly set: string
  readonly groups: readonly {
    readonly title: string
    readonly shown: readonly {
      readonly id: string
      readonly errors: DepthErrors
      readonly sample: DepthSample
      readonly depth: Float32Array
    }[]
  }[]
}

/**
 * Truth at the size of the photo; what does not count for scores (the crop) still counts for training, what is out of
 * the range does not.
 */
const truthView = ({photo, truth, width, height}: DepthSample): {photo: Raster; truth: Float32Array} => ({
  photo,
  truth: resizeDepth(truth, {width, height}, photo)
})

const truthOf = (sample: DepthSample): StoredMap => ({
  height: sample.photo.height,
  width: sample.photo.width,
  data: truthView(sample).truth
})

/** Maps of photos of one size as numbers, one each. */
async function mapsOf(source: FeatureSource, photos: readonly Raster[]): Promise<StoredMap[]> {
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
  const features = parts.length === 1 ? parts[0]! : tidy(() => concat(parts))
  if (parts.length > 1) dispose(parts)
  const all = new Float32Array(truths.length * width * height)
  truths.forEach(({data}, i) => all.set(data, i * width * height))
  return {features, truth: tensor3d(all, [truths.length, height, width])}
}

// ---- judging -------------------------------------------------------------------------------------------------------

const NAMES: Readonly<Record<DepthBaseline, string>> = {
  mean: 'the mean depth',
  'mean-map': 'the mean depth of every place',
  pixels: 'colour and place alone',
  untrained: 'the untrained model'
}

/** Means, intervals, differences and what they mean in words. */
function judgeSet(
  name: string,
  kind: DepthSetKind,
  ids: readonly string[],
  errors: ReadonlyMap<'model' | DepthBaseline, readonly Alignments[]>,
  seed: number
): DepthSetReport {
  // The same draws of images for every figure, so that intervals differ by the errors alone.
  const interval = (values: readonly number[]): Interval => meanOf(values, seed).interval
  const column = (features: 'model' | DepthBaseline, how: DepthAlignment, measure: DepthMeasure): number[] =>
    errors.get(features)!.map(all => all[how][measure])
  const scores = [...errors].flatMap(([features, all]) =>
    ALIGNMENTS.map((alignment): DepthScore => ({
      features,
      alignment,
      ...meanErrors(all.map(each => each[alignment])),
      intervals: {
        rmse: interval(column(features, alignment, 'rmse')),
        abs_rel: interval(column(features, alignment, 'abs_rel')),
        a1: interval(column(features, alignment, 'a1'))
      }
    }))
  )
  const baselines = [...errors.keys()].filter((features): features is DepthBaseline => features !== 'model')
  const gains = baselines.flatMap(over =>
    ALIGNMENTS.flatMap(alignment =>
      (['rmse', 'abs_rel'] as const).map((measure): DepthGain => {
        const {mean: difference, interval} = differenceOf(column('model', alignment, measure), column(over, alignment, measure), seed)
        return {over, alignment, measure, difference, interval}
      })
    )
  )
  const perImage = ids.map((id, i) => ({id, ...errors.get('model')![i]!.none}))
  const verdicts = baselines.flatMap(over => [verdict(gains, over, 'none')]).concat(baselines.map(over => verdict(gains, over, 'depth')))
  return {name, kind, images: ids.length, scores, gains, verdicts, perImage}
}

/** One sentence on the model beside a baseline, by RMSE, the published measure; abs_rel stands beside it. */
function verdict(gains: readonly DepthGain[], over: DepthBaseline, alignment: DepthAlignment): string {
  const [rmse, rel] = (['rmse', 'abs_rel'] as const).map(wanted =>
    gains.find(g => g.over === over && g.alignment === alignment && g.measure === wanted)!
  )
  const {difference, interval} = rmse!
  // Not the words for scores of which more is better: that an error "is above" another would be read the wrong way.
  const word =
    interval[1] < 0 ? 'beats' : interval[0] > 0 ? 'is worse than' : difference < 0 ? 'is better than, but not surely,' : 'does not beat'
  const signed = (value: number, digits: number): string => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`
  const figure = ({difference: mean, interval: [low, high]}: DepthGain, digits: number): string =>
    `${signed(mean, digits)} (${signed(low, digits)} to ${signed(high, digits)})`
  const contrary = rel!.difference * difference < 0 ? ', which says otherwise' : ''
  const how = alignment === 'none' ? '' : 'With scale and shift fitted, '
  const subject = how === '' ? 'The' : 'the'
  return `${how}${subject} model ${word} ${NAMES[over]}: RMSE ${figure(rmse!, 3)} m, abs_rel ${figure(rel!, 3)}${contrary}.`
}
