/**
 * An index as a LanceDB table: a folder or an address of an object store, for more rows than memory holds.
 *
 *     PLACE/rows.lance    id (utf8), fields (JSON), vector (float32 [dim]); for many rows inverted lists with product
 *     quantization (IVF-PQ) over `vector`
 *     PLACE/about.lance   one row of JSON, the header: how the vectors were made, how a search looks, and which
 *     version of `rows` it speaks of
 *
 * The header is written last and names a version, so a change is there at once or not at all: what was written before
 * it, by a run that was stopped, is not looked at, and the next change starts from the version that the header names.
 * Which rows the lists' centres start from is the library's own draw, so unlike the file of `vector-index.ts` such a
 * table is not the same bytes twice.
 *
 * The package is optional; it is loaded when the first table is opened (`lance-library.ts`).
 */
import {randomUUID} from 'node:crypto'
import {UserError} from '../../config/errors.js'
import {plainMeta} from '../embeddings/provenance.js'
import {MARK_KEY, schemaOf, tableOf, batchVectors} from './lance-arrow.js'
import {assertOwnRows, headerOf, type LanceHeader, type ListSearchParams} from './lance-header.js'
import {
  connect,
  isLance,
  lanceError,
  loadLibrary,
  type Arrow,
  type Batch,
  type Connection,
  type LanceMetric,
  type LanceRows,
  type Library,
  type Query
} from './lance-library.js'

export type {LanceHeader, ListSearchParams} from './lance-header.js'
export {isAddress, isLance, loadLibrary} from './lance-library.js'

/** Rows found for a query, in no order that is promised. */
export type LanceFound = {readonly ids: readonly string[]; readonly fields: readonly string[]; /** [n, D] */ readonly vectors: Float32Array}

const sqlString = (text: string): string => `'${text.replaceAll("'", "''")}'`
const idPredicate = (ids: readonly string[]): string => `id IN (${ids.map(sqlString).join(', ')})`

/** Ids asked for or taken out by one statement. */
const idsPerStatement = 500
/** Before anything: nothing is older, so nothing is thrown away while a table is changed. */
const epoch = new Date(0)

type OwnRows = {readonly rows: LanceRows; readonly dim: number; readonly mark: string | undefined}

/** An index that was opened or is being made. `close` when done. */
export class LanceTable {
  readonly #name: string // in sentences
  readonly #arrow: Arrow
  readonly #lance: Library['lance']
  readonly #connection: Connection
  readonly #rows: LanceRows
  readonly #schema: import('apache-arrow').Schema
  readonly #mark: string | undefined
  readonly dim: number
  /** What it said of itself when it was opened; absent while it is made. */
  readonly header: LanceHeader | undefined
  /** The version that the header names is gone. */
  versionMissing = false

  private constructor(name: string, library: Library, connection: Connection, {rows, dim, mark}: OwnRows, header?: LanceHeader) {
    this.#name = name
    this.#arrow = library.arrow
    this.#lance = library.lance
    this.#connection = connection
    this.#rows = rows
    this.#schema = schemaOf(library.arrow, dim, mark)
    this.#mark = mark
    this.dim = dim
    this.header = header
  }

  /** Begins an index. What is at an address already stays until `commit`. `name` stands for the place in sentences. */
  static async create(place: string, dim: number, name = place): Promise<LanceTable> {
    const library = loadLibrary()
    try {
      const connection = await connect(library, place)
      const mark = randomUUID()
      const rows = await connection.createEmptyTable('rows', schemaOf(library.arrow, dim, mark), {mode: 'overwrite'})
      return new LanceTable(name, library, connection, {rows, dim, mark})
    } catch (error) {
      throw lanceError(name, 'made', error)
    }
  }

  /**
   * Opens an index as its header says. Throws `UserError`: not there (exit 3), not an index (exit 2), damaged, the
   * library is not there (exit 5).
   */
  static async open(place: string, name = place): Promise<LanceTable> {
    const library = loadLibrary()
    if (!(await isLance(place))) {
      throw new UserError(`There is no index at ${place}.`, {
        exit: 3,
        code: 'NO_INPUT',
        hint: `Make one first: dinov2 index EMBEDDINGS --backend lance -o ${place}`
      })
    }
    let text: string | undefined
    let connection: Connection
    try {
      connection = await connect(library, place)
      const names = await connection.tableNames()
      if (!names.includes('about') || !names.includes('rows')) {
        throw new UserError(names.length === 0 ? `There is no index at ${place}.` : `${place} is a LanceDB table of another program.`, {
          exit: names.length === 0 ? 3 : 2,
          code: names.length === 0 ? 'NO_INPUT' : 'NOT_AN_INDEX',
          hint: `Make an index first: dinov2 index EMBEDDINGS --backend lance -o ${place}`
        })
      }
      const about = await connection.openTable('about')
      for await (const batch of about.query().select(['json'])) text = String(batch.getChild('json')?.get(0))
      about.close()
    } catch (error) {
      throw lanceError(place, 'opened', error)
    }
    const {table, ...header} = headerOf(text, place)
    try {
      const rows = await connection.openTable('rows')
      const whole = await rows.checkout(table).then(
        () => true,
        () => false // a run was stopped while it tidied up: the newest version holds the same rows
      )
      if (!whole) await rows.checkoutLatest()
      const mark = (await rows.schema()).metadata.get(MARK_KEY)
      assertOwnRows(name, header, {mark, rows: await rows.countRows()})
      const opened = new LanceTable(name, library, connection, {rows, dim: header.dim, mark}, header)
      opened.versionMissing = !whole
      return opened
    } catch (error) {
      throw lanceError(place, 'opened', error)
    }
  }

  /** Whether there is an index at an address. */
  static async exists(place: string): Promise<boolean> {
    try {
      const connection = await connect(loadLibrary(), place)
      const names = await connection.tableNames()
      connection.close()
      return names.includes('about')
    } catch (error) {
      throw lanceError(place, 'opened', error)
    }
  }

  /** Makes an opened index ready to be changed: what a stopped run left behind the header's version is set aside. */
  beginChange(): Promise<void> {
    return this.attempt('changed', async () => {
      if (this.versionMissing) await this.writeHeader(this.header!)
      await this.#rows.restore()
    })
  }

  async attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw lanceError(this.#name, what, error)
    }
  }

  /** Adds rows; each call writes a piece of its own, so many rows should come at once. `fields` are JSON texts. */
  async add(ids: readonly string[], fields: readonly string[], vectors: Float32Array): Promise<void> {
    if (ids.length > 0) await this.attempt('written', () => this.#rows.add(tableOf(this.#arrow, this.#schema, ids, fields, vectors)))
  }

  /** Takes rows out by their ids; how many there were. */
  async remove(ids: readonly string[]): Promise<number> {
    let removed = 0
    for (let at = 0; at < ids.length; at += idsPerStatement)
      removed += (await this.attempt('changed', () => this.#rows.delete(idPredicate(ids.slice(at, at + idsPerStatement))))).numDeletedRows
    return removed
  }

  /** Which of these ids are there. */
  async present(ids: readonly string[]): Promise<Set<string>> {
    const found = new Set<string>()
    for (let at = 0; at < ids.length; at += idsPerStatement) {
      const query = this.#rows
        .query()
        .where(idPredicate(ids.slice(at, at + idsPerStatement)))
        .select(['id'])
      for await (const batch of this.#read(query)) for (const id of batch.getChild('id')!) found.add(String(id))
    }
    return found
  }

  /** Rows that are there. */
  count(): Promise<number> {
    return this.attempt('read', () => this.#rows.countRows())
  }

  /** All ids, some at a time. */
  async *ids(): AsyncGenerator<readonly string[]> {
    for await (const batch of this.#read(this.#rows.query().select(['id']))) yield [...batch.getChild('id')!].map(String)
  }

  /** All vectors, some rows at a time: [n, D]. */
  async *vectors(): AsyncGenerator<Float32Array> {
    for await (const batch of this.#read(this.#rows.query().select(['vector']))) yield batchVectors(batch, this.dim)
  }

  async *#read(query: Query): AsyncGenerator<Batch> {
    try {
      yield* query
    } catch (error) {
      throw lanceError(this.#name, 'read', error)
    }
  }

  /**
   * At least the k nearest of one query, or all rows where there are fewer; through the lists where `looking` says
   * how.
   */
  async nearest(query: Float32Array, k: number, metric: LanceHeader['metric'], looking?: ListSearchParams): Promise<LanceFound> {
    const plain = this.#rows.vectorSearch(query).limit(k).select(['id', 'fields', 'vector', '_distance'])
    const asked = looking
      ? plain.distanceType(listDistance(metric)).nprobes(looking.probes).refineFactor(looking.refine)
      : plain.distanceType(metric === 'l2' ? 'l2' : 'dot').bypassVectorIndex()
    const [ids, fields, parts]: [string[], string[], Float32Array[]] = [[], [], []]
    for await (const batch of this.#read(asked)) {
      for (const id of batch.getChild('id')!) ids.push(String(id))
      for (const text of batch.getChild('fields')!) fields.push(String(text))
      parts.push(batchVectors(batch, this.dim))
    }
    const vectors = new Float32Array(ids.length * this.dim)
    let at = 0
    for (const part of parts) {
      vectors.set(part, at)
      at += part.length
    }
    return {ids, fields, vectors}
  }

  /** Builds the inverted lists over all rows that are there, in place of those that were. */
  async train(metric: LanceHeader['metric'], partitions: number, pieces: number): Promise<void> {
    const config = this.#lance.Index.ivfPq({
      distanceType: listDistance(metric),
      numPartitions: partitions,
      numSubVectors: pieces,
      maxIterations: 20
    })
    await this.attempt('indexed', async () => {
      await this.#rows.createIndex('vector', {config, replace: true, name: 'vector'})
      await this.#rows.createIndex('id', {config: this.#lance.Index.btree(), replace: true, name: 'id'})
    })
  }

  /** Joins small pieces of the table, and brings rows that came later into the lists. */
  async compact(): Promise<void> {
    await this.attempt('written', async () => {
      await this.#rows.optimize({cleanupOlderThan: epoch})
      await this.#rows.checkoutLatest() // tidying is several versions, of which the handle does not see the last
    })
  }

  /** Lets the lists go: every search is exact from now on. */
  async dropLists(): Promise<void> {
    await this.attempt('changed', async () => {
      for (const {name} of await this.#rows.listIndices()) await this.#rows.dropIndex(name)
    })
  }

  /** Makes what was done the index; then what only older versions held is thrown away. */
  async commit(header: LanceHeader): Promise<void> {
    await this.attempt('written', async () => {
      await this.writeHeader(header)
      // Tidying makes a version of the same rows and takes away all others, so the header is written once more.
      // Between the two, the newest version counts.
      await this.#rows.optimize({cleanupOlderThan: new Date()})
      await this.#rows.checkoutLatest()
      await this.writeHeader(header)
    })
  }

  /** Writes the header for the version as it is now. */
  async writeHeader(header: LanceHeader): Promise<void> {
    const plain = {...header, meta: plainMeta(header.meta), mark: this.#mark, table: await this.#rows.version()}
    const about = await this.#connection.createTable('about', [{json: JSON.stringify(plain)}], {mode: 'overwrite'})
    await about.optimize({cleanupOlderThan: new Date()})
    about.close()
  }

  close(): void {
    this.#rows.close()
    this.#connection.close()
  }
}

/**
 * Vectors of length 1 have the same neighbours by distance and by angle, and lists of near vectors are those of small
 * distance.
 */
const listDistance = (metric: LanceHeader['metric']): LanceMetric => (metric === 'ip' ? 'dot' : 'l2')
