/** The report of a linear evaluation. */
import {accuracyByClass, predictedClasses} from '../../../metrics/accuracy.js'
import {pairedDifferences, scoreOutcomes, type Outcome} from '../shared/compare.js'
import type {EvalReport, EvalScore, ItemRow} from '../shared/evaluation.js'
import {pickClassified, type ClassifiedExamples} from '../shared/example-images.js'
import type {LabelledSet} from '../shared/labelled-features.js'
import {byFrequency, classNumbers} from './classes.js'
import type {ClassifierSpec, Classifier} from './classifier-file.js'
import type {Solver} from './linear-options.js'
import {confidenceOf, confusionOfKnown, type ScoredSet} from './linear-score.js'
import type {GridScore} from './linear-train.js'
import {classificationMeasures, comparedMeasures, majorityOutcome, type ClassifiedItem} from './measures.js'

/** Shares between 0 and 1. */
export type LinearScore = EvalScore & {
  readonly top1: number
  readonly top5: number
  /** What was chosen: features and learning rate, or C. */
  readonly chosen: string
  /** top1 of each draw of few shots. */
  readonly repeats?: readonly number[]
}

export type LinearReport = EvalReport<LinearScore> & {
  readonly task: 'linear'
  /** How classifiers were trained; absent where one was only scored. */
  readonly solver?: Solver | undefined
  readonly cached?: boolean | undefined
  /** Images that each classifier was trained on. */
  readonly train: number
  readonly val: number
  readonly sets: readonly {readonly name: string; readonly images: number}[]
  readonly classes: readonly string[]
  /** Of the first model on val: accuracy by class, and counts [K, K] by true class. */
  readonly perClass: Readonly<Record<string, number | null>>
  readonly confusion: readonly (readonly number[])[]
  /** val accuracy of every classifier of the first model. */
  readonly grid: readonly GridScore[]
  readonly examples: ClassifiedExamples
  readonly head?: string | undefined
}

/** What is known of a head before its slice is chosen. */
export type HeadSpec = Omit<ClassifierSpec, 'start' | 'length' | 'classes'>

/** What a candidate was trained on, if it was, and the rows that it was scored on: val, then the test sets. */
export type LinearSets = {readonly train?: Pick<LabelledSet, 'ids' | 'labels'>; readonly scored: readonly LabelledSet[]}

/** A candidate that was trained and scored. */
export type LinearCandidate = {
  readonly features: string
  readonly chosen: string
  readonly sets: LinearSets
  readonly scored: readonly ScoredSet[]
  readonly repeats?: readonly number[]
  readonly classifier: Classifier
  readonly grid: readonly GridScore[]
  readonly spec: HeadSpec
  /** Images that it was trained on. */
  readonly trainedOn: number
}

export type LinearFacts = {
  readonly solver: Solver | undefined
  readonly cached: boolean | undefined
  readonly classes: readonly string[]
  readonly setNames: readonly string[]
  readonly majority: boolean
  readonly fingerprint: string | null
  readonly seed: number
  readonly notes: string[]
  readonly head: string | undefined
}

/** Makes the report; the first candidate is compared with the others. */
export function linearReport(candidates: readonly LinearCandidate[], facts: LinearFacts): LinearReport {
  const {classes, setNames, seed, notes, solver, cached, fingerprint, head} = facts
  const first = candidates[0]!
  const outcomes = candidates.flatMap(({features, sets, scored}) =>
    scored.map(({items}, i): Outcome<ClassifiedItem> => ({features, set: setNames[i]!, ids: sets.scored[i]!.ids, items}))
  )
  const chosen = new Map(candidates.map(candidate => [candidate.features, candidate]))
  if (facts.majority) {
    outcomes.push(...first.sets.scored.map((rows, i) => majorityOutcome(first.sets.train!.labels, setNames[i]!, rows)))
  }
  const scores = scoreOutcomes(outcomes, classificationMeasures, seed).map((score): LinearScore => {
    const candidate = chosen.get(score.features)
    const repeats = score.set === setNames[0] ? candidate?.repeats : undefined
    return {...score, chosen: candidate?.chosen ?? `always ${byFrequency(first.sets.train!.labels)[0]}`, repeats}
  })
  return {
    task: 'linear',
    solver,
    cached,
    train: first.trainedOn,
    val: first.sets.scored[0]!.ids.length,
    sets: first.sets.scored.map(({ids}, i) => ({name: setNames[i]!, images: ids.length})),
    classes,
    fingerprint,
    scores,
    differences: pairedDifferences(outcomes, comparedMeasures, {features: first.features, seed, notes}),
    ...detailsOf(first, classes),
    grid: first.grid,
    notes,
    head
  }
}

/** The first candidate on val, class by class and image by image. */
function detailsOf({sets, scored}: LinearCandidate, classes: readonly string[]): Pick<LinearReport, 'perClass' | 'confusion' | 'examples'> {
  const K = classes.length
  const [{labels, paths}, {logits}] = [sets.scored[0]!, scored[0]!]
  const predicted = predictedClasses(logits, labels.length, K)
  const counts = confusionOfKnown(classNumbers(labels, classes), predicted, K)
  const shares = accuracyByClass(counts, K)
  return {
    perClass: Object.fromEntries(classes.map((name, k) => [name, Number.isNaN(shares[k]!) ? null : shares[k]!])),
    confusion: classes.map((_, k) => [...counts.subarray(k * K, (k + 1) * K)]),
    examples: pickClassified(
      labels.map((label, i) => ({
        path: paths[i]!,
        label,
        predicted: classes[predicted[i]!]!,
        confidence: confidenceOf(logits, i, predicted[i]!, K)
      }))
    )
  }
}

/** What the first candidate predicted of every image of every set. */
export function* linearItems(
  {features, sets, scored}: LinearCandidate,
  setNames: readonly string[],
  classes: readonly string[]
): Generator<ItemRow> {
  const K = classes.length
  for (const [i, {ids, labels}] of sets.scored.entries()) {
    const {logits} = scored[i]!
    const predicted = predictedClasses(logits, ids.length, K)
    for (const [j, id] of ids.entries()) {
      const name = classes[predicted[j]!]!
      const confidence = confidenceOf(logits, j, predicted[j]!, K)
      yield {id, set: setNames[i]!, features, label: labels[j]!, predicted: name, confidence, correct: name === labels[j]}
    }
  }
}
