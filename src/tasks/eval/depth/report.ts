/**
 * What a depth evaluation reports: the types of its JSON, and means, intervals, paired differences and verdicts made of
 * the errors of single images.
 */
import type {DepthBins} from '../../../heads/depth-head.js'
import {meanErrors, type DepthAlignment, type DepthCrop, type DepthErrors, type DepthMeasure} from '../../../metrics/depth.js'
import {differenceOf, meanOf, type Interval} from '../../../metrics/intervals.js'
import type {EngineInfo} from '../../../engine/start.js'
import type {DepthRange, DepthSample} from './dataset.js'
import type {DepthRecipe} from './train.js'

export type DepthBaseline = 'mean' | 'mean-map' | 'pixels' | 'untrained'
/** Whose depth is scored. */
export type DepthFeatures = 'model' | DepthBaseline
export type DepthSetKind = 'val' | 'test' | 'out-of-domain'

/** One row of scores: whose, after which alignment. */
export type DepthScore = DepthErrors & {
  readonly features: DepthFeatures
  readonly alignment: DepthAlignment
  /** 95 % bootstrap intervals over images. */
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
  /** One sentence for each baseline on the model beside it. */
  readonly verdicts: readonly string[]
  /** The model's errors of every image, without alignment. */
  readonly perImage: readonly ({readonly id: string} & DepthErrors)[]
}

/** How the head was trained. */
export type DepthTrained = DepthRecipe & {
  readonly images: number
  readonly cached: boolean
  readonly loss: number
  readonly seconds: number
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
    readonly trained?: DepthTrained
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

/** Images of a set that a page shows, best, typical and worst. */
export type DepthExamples = {
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

/** The errors of one image after every alignment. */
export type AlignedErrors = Readonly<Record<DepthAlignment, DepthErrors>>

export const ALIGNMENTS: readonly DepthAlignment[] = ['none', 'median', 'depth', 'disparity']

const NAMES: Readonly<Record<DepthBaseline, string>> = {
  mean: 'the mean depth',
  'mean-map': 'the mean depth of every place',
  pixels: 'color and place alone',
  untrained: 'the untrained model'
}

/** The report of one set: means, intervals, paired differences and verdicts. */
export function summarizeSet(
  {name, kind}: {readonly name: string; readonly kind: DepthSetKind},
  ids: readonly string[],
  errors: ReadonlyMap<DepthFeatures, readonly AlignedErrors[]>,
  seed: number
): DepthSetReport {
  const column = (features: DepthFeatures, alignment: DepthAlignment, measure: DepthMeasure): number[] =>
    errors.get(features)!.map(all => all[alignment][measure])
  // One seed for every interval: all figures see the same draws of images, so that intervals differ by the errors alone.
  const interval = (...of: Parameters<typeof column>): Interval => meanOf(column(...of), seed).interval
  const scores = [...errors].flatMap(([features, all]) =>
    ALIGNMENTS.map((alignment): DepthScore => ({
      features,
      alignment,
      ...meanErrors(all.map(each => each[alignment])),
      intervals: {
        rmse: interval(features, alignment, 'rmse'),
        abs_rel: interval(features, alignment, 'abs_rel'),
        a1: interval(features, alignment, 'a1')
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
  const verdicts = (['none', 'depth'] as const).flatMap(alignment => baselines.map(over => verdict(gains, over, alignment)))
  const perImage = ids.map((id, i) => ({id, ...errors.get('model')![i]!.none}))
  return {name, kind, images: ids.length, scores, gains, verdicts, perImage}
}

/** One sentence on the model beside a baseline, by RMSE, the published measure; abs_rel stands beside it. */
export function verdict(gains: readonly DepthGain[], over: DepthBaseline, alignment: DepthAlignment): string {
  const [rmse, rel] = (['rmse', 'abs_rel'] as const).map(wanted =>
    gains.find(gain => gain.over === over && gain.alignment === alignment && gain.measure === wanted)!
  )
  const {difference, interval} = rmse!
  // Not the words for scores of which more is better: that an error "is above" another would be read the wrong way.
  const word =
    interval[1] < 0 ? 'beats' : interval[0] > 0 ? 'is worse than' : difference < 0 ? 'is better than, but not surely,' : 'does not beat'
  const signed = (value: number, digits: number): string => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`
  const figure = ({difference: mean, interval: [low, high]}: DepthGain, digits: number): string =>
    `${signed(mean, digits)} (${signed(low, digits)} to ${signed(high, digits)})`
  const contrary = rel!.difference * difference < 0 ? ', which says otherwise' : ''
  const subject = alignment === 'none' ? 'The' : 'With scale and shift fitted, the'
  return `${subject} model ${word} ${NAMES[over]}: RMSE ${figure(rmse!, 3)} m, abs_rel ${figure(rel!, 3)}${contrary}.`
}
