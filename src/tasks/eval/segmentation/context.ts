/** What all parts of one segmentation evaluation share: options, protocol, training settings, sets. */
import {UserError} from '../../../config/errors.js'
import type {Classes} from '../../../data/targets/class-map.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import type {SourceNote} from '../../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import {blocksOf} from '../../embed/dense-features.js'
import type {Backbone} from '../../embed/load-backbone.js'
import type {SampleSet} from './dataset.js'
import type {LoadedSegmentHead} from './head.js'
import type {SegmentProtocol} from '../../../heads/segment-inference.js'
import type {SegBaseline} from './report.js'
import type {TrainSettings} from './train.js'

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
  /** Images a training step. */
  readonly trainBatch?: number
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
  /** Images predicted for a page: so many of the best, the typical and the worst each. */
  readonly examples?: number
  readonly toolVersion: string
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

/** The sets of an evaluation; `test` and `train` may be absent. */
export type SegSets = {readonly train: SampleSet | undefined; readonly val: SampleSet; readonly test: SampleSet | undefined}

export type SegContext = {
  readonly options: SegEvalOptions
  readonly backbone: Backbone
  readonly engine: EngineInfo
  readonly sets: SegSets
  readonly classes: Classes
  readonly protocol: SegmentProtocol
  readonly settings: TrainSettings
}

/** The published protocols (docs/spec.md §5.5). A whole picture at once where features are cached. */
const published = {
  linear: {layers: 1, size: 512, stride: 341 / 512, scales: [1], flip: false, ratio: [0.5, 2]},
  ms: {layers: 4, size: 640, stride: 320 / 640, scales: [1, 1.32, 1.73, 2.28, 3], flip: true, ratio: [1, 3]}
} as const

/** Default steps: Meta's, and for cached features as many as a small set needs. */
const defaultSteps = {views: 40_000, cached: 1000} as const

export const usage = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

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

/** A head's protocol with what the flags change of the way pictures are looked at. */
function overrideProtocol(own: SegmentProtocol, {protocol}: SegEvalOptions): SegmentProtocol {
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

/** How heads are trained. */
function trainSettings({options, size, crop}: {options: SegEvalOptions; size: number; crop: number | undefined}): TrainSettings {
  const {cached, steps, trainBatch, lr, weightDecay, seed, cache, kind} = options
  const views = {size, crop: crop ?? size, ratio: published[kind].ratio, mostOfOne: 0.75, colours: true}
  return {
    steps: steps ?? (cached ? defaultSteps.cached : defaultSteps.views),
    batch: trainBatch ?? 16,
    lr: lr ?? 1e-3,
    weightDecay: weightDecay ?? 1e-4,
    seed,
    size,
    cache: cache ?? {memory: 2 ** 31, disk: 2 ** 34},
    views: cached ? undefined : views
  }
}

/**
 * The settings in force for a backbone and, where one was opened, a head. Throws a `UserError` for a protocol that
 * makes no sense.
 */
export function segContext(
  parts: Pick<SegContext, 'options' | 'backbone' | 'engine' | 'sets' | 'classes'>,
  head: LoadedSegmentHead | undefined
): SegContext {
  const {options, backbone} = parts
  const protocol = head ? overrideProtocol(head.protocol, options) : protocolFor(options, backbone.config)
  return {...parts, protocol, settings: trainSettings({options, size: protocol.size, crop: protocol.crop})}
}
