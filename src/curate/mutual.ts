/** Rows of two sets that are each other's nearest. */
import {nearestRows} from './neighbours.js'
import {arrayRows} from './rows.js'

export type MutualPair = {readonly a: number; readonly b: number; readonly similarity: number}

/**
 * Pairs of rows of a [N, D] and b [M, D], all of length 1, of which each is the nearest of the other; the most similar
 * first, then by their numbers. Of equally near rows the first counts.
 */
export function mutualNearest(a: Float32Array, b: Float32Array, D: number): MutualPair[] {
  const toB = nearestRows(arrayRows(b, D), a, 1)
  const toA = nearestRows(arrayRows(a, D), b, 1)
  return toB
    .flatMap(({rows, scores}, i) => (toA[rows[0]!]!.rows[0] === i ? [{a: i, b: rows[0]!, similarity: scores[0]!}] : []))
    .sort((x, y) => y.similarity - x.similarity || x.a - y.a)
}
