/**
 * Searching: queries against an index, neighbours out.
 *
 * Queries are embeddings, or batches of them computed on the way. Either must have been made as the rows of the index were, or a sentence says which differ.
 */
import {refuseMixing, type EmbeddingBatch, type EmbeddingMeta, type Fields} from '../files/embeddings.js'
import {openIndex, type IndexHeader, type IndexRows} from '../files/vector-index.js'
import {nearest, normalizeRows, VectorBuilder, type Neighbours, type Vectors} from '../search/exact.js'
import {Graph} from '../search/hnsw.js'

/** One neighbour of one query. `similarity` for cosine and inner product, `distance` for l2. */
export type Found = {
  readonly query: string
  /** 1 is the nearest. */
  readonly rank: number
  readonly id: string
  readonly similarity?: number
  readonly distance?: number
  readonly fields: Fields
}

export type SearchOptions = {
  readonly k: number
  /** Candidates looked at in a graph; by default what the index was measured with. */
  readonly ef?: number
  /** Leaves out a row that has the query's own id. */
  readonly skipSelf?: boolean
}

/** An index in memory, ready to answer. */
export type Searcher = {
  readonly header: IndexHeader
  /** Refuses queries that were made in another way than the rows. Throws `UserError` naming both. */
  check(queries: {readonly name: string; readonly meta: EmbeddingMeta}): void
  /** The k nearest of each query, best first. The batch's vectors are normalised in place where the index measures angles. */
  search(queries: EmbeddingBatch, options: SearchOptions): Found[][]
}

/** Loads an index. Throws as `openIndex`. */
export async function loadIndex(path: string): Promise<Searcher> {
  const file = await openIndex(path)
  try {
    const {header, rows} = file
    const answer =
      header.kind === 'hnsw'
        ? throughGraph(await file.withGraph(graph => Graph.load(graph, header.dim, header.metric)), header, rows)
        : exactly(await read(file.vectors(), header.dim), header, rows)
    const ignoreLength = header.metric === 'cosine'
    return {
      header,
      check: queries => refuseMixing({name: path, meta: header.meta}, queries, {ignoreLength}),
      search(queries, options) {
        const {ids, vectors} = queries
        if (ignoreLength) normalizeRows(vectors, header.dim)
        // One more than asked for, in case the query itself is among them.
        const found = answer(vectors, options.skipSelf ? options.k + 1 : options.k, options.ef)
        return found.map((neighbours, q) => named(neighbours, ids[q]!, header, rows, options))
      }
    }
  } finally {
    await file.close()
  }
}

type Answer = (queries: Float32Array, k: number, ef: number | undefined) => Neighbours[]

async function read(stretches: AsyncIterable<Float32Array>, dim: number): Promise<Vectors> {
  const builder = new VectorBuilder(dim)
  for await (const rows of stretches) builder.append(rows)
  return builder.finish()
}

/** Equal scores are ordered by id, whatever the order of rows. */
const byId =
  (rows: IndexRows) =>
  (a: number, b: number): boolean =>
    (rows.at(a)?.id ?? '') < (rows.at(b)?.id ?? '')

const exactly =
  (vectors: Vectors, {metric}: IndexHeader, rows: IndexRows): Answer =>
  (queries, k) =>
    nearest(vectors, queries, k, {metric, before: byId(rows)})

function throughGraph(graph: Graph, {dim, graph: shape}: IndexHeader, rows: IndexRows): Answer {
  const before = byId(rows)
  return (queries, k, ef = shape?.ef ?? 64) =>
    Array.from({length: queries.length / dim}, (_, q) => {
      const found = graph.nearest(queries.subarray(q * dim, (q + 1) * dim), k, ef)
      const order = [...found.rows.keys()].sort(
        (a, b) => found.scores[b]! - found.scores[a]! || (before(found.rows[a]!, found.rows[b]!) ? -1 : 1)
      )
      return {rows: Int32Array.from(order, i => found.rows[i]!), scores: Float64Array.from(order, i => found.scores[i]!)}
    })
}

/** Seven digits: as many as float32 vectors mean, and the same on every path to the answer. */
const rounded = (x: number): number => Number(x.toPrecision(7))

function named(neighbours: Neighbours, query: string, {metric}: IndexHeader, rows: IndexRows, {k, skipSelf}: SearchOptions): Found[] {
  const found: Found[] = []
  for (const [i, row] of neighbours.rows.entries()) {
    if (found.length === k) break
    const line = rows.at(row)!
    if (skipSelf && line.id === query) continue
    const score = neighbours.scores[i]!
    const figure = metric === 'l2' ? {distance: rounded(Math.sqrt(Math.max(0, -score)))} : {similarity: rounded(score)}
    found.push({query, rank: found.length + 1, id: line.id, ...figure, fields: line.fields})
  }
  return found
}
