/**
 * What a depth evaluation reports: the types of its JSON, scores and paired differences made of the errors of single
 * images, and the tables that show them.
 */
import {counted} from '../../../config/counted.js'
import type {EngineInfo} from '../../../engine/start.js'
import type {DepthBins} from '../../../heads/depth-head.js'
import {depthMeasures, type DepthAlignment, type DepthCrop, type DepthErrors, type DepthMeasure} from '../../../metrics/depth.js'
import {meanMeasure, pairedDifferences, scoreOutcomes, type ScoreMeasure, type Outcome} from '../shared/compare.js'
import type {EvalDifference, EvalReport, EvalScore, Summary, Table} from '../shared/evaluation.js'
import {candidateTitle, differenceTable, figures, percent, span, words} from '../shared/tables.js'
import type {DepthRange, DepthSample} from './dataset.js'
import type {DepthRecipe} from './train.js'

export type DepthBaseline = 'mean' | 'mean-map' | 'pixels' | 'histogram' | 'untrained'
/** Whose depth is scored. */
export type DepthFeatures = 'model' | DepthBaseline
export type DepthSetKind = 'val' | 'test' | 'out-of-domain'

/** The scores of one candidate on one set after one alignment. */
export type DepthScore = EvalScore & DepthErrors & {readonly alignment: DepthAlignment}

/** How far the model's error is from a baseline's on the same images after the same alignment. */
export type DepthDifference = EvalDifference & {readonly alignment: DepthAlignment}

/** How the head was trained. */
export type DepthTrained = DepthRecipe & {
  readonly images: number
  readonly cached: boolean
  readonly loss: number
  readonly seconds: number
}

export type DepthReport = Omit<EvalReport, 'scores' | 'differences'> & {
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
  readonly sets: readonly {
    readonly name: string
    readonly kind: DepthSetKind
    readonly inputs: readonly string[]
    readonly images: number
  }[]
  readonly scores: readonly DepthScore[]
  readonly differences: readonly DepthDifference[]
  readonly engine: EngineInfo
}

/** Images of a set that a page shows, with the depth that the model predicts. */
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

export const ALIGNMENTS: readonly DepthAlignment[] = ['none', 'median', 'depth', 'disparity']

/** The errors of one candidate on one set after one alignment, image by image. */
export type DepthOutcome = Outcome<DepthErrors> & {readonly features: DepthFeatures; readonly variant: {readonly alignment: DepthAlignment}}

/** The shares of pixels within a factor of the truth; all other measures are errors. */
const isShare = (measure: string): boolean => measure === 'a1' || measure === 'a2' || measure === 'a3'

const MEASURES = depthMeasures.map(name =>
  meanMeasure<DepthErrors>(name, errors => errors[name], isShare(name) ? 'higher' : 'lower')
) as readonly (ScoreMeasure<DepthErrors> & {readonly name: DepthMeasure})[]

/** Scores with intervals, and the model beside every baseline by RMSE (the published measure) and by abs_rel. */
export function summarizeDepth(
  outcomes: readonly DepthOutcome[],
  seed: number
): {scores: readonly DepthScore[]; differences: readonly DepthDifference[]} {
  const compared = (['rmse', 'abs_rel'] as const).map(name => MEASURES.find(measure => measure.name === name)!)
  return {
    scores: scoreOutcomes(outcomes, MEASURES, seed) as unknown as DepthScore[],
    differences: pairedDifferences(outcomes, compared, {features: 'model', seed}) as DepthDifference[]
  }
}

/** What an alignment fits before errors are taken. */
const ALIGNED: Readonly<Record<DepthAlignment, string>> = {
  none: 'in metres',
  median: 'scale (median)',
  depth: 'scale and shift',
  disparity: 'scale and shift, disparity'
}

const fixed =
  (digits: number) =>
  (value: number): string =>
    value.toFixed(digits)
/** How figures of a measure are written. */
const formatOf = (measure: string): ((value: number) => string) => (isShare(measure) ? percent : fixed(3))

/** The heading and tables of a report, for terminal and page. */
export function depthSummary(report: DepthReport): Summary {
  const {head, train, size, crop, sets, scores, differences} = report
  const made = head.trained ? `trained on ${counted(train, 'pair')} in ${counted(head.trained.steps, 'step')}` : `from ${head.file ?? ''}`
  const scored = (title: string, alignments: readonly DepthAlignment[], fits: boolean): Table => ({
    title,
    columns: [
      words('candidate'),
      words('set'),
      ...(fits ? [words('fitted')] : []),
      figures('RMSE m'),
      figures('95 % interval'),
      figures('abs_rel'),
      figures('a1 %'),
      figures('log10'),
      figures('silog')
    ],
    rows: scores
      .filter(({alignment}) => alignments.includes(alignment))
      .map(({features, set, alignment, rmse, intervals, abs_rel, a1, log10, silog}) => [
        candidateTitle(features),
        set,
        ...(fits ? [ALIGNED[alignment]] : []),
        fixed(3)(rmse),
        span(intervals['rmse']!, fixed(3)),
        fixed(3)(abs_rel),
        percent(a1),
        fixed(3)(log10),
        fixed(1)(silog)
      ])
  })
  const table = differenceTable(
    differences.filter(({alignment}) => alignment === 'none' || alignment === 'depth'),
    {
      variants: [{column: words('fitted'), of: ({alignment}) => (alignment === 'none' ? '–' : ALIGNED[alignment])}],
      titles: {rmse: 'RMSE m', abs_rel: 'abs_rel'},
      format: (value, measure) => formatOf(measure)(value)
    }
  )
  return {
    heading: `${head.kind} head on blocks ${head.layers.join(', ')}, ${made}; ${size === null ? 'full size' : `short side ${size}`}, crop ${crop}; ${sets.map(({name, images}) => `${name}: ${counted(images, 'image')}`).join(', ')}`,
    tables: [
      scored('Errors in metres', ['none'], false),
      scored('Errors after a fit, image by image', ['median', 'depth', 'disparity'], true),
      ...(table ? [table] : [])
    ]
  }
}
