/**
 * Searching a LanceDB table: what the library proposes is measured again here, so that similarities are the same
 * numbers, and equally near rows come in the same order, as from an index in one file.
 */
import {fieldsFromText} from '../../files/search-index/lance-header.js'
import {LanceTable, type LanceFound, type LanceHeader, type ListSearchParams} from '../../files/search-index/lance-table.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import type {Metric} from '../../search/exact.js'

/** Neighbours of one query, best first: larger scores are nearer. */
export type LanceNeighbours = {readonly ids: readonly string[]; readonly scores: Float64Array; fields(i: number): Fields}

/**
 * Rows asked for beyond those wanted, so that equally near ones at the end of the list are put in order before it is
 * cut.
 */
const tieMargin = 16
/** Queries under way at once. */
const concurrentQueries = 8

/** The best k of what was found, measured in float64; equal ones are ordered by id. */
export function rerank({ids, fields, vectors}: LanceFound, query: Float32Array, k: number, metric: Metric): LanceNeighbours {
  const D = query.length
  const all = Float64Array.from(ids, (_, i) => {
    let sum = 0
    for (let d = 0, at = i * D; d < D; d++, at++) {
      if (metric === 'l2') {
        const difference = vectors[at]! - query[d]!
        sum -= difference * difference
      } else sum += vectors[at]! * query[d]!
    }
    return sum
  })
  const order = Array.from(ids.keys())
    .sort((a, b) => all[b]! - all[a]! || (ids[a]! < ids[b]! ? -1 : 1))
    .slice(0, k)
  return {ids: order.map(i => ids[i]!), scores: Float64Array.from(order, i => all[i]!), fields: i => fieldsFromText(fields[order[i]!]!)}
}

/** A table that is ready to answer. */
export type LanceSearch = {
  readonly header: LanceHeader
  /** The k nearest of each query [Q, D]; `looking` replaces parts of what the index was measured with. */
  nearest(queries: Float32Array, k: number, looking: Partial<ListSearchParams>): Promise<LanceNeighbours[]>
}

/** Opens a table for searching. Throws as `LanceTable.open`. */
export async function openLanceSearch(place: string): Promise<LanceSearch> {
  const table = await LanceTable.open(place)
  const header = table.header!
  const {lists, metric, dim} = header
  return {
    header,
    async nearest(queries, k, {probes = lists?.probes, refine = lists?.refine}) {
      const params = lists ? {probes: Math.min(lists.partitions, probes!), refine: refine!} : undefined
      const out: LanceNeighbours[] = []
      const one = async (q: number): Promise<LanceNeighbours> => {
        const query = queries.slice(q * dim, (q + 1) * dim)
        return rerank(await table.nearest(query, k + tieMargin, metric, params), query, k, metric)
      }
      for (let q = 0; q < queries.length / dim; q += concurrentQueries) {
        const n = Math.min(concurrentQueries, queries.length / dim - q)
        out.push(...(await Promise.all(Array.from({length: n}, (_, i) => one(q + i)))))
      }
      return out
    }
  }
}
