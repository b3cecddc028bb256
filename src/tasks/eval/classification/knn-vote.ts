/**
 * Classification of sets by nearest neighbours, with all train rows or with a few drawn of each class.
 *
 * In shape comments: N rows, Q queries, D numbers a vector.
 */
import {UserError} from '../../../config/errors.js'
import {blocksOfRows, nearestNeighbours, type InnerProductFn} from '../../../search/exact.js'
import {defaultK, defaultTemperature, hits, sampleRowsPerClass, vote} from '../../../search/knn.js'
import {rng} from '../../../tensor/random.js'
import {pickRows, type LabelledSet} from '../shared/labelled-features.js'
import type {ClassifiedItem} from './measures.js'

/** What a k gives for a set. */
export type KnnVotes = {
  readonly k: number
  readonly items: readonly ClassifiedItem[]
  /** The share of right images of every draw. */
  readonly repeats: readonly number[]
  /** The class that the last draw predicted of each image, and its share of the votes. */
  readonly predicted: Int32Array
  readonly confidence: Float64Array
}

export type VoteOptions = {
  readonly k?: readonly number[] | undefined
  readonly repeats?: number | undefined
  readonly temperature?: number | undefined
  readonly seed: number
  readonly innerProduct?: InnerProductFn | undefined
}

/** A draw of train rows: their numbers among all, or undefined for all of them. */
function drawRows(labels: Int32Array, classes: readonly string[], perClass: number | undefined, seed: number): Int32Array | undefined {
  if (perClass === undefined) return undefined
  return sampleRowsPerClass(labels, perClass, label => {
    const random = rng(seed, 'rows of a class', classes[label]!)
    return () => random.uniform()
  })
}

/** The values of k that so many neighbours allow; at least one neighbour is needed. */
function allowedK(wanted: readonly number[], most: number): number[] {
  if (most < 1)
    throw new UserError('There is no other train image to compare with.', {
      exit: 2,
      code: 'TOO_FEW',
      hint: 'Give more images, or a --val set.'
    })
  return [...new Set(wanted.map(k => Math.min(k, most)))].sort((a, b) => a - b)
}

type Tally = KnnVotes & {readonly items: ClassifiedItem[]; readonly repeats: number[]}

const emptyTally = (k: number, n: number): Tally => ({
  k,
  items: Array.from({length: n}, () => ({top1: 0, top5: 0})),
  repeats: [],
  predicted: new Int32Array(n),
  confidence: new Float64Array(n)
})

/**
 * Classifies `queries` by `train` (vectors of length 1); without queries every train row by the others. Scores are
 * means over the draws of train rows. Throws a `UserError` where there is no neighbour (exit 2).
 */
export function classifyByNeighbours(
  {train, queries}: {readonly train: LabelledSet; readonly queries: LabelledSet | undefined},
  classes: readonly string[],
  perClass: number | undefined,
  {k: wanted = defaultK, repeats = 1, temperature = defaultTemperature, seed, innerProduct}: VoteOptions
): KnnVotes[] {
  const numbers = new Map(classes.map((label, i) => [label, i]))
  const labels = Int32Array.from(train.labels, label => numbers.get(label)!)
  const asked = queries ?? train
  const truth = asked.labels.map(label => numbers.get(label)!)
  const draws = perClass === undefined ? 1 : repeats
  const tallies = new Map<number, Tally>()
  for (let draw = 0; draw < draws; draw++) {
    const drawn = drawRows(labels, classes, perClass, seed + draw)
    const rows = drawn ? pickRows(train, drawn) : train
    const rowLabels = drawn ? Int32Array.from(drawn, row => labels[row]!) : labels
    const ks = allowedK(wanted, rows.ids.length - (queries ? 0 : 1)) // a row is no neighbour of itself
    const skip = queries ? undefined : (query: number, row: number): boolean => (drawn ? drawn[row] : row) === query
    for (const k of ks) if (!tallies.has(k)) tallies.set(k, emptyTally(k, truth.length))
    const found = nearestNeighbours(blocksOfRows(rows.x, rows.dim), asked.x, ks.at(-1)!, {skip, innerProduct})
    const right = new Map(ks.map(k => [k, 0]))
    for (const [q, neighbours] of found.entries()) {
      const votes = vote(neighbours, rowLabels, classes.length, ks, temperature)
      const [first, five] = [hits(votes, truth[q]!, 1), hits(votes, truth[q]!, 5)]
      for (const [i, k] of ks.entries()) {
        const {items, predicted, confidence} = tallies.get(k)!
        if (first[i]) items[q]!.top1 += 1 / draws
        if (five[i]) items[q]!.top5 += 1 / draws
        if (first[i]) right.set(k, right.get(k)! + 1)
        predicted[q] = votes[i]!.classes[0]!
        confidence[q] = votes[i]!.share
      }
    }
    for (const [k, count] of right) tallies.get(k)!.repeats.push(count / truth.length)
  }
  return [...tallies.values()]
}
