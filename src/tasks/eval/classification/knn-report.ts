/** The report of a kNN evaluation: what it holds, and how it is made from votes. */
import {confusionMatrix} from '../../../metrics/accuracy.js'
import {defaultTemperature} from '../../../search/knn.js'
import {pairedDifferences, scoreOutcomes, type Outcome} from '../shared/compare.js'
import type {EvalDifference, EvalReport, EvalScore, ItemRow} from '../shared/evaluation.js'
import {pickClassified, type ClassifiedExamples} from '../shared/example-images.js'
import type {LabelledSet} from '../shared/labelled-features.js'
import {classNumbers, ONE_CLASS_NOTE, unseenNote} from './classes.js'
import type {KnnVotes} from './knn-vote.js'
import {classificationMeasures, comparedMeasures, majorityOutcome, type ClassifiedItem} from './measures.js'

/** Shares between 0 and 1. `k` is null for the most frequent class, which needs no neighbour. */
export type KnnScore = EvalScore & {
  readonly k: number | null
  /** Train rows of a class that were used; null: all. */
  readonly perClass: number | null
  readonly top1: number
  readonly top5: number
  /** top1 of every draw, where train rows were drawn. */
  readonly repeats?: readonly number[]
}
export type KnnDifference = EvalDifference & {readonly k?: number; readonly perClass?: number | null}

export type KnnReport = EvalReport<KnnScore, KnnDifference> & {
  readonly task: 'knn'
  readonly train: number
  /** Images of the first set that was classified. */
  readonly val: number
  readonly sets: readonly {readonly name: string; readonly images: number}[]
  readonly classes: number
  readonly leaveOneOut: boolean
  readonly temperature: number
  /**
   * For the model (else the first baseline) with all train rows on the first set: of each class how many were
   * classified, and the share that was right, by k.
   */
  readonly perClass: Readonly<Record<string, {readonly images: number; readonly top1: Readonly<Record<string, number>>}>>
  /** For the same at the k of highest top1: counts [classes, classes] by true class. */
  readonly confusion?: {readonly k: number; readonly classes: readonly string[]; readonly counts: readonly (readonly number[])[]}
  readonly examples?: ClassifiedExamples
}

/** The votes of one candidate on one set. */
export type VotedSet = {
  readonly features: string
  readonly set: string
  readonly perClass: number | undefined
  readonly rows: LabelledSet
  readonly votes: readonly KnnVotes[]
}

export type KnnFacts = {
  readonly train: LabelledSet
  readonly sets: readonly {readonly name: string; readonly rows: LabelledSet}[]
  readonly classes: readonly string[]
  readonly leaveOneOut: boolean
  readonly majority: boolean
  readonly temperature: number | undefined
  readonly fingerprint: string | null
  readonly seed: number
  readonly notes: string[]
}

/** The votes of highest top1 with all train rows, else with the first number of them, for the first candidate. */
function shownVotes(voted: readonly VotedSet[], set: string): {rows: LabelledSet; best: KnnVotes; all: readonly KnnVotes[]} | undefined {
  const own = voted.filter(one => one.features === voted[0]!.features && one.set === set)
  const {rows, votes} = own.find(({perClass}) => perClass === undefined) ?? {}
  if (!rows || !votes) return undefined
  const share = ({repeats}: KnnVotes): number => repeats.reduce((sum, x) => sum + x, 0) / repeats.length
  return {rows, best: votes.reduce((a, b) => (share(b) > share(a) ? b : a)), all: votes}
}

/** Makes the report. */
export function knnReport(voted: readonly VotedSet[], facts: KnnFacts): KnnReport {
  const {train, sets, classes, leaveOneOut, seed, notes} = facts
  const repeats = new Map<Outcome<ClassifiedItem>, readonly number[]>()
  const outcomes = voted.flatMap(({features, set, perClass, rows, votes}) =>
    votes.map(({k, items, repeats: own}): Outcome<ClassifiedItem> => {
      const outcome = {features, set, variant: {k, perClass: perClass ?? null}, ids: rows.ids, items}
      if (perClass !== undefined) repeats.set(outcome, own)
      return outcome
    })
  )
  if (facts.majority) outcomes.push(...sets.map(({name, rows}) => majorityOutcome(train.labels, name, rows)))
  const scores = scoreOutcomes(outcomes, classificationMeasures, seed).map((score, i): KnnScore => ({
    k: null,
    perClass: null,
    ...score,
    repeats: repeats.get(outcomes[i]!)
  }))
  if (classes.length < 2) notes.push(ONE_CLASS_NOTE)
  const trained = new Set(train.labels)
  for (const {name, rows} of sets) {
    const note = unseenNote(name, [...new Set(rows.labels)].filter(label => !trained.has(label)).sort())
    if (note !== undefined) notes.push(note)
  }
  const shown = shownVotes(voted, sets[0]!.name)
  return {
    task: 'knn',
    train: train.ids.length,
    val: sets[0]!.rows.ids.length,
    sets: sets.map(({name, rows}) => ({name, images: rows.ids.length})),
    classes: classes.length,
    leaveOneOut,
    temperature: facts.temperature ?? defaultTemperature,
    scores,
    differences: pairedDifferences(outcomes, comparedMeasures, {features: 'model', seed, notes}),
    perClass: shown ? classTable(classes, shown.rows.labels, shown.all) : {},
    ...(shown ? detailsOf(shown.rows, shown.best, classes) : {}),
    fingerprint: facts.fingerprint,
    notes
  }
}

function classTable(classes: readonly string[], truth: readonly string[], votes: readonly KnnVotes[]): KnnReport['perClass'] {
  return Object.fromEntries(
    classes.map(label => {
      const members = truth.flatMap((name, i) => (name === label ? [i] : []))
      const share = ({items}: KnnVotes): number => members.reduce((sum, i) => sum + items[i]!.top1, 0) / members.length
      const top1 = members.length === 0 ? {} : Object.fromEntries(votes.map(one => [one.k, share(one)]))
      return [label, {images: members.length, top1}]
    })
  )
}

function detailsOf(
  rows: LabelledSet,
  {k, predicted, confidence}: KnnVotes,
  classes: readonly string[]
): Pick<KnnReport, 'confusion' | 'examples'> {
  const K = classes.length
  const counts = confusionMatrix(classNumbers(rows.labels, classes), predicted, K)
  return {
    confusion: {k, classes, counts: classes.map((_, c) => [...counts.subarray(c * K, (c + 1) * K)])},
    examples: pickClassified(
      rows.labels.map((label, i) => ({path: rows.paths[i]!, label, predicted: classes[predicted[i]!]!, confidence: confidence[i]!}))
    )
  }
}

/** What became of every image of the sets, at the k of highest top1 of each. */
export function* knnItems(voted: readonly VotedSet[], sets: KnnFacts['sets'], classes: readonly string[]): Generator<ItemRow> {
  for (const {name} of sets) {
    const shown = shownVotes(voted, name)
    if (!shown) continue
    const {rows, best} = shown
    for (const [i, id] of rows.ids.entries()) {
      const [label, predicted] = [rows.labels[i]!, classes[best.predicted[i]!]!]
      yield {
        id,
        set: name,
        features: voted[0]!.features,
        label,
        predicted,
        confidence: best.confidence[i]!,
        correct: label === predicted,
        k: best.k
      }
    }
  }
}
