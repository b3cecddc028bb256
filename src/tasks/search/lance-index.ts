/**
 * Indexing into a LanceDB table: embeddings are written as they stream by, so that the index may be larger than
 * memory.
 *
 * What is held is some rows that wait to be written (64 MB of vectors), 16 to 32 bytes for each id (so that none comes
 * twice), and the rows that are kept back to measure recall. Few rows are searched exactly; for many, inverted lists
 * with product quantization are trained, and how many lists a search reads follows from what it finds of the rows kept
 * back.
 */
import {cp} from 'node:fs/promises'
import {resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import {openAtomicFolder, refuseExisting} from '../../system/atomic.js'
import {writeError} from '../../system/write-error.js'
import {openAll, assertSameProvenance, type Embeddings, type EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import {assertMeasurable} from '../../files/embeddings/rows.js'
import {fieldsToText} from '../../files/search-index/lance-header.js'
import {isAddress, LanceTable, type LanceHeader, type ListSearchParams} from '../../files/search-index/lance-table.js'
import {nearestNeighbours, normalizeRows, oneBlock, type Metric} from '../../search/exact.js'
import {recall} from '../../search/recall.js'
import {
  graphThreshold,
  idsToRemove,
  indexMeta,
  maxHeldOut,
  metricMismatchError,
  noEmbeddingsError,
  recallK,
  unknownIdsError,
  targetRecall,
  type IndexEvent,
  type IndexOptions,
  type IndexReport
} from './index-options.js'
import {LanceRowWriter, type HeldOutRow} from './lance-row-writer.js'
import {rerank} from './lance-search.js'

export type LanceOptions = Omit<IndexOptions, 'kind' | 'graph' | 'ef'> & {
  /**
   * Where the index is to be: a folder, or an address of an object store. The same as `base` when one is changed where
   * it lies.
   */
  readonly target: string
  /** Replace an index that is there. */
  readonly force?: boolean
  readonly kind?: 'auto' | 'exact' | 'ivf-pq'
  readonly seed?: number
  /**
   * Lists a search reads, and candidates for each neighbour that it measures again; chosen by measured recall where
   * absent.
   */
  readonly probes?: number
  readonly refine?: number
}

export type LanceReport = Omit<IndexReport, 'kind' | 'ef'> & {
  readonly kind: 'exact' | 'ivf-pq'
  readonly lists?: LanceHeader['lists']
}

/** Rows that quantization cannot do without: it has 256 codes. */
const minTrainingRows = 256
/** Lists are trained anew once the rows are this many times those they were trained on. */
const retrainGrowth = 2

/**
 * Builds or changes an index; yields how far it is and returns what came of it. A folder appears whole or not at all;
 * a change of one that exists is there at once or not at all.
 *
 * Throws as `buildIndex`, and `UserError` (exit 5) where the library is not installed.
 */
export async function* indexLance(options: LanceOptions): AsyncGenerator<IndexEvent, LanceReport> {
  const {target, base, force = false} = options
  const inPlace = base !== undefined && (base === target || (!isAddress(base) && !isAddress(target) && resolve(base) === resolve(target)))
  if (inPlace) return yield* buildTable(target, options, base)
  if (base !== undefined && (isAddress(base) || isAddress(target))) {
    throw new UserError(`${base} can be changed where it is, but not on the way to ${target}.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Copy it with the tools of the store, and change the copy.'
    })
  }
  if (isAddress(target)) {
    if (!force && (await LanceTable.exists(target)))
      throw new UserError(`${target} exists already.`, {
        exit: 2,
        code: 'OUTPUT_EXISTS',
        hint: 'Give another name, or --force to replace it.'
      })
    return yield* buildTable(target, options, undefined)
  }
  await refuseExisting(target, {force})
  const folder = await openAtomicFolder(target, {force})
  try {
    if (base !== undefined) await cp(base, folder.temporary, {recursive: true})
    const report = yield* buildTable(folder.temporary, options, base)
    await folder.commit()
    return report
  } catch (error) {
    await folder.abort()
    throw writeError(target, error)
  }
}

/** A table that is being made or changed, and what is asked of it. */
type Job = {
  readonly table: LanceTable
  readonly rows: LanceRowWriter
  readonly metric: Metric
  readonly meta: EmbeddingMeta
  /** What the index said of itself before it was changed. */
  readonly before: LanceHeader | undefined
  readonly options: LanceOptions
}

async function* buildTable(place: string, options: LanceOptions, base: string | undefined): AsyncGenerator<IndexEvent, LanceReport> {
  const {sources, signal, stdin} = options
  if (base === undefined && sources.length === 0) throw noEmbeddingsError()
  const opened = base === undefined ? undefined : await LanceTable.open(place, base)
  let table = opened
  let source: Embeddings | undefined
  try {
    const before = opened?.header
    const metric = options.metric ?? before?.metric ?? 'cosine'
    if (before && metric !== before.metric) throw metricMismatchError(base!, before.metric, metric)
    const ignoreLength = metric === 'cosine'
    if (sources.length > 0) source = await openAll(sources, {stdin, ignoreLength})
    if (before && source) assertSameProvenance({name: base!, meta: before.meta}, source, {ignoreLength})
    const meta = indexMeta(before?.meta ?? source!.meta, metric)
    table ??= await LanceTable.create(place, meta.dim, options.target)
    if (opened) await opened.beginChange()
    const removed = opened ? await removeIds(opened, options, base!) : 0
    const rows = new LanceRowWriter(table, meta, options.replace ?? false, options.seed ?? 100)
    if (opened && source) await rows.loadKnownIds()
    for await (const {ids, vectors, fields} of source?.rows ?? []) {
      signal?.throwIfAborted()
      const measured = metric === 'cosine' ? normalizeRows(vectors, meta.dim) : vectors
      assertMeasurable({ids, vectors: measured}, meta.dim)
      await rows.add(ids, fields.map(fieldsToText), measured)
      yield {kind: 'read', rows: rows.read}
    }
    await rows.write()
    return yield* finishTable({table, rows, metric, meta, before, options}, removed)
  } finally {
    await source?.close()
    table?.close()
  }
}

/** Chooses how the table is searched, and brings it to its end. */
async function* finishTable(job: Job, removed: number): AsyncGenerator<IndexEvent, LanceReport> {
  const {table, rows, metric, meta, before, options} = job
  const live = (await table.count()) + rows.heldOut.length
  const wanted = options.kind ?? 'auto'
  const enough = live - Math.min(rows.heldOut.length, Math.floor(rows.read / 10)) >= minTrainingRows
  if (wanted === 'ivf-pq' && !enough) {
    throw new UserError(`Inverted lists are trained on at least ${minTrainingRows} rows, and there are ${live}.`, {
      exit: 2,
      code: 'TOO_FEW_ROWS',
      hint: 'Give --kind exact; so few rows are searched at once.'
    })
  }
  const kind = wanted !== 'auto' ? wanted : enough && (before?.lists || live >= graphThreshold) ? 'ivf-pq' : 'exact'
  const {dim, fingerprint} = meta
  const counts = {metric, rows: live, dim, added: rows.read, replaced: rows.replaced, removed, fingerprint}
  const header = {version: 1, metric, rows: live, dim, meta} as const
  if (kind === 'exact') {
    await rows.release(0)
    if (before?.lists) await table.dropLists()
    await table.compact()
    const recall = {k: recallK, value: 1, queries: 0} // by construction: the search is the exact answer
    await table.commit({...header, kind, recall})
    return {kind, ...counts, recall}
  }
  await rows.release(Math.min(maxHeldOut, Math.floor(rows.read / 10)))
  options.signal?.throwIfAborted()
  yield {kind: 'training', rows: live}
  const {lists, recall} = await trainLists(job, live)
  await rows.release(0)
  await table.compact()
  await table.commit({...header, kind, lists, recall})
  return {kind, ...counts, lists, recall}
}

/** Trains inverted lists where those that are there do not do, and measures how many of them a search has to read. */
async function trainLists(
  {table, rows, metric, meta, before, options}: Job,
  live: number
): Promise<{lists: NonNullable<LanceHeader['lists']>; recall: LanceHeader['recall']}> {
  const {probes, refine, signal} = options
  const old = (options.kind ?? 'auto') === 'auto' || before?.kind === 'ivf-pq' ? before?.lists : undefined
  const anew = !old || live > retrainGrowth * old.trained
  const shape = anew
    ? {partitions: Math.max(1, Math.round(Math.sqrt(live))), pieces: subvectorCount(meta.dim), trained: live - rows.heldOut.length}
    : old
  if (anew) await table.train(metric, shape.partitions, shape.pieces)
  else await table.compact()
  signal?.throwIfAborted()
  const given: ListSearchParams | undefined = anew ? undefined : old
  const measured =
    rows.heldOut.length === 0 ? undefined : await measureListRecall(table, rows.heldOut, metric, shape.partitions, {probes, refine, signal})
  const lists = {
    ...shape,
    probes: measured?.probes ?? probes ?? given?.probes ?? Math.min(shape.partitions, 32),
    refine: measured?.refine ?? refine ?? given?.refine ?? 10
  }
  const recall = measured ? {k: recallK, value: measured.value, queries: measured.queries} : anew ? null : (before?.recall ?? null)
  return {lists, recall}
}

async function removeIds(table: LanceTable, options: LanceOptions, name: string): Promise<number> {
  const absent: string[] = []
  let removed = 0
  let some = new Set<string>()
  const take = async (): Promise<void> => {
    const present = await table.present([...some])
    for (const id of some) if (!present.has(id)) absent.push(id)
    removed += await table.remove([...present])
    some = new Set()
  }
  for await (const id of idsToRemove(options) ?? []) {
    if (some.has(id)) absent.push(id)
    else some.add(id)
    if (some.size >= 10_000) await take()
  }
  if (some.size > 0) await take()
  if (absent.length > 0) throw unknownIdsError(name, absent)
  return removed
}

/**
 * Into how many pieces a vector is cut for quantization: the divisor of its length that is nearest to pieces of eight
 * numbers.
 */
export function subvectorCount(dim: number): number {
  let best = 1
  for (let n = 1; n <= dim; n++) if (dim % n === 0 && Math.abs(n - dim / 8) < Math.abs(best - dim / 8)) best = n
  return best
}

/**
 * Asks for the held rows in more and more lists, and with more and more candidates, until recall is good enough; what
 * is given is not varied.
 */
async function measureListRecall(
  table: LanceTable,
  held: readonly HeldOutRow[],
  metric: Metric,
  partitions: number,
  {probes, refine, signal}: Partial<ListSearchParams> & {readonly signal?: AbortSignal}
): Promise<ListSearchParams & {readonly value: number; readonly queries: number}> {
  const D = held[0]!.vector.length
  const queries = new Float32Array(held.length * D) // [Q, D]
  for (const [i, {vector}] of held.entries()) queries.set(vector, i * D)
  let truth = held.map(() => ({scores: new Float64Array(0)}))
  for await (const rows of table.vectors()) {
    signal?.throwIfAborted()
    const some = nearestNeighbours(oneBlock(rows, D), queries, recallK, {metric})
    truth = truth.map(({scores}, q) => ({
      scores: Float64Array.from([...scores, ...some[q]!.scores])
        .sort()
        .reverse()
        .subarray(0, recallK)
    }))
  }
  let last: ListSearchParams & {readonly value: number; readonly queries: number}
  for (const r of refine === undefined ? [10, 40] : [refine]) {
    for (let p = probes ?? 8; ; p *= 2) {
      signal?.throwIfAborted()
      const looking = {probes: Math.min(p, partitions), refine: r}
      const found = []
      for (const {vector} of held) found.push(rerank(await table.nearest(vector, recallK, metric, looking), vector, recallK, metric))
      last = {...looking, value: recall(found, truth), queries: held.length}
      if (last.value >= targetRecall) return last
      if (probes !== undefined || p >= partitions) break
    }
  }
  return last!
}
