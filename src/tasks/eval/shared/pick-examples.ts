/** Which items a page shows: the best, the typical and the worst ones. */

export type Examples<T> = {readonly best: readonly T[]; readonly typical: readonly T[]; readonly worst: readonly T[]}

/**
 * Picks at most `each` of the highest, the middle and the lowest score; the worst one comes first among the worst. No
 * item comes twice: of few items each kind gets a third, the best first. Items of equal score are ordered by name.
 */
export function pickExamples<T>(
  items: readonly T[],
  each: number,
  {score, name}: {readonly score: (item: T) => number; readonly name: (item: T) => string}
): Examples<T> {
  const ranked = items.toSorted((a, b) => score(b) - score(a) || (name(a) < name(b) ? -1 : 1))
  const n = Math.min(each, Math.ceil(ranked.length / 3))
  const best = ranked.slice(0, n)
  const worst = ranked.slice(Math.max(n, ranked.length - n)).reverse()
  const middle = ranked.slice(best.length, ranked.length - worst.length)
  const from = Math.max(0, Math.floor((middle.length - n) / 2))
  return {best, typical: middle.slice(from, from + n), worst}
}
