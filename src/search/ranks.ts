/**
 * Where the right answers stand in a query's list of all rows, without sorting the list: each row is compared with the
 * right answers only.
 *
 * In shape comments: N rows, D numbers a vector.
 */
import type {InnerProductFn} from './exact.js'

/** A row that asks, and the rows that are its right answers (itself not among them). */
export type RankQuery = {readonly row: number; readonly relevant: readonly number[]}

/**
 * What came of it: 0-based ranks of the right answers, ascending, the asking row left out; and the first rows of the
 * list with their similarities.
 */
export type QueryRanks = {readonly ranks: readonly number[]; readonly first: readonly {readonly row: number; readonly similarity: number}[]}

/** Similarities of one query to all rows, in float64 sums. */
function similarities(rows: Float32Array, dim: number, query: number, out: Float64Array): Float64Array {
  const from = query * dim
  for (let n = 0, at = 0; n < out.length; n++) {
    let sum = 0
    for (let d = from; d < from + dim; d++) sum += rows[d]! * rows[at++]!
    out[n] = sum
  }
  return out
}

/** Of two equally similar rows the earlier one comes first. */
const ranksBefore = (similarity: number, row: number, other: number, otherRow: number): boolean =>
  similarity > other || (similarity === other && row < otherRow)

function rankQuery(similarity: ArrayLike<number>, {row: own, relevant: right}: RankQuery, keep: number): QueryRanks {
  const wanted = [...right].sort((a, b) => (ranksBefore(similarity[a]!, a, similarity[b]!, b) ? -1 : 1)) // best first
  const rowsBefore = new Int32Array(wanted.length + 1) // passed[i]: rows before wanted[i], but not before wanted[i - 1]
  const first: number[] = []
  for (let row = 0; row < similarity.length; row++) {
    if (row === own) continue
    const value = similarity[row]!
    let [low, high] = [0, wanted.length] // the first right answer that this row stands before
    while (low < high) {
      const middle = (low + high) >> 1
      if (ranksBefore(value, row, similarity[wanted[middle]!]!, wanted[middle]!)) high = middle
      else low = middle + 1
    }
    rowsBefore[low]! += 1
    const last = first.at(-1)
    if (first.length === keep && (last === undefined || !ranksBefore(value, row, similarity[last]!, last))) continue
    let at = first.length
    while (at > 0 && ranksBefore(value, row, similarity[first[at - 1]!]!, first[at - 1]!)) at--
    first.splice(at, 0, row)
    if (first.length > keep) first.pop()
  }
  let rank = 0
  const ranks = wanted.map((_, i) => (rank += rowsBefore[i]!))
  return {ranks, first: first.map(row => ({row, similarity: similarity[row]!}))}
}

/**
 * The standing of each query among `rows` [N, D], which have length 1. `keep` rows of each list are returned.
 * `products` is an engine's matrix product, for when there is much to do; without it sums are taken in float64. Memory
 * beside the rows: 64 MB of similarities at most, or one list.
 */
export function* rankQueries(
  rows: Float32Array,
  dim: number,
  asked: readonly RankQuery[],
  {keep = 0, products}: {readonly keep?: number; readonly products?: InnerProductFn | undefined} = {}
): Generator<QueryRanks> {
  const N = rows.length / dim
  if (!products) {
    const out = new Float64Array(N)
    for (const query of asked) yield rankQuery(similarities(rows, dim, query.row, out), query, keep)
    return
  }
  const some = Math.max(1, Math.floor((1 << 24) / N))
  for (let q = 0; q < asked.length; q += some) {
    const part = asked.slice(q, q + some)
    const queries = new Float32Array(part.length * dim)
    for (const [i, {row}] of part.entries()) queries.set(rows.subarray(row * dim, (row + 1) * dim), i * dim)
    const all = products(queries, rows, dim) // [part, N]
    for (const [i, query] of part.entries()) yield rankQuery(all.subarray(i * N, (i + 1) * N), query, keep)
  }
}
