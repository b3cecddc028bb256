/**
 * Scores of rows against prototypes, s = z·wᵀ, some columns at a time.
 *
 * With 65,536 prototypes the scores of one batch are larger than all else in a step, so nobody here ever holds them
 * whole in float32: a loss walks over the columns in pieces that stay in the processor's cache. Pieces of columns, not
 * of rows: then the gradient of each prototype is complete after one piece. R rows, K prototypes, D width.
 */
import {dispose, keep, slice, tidy} from '../tensor/tf.js'
import type {Tensor2D} from '../tensor/tf.js'
import {linearForward} from '../tensor/ops/linear.js'
import {castLike} from '../tensor/ops/precision.js'

export type Logits = {
  readonly rows: number
  readonly prototypes: number
  /** Columns `start` to `start + count`, [R, count], in the precision of the product. The tensor is the caller's. */
  readonly columns: (start: number, count: number) => Tensor2D
}

/**
 * Scores that are computed whenever they are asked for; z [R, D], w [K, D]. Both must outlive them. The product is
 * taken in the precision of `w`.
 */
export const lazyLogits = (z: Tensor2D, w: Tensor2D): Logits => ({
  rows: z.shape[0],
  prototypes: w.shape[0],
  columns: (start, count) => tidy(() => linearForward(castLike(z, w), {weight: slice(w, [start, 0], [count, w.shape[1]])}))
})

/** Scores that exist whole, s [R, K]. The tensor must outlive them. */
export const denseLogits = (s: Tensor2D): Logits => ({
  rows: s.shape[0],
  prototypes: s.shape[1],
  columns: (start, count) => slice(s, [0, start], [s.shape[0], count])
})

/** The rows `from` to `from + count` of scores, which must outlive them. */
export const logitRows = (scores: Logits, from: number, count: number): Logits =>
  from === 0 && count === scores.rows
    ? scores
    : {
        rows: count,
        prototypes: scores.prototypes,
        columns: (start, width) => tidy(() => slice(scores.columns(start, width), [from, 0], [count, width]))
      }

export type CachedLogits = Logits & {readonly dispose: () => void}

/**
 * Scores that are computed once and kept, in the precision of the product, by the pieces that they are asked for
 * first; others cannot be had afterwards. Quicker than computing them for every turn, for R·K numbers of memory.
 * `dispose` lets them go.
 */
export function cachedLogits(scores: Logits): CachedLogits {
  const kept = new Map<number, Tensor2D>()
  return {
    rows: scores.rows,
    prototypes: scores.prototypes,
    columns: (start, count) => {
      let piece = kept.get(start)
      if (!piece) {
        piece = keep(scores.columns(start, count))
        kept.set(start, piece)
      }
      if (piece.shape[1] !== count) throw new RangeError(`scores are held by pieces of ${piece.shape[1]} columns, not of ${count}`)
      return piece.clone()
    },
    dispose: () => {
      dispose([...kept.values()])
      kept.clear()
    }
  }
}

/**
 * Numbers in one piece of scores: 4 MiB of float32, which the second-level and third-level caches of one processor
 * hold with its temporaries.
 */
const CHUNK_SIZE = 2 ** 20

/** How many columns of `rows` rows are taken at a time. */
export const chunkWidth = (rows: number, prototypes: number): number =>
  Math.min(prototypes, Math.max(64, 64 * Math.floor(CHUNK_SIZE / Math.max(1, rows) / 64)))

/** The pieces of all columns, `width` at a time. */
export function* chunks(prototypes: number, width: number): Generator<readonly [start: number, count: number]> {
  for (let start = 0; start < prototypes; start += width) yield [start, Math.min(width, prototypes - start)]
}
