/**
 * What a segmentation evaluation reports: the types of its JSON, scores and paired differences made of the pixel
 * counts of single images, and the tables that show them.
 */
import {counted} from '../../../config/counted.js'
import type {Classes} from '../../../data/targets/class-map.js'
import type {Raster} from '../../../data/image/decode.js'
import {miouOf, scoresOf, sumAreas} from '../../../metrics/iou.js'
import {pairedDifferences, scoreOutcomes, type ScoreMeasure, type Outcome} from '../shared/compare.js'
import type {EvalReport, EvalScore, Summary, Table} from '../shared/evaluation.js'
import {candidateTitle, differenceTable, figures, percent, span, words} from '../shared/tables.js'

export type SegBaseline = 'pixels' | 'histogram' | 'untrained'
export type SegFeatures = 'model' | 'majority' | SegBaseline

export type ClassScore = {
  readonly name: string
  readonly id: number
  readonly iou: number | null
  readonly accuracy: number | null
  readonly pixels: number
}

/** The scores of one candidate on one set: shares between 0 and 1; `intervals` hold that of `miou`. */
export type SegScore = EvalScore & {
  readonly miou: number
  readonly meanAccuracy: number
  readonly pixelAccuracy: number
  readonly classes: readonly ClassScore[]
}

export type SegReport = Omit<EvalReport, 'scores'> & {
  readonly task: 'segmentation'
  readonly model: string
  readonly fingerprint: string
  readonly train: number
  readonly val: number
  readonly test: number
  readonly kind: 'linear' | 'ms'
  readonly protocol: Readonly<Record<string, unknown>>
  readonly classes: readonly {readonly id: number; readonly name: string}[]
  readonly classesFrom: string
  readonly scores: readonly SegScore[]
  readonly seconds: {readonly train: number; readonly predict: number}
  readonly head?: string
}

/** One image of the page, with truth and prediction. */
export type SegExample = {
  readonly id: string
  readonly kind: 'best' | 'typical' | 'worst'
  readonly miou: number
  readonly photo: Raster
  readonly truth: Uint16Array
  readonly labels: Uint16Array
}

/** The predictions of one candidate for one set: of every image, three counts a class (`areasOf`). */
export type SegOutcome = Outcome<Float64Array> & {readonly features: SegFeatures; readonly seconds: number}

/** Scores with intervals, and the model beside every baseline by mIoU, on the same draws of images. */
export function summarizeSegmentation(
  outcomes: readonly SegOutcome[],
  classes: Classes,
  seed: number
): {scores: readonly SegScore[]; differences: SegReport['differences']} {
  const K = classes.names.length
  const miou: ScoreMeasure<Float64Array> & {readonly name: 'miou'} = {
    name: 'miou',
    better: 'higher',
    of: (items, drawn) => miouOf(sumAreas(items, drawn, K), K)
  }
  const scores = scoreOutcomes(outcomes, [miou], seed).map((score, i): SegScore => {
    const {items} = outcomes[i]!
    const all = sumAreas(
      items,
      Int32Array.from({length: items.length}, (_, item) => item),
      K
    )
    const {meanAccuracy, pixelAccuracy, iou, accuracy, pixels} = scoresOf(all, K)
    const byClass = classes.names.map((name, k) => ({name, id: classes.ids[k]!, iou: iou[k]!, accuracy: accuracy[k]!, pixels: pixels[k]!}))
    return {...score, meanAccuracy, pixelAccuracy, classes: byClass}
  })
  return {scores, differences: pairedDifferences(outcomes, [miou], {features: 'model', seed})}
}

/** The scores of all candidates, then of every class, then the differences. */
export function segSummary({train, val, test, classes, scores, differences}: SegReport): Summary {
  const sets = test > 0 ? (['val', 'test'] as const) : (['val'] as const)
  const byClass = sets.map((set): Table => {
    const own = scores.find(score => score.features === 'model' && score.set === set)!
    const rivals = scores.filter(score => score.features !== 'model' && score.set === set)
    return {
      title: `Classes of ${set}`,
      columns: [
        words('class'),
        figures('IoU %'),
        ...rivals.map(({features}) => figures(`${candidateTitle(features)} IoU %`)),
        figures('accuracy %'),
        figures('pixels')
      ],
      rows: own.classes.map(({name, iou, accuracy, pixels}, k) => [
        name,
        percent(iou),
        ...rivals.map(rival => percent(rival.classes[k]!.iou)),
        percent(accuracy),
        String(pixels)
      ])
    }
  })
  const compared = differenceTable(differences, {titles: {miou: 'mIoU, points'}})
  return {
    heading: `${counted(val, 'image')} of val${test > 0 ? `, ${counted(test, 'image')} of test` : ''}${train > 0 ? `; head trained on ${counted(train, 'image')}` : ''}; ${counted(classes.length, 'class', 'classes')}`,
    tables: [
      {
        title: 'Scores',
        columns: [
          words('candidate'),
          words('set'),
          figures('mIoU %'),
          figures('95 % interval'),
          figures('mean accuracy %'),
          figures('pixel accuracy %')
        ],
        rows: scores.map(({features, set, miou, intervals, meanAccuracy, pixelAccuracy}) => [
          candidateTitle(features),
          set,
          percent(miou),
          span(intervals['miou']!),
          percent(meanAccuracy),
          percent(pixelAccuracy)
        ])
      },
      ...byClass,
      ...(compared ? [compared] : [])
    ]
  }
}
