/**
 * Searching: queries against an index, neighbours out.
 *
 * Queries are embeddings, or images that are embedded on the way as the rows of the index were. Either must have been
 * made like those rows, or a sentence says what differs. Model and engine are only loaded for images.
 */
import {UserError} from '../../config/errors.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {EngineRequest} from '../../engine/start.js'
import {openAll, assertSameProvenance, type EmbeddingBatch, type EmbeddingMeta, type Fields} from '../../files/embeddings/embeddings.js'
import {assertMeasurable, unmeasurableError} from '../../files/embeddings/rows.js'
import {isLance} from '../../files/search-index/lance-table.js'
import {openIndex, type IndexHeader, type IndexRows} from '../../files/search-index/vector-index.js'
import {nearestNeighbours, normalizeRows, VectorBuilder, type Neighbours, type Vectors} from '../../search/exact.js'
import {Graph} from '../../search/hnsw.js'

/** One neighbour of one query. `similarity` for cosine and inner product, `distance` for l2. */
export type SearchHit = {
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
  /**
   * Inverted lists read, and candidates for each neighbour that are measured again; by default what the index was
   * measured with.
   */
  readonly probes?: number
  readonly refine?: number
  /** Leaves out a row that has the query's own id. */
  readonly skipSelf?: boolean
}

/** An index in memory, ready to answer. */
export type Searcher = {
  readonly header: Pick<IndexHeader, 'metric' | 'dim' | 'meta' | 'recall'> & {readonly kind: IndexHeader['kind'] | 'ivf-pq'}
  /** Refuses queries that were made in another way than the rows. Throws `UserError` naming both. */
  check(queries: {readonly name: string; readonly meta: EmbeddingMeta}): void
  /**
   * The k nearest of each query, best first. The batch's vectors are normalized in place where the index measures
   * angles.
   */
  search(queries: EmbeddingBatch, options: SearchOptions): Promise<SearchHit[][]>
}

/**
 * Loads an index: a file, or a LanceDB table in a folder or at an address. Throws as `openIndex`, or as
 * `LanceTable.open`.
 */
export async function loadIndex(path: string): Promise<Searcher> {
  return (await isLance(path)) ? lanceIndex(path) : fileIndex(path)
}

async function lanceIndex(path: string): Promise<Searcher> {
  const {openLanceSearch} = await import('./lance-search.js')
  const {header, nearest: ask} = await openLanceSearch(path)
  const ignoreLength = header.metric === 'cosine'
  return {
    header,
    check: queries => assertSameProvenance({name: path, meta: header.meta}, queries, {ignoreLength}),
    async search({ids, vectors}, options) {
      if (options.ef !== undefined) throw unsupportedFlagError(path, '--ef', 'a graph', header.kind)
      if (header.kind !== 'ivf-pq' && options.probes !== undefined)
        throw unsupportedFlagError(path, '--probes', 'inverted lists', header.kind)
      if (header.kind !== 'ivf-pq' && options.refine !== undefined)
        throw unsupportedFlagError(path, '--refine', 'inverted lists', header.kind)
      if (ignoreLength) normalizeRows(vectors, header.dim)
      assertMeasurable({ids, vectors}, header.dim)
      const found = await ask(vectors, options.skipSelf ? options.k + 1 : options.k, options)
      return found.map(({ids: names, scores, fields}, q) =>
        hitsOf(scores, i => ({id: names[i]!, fields: fields(i)}), ids[q]!, header, options)
      )
    }
  }
}

const unsupportedFlagError = (path: string, flag: string, what: string, kind: string): UserError =>
  new UserError(`${flag} says how ${what} ${what === 'a graph' ? 'is' : 'are'} searched, but ${path} is of the kind ${kind}.`, {
    exit: 2,
    code: 'USAGE',
    hint: `Leave ${flag} out.`
  })

async function fileIndex(path: string): Promise<Searcher> {
  const file = await openIndex(path)
  try {
    const {header, rows} = file
    const ask =
      header.kind === 'hnsw'
        ? graphSearch(await file.withGraph(graph => Graph.load(graph, header.dim, header.metric)), header, rows)
        : exactSearch(await readVectors(file.vectors(), header.dim), header, rows)
    const ignoreLength = header.metric === 'cosine'
    return {
      header,
      check: queries => assertSameProvenance({name: path, meta: header.meta}, queries, {ignoreLength}),
      async search({ids, vectors}, options) {
        if (options.probes !== undefined) throw unsupportedFlagError(path, '--probes', 'inverted lists', header.kind)
        if (options.refine !== undefined) throw unsupportedFlagError(path, '--refine', 'inverted lists', header.kind)
        if (ignoreLength) normalizeRows(vectors, header.dim)
        if (header.kind === 'hnsw') assertMeasurable({ids, vectors}, header.dim)
        // One more than asked for, in case the query itself is among them.
        const found = ask(vectors, options.skipSelf ? options.k + 1 : options.k, options.ef)
        return found.map((neighbours, q) => hitsOf(neighbours.scores, i => rows.at(neighbours.rows[i]!)!, ids[q]!, header, options))
      }
    }
  } finally {
    await file.close()
  }
}

type NearestFn = (queries: Float32Array, k: number, ef: number | undefined) => Neighbours[]

async function readVectors(stretches: AsyncIterable<Float32Array>, dim: number): Promise<Vectors> {
  const builder = new VectorBuilder(dim)
  for await (const rows of stretches) builder.append(rows)
  return builder.finish()
}

/** Equal scores are ordered by id, whatever the order of rows. */
const orderById =
  (rows: IndexRows) =>
  (a: number, b: number): boolean =>
    (rows.at(a)?.id ?? '') < (rows.at(b)?.id ?? '')

const exactSearch =
  (vectors: Vectors, {metric}: IndexHeader, rows: IndexRows): NearestFn =>
  (queries, k) =>
    nearestNeighbours(vectors, queries, k, {metric, before: orderById(rows)})

function graphSearch(graph: Graph, {dim, graph: shape}: IndexHeader, rows: IndexRows): NearestFn {
  const before = orderById(rows)
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
const roundScore = (x: number): number => Number(x.toPrecision(7))

/** Answers of one query, best first; `line` gives id and fields of each of `scores`. */
function hitsOf(
  scores: Float64Array,
  line: (i: number) => {readonly id: string; readonly fields: Fields},
  query: string,
  {metric}: Pick<IndexHeader, 'metric'>,
  {k, skipSelf}: SearchOptions
): SearchHit[] {
  const found: SearchHit[] = []
  for (const [i, score] of scores.entries()) {
    if (found.length === k) break
    const {id, fields} = line(i)
    if (skipSelf && id === query) continue
    if (!Number.isFinite(score)) throw unmeasurableError(id) // a graph made by an earlier version
    const figure = metric === 'l2' ? {distance: roundScore(Math.sqrt(Math.max(0, -score)))} : {similarity: roundScore(score)}
    found.push({query, rank: found.length + 1, id, ...figure, fields})
  }
  return found
}

/** One query and what was found for it, best first. */
export type QueryAnswer = {readonly query: string; readonly fields: Fields; readonly found: readonly SearchHit[]}

type AnswerOptions = SearchOptions & {
  readonly index: string
  /** Queries answered at most; all by default. */
  readonly limit?: number
  readonly signal?: AbortSignal
}

/** The queries are images, embedded as the rows of the index were. */
export type ImageQueries = AnswerOptions & {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly engine: EngineRequest
  readonly toolVersion: string
  /** Images computed at once. */
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  readonly onRejected?: (bad: RejectedImage) => void
}

/** Searches with images. Throws what index, model and images throw, and a `UserError` where they do not fit. */
export async function* answerImages({index, images, nul = false, limit = Infinity, ...options}: ImageQueries): AsyncGenerator<QueryAnswer> {
  const searcher = await loadIndex(index)
  const [{embed, loadEmbedder, settingsOf, defaultBatch}, {listImages, noImages}, {startEngineFor}] = await Promise.all([
    import('../embed/embedder.js'),
    import('../../data/sources/source.js'),
    import('../embed/load-backbone.js')
  ])
  const settings = settingsOf(searcher.header.meta, index)
  const refs = takeFirst(listImages(images, {nul}), limit)
  const first = await refs.next() // missing files are reported before the model is loaded
  if (first.done) throw noImages(images)
  const all = async function* (): typeof refs {
    yield first.value
    yield* refs
  }
  const {precision, device} = await startEngineFor([options.model], options.engine)
  using embedder = await loadEmbedder(options.model, {...settings, precision, toolVersion: options.toolVersion, note: options.engine.note})
  searcher.check({name: options.model, meta: embedder.meta})
  const {signal, workers, maxPixels, onRejected, batch = defaultBatch(embedder.config, embedder.transform, device)} = options
  const made = embed(all(), embedder, {
    batch,
    workers,
    maxPixels,
    onRejected,
    signal
  })
  for await (const rows of made) yield* answerBatch(rows, searcher, options)
}

/**
 * Searches with embeddings that were made before; `-` is `stdin`. Throws a `UserError` where they were made in another
 * way than the rows of the index.
 */
export async function* answerEmbeddings({
  index,
  queries,
  stdin = process.stdin,
  limit = Infinity,
  ...options
}: AnswerOptions & {readonly queries: readonly string[]; readonly stdin?: AsyncIterable<Uint8Array>}): AsyncGenerator<QueryAnswer> {
  const searcher = await loadIndex(index)
  const source = await openAll(queries, {stdin, ignoreLength: searcher.header.metric === 'cosine'})
  try {
    searcher.check(source)
    let left = limit
    for await (const {ids, fields, vectors} of source.rows) {
      if (options.signal?.aborted) return
      const n = Math.min(left, ids.length)
      yield* answerBatch(
        {ids: ids.slice(0, n), fields: fields.slice(0, n), vectors: vectors.subarray(0, n * searcher.header.dim)},
        searcher,
        options
      )
      left -= n
      if (left <= 0) return
    }
  } finally {
    await source.close()
  }
}

async function* answerBatch(rows: EmbeddingBatch, searcher: Searcher, options: SearchOptions): AsyncGenerator<QueryAnswer> {
  const found = await searcher.search(rows, options)
  for (const [i, query] of rows.ids.entries()) yield {query, fields: rows.fields[i]!, found: found[i]!}
}

async function* takeFirst<T>(items: AsyncIterable<T>, limit: number): AsyncGenerator<T> {
  let n = 0
  for await (const item of items) {
    yield item
    if (++n >= limit) return
  }
}
