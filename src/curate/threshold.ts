/**
 * Which threshold fits some features: from the similarity of images to copies made of them, and of images to other
 * images.
 */

export type Calibration = {
  readonly threshold: number
  /** Share of pairs above the threshold that are copies, as far as the trial shows. */
  readonly precision: number
  /** Share of copies found, of all kinds together. */
  readonly recall: number
  /** The same by kind of copy. */
  readonly byKind: Readonly<Record<string, number>>
  /**
   * Whether the wanted precision is reached at all; otherwise the threshold lies above every pair of different
   * images.
   */
  readonly reached: boolean
}

/**
 * Of the thresholds at which at least `precision` of the pairs above are copies, the one with most copies less other
 * pairs: a lower one would let in more other pairs than it gains copies. It lies halfway to the next lower pair: where
 * copies and other pairs are far apart, in the middle between them.
 *
 * `copies`: similarity of each image to a copy of it, by kind. `others`: similarity of pairs of different images.
 * `weight`: how many pairs of different images of the pool each of `others` stands for, against one copy: a larger
 * pool has more images that look alike by chance.
 */
export function thresholdFor(
  copies: Readonly<Record<string, ArrayLike<number>>>,
  others: ArrayLike<number>,
  {precision, weight = 1}: {readonly precision: number; readonly weight?: number}
): Calibration {
  const marks = [
    ...Object.values(copies).flatMap(some => Array.from(some, score => ({score, copy: true}))),
    ...Array.from(others, score => ({score, copy: false}))
  ].sort((a, b) => b.score - a.score || Number(a.copy) - Number(b.copy)) // among equals a false pair comes first
  let [right, wrong] = [0, 0]
  let best: {threshold: number; precision: number; gain: number} | undefined
  for (const [i, {score, copy}] of marks.entries()) {
    if (copy) right++
    else wrong += weight
    if (marks[i + 1]?.score === score) continue
    const share = right / (right + wrong)
    const gain = right - wrong
    if (right > 0 && share >= precision && gain >= (best?.gain ?? -Infinity))
      best = {threshold: (score + (marks[i + 1]?.score ?? score)) / 2, precision: share, gain}
  }
  const highest = marks.find(({copy}) => !copy)?.score ?? -1
  const threshold = best?.threshold ?? Math.min(1, highest + 1e-4)
  const found = (some: ArrayLike<number>): number => Array.from(some).filter(score => score >= threshold).length
  const all = Object.values(copies).reduce((n, some) => n + some.length, 0)
  return {
    threshold,
    precision: best?.precision ?? 0,
    recall: all === 0 ? 0 : Object.values(copies).reduce((n, some) => n + found(some), 0) / all,
    byKind: Object.fromEntries(Object.entries(copies).map(([kind, some]) => [kind, some.length === 0 ? 0 : found(some) / some.length])),
    reached: best !== undefined
  }
}
