/** Training on a few images of each class, drawn several times. */
import {counted} from '../../../config/counted.js'
import {sampleRowsPerClass} from '../../../search/knn.js'
import {rng} from '../../../tensor/random.js'
import type {EvalEvent} from '../shared/evaluation.js'
import {pickRows, type LabelledSet} from '../shared/labelled-features.js'
import {classNumbers} from './classes.js'
import type {Classifier} from './classifier-file.js'
import type {LinearEvalOptions} from './linear-options.js'
import {scoreLabelledSet, type ScoredSet} from './linear-score.js'
import {trainOnRows, type TrainingData} from './linear-train.js'

export type FewShots = {
  /** Means over draws; the logits are those of the first draw. */
  readonly scored: readonly ScoredSet[]
  /** top1 of every draw on the first set. */
  readonly repeats: readonly number[]
  /** What was chosen in the draws, in words. */
  readonly chosen: string
  /** The classifier of the first draw, and how many images it was trained on. */
  readonly classifier: Classifier
  readonly trainedOn: number
}

/** Trains a classifier for each draw; an image's score is the share of draws in which it was right. */
export async function* trainFewShots(
  data: TrainingData,
  sets: readonly LabelledSet[],
  options: LinearEvalOptions
): AsyncGenerator<EvalEvent, FewShots> {
  const {features, train, classes} = data
  const {shots = 1, repeats: draws = 1, seed} = options
  const truth = classNumbers(train.labels, classes)
  const scored: ScoredSet[] = []
  const repeats: number[] = []
  const chosen: string[] = []
  let first: Pick<FewShots, 'classifier' | 'trainedOn'> | undefined
  for (let draw = 0; draw < draws; draw++) {
    const rows = sampleRowsPerClass(truth, shots, label => {
      const random = rng(seed, 'shots', draw, label)
      return () => random.uniform()
    })
    const few = {...data, features: draws === 1 ? features : `${features} draw ${draw + 1}`, train: pickRows(train, rows)}
    const {classifier} = yield* trainOnRows(few, options)
    first ??= {classifier, trainedOn: rows.length}
    chosen.push(classifier.chosen)
    for (const [i, set] of sets.entries()) {
      const own = scoreLabelledSet(set, classifier, classNumbers(set.labels, classes), classes.length)
      if (i === 0) repeats.push(own.items.reduce((sum, {top1}) => sum + top1, 0) / own.items.length)
      scored[i] ??= {logits: own.logits, items: own.items.map(() => ({top1: 0, top5: 0}))}
      for (const [j, {top1, top5}] of own.items.entries()) {
        scored[i].items[j]!.top1 += top1 / draws
        scored[i].items[j]!.top5 += top5 / draws
      }
    }
  }
  const all = first!.trainedOn === shots * classes.length
  return {
    ...first!,
    scored,
    repeats,
    chosen: `${all ? shots : `up to ${shots}`} a class, ${counted(draws, 'draw')}; ${[...new Set(chosen)].join('; ')}`
  }
}
