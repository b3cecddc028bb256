/**
 * An index as a LanceDB table: a folder or an address of an object store, for more rows than memory holds. The one
 * file that touches `@lancedb/lancedb`.
 *
 *     PLACE/rows.lance    id (utf8), fields (JSON), vector (float32 [dim]); for many rows inverted lists with product
 *     quantisation (IVF-PQ) over `vector`
 *     PLACE/about.lance   one row of JSON, the header: how the vectors were made, how a search looks, and which
 *     version of `rows` it speaks of
 *
 * The header is written last and names a version, so a change is there at once or not at all: what was written before
 * it, by a run that was stopped, is not looked at, and the next change starts from the version that the header names.
 * Which rows the lists' centres start from is the library's own draw, so unlike the file of `vector-index.ts` such a
 * table is not the same bytes twice.
 *
 * The package is optional; it is loaded when the first table is opened. It and its copy of Apache Arrow are loaded by
 * `require`, because it only takes tables made by the very copy that it sees itself.
 */
import {stat} from 'node:fs/promises'
import {createRequire} from 'node:module'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {metaFromJson, metaToJson, type EmbeddingMeta, type Fields} from '../embeddings/embeddings.js'

type Arrow = typeof import('apache-arrow')
type Batch = import('apache-arrow').RecordBatch

/** The part of the library that is used here; its own types need not be installed to build this program. */
type Query = AsyncIterable<Batch> & {
  select(columns: string[]): Query
  where(predicate: string): Query
  limit(n: number): Query
  distanceType(metric: LanceMetric): Query
  nprobes(n: number): Query
  refineFactor(n: number): Query
  bypassVectorIndex(): Query
}
type LanceMetric = 'l2' | 'dot'
type Table = {
  add(table: object): Promise<unknown>
  delete(predicate: string): Promise<{numDeletedRows: number}>
  countRows(): Promise<number>
  query(): Query
  vectorSearch(vector: Float32Array): Query
  createIndex(column: string, options: {config: object; replace?: boolean; name?: string}): Promise<void>
  dropIndex(name: string): Promise<void>
  listIndices(): Promise<{name: string}[]>
  optimize(options: {cleanupOlderThan: Date}): Promise<unknown>
  version(): Promise<number>
  checkout(version: number): Promise<void>
  checkoutLatest(): Promise<void>
  restore(): Promise<void>
  close(): void
}
type Connection = {
  tableNames(): Promise<string[]>
  openTable(name: string): Promise<Table>
  createEmptyTable(name: string, schema: object, options: {mode: 'create' | 'overwrite'}): Promise<Table>
  createTable(name: string, rows: object[], options: {mode: 'overwrite'}): Promise<Table>
  close(): void
}
type Library = {
  readonly lance: {
    connect(place: string, options: object): Promise<Connection>
    readonly Session: new (indexBytes: bigint, metadataBytes: bigint) => object
    readonly Index: {ivfPq(options: object): object; btree(): object}
  }
  readonly arrow: Arrow
}

/**
 * How a search looks: how many inverted lists are read, and how many candidates a wanted neighbour are measured again
 * with their whole vectors.
 */
export type ListSearchParams = {readonly probes: number; readonly refine: number}

/** What an index says of itself. */
export type LanceHeader = {
  readonly version: 1
  readonly kind: 'exact' | 'ivf-pq'
  readonly metric: 'cosine' | 'ip' | 'l2'
  readonly rows: number
  readonly dim: number
  readonly meta: EmbeddingMeta
  /**
   * The inverted lists: how many, pieces that a vector is quantised in, rows they were trained on, and how they are
   * searched.
   */
  readonly lists?: {readonly partitions: number; readonly pieces: number; readonly trained: number} & ListSearchParams
  /**
   * The share of the true k nearest that a search finds, measured on rows that were not yet in the lists; null where
   * there were too few.
   */
  readonly recall: {readonly k: number; readonly value: number; readonly queries: number} | null
}

/** Rows found for a query, in no order that is promised. */
export type LanceFound = {readonly ids: readonly string[]; readonly fields: readonly string[]; /** [n, D] */ readonly vectors: Float32Array}

/** Whether a name is an address (`s3://bucket/photos`) and not a path. */
export const isAddress = (place: string): boolean => /^[a-z][a-z0-9+.-]+:\/\//i.test(place)

/** Whether there is, or by its name could be, an index of this kind. */
export async function isLance(place: string): Promise<boolean> {
  return isAddress(place) || ((await stat(join(place, 'about.lance')).catch(() => undefined))?.isDirectory() ?? false)
}

const libraryName = '@lancedb/lancedb'

/** The library. Throws `UserError` (exit 5) where it is not installed or does not load. */
export function loadLibrary(from: string = import.meta.url): Library {
  process.env['LANCEDB_LOG'] ??= 'error' // or it tells on stderr of tables that it makes
  try {
    const require = createRequire(from)
    const lance = require(libraryName) as Library['lance']
    return {lance, arrow: createRequire(require.resolve(libraryName))('apache-arrow') as Arrow}
  } catch (cause) {
    const absent = (cause as {code?: string}).code === 'MODULE_NOT_FOUND'
    throw new UserError(
      absent
        ? `The optional package ${libraryName}, by which this kind of index is written and searched, is not installed.`
        : `The optional package ${libraryName} does not load: ${(cause as Error).message.split('\n')[0]}`,
      {
        exit: 5,
        code: 'NO_LANCE',
        hint: `Install it with npm install ${libraryName}, or index without --backend lance.`,
        cause
      }
    )
  }
}

/** What the library says, as a sentence. */
function lanceError(place: string, doing: string, cause: unknown): unknown {
  if (cause instanceof UserError || (cause as {name?: string}).name === 'AbortError') return cause
  const message = String((cause as Error).message ?? cause)
    .split(/\n|, \/|\s+Caused by/)[0]!
    .trim()
  return new UserError(`${place} could not be ${doing}: ${message.replace(/\.$/, '')}.`, {
    code: 'LANCE',
    hint: isAddress(place) ? 'Check the address, and the access keys in the environment.' : 'Check the folder and the room on its disk.',
    cause
  })
}

const sqlString = (text: string): string => `'${text.replaceAll("'", "''")}'`
const idPredicate = (ids: readonly string[]): string => `id IN (${ids.map(sqlString).join(', ')})`

/** Ids asked for or taken out by one statement. */
const idsPerStatement = 500
/** Memory that the library may keep of lists and of what it knows of files. */
const [listBytes, metadataBytes] = [1n << 30n, 1n << 28n]
/** Before anything: nothing is older, so nothing is thrown away while a table is changed. */
const epoch = new Date(0)

/** An index that was opened or is being made. `close` when done. */
export class LanceTable {
  /** How sentences call it. */
  readonly #name: string
  readonly #arrow: Arrow
  readonly #lance: Library['lance']
  readonly #connection: Connection
  readonly #rows: Table
  readonly #schema: import('apache-arrow').Schema
  readonly dim: number
  /** What it said of itself when it was opened; absent while it is made. */
  readonly header: LanceHeader | undefined
  /** The version that the header names is gone. */
  versionMissing = false

  private constructor(name: string, library: Library, connection: Connection, rows: Table, dim: number, header?: LanceHeader) {
    this.#name = name
    this.#arrow = library.arrow
    this.#lance = library.lance
    this.#connection = connection
    this.#rows = rows
    this.#schema = schemaOf(library.arrow, dim)
    this.dim = dim
    this.header = header
  }

  /** Begins an index. What is at an address already stays until `commit`. `name` stands for the place in sentences. */
  static async create(place: string, dim: number, name = place): Promise<LanceTable> {
    const library = loadLibrary()
    try {
      const connection = await connect(library, place)
      const rows = await connection.createEmptyTable('rows', schemaOf(library.arrow, dim), {mode: 'overwrite'})
      return new LanceTable(name, library, connection, rows, dim)
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
      const opened = new LanceTable(name, library, connection, rows, header.dim, header)
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
    for await (const batch of this.#read(this.#rows.query().select(['vector']))) yield vectorsOf(batch, this.dim)
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
      parts.push(vectorsOf(batch, this.dim))
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
    const plain = {...header, meta: JSON.parse(metaToJson(header.meta)) as object, table: await this.#rows.version()}
    const about = await this.#connection.createTable('about', [{json: JSON.stringify(plain)}], {mode: 'overwrite'})
    await about.optimize({cleanupOlderThan: new Date()})
    about.close()
  }

  close(): void {
    this.#rows.close()
    this.#connection.close()
  }
}

const connect = ({lance}: Library, place: string): Promise<Connection> =>
  lance.connect(place, {session: new lance.Session(listBytes, metadataBytes)})

/**
 * Vectors of length 1 have the same neighbours by distance and by angle, and lists of near vectors are those of small
 * distance.
 */
const listDistance = (metric: LanceHeader['metric']): LanceMetric => (metric === 'ip' ? 'dot' : 'l2')

function headerOf(text: string | undefined, place: string): LanceHeader & {readonly table: number} {
  let found: LanceHeader & {readonly table: number}
  try {
    found = JSON.parse(text ?? '') as typeof found
    if (!Number.isInteger(found.table) || !Number.isInteger(found.dim)) throw new SyntaxError('it names no table')
  } catch (cause) {
    throw new UserError(`${place} is damaged: its header is not readable.`, {
      code: 'INDEX_DAMAGED',
      hint: 'Make it again from the embeddings.',
      cause
    })
  }
  if (found.version !== 1) {
    throw new UserError(`${place} is an index of version ${String(found.version)}; this program reads version 1.`, {
      code: 'INDEX_VERSION',
      hint: 'Make it again with this program: dinov2 index EMBEDDINGS --backend lance -o PLACE --force.'
    })
  }
  return {...found, meta: metaFromJson(found.meta, place)}
}

/** A row's fields as text, and back. */
export const fieldsToText = (fields: Fields): string => JSON.stringify(fields)
export const fieldsFromText = (text: string): Fields => JSON.parse(text) as Fields

function schemaOf({Schema, Field, Utf8, FixedSizeList, Float32}: Arrow, dim: number): import('apache-arrow').Schema {
  return new Schema([
    new Field('id', new Utf8(), false),
    new Field('fields', new Utf8(), false),
    new Field('vector', new FixedSizeList(dim, new Field('item', new Float32(), false)), false)
  ])
}

function tableOf(
  {Table, RecordBatch, Struct, Utf8, Float32, makeData}: Arrow,
  schema: import('apache-arrow').Schema,
  ids: readonly string[],
  fields: readonly string[],
  vectors: Float32Array
): object {
  const texts = (values: readonly string[]): import('apache-arrow').Data => {
    const parts = values.map(value => Buffer.from(value, 'utf8'))
    const valueOffsets = new Int32Array(values.length + 1)
    for (const [i, part] of parts.entries()) valueOffsets[i + 1] = valueOffsets[i]! + part.length
    return makeData({type: new Utf8(), length: values.length, nullCount: 0, valueOffsets, data: Uint8Array.from(Buffer.concat(parts))})
  }
  const child = makeData({type: new Float32(), length: vectors.length, nullCount: 0, data: vectors})
  const vector = makeData({
    type: schema.fields[2]!.type as import('apache-arrow').FixedSizeList,
    length: ids.length,
    nullCount: 0,
    child
  })
  const struct = makeData({
    type: new Struct(schema.fields),
    length: ids.length,
    nullCount: 0,
    children: [texts(ids), texts(fields), vector]
  })
  return new Table(schema, [new RecordBatch(schema, struct)])
}

/** The column of vectors of a batch: [n, D]. */
function vectorsOf(batch: Batch, dim: number): Float32Array {
  const out = new Float32Array(batch.numRows * dim)
  let at = 0
  for (const data of batch.getChild('vector')!.data) {
    const child = data.children[0]!
    const from = data.offset * dim
    const values = child.values as Float32Array
    out.set(values.subarray(from, from + data.length * dim), at)
    at += data.length * dim
  }
  return out
}
