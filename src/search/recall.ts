/** How much of an exact answer an approximate search finds. */
import type {Neighbours} from './exact.js'

/**
 * The share of the true k nearest that were found, averaged over queries. A neighbour counts when it is as near as the
 * last of the true ones, whichever row it is: among equally near rows (copies of one picture) none is more right than
 * another.
 */
export function recall(found: readonly Pick<Neighbours, 'scores'>[], truth: readonly Pick<Neighbours, 'scores'>[]): number {
  if (truth.length === 0) return 1
  let share = 0
  for (const [q, {scores}] of truth.entries()) {
    const last = scores.at(-1)
    if (last === undefined) share += 1
    else share += found[q]!.scores.reduce((n, score) => n + (score >= last - 1e-6 * Math.max(1, Math.abs(last)) ? 1 : 0), 0) / scores.length
  }
  return share / truth.length
}
