/** A kNN report as tables for terminal and page: scores, then differences. */
import {counted} from '../../../config/counted.js'
import type {Summary, Table} from '../shared/evaluation.js'
import {candidateTitle, differenceTable, figures, percent, span, words} from '../shared/tables.js'
import type {KnnDifference, KnnReport, KnnScore} from './knn-report.js'

const perClassText = (perClass: number | null | undefined): string =>
  perClass === null || perClass === undefined ? 'all' : String(perClass)

/** What was done, in one line. */
export function knnHeading({train, sets, classes, leaveOneOut}: KnnReport): string {
  const scored = leaveOneOut
    ? `${counted(train, 'image')}, each by the others`
    : `${sets.map(({name, images}) => `${counted(images, 'image')}${sets.length > 1 ? ` of ${name}` : ''}`).join(', ')} by ${train}`
  return `${scored}, ${counted(classes, 'class', 'classes')}`
}

/** The scores; columns that say nothing are left out. */
function knnScores({scores, sets}: KnnReport): Table {
  const limited = scores.some(({perClass}) => perClass !== null)
  const several = sets.length > 1
  return {
    title: 'Scores',
    note: '95 % bootstrap intervals, by drawing the classified images with replacement.',
    columns: [
      words('features'),
      ...(several ? [words('set')] : []),
      ...(limited ? [figures('per class')] : []),
      ...['k', 'top-1 %', '95 % interval', 'top-5 %'].map(figures)
    ],
    rows: scores.map(({features, set, perClass, k, top1, intervals, top5}: KnnScore) => [
      candidateTitle(features),
      ...(several ? [set] : []),
      ...(limited ? [perClassText(perClass)] : []),
      k === null ? '' : String(k),
      percent(top1),
      span(intervals['top1']!),
      percent(top5)
    ])
  }
}

export function knnSummary(report: KnnReport): Summary {
  const {differences} = report
  const table = differenceTable<KnnDifference>(differences, {
    titles: {top1: 'points of top-1'},
    variants: [
      {column: figures('per class'), of: ({perClass}) => perClassText(perClass)},
      {column: figures('k'), of: ({k}) => String(k)}
    ]
  })
  return {heading: knnHeading(report), tables: [knnScores(report), ...(table ? [table] : [])]}
}
