/**
 * An index with a graph: rows are linked one by one, and what a search misses is measured, not assumed.
 *
 * Some of the new rows are held back until the rest is in, asked for, and compared with the exact answer; then they
 * are added too.
 */
import {createReadStream} from 'node:fs'
import {mkdtemp, rm, stat} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {dirname, join, resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import {assertMeasurable} from '../../files/embeddings/rows.js'
import {graphFits, writeIndex, type IndexHeader, type RowLine, type Sink} from '../../files/search-index/vector-index.js'
import {nearestNeighbours, rowAt, type Neighbours} from '../../search/exact.js'
import {recall} from '../../search/recall.js'
import {defaultGraph, Graph, type GraphShape} from '../../search/hnsw.js'
import {rng} from '../../tensor/random.js'
import {maxHeldOut, recallK, targetRecall, type BuiltIndex, type IndexCounts, type IndexEvent, type IndexOptions} from './index-options.js'
import {gatherVectors, presentRows, vectorOf, type IndexTable, type RowStorage} from './index-table.js'

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

/** What a graph is made of. */
type GraphPlan = {
  readonly shape: GraphShape
  readonly graph: Graph
  readonly stored: RowStorage
  readonly lines: readonly RowLine[]
}

/**
 * The graph that is there, with rows taken out that are gone; or a new one, where none is, half of it is gone, or it
 * was made otherwise.
 */
function planGraph(
  table: IndexTable,
  given: RowStorage,
  metric: Graph['metric'],
  options: IndexOptions,
  before: IndexHeader | undefined
): GraphPlan {
  const shape: GraphShape = {...defaultGraph, ...before?.graph, ...definedOnly(options.graph)}
  // A graph keeps the nodes of removed rows as stepping stones; once they are half of it, it is built anew.
  const gone = table.lines.reduce((n, line) => n + (line ? 0 : 1), 0)
  const remade = before?.graph !== undefined && (before.graph.m !== shape.m || before.graph.efConstruction !== shape.efConstruction)
  if (given.graph && gone * 2 <= table.lines.length && !remade) {
    const {graph} = given
    graph.reserve(table.lines.length)
    for (let row = 0; row < given.begun; row++) if (!table.lines[row] && before && isPresent(graph, row)) graph.remove(row)
    return {shape, graph, stored: given, lines: table.lines}
  }
  const live = presentRows(table)
  const lines = live.map(row => table.lines[row]!)
  const fresh = given.begun === 0 && gone === 0 ? given.fresh : gatherVectors(given, live)
  const graph = Graph.create(given.dim, metric, lines.length, shape)
  return {shape, graph, stored: {begun: 0, old: undefined, graph: undefined, fresh, dim: given.dim}, lines}
}

/** Builds or changes a graph; yields how far it is and returns the index. */
export async function* graphIndex(
  table: IndexTable,
  given: RowStorage,
  meta: EmbeddingMeta,
  figures: IndexCounts,
  options: IndexOptions,
  before: IndexHeader | undefined
): AsyncGenerator<IndexEvent, BuiltIndex> {
  const {shape, graph, stored, lines} = planGraph(table, given, figures.metric, options, before)
  const fresh = lines.flatMap((line, row) => (line && row >= stored.begun ? [row] : []))
  const held = drawHeldOut(fresh, shape.seed)
  const heldSet = new Set(held)
  let linked = 0
  const link = async function* (rows: readonly number[]): AsyncGenerator<IndexEvent> {
    for (const row of rows) {
      const vector = rowAt(stored.fresh, row - stored.begun)
      assertMeasurable({ids: [lines[row]!.id], vectors: vector}, stored.dim)
      graph.add(vector, row)
      if (++linked % 500 !== 0) continue
      options.signal?.throwIfAborted()
      yield {kind: 'linked', rows: linked, of: fresh.length}
      await new Promise(resolve => setImmediate(resolve)) // the graph's work blocks; signals come through here
    }
  }
  // Rows replaced within the same input keep a number in the table, but no node; the graph only knows rows that can be
  // found or could be once.
  yield* link(fresh.filter(row => !heldSet.has(row)))
  const measured = held.length === 0 ? undefined : measureRecall(graph, stored, lines, held, options.ef)
  yield* link(held)
  const ef = measured?.ef ?? options.ef ?? before?.graph?.ef ?? 64
  const header: IndexHeader = {
    version: 1,
    kind: 'hnsw',
    metric: figures.metric,
    rows: lines.length,
    live: lines.reduce((n, line) => n + (line ? 1 : 0), 0),
    dim: meta.dim,
    meta,
    graph: {m: shape.m, efConstruction: shape.efConstruction, seed: shape.seed, ef},
    recall: measured ? {k: recallK, value: measured.value, queries: held.length} : (before?.recall ?? null)
  }
  yield {kind: 'linked', rows: fresh.length, of: fresh.length}
  return {
    report: {kind: 'hnsw', ...figures, recall: header.recall, ef},
    write: sink => writeGraph(sink, header, lines, graph, options.target)
  }
}

/**
 * Writes the index. hnswlib only writes files, and says nothing where one is cut off by a full disk: so the graph is
 * laid down beside the target, read again and checked.
 */
async function writeGraph(
  sink: Sink,
  header: IndexHeader,
  lines: readonly RowLine[],
  graph: Graph,
  target: string | undefined
): Promise<void> {
  const folder = await mkdtemp(join(target === undefined ? tmpdir() : dirname(resolve(target)), '.dinov2-graph-'))
  try {
    const path = join(folder, 'graph')
    graph.save(path)
    await graphFits(path, header, lines).catch((cause: unknown) => {
      throw new UserError(`The graph of ${target ?? 'the index'} could not be written whole to ${folder} (${(cause as Error).message}).`, {
        code: 'DISK_FULL',
        hint: 'Free some space on that disk, look at the limit on the size of files (ulimit -f), or name an output elsewhere.',
        cause
      })
    })
    const {size} = await stat(path)
    await writeIndex(sink, header, lines, {bytes: size, chunks: () => createReadStream(path, {highWaterMark: 1 << 20})})
  } finally {
    await rm(folder, {recursive: true, force: true})
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
  ef?: number
): {ef: number; value: number} {
  const heldSet = new Set(held)
  const others = lines.flatMap((line, row) => (line && !heldSet.has(row) ? [row] : []))
  const queries = new Float32Array(held.length * stored.dim) // [Q, D]
  for (const [i, row] of held.entries()) queries.set(vectorOf(stored, row), i * stored.dim)
  const truth = nearestNeighbours(gatherVectors(stored, others), queries, recallK, {metric: graph.metric}).map(
    ({rows, scores}): Neighbours => ({
      rows: rows.map(i => others[i]!),
      scores
    })
  )
  for (let candidates = ef ?? 64; ; candidates *= 2) {
    const found = held.map((_, i) => graph.nearest(queries.subarray(i * stored.dim, (i + 1) * stored.dim), recallK, candidates))
    const value = recall(found, truth)
    if (ef !== undefined || value >= targetRecall || candidates >= 1024) return {ef: candidates, value}
  }
}
