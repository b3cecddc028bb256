/**
 * Vectors as the algorithms of this folder see them: rows that can be read in stretches or one by one, wherever they
 * lie.
 *
 * In memory they are `Vectors`; larger than memory they lie in a file and are read as they are needed. Work that goes
 * over all rows does so in stretches of `stretchOf` rows, so that what it holds does not depend on how many there are.
 *
 * In shape comments of this folder: N rows, D numbers a row, K clusters, Q queries.
 */
import {rowAt, type Vectors} from '../search/exact.js'

export type RowSource = {
  readonly dim: number
  readonly count: number
  /** Rows `from` … `from + n - 1`, [n, D]. It may be a view: not to be written to, and good until the next call. */
  block(from: number, n: number): Float32Array
  /** Chosen rows in the order asked for, [n, D], as a copy. */
  gather(rows: ArrayLike<number>): Float32Array
}

/** Rows that lie in memory. */
export function memoryRows(vectors: Vectors): RowSource {
  const {dim, count, blockRows, blocks} = vectors
  return {
    dim,
    count,
    block(from, n) {
      const b = Math.floor(from / blockRows)
      const at = from - b * blockRows
      if (n === 0) return new Float32Array(0)
      if (at + n <= blocks[b]!.length / dim) return blocks[b]!.subarray(at * dim, (at + n) * dim)
      const out = new Float32Array(n * dim)
      for (let i = 0; i < n; i++) out.set(rowAt(vectors, from + i), i * dim)
      return out
    },
    gather(rows) {
      const out = new Float32Array(rows.length * dim)
      for (let i = 0; i < rows.length; i++) out.set(rowAt(vectors, rows[i]!), i * dim)
      return out
    }
  }
}

/** One array as rows. */
export function arrayRows(array: Float32Array, dim: number): RowSource {
  return {
    dim,
    count: array.length / dim,
    block: (from, n) => array.subarray(from * dim, (from + n) * dim),
    gather(rows) {
      const out = new Float32Array(rows.length * dim)
      for (let i = 0; i < rows.length; i++) out.set(array.subarray(rows[i]! * dim, (rows[i]! + 1) * dim), i * dim)
      return out
    }
  }
}

/** Some rows of a source, renumbered from 0 in the order given. */
export const selectRows = (source: RowSource, chosen: Int32Array): RowSource => ({
  dim: source.dim,
  count: chosen.length,
  block: (from, n) => source.gather(chosen.subarray(from, from + n)),
  gather: rows => source.gather(Int32Array.from({length: rows.length}, (_, i) => chosen[rows[i]!]!))
})

/**
 * Rows taken at once where each meets `width` others: so many that the products stay near 32 MB, and the rows
 * themselves too.
 */
export const rowsPerBlock = (dim: number, width: number): number =>
  Math.max(16, Math.min(8192, Math.floor((8 << 20) / Math.max(1, width)), Math.floor((8 << 20) / Math.max(1, dim))))

/** All rows in stretches. The array given to `use` is good until it returns. */
export function* rowBlocks(
  rows: RowSource,
  size: number
): Generator<{readonly from: number; readonly block: Float32Array; readonly n: number}> {
  for (let from = 0; from < rows.count; from += size) {
    const n = Math.min(size, rows.count - from)
    yield {from, block: rows.block(from, n), n}
  }
}
