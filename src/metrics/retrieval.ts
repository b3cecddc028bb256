/**
 * Scores of retrieval: average precision and recall among the first k.
 *
 * Two definitions of average precision are in use. `trapezoid` is that of the Holidays and Oxford scripts (Jégou et
 * al. 2008; Philbin et al. 2007): the area under the precision–recall curve by trapezoids, with precision before the
 * first answer counted as 1. `step` is the mean of the precision at each right answer, as in scikit-learn.
 */

export type AveragePrecisionRule = 'trapezoid' | 'step'

/**
 * Average precision of one ranked list. `right` are the 0-based ranks of the right answers, ascending, the query
 * itself taken out of the list beforehand; `total` is how many right answers there are at all. NaN where there is
 * none.
 */
export function averagePrecision(right: readonly number[], total: number, how: AveragePrecisionRule = 'trapezoid'): number {
  if (total === 0) return NaN
  let sum = 0
  for (const [i, rank] of right.entries()) {
    const after = (i + 1) / (rank + 1)
    const before = rank === 0 ? 1 : i / rank
    sum += how === 'step' ? after : (before + after) / 2
  }
  return sum / total
}

/** Share of the right answers that stand among the first k; NaN where there is none. */
export const recallAt = (right: readonly number[], total: number, k: number): number =>
  total === 0 ? NaN : right.filter(rank => rank < k).length / total

/**
 * 1 where at least one right answer stands among the first k (what metric learning calls recall@k), else 0; NaN where
 * there is none.
 */
export const hitAt = (right: readonly number[], total: number, k: number): number =>
  total === 0 ? NaN : Number(right.some(rank => rank < k))
