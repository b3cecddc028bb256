/**
 * Indexing into a LanceDB table: embeddings are written as they stream by, so that the index may be larger than
 * memory.
 *
 * What is held is some rows that wait to be written (64 MB of vectors), 16 to 32 bytes for each id (so that none comes
 * twice), and the rows that are kept back to measure recall. Few rows are searched exactly; for many, inverted lists
 * with product quantisation are trained, and how many lists a search reads follows from what it finds of the rows kept
 * back.
 */
import {cp} from 'node:fs/promises'
import {resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import {openAtomicFolder, refuseExisting} from '../../system/atomic.js'
import {openAll, assertSameProvenance, type Embeddings, type EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import {readIds} from '../../files/search-index/id-list.js'
import {fieldsToText, isAddress, LanceTable, type LanceHeader, type ListSearchParams} from '../../files/search-index/lance-table.js'
import {nearest, normalizeRows, oneBlock, recall, type Metric} from '../../search/exact.js'
import {IdSet} from '../../search/id-set.js'
import {rng} from '../../tensor/random.js'
import {
  checkFinite,
  duplicateIdError,
  graphThreshold,
  indexMeta,
  maxHeldOut,
  metricMismatchError,
  recallK,
  unknownIdsError,
  targetRecall,
  type IndexEvent,
  type IndexOptions,
  type IndexReport
} from './build-index.js'
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

/** Numbers of vectors that wait to be written together: 64 MB. */
const floatsPerWrite = 16 << 20
/** Rows that quantisation cannot do without: it has 256 codes. */
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
  } finally {
    await folder.abort()
  }
}

type HeldOutRow = {id: string; fields: string; vector: Float32Array}

async function* buildTable(place: string, options: LanceOptions, base: string | undefined): AsyncGenerator<IndexEvent, LanceReport> {
  const {sources, signal} = options
  if (base === undefined && sources.length === 0)
    throw new UserError('No embeddings were named.', {exit: 3, code: 'NO_INPUT', hint: 'Name a file of embeddings, or - for stdin.'})
  const opened = base === undefined ? undefined : await LanceTable.open(place, base)
  let table = opened
  let source: Embeddings | undefined
  try {
    const before = opened?.header
    const metric = options.metric ?? before?.metric ?? 'cosine'
    if (before && metric !== before.metric) throw metricMismatchError(base!, before.metric, metric)
    const ignoreLength = metric === 'cosine'
    if (sources.length > 0) source = await openAll(sources, {...(options.stdin ? {stdin: options.stdin} : {}), ignoreLength})
    if (before && source) assertSameProvenance({name: base!, meta: before.meta}, source, {ignoreLength})
    const meta = indexMeta(before?.meta ?? source!.meta, metric)
    const seed = options.seed ?? 100
    table ??= await LanceTable.create(place, meta.dim, options.target)
    if (opened) await opened.beginChange()
    const removed = opened ? await removeIds(opened, options, base!) : 0
    const rows = new LanceRowWriter(table, meta, options.replace ?? false, seed)
    if (opened && source) await rows.loadKnownIds()
    for await (const {ids, vectors, fields} of source?.rows ?? []) {
      signal?.throwIfAborted()
      checkFinite(vectors, meta.dim, ids)
      await rows.add(ids, fields.map(fieldsToText), metric === 'cosine' ? normalizeRows(vectors, meta.dim) : vectors)
      yield {kind: 'read', rows: rows.read}
    }
    await rows.write()

    const there = await table.count()
    const live = there + rows.heldOut.length
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
    const figures = {metric, rows: live, dim: meta.dim, added: rows.read, replaced: rows.replaced, removed, fingerprint: meta.fingerprint}
    const header = {version: 1, metric, rows: live, dim: meta.dim, meta} as const
    if (kind === 'exact') {
      await rows.release(0)
      if (before?.lists) await table.dropLists()
      await table.compact()
      await table.commit({...header, kind, recall: {k: recallK, value: 1, queries: 0}}) // by construction: the search is the exact answer
      return {kind, ...figures, recall: {k: recallK, value: 1, queries: 0}}
    }
    await rows.release(Math.min(maxHeldOut, Math.floor(rows.read / 10)))
    signal?.throwIfAborted()
    yield {kind: 'training', rows: live}
    const old = wanted === 'auto' || before?.kind === 'ivf-pq' ? before?.lists : undefined
    const anew = !old || live > retrainGrowth * old.trained
    const shape = anew
      ? {partitions: Math.max(1, Math.round(Math.sqrt(live))), pieces: subvectorCount(meta.dim), trained: live - rows.heldOut.length}
      : old
    if (anew) await table.train(metric, shape.partitions, shape.pieces)
    else await table.compact()
    signal?.throwIfAborted()
    const given: ListSearchParams | undefined = anew ? undefined : old
    const measured =
      rows.heldOut.length === 0
        ? undefined
        : await measureListRecall(table, rows.heldOut, metric, shape.partitions, {
            ...(options.probes === undefined ? {} : {probes: options.probes}),
            ...(options.refine === undefined ? {} : {refine: options.refine}),
            ...(signal ? {signal} : {})
          })
    const lists = {
      ...shape,
      probes: measured?.probes ?? options.probes ?? given?.probes ?? Math.min(shape.partitions, 32),
      refine: measured?.refine ?? options.refine ?? given?.refine ?? 10
    }
    await rows.release(0)
    await table.compact()
    const found = measured ? {k: recallK, value: measured.value, queries: measured.queries} : anew ? null : (before?.recall ?? null)
    await table.commit({...header, kind, lists, recall: found})
    return {kind, ...figures, lists, recall: found}
  } finally {
    await source?.close()
    table?.close()
  }
}

async function removeIds(table: LanceTable, options: LanceOptions, name: string): Promise<number> {
  const {remove} = options
  const list = typeof remove === 'string' ? readIds(remove === '-' ? options.stdin! : remove, options.nul ? {nul: true} : {}) : remove
  const absent: string[] = []
  let removed = 0
  let some = new Set<string>()
  const take = async (): Promise<void> => {
    const present = await table.present([...some])
    for (const id of some) if (!present.has(id)) absent.push(id)
    removed += await table.remove([...present])
    some = new Set()
  }
  for await (const id of list ?? []) {
    if (some.has(id)) absent.push(id)
    else some.add(id)
    if (some.size >= 10_000) await take()
  }
  if (some.size > 0) await take()
  if (absent.length > 0) throw unknownIdsError(name, absent)
  return removed
}

/** The rows on their way into a table: what waits, what is known, and what is kept back. */
class LanceRowWriter {
  read = 0
  replaced = 0
  /** A fair draw of the rows that came, at most `heldMost`; they are not in the table. */
  heldOut: HeldOutRow[] = []
  readonly knownIds = new IdSet()
  readonly #random
  pending = new Map<string, {fields: string; vector: Float32Array}>()
  possibleDuplicates: string[] = []
  drawCount = 0

  constructor(
    readonly table: LanceTable,
    readonly meta: EmbeddingMeta,
    readonly replace: boolean,
    seed: number
  ) {
    this.#random = rng(seed, 'held rows')
  }

  /** Learns the ids that the table has. */
  async loadKnownIds(): Promise<void> {
    for await (const ids of this.table.ids()) for (const id of ids) this.knownIds.add(id)
  }

  async add(ids: readonly string[], fields: readonly string[], vectors: Float32Array): Promise<void> {
    const D = this.meta.dim
    for (const [i, id] of ids.entries()) {
      this.read++
      if (this.pending.has(id)) {
        if (!this.replace) throw duplicateIdError(id)
        this.replaced++
        this.pending.delete(id) // the later row stands where it came
      } else if (this.knownIds.add(id)) this.possibleDuplicates.push(id)
      this.pending.set(id, {fields: fields[i]!, vector: vectors.slice(i * D, (i + 1) * D)})
    }
    if (this.pending.size * D >= floatsPerWrite) await this.write()
  }

  /** Writes what waits, but for rows that are drawn to be kept back. */
  async write(): Promise<void> {
    if (this.possibleDuplicates.length > 0) await this.resolveDuplicates()
    const out: HeldOutRow[] = []
    for (const [id, {fields, vector}] of this.pending) {
      const row = {id, fields, vector}
      const place = this.heldOut.length < maxHeldOut ? this.heldOut.length : this.#random.int(this.drawCount + 1)
      if (place < maxHeldOut) {
        if (place < this.heldOut.length) out.push(this.heldOut[place]!)
        this.heldOut[place] = row
      } else out.push(row)
      this.drawCount++
    }
    this.pending = new Map()
    await this.addToTable(out)
  }

  /** Rows that came before, of the same id as one that waits, make way for it. */
  async resolveDuplicates(): Promise<void> {
    const asked = new Set(this.possibleDuplicates)
    this.possibleDuplicates = []
    const doubles = await this.table.present([...asked])
    for (const {id} of this.heldOut) if (asked.has(id)) doubles.add(id)
    if (doubles.size === 0) return
    if (!this.replace) throw duplicateIdError(doubles.values().next().value!)
    this.replaced += doubles.size
    this.heldOut = this.heldOut.filter(({id}) => !doubles.has(id))
    await this.table.remove([...doubles])
  }

  /** Gives rows that were kept back to the table, until `left` are left. */
  async release(left: number): Promise<void> {
    await this.addToTable(this.heldOut.splice(left))
  }

  async addToTable(rows: readonly HeldOutRow[]): Promise<void> {
    const vectors = new Float32Array(rows.length * this.meta.dim)
    for (const [i, {vector}] of rows.entries()) vectors.set(vector, i * this.meta.dim)
    await this.table.add(
      rows.map(({id}) => id),
      rows.map(({fields}) => fields),
      vectors
    )
  }
}

/**
 * Into how many pieces a vector is cut for quantisation: the divisor of its length that is nearest to pieces of eight
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
    const some = nearest(oneBlock(rows, D), queries, recallK, {metric})
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
