/**
 * Indexing: embeddings become a searchable index, or join or leave one that exists.
 *
 * An index is exact (every query meets every row) where that is as quick as a graph, and a graph above. What a graph
 * misses is measured, not assumed: some of the new rows are held back until the rest is in, asked for, and compared
 * with the exact answer; then they are added too.
 */
import {createReadStream} from 'node:fs'
import {mkdtemp, rm, stat} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {openAll, assertSameProvenance, type EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import {readIds} from '../../files/search-index/id-list.js'
import {openIndex, writeIndex, type IndexHeader, type RowLine} from '../../files/search-index/vector-index.js'
import {nearest, normalizeRows, recall, rowAt, VectorBuilder, type Metric, type Neighbours, type Vectors} from '../../search/exact.js'
import {Graph, defaultGraph, type GraphShape} from '../../search/hnsw.js'
import {rng} from '../../tensor/random.js'

export {streamSink} from '../../files/embeddings/bytes.js'
export {isAddress, isLance} from '../../files/search-index/lance-table.js'
export {isIndex} from '../../files/search-index/vector-index.js'

/**
 * From this many rows on `auto` builds a graph. Measured at 384 numbers a row on one core of a small machine: a query
 * against 20,000 rows takes 5 to 13 ms exactly and 0.3 ms in a graph, whose building takes 14 s; below, starting the
 * program costs more than any query.
 */
export const graphThreshold = 20_000
/** Neighbours asked for when recall is measured. */
export const recallK = 10
export const maxHeldOut = 200
/** Recall that the number of candidates is chosen for. */
export const targetRecall = 0.98

export type IndexOptions = {
  /** Embedding files; `-` is `stdin`. May be empty when rows are only removed. */
  readonly sources: readonly string[]
  readonly stdin?: Readable
  /** An existing index that is added to or taken from. */
  readonly base?: string
  /** Ids to take out: a list in a file, `-` for one on `stdin`, or the ids themselves. */
  readonly remove?: string | AsyncIterable<string>
  /** The list's entries end with NUL. */
  readonly nul?: boolean
  readonly kind?: 'auto' | 'exact' | 'hnsw'
  readonly metric?: Metric
  readonly graph?: Partial<GraphShape>
  /** Candidates a search looks at; chosen by measured recall where absent. */
  readonly ef?: number
  /** A row whose id is there already takes the other's place. */
  readonly replace?: boolean
  readonly signal?: AbortSignal
}

export type IndexReport = {
  readonly kind: 'exact' | 'hnsw'
  readonly metric: Metric
  readonly rows: number
  readonly dim: number
  readonly added: number
  readonly replaced: number
  readonly removed: number
  readonly recall: IndexHeader['recall']
  readonly ef?: number
  readonly fingerprint: string | null
}

export type IndexEvent =
  | {readonly kind: 'read'; readonly rows: number}
  | {readonly kind: 'linked'; readonly rows: number; readonly of: number}
  /** Inverted lists are being trained on this many rows. */
  | {readonly kind: 'training'; readonly rows: number}

/** An index that is ready to be written. */
export type BuiltIndex = {
  readonly report: IndexReport
  /** Appends the whole file to `sink`. */
  write(sink: {write(bytes: Uint8Array | string): Promise<void>}): Promise<void>
}

/** The table while it is being changed: a line for each row, `null` where one was taken out. */
type Table = {readonly lines: RowLine[]; readonly rowOf: Map<string, number>}

export const duplicateIdError = (id: string): UserError =>
  new UserError(`The id ${id} comes twice.`, {
    exit: 2,
    code: 'DUPLICATE_ID',
    hint: 'Give --replace to keep the later row, or leave one of them out.'
  })

export const metricMismatchError = (name: string, has: Metric, wanted: Metric): UserError =>
  new UserError(`${name} measures by ${has}, not by ${wanted}.`, {
    exit: 2,
    code: 'METRIC',
    hint: 'The measure of an index is fixed when it is made.'
  })

/** Ids that were to be removed and are not there. */
export const unknownIdsError = (name: string, absent: readonly string[]): UserError =>
  new UserError(
    `${absent.length} of the ids to remove ${absent.length === 1 ? 'is' : 'are'} not in ${name}: ${absent.slice(0, 5).join(', ')}${absent.length > 5 ? ', …' : ''}.`,
    {
      exit: 2,
      code: 'UNKNOWN_ID',
      hint: 'Nothing was changed. Ids are written as search prints them.'
    }
  )

/**
 * Builds an index; yields how far it is and returns the result.
 *
 * Throws `UserError`: vectors of two makings, an id twice, a vector with a number that is not finite, an id to remove
 * that is not there.
 */
export async function* buildIndex(options: IndexOptions): AsyncGenerator<IndexEvent, BuiltIndex> {
  const {sources, base, signal} = options
  const opened = base === undefined ? undefined : await openIndex(base)
  try {
    if (!opened && sources.length === 0)
      throw new UserError('No embeddings were named.', {exit: 3, code: 'NO_INPUT', hint: 'Name a file of embeddings, or - for stdin.'})
    const metric = options.metric ?? opened?.header.metric ?? 'cosine'
    if (opened && metric !== opened.header.metric) throw metricMismatchError(base!, opened.header.metric, metric)
    const table: Table = {lines: opened ? [...opened.rows] : [], rowOf: new Map()}
    for (const [row, line] of table.lines.entries()) if (line) table.rowOf.set(line.id, row)
    const begun = table.lines.length
    let graph: Graph | undefined
    let old: Vectors | undefined
    if (opened?.header.kind === 'hnsw') graph = await opened.withGraph(path => Graph.load(path, opened.header.dim, metric))
    else if (opened) {
      const builder = new VectorBuilder(opened.header.dim)
      for await (const rows of opened.vectors()) builder.append(rows)
      old = builder.finish()
    }

    const {remove} = options
    const list = typeof remove === 'string' ? readIds(remove === '-' ? options.stdin! : remove, options.nul ? {nul: true} : {}) : remove
    const removed = await removeRows(table, list, base ?? '')
    const source =
      sources.length === 0
        ? undefined
        : await openAll(sources, {...(options.stdin ? {stdin: options.stdin} : {}), ignoreLength: metric === 'cosine'})
    const meta = indexMeta(opened?.header.meta ?? source!.meta, metric)
    if (opened && source) assertSameProvenance({name: base!, meta: opened.header.meta}, source, {ignoreLength: metric === 'cosine'})
    let replaced = 0
    const fresh = new VectorBuilder(meta.dim)
    if (source) {
      try {
        for await (const {ids, vectors, fields} of source.rows) {
          signal?.throwIfAborted()
          checkFinite(vectors, meta.dim, ids)
          fresh.append(metric === 'cosine' ? normalizeRows(vectors, meta.dim) : vectors)
          for (const [i, id] of ids.entries()) {
            const had = table.rowOf.get(id)
            if (had !== undefined) {
              if (!options.replace) throw duplicateIdError(id)
              table.lines[had] = null
              replaced++
            }
            table.rowOf.set(id, table.lines.length)
            table.lines.push({id, fields: fields[i]!})
          }
          yield {kind: 'read', rows: fresh.count}
        }
      } finally {
        await source.close()
      }
    }
    const added = fresh.count
    const all: RowStorage = {begun, old, graph, fresh: fresh.finish(), dim: meta.dim}
    const kind =
      options.kind === undefined || options.kind === 'auto'
        ? graph || table.rowOf.size >= graphThreshold
          ? 'hnsw'
          : 'exact'
        : options.kind
    const report = {metric, dim: meta.dim, rows: table.rowOf.size, added, replaced, removed, fingerprint: meta.fingerprint}
    if (kind === 'exact') return exactIndex(table, all, meta, report)
    return yield* graphIndex(table, all, meta, report, options, opened?.header)
  } finally {
    await opened?.close()
  }
}

/** Vectors in an index of angles have length 1, however they came. */
export const indexMeta = (meta: EmbeddingMeta, metric: Metric): EmbeddingMeta => (metric === 'cosine' ? {...meta, normalized: true} : meta)

async function removeRows({lines, rowOf}: Table, ids: AsyncIterable<string> | undefined, name: string): Promise<number> {
  const absent: string[] = []
  let removed = 0
  for await (const id of ids ?? []) {
    const row = rowOf.get(id)
    if (row === undefined) {
      absent.push(id)
      continue
    }
    lines[row] = null
    rowOf.delete(id)
    removed++
  }
  if (absent.length > 0) throw unknownIdsError(name, absent)
  return removed
}

export function checkFinite(vectors: Float32Array, dim: number, ids: readonly string[]): void {
  const at = vectors.findIndex(x => !Number.isFinite(x))
  if (at < 0) return
  throw new UserError(`The vector of ${ids[Math.floor(at / dim)]!} holds a number that is not finite.`, {
    code: 'NOT_FINITE',
    hint: 'Leave the row out, or embed the image again with --precision fp32.'
  })
}

/**
 * Where the vectors of the table's rows are: rows before `begun` in an old index (`old` or `graph`), the others in
 * `fresh`.
 */
type RowStorage = {
  readonly begun: number
  readonly old: Vectors | undefined
  readonly graph: Graph | undefined
  readonly fresh: Vectors
  readonly dim: number
}

const vectorOf = ({begun, old, graph, fresh}: RowStorage, row: number): Float32Array =>
  row >= begun ? rowAt(fresh, row - begun) : old ? rowAt(old, row) : graph!.vector(row)

/** The rows that were not taken out, in order. */
const presentRows = ({lines}: Table): number[] => lines.flatMap((line, row) => (line ? [row] : []))

/** Vectors of chosen rows, in that order. */
function gatherVectors(stored: RowStorage, rows: readonly number[]): Vectors {
  const builder = new VectorBuilder(stored.dim)
  for (const row of rows) builder.append(vectorOf(stored, row))
  return builder.finish()
}

const bytesOf = (block: Float32Array): Uint8Array => new Uint8Array(block.buffer, block.byteOffset, block.byteLength)

type IndexCounts = Omit<IndexReport, 'kind' | 'recall' | 'ef'>

function exactIndex(table: Table, stored: RowStorage, meta: EmbeddingMeta, figures: IndexCounts): BuiltIndex {
  const live = presentRows(table)
  // A new index without gaps is written as it was collected.
  const vectors = stored.begun === 0 && live.length === table.lines.length ? stored.fresh : gatherVectors(stored, live)
  const header: IndexHeader = {
    version: 1,
    kind: 'exact',
    metric: figures.metric,
    rows: live.length,
    live: live.length,
    dim: meta.dim,
    meta,
    recall: {k: recallK, value: 1, queries: 0} // by construction: the search is the exact answer
  }
  return {
    report: {kind: 'exact', ...figures, recall: header.recall},
    write: sink =>
      writeIndex(
        sink,
        header,
        live.map(row => table.lines[row]!),
        vectors.count * meta.dim * 4,
        vectors.blocks.map(bytesOf)
      )
  }
}

/** Which of `rows` are held back: a tenth, at most 200, drawn from a fixed seed. */
function drawHeldOut(rows: readonly number[], seed: number): number[] {
  const random = rng(seed, 'held rows')
  const pool = [...rows]
  const n = Math.min(maxHeldOut, Math.floor(rows.length / 10))
  for (let i = 0; i < n; i++) {
    const j = i + random.int(pool.length - i)
    ;[pool[i], pool[j]] = [pool[j]!, pool[i]!]
  }
  return pool.slice(0, n).sort((a, b) => a - b)
}

async function* graphIndex(
  table: Table,
  given: RowStorage,
  meta: EmbeddingMeta,
  figures: IndexCounts,
  options: IndexOptions,
  before: IndexHeader | undefined
): AsyncGenerator<IndexEvent, BuiltIndex> {
  const shape: GraphShape = {...defaultGraph, ...before?.graph, ...definedOnly(options.graph)}
  // A graph keeps the nodes of removed rows as stepping stones; once they are half of it, it is built anew.
  const gone = table.lines.reduce((n, line) => n + (line ? 0 : 1), 0)
  const again =
    !given.graph ||
    gone * 2 > table.lines.length ||
    (before?.graph !== undefined && (before.graph.m !== shape.m || before.graph.efConstruction !== shape.efConstruction))
  const live = presentRows(table)
  const lines = again ? live.map(row => table.lines[row]!) : table.lines
  const stored: RowStorage = again
    ? {
        begun: 0,
        old: undefined,
        graph: undefined,
        fresh: given.begun === 0 && live.length === lines.length && gone === 0 ? given.fresh : gatherVectors(given, live),
        dim: meta.dim
      }
    : given
  const graph = again ? Graph.create(meta.dim, figures.metric, lines.length, shape) : given.graph!
  graph.reserve(lines.length)
  if (!again) for (let row = 0; row < given.begun; row++) if (!lines[row] && before && isPresent(graph, row)) graph.remove(row)

  const fresh = lines.flatMap((line, row) => (line && row >= stored.begun ? [row] : []))
  const held = drawHeldOut(fresh, shape.seed)
  const heldSet = new Set(held)
  let linked = 0
  const link = async function* (rows: readonly number[]): AsyncGenerator<IndexEvent> {
    for (const row of rows) {
      graph.add(rowAt(stored.fresh, row - stored.begun), row)
      if (++linked % 500 !== 0) continue
      options.signal?.throwIfAborted()
      yield {kind: 'linked', rows: linked, of: fresh.length}
      await new Promise(resolve => setImmediate(resolve)) // the graph's work blocks; signals come through here
    }
  }
  // Rows replaced within the same input keep a number in the table, but no node; the graph only knows rows that can be
  // found or could be once.
  yield* link(fresh.filter(row => !heldSet.has(row)))
  const measured = held.length === 0 ? undefined : measureRecall(graph, stored, lines, held, heldSet, options.ef)
  yield* link(held)
  const ef = measured?.ef ?? options.ef ?? before?.graph?.ef ?? 64
  const header: IndexHeader = {
    version: 1,
    kind: 'hnsw',
    metric: figures.metric,
    rows: lines.length,
    live: live.length,
    dim: meta.dim,
    meta,
    graph: {m: shape.m, efConstruction: shape.efConstruction, seed: shape.seed, ef},
    recall: measured ? {k: recallK, value: measured.value, queries: held.length} : (before?.recall ?? null)
  }
  yield {kind: 'linked', rows: fresh.length, of: fresh.length}
  return {
    report: {kind: 'hnsw', ...figures, recall: header.recall, ef},
    async write(sink) {
      const folder = await mkdtemp(join(tmpdir(), 'dinov2-graph-'))
      try {
        const path = join(folder, 'graph')
        graph.save(path)
        const {size} = await stat(path)
        await writeIndex(sink, header, lines, size, createReadStream(path, {highWaterMark: 1 << 20}) as AsyncIterable<Uint8Array>)
      } finally {
        await rm(folder, {recursive: true, force: true})
      }
    }
  }
}

const definedOnly = <T extends object>(some: T | undefined): Partial<T> =>
  Object.fromEntries(Object.entries(some ?? {}).filter(([, value]) => value !== undefined)) as Partial<T>

/** Whether the graph still answers with this row. */
function isPresent(graph: Graph, row: number): boolean {
  try {
    graph.vector(row)
    return true
  } catch {
    return false
  }
}

/** Asks for the held rows with more and more candidates until recall is good enough; `ef` fixes their number. */
function measureRecall(
  graph: Graph,
  stored: RowStorage,
  lines: readonly RowLine[],
  held: readonly number[],
  heldSet: ReadonlySet<number>,
  ef?: number
): {ef: number; value: number} {
  const others = lines.flatMap((line, row) => (line && !heldSet.has(row) ? [row] : []))
  const queries = new Float32Array(held.length * stored.dim) // [Q, D]
  for (const [i, row] of held.entries()) queries.set(vectorOf(stored, row), i * stored.dim)
  const truth = nearest(gatherVectors(stored, others), queries, recallK, {metric: graph.metric}).map(({rows, scores}): Neighbours => ({
    rows: rows.map(i => others[i]!),
    scores
  }))
  for (let candidates = ef ?? 64; ; candidates *= 2) {
    const found = held.map((_, i) => graph.nearest(queries.subarray(i * stored.dim, (i + 1) * stored.dim), recallK, candidates))
    const value = recall(found, truth)
    if (ef !== undefined || value >= targetRecall || candidates >= 1024) return {ef: candidates, value}
  }
}
