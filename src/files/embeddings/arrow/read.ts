/** Embeddings read from an Arrow stream, from several put together, or from an Arrow file (Feather). */
import {UserError} from '../../../config/errors.js'
import {isObject, jsonObjectOr} from '../../../system/json.js'
import {ByteReader} from '../bytes.js'
import type {OpenedRows} from '../format.js'
import {assertSameProvenance, metaFromJson, unknownProvenance, type EmbeddingMeta} from '../provenance.js'
import {withVectorLength, type EmbeddingBatch} from '../rows.js'
import {BatchCursor, columnData, type ColumnData} from './column-data.js'
import {unpacker} from './compression.js'
import type {FlatTable} from './flatbuffer.js'
import {openArrowFile, type ArrowFile} from './file.js'
import {figuresOf, LATE_KEY, MessageReader, verifyBatch, type Message} from './messages.js'
import {batchFrom, layoutOf, RECORD_KEY, type Layout} from './rows.js'
import {DICTIONARY_BATCH, readSchema, RECORD_BATCH, SCHEMA, UnreadType, type ArrowField, type ArrowSchema} from './schema.js'

/** In the schema's metadata of streams whose every batch carries a checksum. */
export const CHECKED_KEY = 'dinov2.checks'

/** A damaged or foreign stream as a sentence. */
export function arrowError(name: string, error: unknown): unknown {
  if (error instanceof UnreadType)
    return new UserError(`${name} cannot be read: ${error.message.replace(/^It/, 'it')}.`, {
      code: 'NOT_READ',
      hint: 'Drop the column or convert it, and write the file again.'
    })
  if (!(error instanceof RangeError)) return error
  return new UserError(`${name} is not a whole Arrow stream: ${error.message}.`, {
    code: 'EMBEDDINGS_DAMAGED',
    hint: 'It was cut off or changed; write it again.',
    cause: error
  })
}

/** One stream while it is read: its schema, what its columns mean, and the dictionaries that came. */
type Stream = {
  readonly schema: ArrowSchema
  readonly schemaHead: Uint8Array
  readonly layout: Layout
  readonly meta: EmbeddingMeta | undefined
  readonly dictionaries: Map<number, ColumnData>
  rows: number
  /** Bytes that came, and values and bytes of text that they unfolded to. */
  bytes: number
  unfolded: number
}

/** Rows of a stream may unfold to this many values and bytes of text, and to as many times its bytes. */
const [UNFOLDED, TIMES] = [64 << 20, 64]

function streamOf(table: FlatTable, schemaHead: Uint8Array, name: string, given?: Layout): Stream {
  const schema = readSchema(table)
  const record = schema.metadata.get(RECORD_KEY)
  const layout = given ?? layoutOf(schema, name)
  const meta = record === undefined ? undefined : metaFromJson(record, name)
  if (meta && layout.dim > 0 && meta.dim !== layout.dim)
    throw new RangeError(`its record says ${meta.dim} numbers a row, but its column has ${layout.dim}`)
  return {schema, schemaHead, layout, meta, dictionaries: new Map(), rows: 0, bytes: 0, unfolded: 0}
}

/** The stream that a message begins. */
function begin(message: Message | undefined, name: string, given?: Layout): Stream {
  if (message?.kind !== SCHEMA) throw new RangeError('it does not begin with a schema')
  return streamOf(message.header, message.head, name, given)
}

/** The columns of a batch, each as long as the batch. */
async function columnsOf(batch: FlatTable, body: Buffer, fields: readonly ArrowField[], stream: Stream): Promise<ColumnData[]> {
  const {rows, nodes, buffers} = figuresOf(batch)
  const slices: Buffer[] = []
  for (let i = 0; i < buffers.length; i += 2) {
    const [at, length] = [buffers[i]!, buffers[i + 1]!]
    if (at < 0 || length < 0 || at + length > body.length) throw new RangeError('a column lies outside its batch')
    slices.push(body.subarray(at, at + length))
  }
  const compression = batch.table(3)
  const codec = compression && (['lz4', 'zstd'] as const)[compression.byte(0)]
  if (compression && !codec) throw new UnreadType('It is compressed by a codec that is not read')
  const unpacked = codec ? (await unpacker(codec))(slices) : slices
  const bytes = unpacked.reduce((sum, {length}) => sum + length, 0)
  const cursor = new BatchCursor(rows, nodes, unpacked, batch.int64s(4), 8 * bytes)
  const columns = fields.map(field => columnData(field, cursor, stream.dictionaries))
  for (const {length} of columns) if (length !== rows) throw new RangeError(`a batch has ${rows} rows, but a column of it ${length}`)
  stream.bytes += bytes
  for (const {weight} of columns) for (let i = 0; i < rows; i++) stream.unfolded += weight(i)
  if (stream.unfolded > UNFOLDED + TIMES * stream.bytes) throw new RangeError('its columns repeat the same bytes too often')
  return columns
}

/** The field whose values a dictionary holds. */
function dictionaryField(fields: readonly ArrowField[], id: number): ArrowField | undefined {
  for (const field of fields) {
    if (field.dictionary?.id === id) return {name: field.name, type: field.type}
    const {type} = field
    const inner = type.kind === 'struct' ? type.children : type.kind === 'list' || type.kind === 'fixed-list' ? [type.item] : []
    const found = dictionaryField(inner, id)
    if (found) return found
  }
  return undefined
}

async function takeDictionary({header, body}: Message, stream: Stream): Promise<void> {
  const id = header.int64(0)
  const field = dictionaryField(stream.schema.fields, id)
  const batch = header.table(1)
  if (!field || !batch) throw new RangeError('it has a dictionary that no column uses')
  const [values] = await columnsOf(batch, body, [field], stream)
  const before = header.byte(2) === 0 ? undefined : stream.dictionaries.get(id)
  stream.dictionaries.set(id, before ? joined(before, values!) : values!)
}

/** A dictionary and what came later for it. */
function joined(a: ColumnData, b: ColumnData): ColumnData {
  const of =
    <T>(pick: (column: ColumnData, i: number) => T): ((i: number) => T) =>
    i =>
      i < a.length ? pick(a, i) : pick(b, i - a.length)
  return {
    length: a.length + b.length,
    hasNulls: a.hasNulls || b.hasNulls,
    isNull: of((column, i) => column.isNull(i)),
    get: of((column, i) => column.get(i)),
    weight: of((column, i) => column.weight(i)),
    ...(a.bytes && b.bytes && {bytes: of((column, i) => column.bytes!(i))})
  }
}

/**
 * Takes a message in: the rows of a batch, the values of a dictionary. `checked`: batches of ours are compared with
 * their checksums.
 */
async function take(message: Message, stream: Stream, name: string, first: number, checked: boolean): Promise<EmbeddingBatch | undefined> {
  if (message.kind === DICTIONARY_BATCH) {
    await takeDictionary(message, stream)
    return undefined
  }
  if (message.kind !== RECORD_BATCH) throw new RangeError('it has a message that is no batch')
  if (checked) verifyBatch(stream.schemaHead, stream.rows, message, stream.schema.metadata.has(CHECKED_KEY))
  const columns = await columnsOf(message.header, message.body, stream.schema.fields, stream)
  const n = message.header.int64(0)
  const rows = n === 0 ? undefined : batchFrom(columns, n, stream.layout, name, first + stream.rows)
  const late = stream.meta && message.metadata.get(LATE_KEY)
  stream.rows += n
  return rows && late !== undefined ? withLateFields(rows, late) : rows
}

/** A batch with the fields that stand in its metadata. Throws `RangeError` where they are none. */
function withLateFields(batch: EmbeddingBatch, text: string): EmbeddingBatch {
  const late = jsonObjectOr(text)
  if (!late || !Object.values(late).every(isObject)) throw new RangeError('a batch has metadata that are no fields')
  return {...batch, fields: batch.fields.map((row, i) => (Object.hasOwn(late, i) ? {...row, ...(late[i] as object)} : row))}
}

/** All rows of a stream, and of those that were put behind it. */
async function* streamRows(reader: MessageReader, name: string, first: Stream): AsyncGenerator<EmbeddingBatch> {
  let at = 0
  for (let stream = first; ;) {
    for (let message = await reader.next(); message; message = await reader.next()) {
      const rows = await take(message, stream, name, at, true)
      if (rows) yield rows
    }
    at += stream.rows
    // Our writer always sets the mark; without it the command that wrote the stream was stopped in the middle.
    if (stream.meta && !reader.marked) throw new RangeError(`it breaks off after ${at} rows`)
    const following = reader.marked ? await reader.next() : undefined
    if (!following) return
    stream = begin(following, name)
    assertSameProvenance(
      {name: `the beginning of ${name}`, meta: first.meta ?? unknownProvenance(0)},
      {name: 'what follows', meta: stream.meta ?? unknownProvenance(0)}
    )
  }
}

/** All rows of a file. */
async function* fileRows(file: ArrowFile, name: string, stream: Stream): AsyncGenerator<EmbeddingBatch> {
  for await (const message of file.messages()) {
    const rows = await take(message, stream, name, 0, false)
    if (rows) yield rows
  }
}

/** The rows with errors as sentences; `close` lets go of where they come from. */
async function* guarded(rows: AsyncGenerator<EmbeddingBatch>, name: string, close: () => Promise<void>): AsyncGenerator<EmbeddingBatch> {
  try {
    yield* rows
  } catch (error) {
    throw arrowError(name, error)
  } finally {
    await close()
  }
}

/** Rows, their record and the length of their vectors, which must agree. */
async function opened(stream: Stream, rows: AsyncGenerator<EmbeddingBatch>, name: string): Promise<OpenedRows> {
  const {meta, layout} = stream
  const {dim, rows: all} = await withVectorLength(rows, layout.dim, name)
  if (meta && meta.dim !== dim && dim > 0) throw new RangeError(`its record says ${meta.dim} numbers a row, but it has ${dim}`)
  return {meta: meta ?? unknownProvenance(dim), rows: all}
}

/**
 * Reads a stream; `size` is the number of bytes where it is known.
 *
 * Throws `UserError` when there is no column of vectors, a vector or an id is missing, a type is not read, or the
 * bytes are damaged or end too early.
 */
export async function readArrowStream(bytes: ByteReader, name: string, size?: number): Promise<OpenedRows> {
  const close = (): Promise<void> => bytes.close()
  try {
    const reader = new MessageReader(bytes, size)
    const first = begin(await reader.next(), name)
    return {...(await opened(first, guarded(streamRows(reader, name, first), name, close), name)), close}
  } catch (error) {
    await close()
    throw arrowError(name, error)
  }
}

/** Reads a file. Throws as `readArrowStream`. */
export async function readArrowFile(path: string, name: string): Promise<OpenedRows> {
  let file: ArrowFile | undefined
  try {
    file = await openArrowFile(path)
    const stream = streamOf(file.schema, file.head, name)
    return {...(await opened(stream, guarded(fileRows(file, name, stream), name, file.close), name)), close: file.close}
  } catch (error) {
    await file?.close()
    throw arrowError(name, error)
  }
}

// ---- for Parquet, whose decoder gives rows as Arrow streams -------------------------------------------------------

/**
 * What the columns of a stream mean, given its bytes and the metadata of the file that it comes from. Throws as
 * `readArrowStream`.
 */
export async function readLayout(bytes: Uint8Array, name: string, metadata: ReadonlyMap<string, string>): Promise<Layout> {
  try {
    const message = await new MessageReader(new ByteReader([bytes])).next()
    if (message?.kind !== SCHEMA) throw new RangeError('it has no schema')
    return layoutOf({...readSchema(message.header), metadata}, name)
  } catch (error) {
    throw arrowError(name, error)
  }
}

/**
 * The rows of a whole stream in memory; `first` is the number of its first row. Checksums are the business of who
 * gives the bytes.
 */
export async function* readBatches(bytes: Uint8Array, layout: Layout, name: string, first: number): AsyncGenerator<EmbeddingBatch> {
  try {
    const reader = new MessageReader(new ByteReader([bytes]), bytes.length)
    const stream = begin(await reader.next(), name, layout)
    for (let message = await reader.next(); message; message = await reader.next()) {
      const rows = await take(message, stream, name, first, false)
      if (rows) yield rows
    }
  } catch (error) {
    throw arrowError(name, error)
  }
}
