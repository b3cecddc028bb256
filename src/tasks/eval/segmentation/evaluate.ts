/**
 * Judging features by a linear segmentation head on frozen patches (docs/spec.md §5.5): trains the head on images with
 * masks, or takes one that is trained, and scores it.
 *
 * Beside the model stand, on the same images: the commonest class of the train set everywhere; the pixels themselves
 * (colours and place) through the same head; and the same architecture with fresh weights, which tells what the
 * architecture alone brings.
 */
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import {IGNORED, type Classes} from '../../../data/targets/class-map.js'
import type {Raster} from '../../../data/image/decode.js'
import type {SourceNote} from '../../../data/sources/source.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../../engine/start.js'
import {refuseExisting} from '../../../system/atomic.js'
import {saveHead, type HeadTensors} from '../../../files/checkpoint/head-file.js'
import {openSegmentHead, type OpenedSegmentHead, type SegmentHeadSpec} from '../../../files/checkpoint/segment-head-file.js'
import {addCounts, areasOf, countPixels, emptyConfusion, miouEstimate, miouGain, miouOf, scoresOf} from '../../../metrics/iou.js'
import {comparison, type Interval} from '../../../metrics/intervals.js'
import {foldSegmentHead} from '../../../heads/segment-head.js'
import {free} from '../../../tensor/tree.js'
import {loadBackbone} from '../../embed/load-backbone.js'
import {blocksOf} from '../../embed/dense-features.js'
import {
  backboneExtractor,
  pixelExtractor,
  predictClasses,
  yieldToEvents,
  untrainedExtractor,
  type Extractor,
  type FoldedHead,
  type SegmentProtocol
} from './inference.js'
import {findClasses, gatherPairs, openSet, type SampleSet} from './dataset.js'
import {specClasses, headTensors, loadSegmentHead} from './head.js'
import {trainHead, type TrainSettings} from './train.js'

export type SegBaseline = 'pixels' | 'untrained'
export type SegFeatures = 'model' | 'majority' | SegBaseline

export type SegEvalOptions = {
  readonly model: string
  /** Absent only with `head`. */
  readonly train?: readonly string[]
  readonly val: readonly string[]
  readonly test?: readonly string[]
  /** The folder of masks. */
  readonly masks?: string
  readonly classes: {readonly file?: string; readonly ignore: readonly number[]; readonly reduceZero: boolean}
  /** A trained head to score instead of training one. */
  readonly head?: string
  readonly headOut?: string
  readonly force?: boolean
  readonly kind: 'linear' | 'ms'
  /** What differs from the published protocol. */
  readonly protocol: {
    readonly layers?: number | readonly number[]
    readonly size?: number
    /** 0: whole pictures. */
    readonly crop?: number
    readonly stride?: number
    readonly scales?: readonly number[]
    readonly flip?: boolean
  }
  /** Features computed once for whole pictures instead of random views at every step. */
  readonly cached: boolean
  readonly steps?: number
  /** Pictures a step. */
  readonly pictures?: number
  readonly lr?: number
  readonly weightDecay?: number
  readonly cache?: {readonly memory: number; readonly disk: number}
  readonly baselines: readonly SegBaseline[]
  readonly seed: number
  readonly nul?: boolean
  readonly engine: EngineRequest
  readonly batch?: number
  readonly maxPixels?: number
  /** Bytes of decoded pictures to keep; 1 GiB if absent. */
  readonly decoded?: number
  /** Cases to be drawn: so many of the best, the worst and the typical each. */
  readonly cases?: number
  readonly toolVersion: string
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

export type ClassScore = {
  readonly name: string
  readonly id: number
  readonly iou: number | null
  readonly accuracy: number | null
  readonly pixels: number
}

/** One score: shares between 0 and 1. */
export type SegScore = {
  readonly features: SegFeatures
  readonly set: 'val' | 'test'
  readonly miou: number
  /** 95 %, by drawing images with replacement. */
  readonly interval: Interval
  readonly meanAccuracy: number
  readonly pixelAccuracy: number
  readonly classes: readonly ClassScore[]
}

/** How much better the model is than a baseline, on the same images. */
export type SegGain = {
  readonly over: Exclude<SegFeatures, 'model'>
  readonly set: 'val' | 'test'
  readonly miou: number
  readonly interval: Interval
  /** beats, is below, … */
  readonly verdict: string
}

export type SegReport = {
  readonly train: number
  readonly val: number
  readonly test: number
  readonly kind: 'linear' | 'ms'
  readonly protocol: Readonly<Record<string, unknown>>
  readonly classes: readonly {readonly id: number; readonly name: string}[]
  readonly classesFrom: string
  readonly scores: readonly SegScore[]
  readonly gains: readonly SegGain[]
  readonly seconds: {readonly train: number; readonly predict: number}
  readonly fingerprint: string
  readonly head?: string
  readonly notes: readonly string[]
}

export type SegEvent =
  | {readonly kind: 'started'; readonly engine: EngineInfo}
  | {readonly kind: 'checked'; readonly set: 'train' | 'val' | 'test'; readonly pairs: number}
  | {readonly kind: 'classes'; readonly classes: Classes; readonly from: string}
  | {readonly kind: 'features'; readonly features: SegFeatures; readonly done: number; readonly of: number}
  | {readonly kind: 'step'; readonly features: SegFeatures; readonly step: number; readonly of: number; readonly loss: number}
  | {readonly kind: 'scored'; readonly features: SegFeatures; readonly set: 'val' | 'test'; readonly done: number; readonly of: number}

/** One picture of the page: what was asked for and what came out. */
export type SegCase = {
  readonly id: string
  readonly kind: 'best' | 'typical' | 'worst'
  readonly miou: number
  readonly photo: Raster
  readonly truth: Uint16Array
  readonly labels: Uint16Array
}

export type SegResult = {readonly report: SegReport; readonly cases: readonly SegCase[]; readonly palette: Uint8Array}

/** The published protocols (docs/spec.md §5.5). A whole picture at once where features are cached. */
export const published = {
  linear: {layers: 1, size: 512, stride: 341 / 512, scales: [1], flip: false, ratio: [0.5, 2]},
  ms: {layers: 4, size: 640, stride: 320 / 640, scales: [1, 1.32, 1.73, 2.28, 3], flip: true, ratio: [1, 3]}
} as const

/** Steps where nobody says: Meta's, and for cached features as many as a small set needs. */
export const usualSteps = {views: 40_000, cached: 1000} as const

const usage = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

/** The protocol in force for a model. Throws a `UserError` for sizes that make no sense. */
function protocolFor({kind, protocol, cached}: SegEvalOptions, config: {patch: number; depth: number; width: number}): SegmentProtocol {
  const base = published[kind]
  const size = protocol.size ?? base.size
  const crop = protocol.crop ?? (cached ? 0 : size)
  if (size < 2 * config.patch)
    throw usage(`--size ${size} is less than two patches of ${config.patch} pixels.`, 'Larger pictures give finer maps.')
  if (crop > 0 && crop < config.patch)
    throw usage(`--crop ${crop} is smaller than a patch of ${config.patch} pixels.`, 'Leave it out, or give --crop 0 for whole pictures.')
  const stride = protocol.stride ?? Math.max(1, Math.round(crop * base.stride))
  if (crop > 0 && stride > crop)
    throw usage(`--stride ${stride} is larger than the windows of ${crop} pixels, which would leave gaps.`, 'Give at most --crop.')
  return {
    layers: blocksOf(config as Parameters<typeof blocksOf>[0], protocol.layers ?? base.layers),
    size,
    ...(crop > 0 ? {crop, stride} : {}),
    scales: protocol.scales ?? base.scales,
    flip: protocol.flip ?? base.flip
  }
}

/** What a set of predictions is made of: for each image three counts a class. */
type Outcome = {readonly features: SegFeatures; readonly set: 'val' | 'test'; readonly areas: readonly Float64Array[]}

/**
 * Runs the evaluation; yields how far it is and returns the report with the cases for a page.
 *
 * Throws a `UserError`: no images or no good pair (exit 3), classes that make no sense (exit 2), a head that does not
 * fit (exit 2), an output that exists (exit 2), and what model and engine throw. Bad pairs are told to `onRejected`, once
 * each.
 */
export async function* segEval(options: SegEvalOptions): AsyncGenerator<SegEvent, SegResult> {
  const {train: trainInputs, val: valInputs, test: testInputs, masks, seed, signal, maxPixels} = options
  if (!trainInputs && !options.head)
    throw usage('There is neither a train set nor a head.', 'Give --train SET to train a head, or --head FILE to score one.')
  if (options.headOut !== undefined) await refuseExisting(options.headOut, options.force ? {force: true} : {})
  const roots = [...(trainInputs ?? []), ...valInputs, ...(testInputs ?? [])]
  const gather = (inputs: readonly string[]): ReturnType<typeof gatherPairs> =>
    gatherPairs({
      inputs,
      roots,
      ...(masks === undefined ? {} : {masks}),
      ...(options.nul ? {nul: true} : {}),
      ...(options.onRejected ? {onRejected: options.onRejected} : {}),
      ...(options.onSkipped ? {onSkipped: options.onSkipped} : {})
    })
  const pairsOf = {
    train: trainInputs ? await gather(trainInputs) : [],
    val: await gather(valInputs),
    test: testInputs ? await gather(testInputs) : []
  }
  const given = options.head === undefined ? undefined : await openSegmentHead(options.head)
  const {file, ignore, reduceZero} = options.classes
  const pixels = maxPixels === undefined ? {} : {maxPixels}
  const found = given
    ? {classes: await headClasses(given, options), from: options.head!}
    : await findClasses(pairsOf.train, masks, {...(file === undefined ? {} : {file}), ignore, reduceZero, ...pixels})
  const {classes} = found
  const classesFrom = found.from ?? 'the ids in the train masks'
  yield {kind: 'classes', classes, from: classesFrom}
  const K = classes.names.length

  const budget = {left: options.decoded ?? 2 ** 30}
  const open = async function* (set: 'train' | 'val' | 'test'): AsyncGenerator<SegEvent, SampleSet | undefined> {
    if (pairsOf[set].length === 0 && !(set === 'val' || (set === 'train' && trainInputs))) return undefined
    const made = await openSet(pairsOf[set], set, classes, {
      budget,
      ...pixels,
      ...(options.onRejected ? {onRejected: options.onRejected} : {}),
      ...(signal ? {signal} : {})
    })
    yield {kind: 'checked', set, pairs: made.length}
    return made
  }
  const train = yield* open('train')
  const val = (yield* open('val'))!
  const test = yield* open('test')

  const engine = await startEngine(options.engine)
  yield {kind: 'started', engine}
  const {device} = engine
  using backbone = await loadBackbone(options.model, {precision: engine.precision})
  const notes: string[] = []
  const at = {device, ...(options.batch === undefined ? {} : {batch: options.batch})}
  const outcomes: Outcome[] = []
  const seconds = {train: 0, predict: 0}
  let cases: SegCase[] = []

  const ready = given ? await loadSegmentHead(options.head!, backbone, options.model) : undefined
  using held = ready
  const protocol = held ? changed(held.protocol, options) : protocolFor(options, backbone.config)
  const settings: TrainSettings = {
    steps: options.steps ?? (options.cached ? usualSteps.cached : usualSteps.views),
    batch: options.pictures ?? 16,
    lr: options.lr ?? 1e-3,
    weightDecay: options.weightDecay ?? 1e-4,
    seed,
    size: protocol.size,
    cache: options.cache ?? {memory: 2 ** 31, disk: 2 ** 34},
    ...(options.cached
      ? {}
      : {
          views: {
            size: protocol.size,
            crop: protocol.crop ?? protocol.size,
            ratio: published[options.kind].ratio,
            mostOfOne: 0.75,
            colours: true
          }
        })
  }

  /** Scores one set; → areas of every image. */
  const predictSet = async function* (
    extractor: Extractor,
    head: FoldedHead,
    set: 'val' | 'test',
    samples: SampleSet
  ): AsyncGenerator<SegEvent, Outcome> {
    const areas: Float64Array[] = []
    const begun = performance.now()
    for (let i = 0; i < samples.length; i++) {
      await yieldToEvents()
      signal?.throwIfAborted()
      const {photo, labels} = await samples.sample(i)
      const prediction = await predictClasses(photo, extractor, head, protocol)
      areas.push(countOne(labels, prediction.labels, K))
      yield {kind: 'scored', features: extractor.name, set, done: i + 1, of: samples.length}
    }
    if (extractor.name === 'model') seconds.predict += (performance.now() - begun) / 1000
    return {features: extractor.name, set, areas}
  }
  /** Trains a head for features, scores it, and hands it on before it is let go. */
  const evaluate = async function* (
    extractor: Extractor,
    use?: (head: FoldedHead, tensors: () => Promise<HeadTensors>) => Promise<void>
  ): AsyncGenerator<SegEvent> {
    const begun = performance.now()
    const steps = trainHead(train!, extractor, K, settings, signal)
    let next = await steps.next()
    for (; !next.done; next = await steps.next()) {
      const {value} = next
      if (value.kind === 'features') yield {...value, features: extractor.name}
      else {
        if (!Number.isFinite(value.loss))
          throw new UserError(`The loss of the head is not finite at step ${value.step}.`, {
            exit: 6,
            code: 'NOT_FINITE',
            hint: 'Try a smaller --lr; if the features themselves are not finite, the backbone is broken.'
          })
        yield {kind: 'step', features: extractor.name, step: value.step, of: value.of, loss: value.loss}
      }
    }
    const head = next.value
    signal?.throwIfAborted()
    if (extractor.name === 'model') seconds.train = (performance.now() - begun) / 1000
    const folded = foldSegmentHead(head)
    try {
      outcomes.push(yield* predictSet(extractor, folded, 'val', val))
      if (test) outcomes.push(yield* predictSet(extractor, folded, 'test', test))
      await use?.(folded, () => headTensors(head))
    } finally {
      free(head)
      free({...folded})
    }
  }

  const model = backboneExtractor({config: backbone.config, params: backbone.params, precision: backbone.precision}, protocol.layers, at)
  const drawCases = async (head: FoldedHead): Promise<void> => {
    if (options.cases)
      cases = await pickCases(
        val,
        outcomes.find(({features, set}) => features === 'model' && set === 'val')!.areas,
        K,
        options.cases,
        photo => predictClasses(photo, model, head, protocol)
      )
  }
  let tensors: HeadTensors | undefined
  if (held) {
    outcomes.push(yield* predictSet(model, held.folded, 'val', val))
    if (test) outcomes.push(yield* predictSet(model, held.folded, 'test', test))
    await drawCases(held.folded)
  } else
    yield* evaluate(model, async (folded, read) => {
      await drawCases(folded)
      if (options.headOut !== undefined) tensors = await read()
    })
  if (train) {
    outcomes.push(...(await majority(train, val, test, K)))
    for (const baseline of options.baselines) {
      using extractor =
        baseline === 'pixels' ? pixelExtractor(backbone.config) : untrainedExtractor(backbone, protocol.layers, {seed, ...at})
      yield* evaluate(extractor)
    }
  } else notes.push('without a train set there are no baselines')

  const {scores, gains} = compare(outcomes, classes, seed)
  const report: SegReport = {
    train: train?.length ?? 0,
    val: val.length,
    test: test?.length ?? 0,
    kind: given ? given.spec.kind : options.kind,
    protocol: {
      ...protocol,
      ...(train
        ? {
            training: options.cached ? 'cached' : 'views',
            steps: settings.steps,
            pictures: settings.batch,
            lr: settings.lr,
            weightDecay: settings.weightDecay
          }
        : {})
    },
    classes: classes.names.map((name, k) => ({id: classes.ids[k]!, name})),
    classesFrom,
    scores,
    gains,
    seconds,
    fingerprint: backbone.fingerprint,
    ...(options.headOut === undefined ? (options.head === undefined ? {} : {head: options.head}) : {head: options.headOut}),
    notes
  }
  if (tensors && options.headOut !== undefined) {
    const own = scores.filter(({features}) => features === 'model')
    const spec: SegmentHeadSpec = {
      kind: options.kind,
      ...protocol,
      crop: protocol.crop ?? null,
      stride: protocol.stride ?? null,
      classes: classes.names.map((name, k) => ({
        id: classes.ids[k]!,
        name,
        colour: [...classes.palette.subarray(3 * k, 3 * k + 3)] as [number, number, number]
      })),
      ignored: classes.ignored
    }
    const trainedOn = {
      fingerprint: backbone.fingerprint,
      tool: options.toolVersion,
      pairs: report.train,
      settings: report.protocol,
      seed,
      scores: Object.fromEntries(own.map(({set, miou, pixelAccuracy}) => [set, {miou, pixelAccuracy}]))
    }
    await saveHead(options.headOut, {task: 'segment', tensors, spec, trainedOn}, options.force ? {force: true} : {})
  }
  return {report, cases, palette: classes.palette}
}

/**
 * The classes of a head; a file of classes may give them other names. Throws a `UserError` where it names another
 * number of them.
 */
async function headClasses(given: OpenedSegmentHead, {classes: {file, ignore, reduceZero}}: SegEvalOptions): Promise<Classes> {
  const own = specClasses(given.spec)
  const ignored = [...new Set([...own.ignored, ...ignore])].sort((a, b) => a - b)
  if (file === undefined) return {...own, ignored}
  const {classes} = await findClasses([], undefined, {file, ignore: ignored, reduceZero})
  if (classes.names.length !== own.names.length)
    throw usage(
      `${file} names ${classes.names.length} classes, but the head ${given.path} has ${own.names.length}.`,
      'Give the classes that the head was trained with.'
    )
  return {...classes, ignored}
}

/** A head's protocol with what the flags change of the way pictures are looked at. */
function changed(own: SegmentProtocol, {protocol}: SegEvalOptions): SegmentProtocol {
  const {size, crop, stride, scales, flip} = protocol
  const {crop: _, stride: __, ...whole} = own
  const base = crop === 0 ? whole : own
  return {
    ...base,
    ...(size === undefined ? {} : {size}),
    ...(crop ? {crop} : {}),
    ...(stride === undefined ? {} : {stride}),
    ...(scales ? {scales} : {}),
    ...(flip === undefined ? {} : {flip})
  }
}

function countOne(truth: Uint16Array, labels: Uint16Array, K: number): Float64Array {
  const confusion = emptyConfusion(K)
  countPixels(confusion, truth, labels, K, IGNORED)
  return areasOf(confusion, K)
}

/** The commonest class of the train set, everywhere. */
async function majority(train: SampleSet, val: SampleSet, test: SampleSet | undefined, K: number): Promise<Outcome[]> {
  const counts = new Float64Array(K)
  for (let i = 0; i < train.length; i++) for (const label of (await train.sample(i)).labels) if (label !== IGNORED) counts[label]!++
  const commonest = counts.indexOf(Math.max(...counts))
  const outcomes: Outcome[] = []
  for (const [set, samples] of [
    ['val', val],
    ['test', test]
  ] as const) {
    if (!samples) continue
    const areas: Float64Array[] = []
    for (let i = 0; i < samples.length; i++) {
      const {labels} = await samples.sample(i)
      areas.push(countOne(labels, new Uint16Array(labels.length).fill(commonest), K))
    }
    outcomes.push({features: 'majority', set, areas})
  }
  return outcomes
}

/** Scores with intervals, and the model beside every baseline, on the same draws of images. */
function compare(outcomes: readonly Outcome[], classes: Classes, seed: number): {scores: SegScore[]; gains: SegGain[]} {
  const K = classes.names.length
  const scores: SegScore[] = []
  const gains: SegGain[] = []
  for (const set of ['val', 'test'] as const) {
    const here = outcomes.filter(outcome => outcome.set === set)
    const model = here.find(({features}) => features === 'model')
    for (const {features, areas} of here) {
      const sum = new Float64Array(3 * K)
      for (const one of areas) addCounts(sum, one)
      const {miou, meanAccuracy, pixelAccuracy, iou, accuracy, pixels} = scoresOf(sum, K)
      scores.push({
        features,
        set,
        miou,
        interval: miouEstimate(areas, K, seed).interval,
        meanAccuracy,
        pixelAccuracy,
        classes: classes.names.map((name, k) => ({name, id: classes.ids[k]!, iou: iou[k]!, accuracy: accuracy[k]!, pixels: pixels[k]!}))
      })
      if (features === 'model' || !model) continue
      const gain = miouGain(model.areas, areas, K, seed)
      gains.push({over: features, set, miou: gain.mean, interval: gain.interval, verdict: comparison(gain)})
    }
  }
  return {scores, gains}
}

/** The images with the highest, the middle and the lowest mIoU of their own, predicted once more to be drawn. */
async function pickCases(
  samples: SampleSet,
  areas: readonly Float64Array[],
  K: number,
  each: number,
  predict: (photo: Raster) => Promise<{labels: Uint16Array}>
): Promise<SegCase[]> {
  const ranked = areas.map((one, i) => ({i, miou: miouOf(one, K)})).sort((a, b) => b.miou - a.miou || a.i - b.i)
  const n = Math.min(each, Math.max(1, Math.floor(ranked.length / 3)))
  const middle = Math.max(0, Math.floor(ranked.length / 2 - n / 2))
  const chosen = new Map<number, {kind: SegCase['kind']; miou: number}>()
  for (const [kind, some] of [
    ['best', ranked.slice(0, n)],
    ['worst', ranked.slice(-n).reverse()],
    ['typical', ranked.slice(middle, middle + n)]
  ] as const)
    for (const {i, miou} of some) if (!chosen.has(i)) chosen.set(i, {kind, miou})
  const cases: SegCase[] = []
  for (const [i, {kind, miou}] of chosen) {
    const {id, photo, labels: truth} = await samples.sample(i)
    cases.push({id, kind, miou, photo, truth, labels: (await predict(photo)).labels})
  }
  return cases
}
