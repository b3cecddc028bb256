/**
 * Indexing: embeddings become a searchable index, or join or leave one that exists.
 *
 * An index is exact (every query meets every row) where that is as quick as a graph, and a graph above.
 */
import {whyNoGraph} from '../../search/hnsw.js'
import {assertSameProvenance, openAll, type Embeddings, type EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import {writeIndex, type IndexHeader} from '../../files/search-index/vector-index.js'
import {normalizeRows, VectorBuilder, type Metric} from '../../search/exact.js'
import {graphIndex} from './graph-index.js'
import {
  duplicateIdError,
  graphThreshold,
  idsToRemove,
  indexMeta,
  metricMismatchError,
  noEmbeddingsError,
  recallK,
  type BuiltIndex,
  type IndexCounts,
  type IndexEvent,
  type IndexOptions
} from './index-options.js'
import {
  gatherVectors,
  openBase,
  presentRows,
  removeRows,
  openTable,
  storedVectors,
  type IndexTable,
  type RowStorage
} from './index-table.js'

export {streamSink} from '../../files/embeddings/bytes.js'
export {isAddress, isLance} from '../../files/search-index/lance-table.js'
export {isIndex} from '../../files/search-index/vector-index.js'
export type {IndexEvent, IndexOptions, IndexReport} from './index-options.js'

/**
 * Builds an index; yields how far it is and returns the result.
 *
 * Throws `UserError`: vectors of two makings, an id twice, a vector with a number that is not finite, an id to remove
 * that is not there.
 */
export async function* buildIndex(options: IndexOptions): AsyncGenerator<IndexEvent, BuiltIndex> {
  const {sources, base, stdin} = options
  const opened = await openBase(base)
  let source: Embeddings | undefined
  try {
    if (!opened && sources.length === 0) throw noEmbeddingsError()
    const metric = options.metric ?? opened?.header.metric ?? 'cosine'
    if (opened && metric !== opened.header.metric) throw metricMismatchError(base!, opened.header.metric, metric)
    const table = openTable(opened)
    const begun = table.lines.length
    const old = await storedVectors(opened, metric)
    const removed = await removeRows(table, idsToRemove(options), base ?? '')
    const ignoreLength = metric === 'cosine'
    if (sources.length > 0) source = await openAll(sources, {stdin, ignoreLength})
    if (opened && source) assertSameProvenance({name: base!, meta: opened.header.meta}, source, {ignoreLength})
    const meta = indexMeta(opened?.header.meta ?? source!.meta, metric)
    const fresh = new VectorBuilder(meta.dim)
    const replaced = source ? yield* collectRows(source, fresh, table, metric, options) : 0
    const stored: RowStorage = {begun, ...old, fresh: fresh.finish(), dim: meta.dim}
    const wanted = options.kind ?? 'auto'
    const large = wanted === 'auto' && !old.graph && table.rowOf.size >= graphThreshold
    const reason = large ? whyNoGraph() : undefined
    if (reason) yield {kind: 'no-graph', rows: table.rowOf.size, reason}
    const kind = wanted === 'auto' ? (old.graph || (large && !reason) ? 'hnsw' : 'exact') : wanted
    const {fingerprint, dim} = meta
    const counts = {metric, dim, rows: table.rowOf.size, added: fresh.count, replaced, removed, fingerprint}
    if (kind === 'exact') return exactIndex(table, stored, meta, counts)
    return yield* graphIndex(table, stored, meta, counts, options, opened?.header)
  } finally {
    await source?.close()
    await opened?.close()
  }
}

/**
 * Reads rows into the table; returns how many took the place of others. Throws `UserError` (exit 2) for an id that
 * is there twice.
 */
async function* collectRows(
  source: Embeddings,
  fresh: VectorBuilder,
  table: IndexTable,
  metric: Metric,
  {replace = false, signal}: IndexOptions
): AsyncGenerator<IndexEvent, number> {
  let replaced = 0
  for await (const {ids, vectors, fields} of source.rows) {
    signal?.throwIfAborted()
    fresh.append(metric === 'cosine' ? normalizeRows(vectors, fresh.dim) : vectors)
    for (const [i, id] of ids.entries()) {
      const before = table.rowOf.get(id)
      if (before !== undefined) {
        if (!replace) throw duplicateIdError(id)
        table.lines[before] = null
        replaced++
      }
      table.rowOf.set(id, table.lines.length)
      table.lines.push({id, fields: fields[i]!})
    }
    yield {kind: 'read', rows: fresh.count}
  }
  return replaced
}

const bytesOf = (block: Float32Array): Uint8Array => new Uint8Array(block.buffer, block.byteOffset, block.byteLength)

function exactIndex(table: IndexTable, stored: RowStorage, meta: EmbeddingMeta, counts: IndexCounts): BuiltIndex {
  const live = presentRows(table)
  // A new index without gaps is written as it was collected.
  const vectors = stored.begun === 0 && live.length === table.lines.length ? stored.fresh : gatherVectors(stored, live)
  const header: IndexHeader = {
    version: 1,
    kind: 'exact',
    metric: counts.metric,
    rows: live.length,
    live: live.length,
    dim: meta.dim,
    meta,
    recall: {k: recallK, value: 1, queries: 0} // by construction: the search is the exact answer
  }
  const lines = live.map(row => table.lines[row]!)
  const body = {bytes: vectors.count * meta.dim * 4, chunks: () => vectors.blocks.map(bytesOf)}
  return {report: {kind: 'exact', ...counts, recall: header.recall}, write: sink => writeIndex(sink, header, lines, body)}
}
