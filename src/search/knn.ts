/**
 * The k-nearest-neighbour classifier, which scores features without training anything (docs/spec.md §5.1; Wu et
 * al. 2018).
 *
 * Neighbours are found once for the largest k. Their weights are softmax(similarity / 0.07) over that largest k; for
 * each smaller k the list is cut and the weights are summed per class. The softmax's common denominator does not
 * change which class wins.
 */
import type {Neighbours} from './exact.js'

/** Temperature of the votes. */
export const defaultTemperature = 0.07
/** The values of k that the reference reports. */
export const defaultK: readonly number[] = [10, 20, 100, 200]

/** What one query gets for each k: classes, best first, five at most, and the first one's share of the votes. */
export type Votes = {readonly k: number; readonly classes: readonly number[]; readonly share: number}

/**
 * Votes of one query's neighbours, for each k. `labels[row]` is the class number of a train row, of `classes` in all.
 * Equal sums are ordered by class number. Classes that get no vote are not named. `temperature` divides the
 * similarities.
 */
export function vote(
  {rows, scores}: Neighbours,
  labels: Int32Array,
  classes: number,
  ks: readonly number[],
  temperature = defaultTemperature
): Votes[] {
  const highest = scores[0] ?? 0
  const weights = Float64Array.from(scores, score => Math.exp((score - highest) / temperature))
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  return ks.map(k => {
    const sums = new Float64Array(classes)
    const named: number[] = []
    for (let i = 0; i < Math.min(k, rows.length); i++) {
      const label = labels[rows[i]!]!
      if (!named.includes(label)) named.push(label)
      sums[label]! += weights[i]! / total
    }
    const ordered = named.sort((a, b) => sums[b]! - sums[a]! || a - b).slice(0, 5)
    const all = named.reduce((sum, label) => sum + sums[label]!, 0)
    return {k, classes: ordered, share: ordered.length === 0 ? 0 : sums[ordered[0]!]! / all}
  })
}

/** Whether the true class is among the first `top`, for each k. */
export const hits = (votes: readonly Votes[], truth: number, top: number): boolean[] =>
  votes.map(({classes}) => classes.slice(0, top).includes(truth))

/**
 * At most `n` rows of each class, drawn without replacement; the result keeps the order of rows. One class's draw does
 * not depend on the others. `randomOf(label)` gives the class's own generator of numbers in [0, 1).
 */
export function sampleRowsPerClass(labels: Int32Array, n: number, randomOf: (label: number) => () => number): Int32Array {
  const byClass = new Map<number, number[]>()
  for (const [row, label] of labels.entries()) {
    const rows = byClass.get(label)
    if (rows) rows.push(row)
    else byClass.set(label, [row])
  }
  const kept: number[] = []
  for (const [label, rows] of byClass) {
    const random = randomOf(label)
    for (let i = 0; i < Math.min(n, rows.length); i++) {
      const j = i + Math.floor(random() * (rows.length - i))
      ;[rows[i], rows[j]] = [rows[j]!, rows[i]!]
      kept.push(rows[i]!)
    }
  }
  return Int32Array.from(kept).sort()
}
