/** The measures of classification, and the baseline that needs no features. */
import {meanMeasure, type Outcome} from '../shared/compare.js'
import type {LabelledSet} from '../shared/labelled-features.js'
import {byFrequency} from './classes.js'

/** Of one image: 1 where the class was right, or among the first five; with several draws the share of them. */
export type ClassifiedItem = {top1: number; top5: number}

export const classificationMeasures = [
  meanMeasure<ClassifiedItem, 'top1'>('top1', ({top1}) => top1),
  meanMeasure<ClassifiedItem, 'top5'>('top5', ({top5}) => top5)
] as const

/** Differences are reported of top-1 alone. */
export const comparedMeasures = classificationMeasures.slice(0, 1)

/** The outcome of predicting the most frequent classes of train for every image of a set. */
export function majorityOutcome(train: readonly string[], set: string, {ids, labels}: LabelledSet): Outcome<ClassifiedItem> {
  const frequent = byFrequency(train)
  const among = (label: string, n: number): number => Number(frequent.slice(0, n).includes(label))
  return {features: 'majority', set, ids, items: labels.map(label => ({top1: among(label, 1), top5: among(label, 5)}))}
}
