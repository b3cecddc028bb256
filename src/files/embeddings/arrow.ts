/**
 * Embeddings as an Apache Arrow IPC stream: `id` (utf8), one column a field, `extra` (JSON), `vector` (fixed-size list
 * of float32).
 *
 * The record of the making stands in the schema's metadata under `dinov2`. A batch of rows is one record batch,
 * encoded by itself and appended, so a stream of any length needs the memory of one batch, and an interrupted file can
 * be cut behind its last whole batch and continued. Streams of other programs are read as long as they have a column
 * of number lists; their plain columns become fields.
 */
import {open} from 'node:fs/promises'
import {
  Bool,
  DataType,
  Field,
  FixedSizeList,
  Float32,
  Float64,
  makeData,
  RecordBatch,
  RecordBatchReader,
  RecordBatchStreamWriter,
  Schema,
  Struct,
  Utf8,
  type Data,
  type Vector
} from 'apache-arrow'
import {UserError} from '../../config/errors.js'
import {readAt, type Sink} from './bytes.js'
import {joinFields, planColumns, splitFields, type Cell, type Column, type ColumnKind} from './columns.js'
import {metaFromJson, metaToJson, assertSameProvenance, unknownProvenance, type EmbeddingBatch, type EmbeddingMeta} from './rows.js'

const key = 'dinov2'
const endOfStream = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)

const arrowTypes: Readonly<Record<ColumnKind, () => DataType>> = {
  string: () => new Utf8(),
  number: () => new Float64(),
  boolean: () => new Bool()
}

/** The schema of a file with these columns. */
export function arrowSchema(meta: EmbeddingMeta, columns: readonly Column[]): Schema {
  const item = new Field('item', new Float32(), false)
  return new Schema(
    [
      new Field('id', new Utf8(), false),
      ...columns.map(({name, kind}) => new Field(name, arrowTypes[kind](), true)),
      new Field('extra', new Utf8(), true),
      new Field('vector', new FixedSizeList(meta.dim, item), false)
    ],
    new Map([[key, metaToJson(meta)]])
  )
}

/** Which cells are there: one bit a row, least significant first; none needed when all are. */
function validity(cells: readonly Cell[]): {nullCount: number; nullBitmap?: Uint8Array} {
  const nullCount = cells.reduce<number>((n, cell) => n + (cell === null ? 1 : 0), 0)
  if (nullCount === 0) return {nullCount}
  const nullBitmap = new Uint8Array(Math.ceil(cells.length / 64) * 8)
  for (const [i, cell] of cells.entries()) if (cell !== null) nullBitmap[i >> 3]! |= 1 << (i & 7)
  return {nullCount, nullBitmap}
}

function utf8Data(cells: readonly (string | null)[]): Data<Utf8> {
  const parts = cells.map(cell => Buffer.from(cell ?? '', 'utf8'))
  const valueOffsets = new Int32Array(cells.length + 1)
  for (const [i, part] of parts.entries()) valueOffsets[i + 1] = valueOffsets[i]! + part.length
  return makeData({type: new Utf8(), length: cells.length, valueOffsets, data: Uint8Array.from(Buffer.concat(parts)), ...validity(cells)})
}

function cellData(kind: ColumnKind, cells: readonly Cell[]): Data {
  if (kind === 'string') return utf8Data(cells as (string | null)[])
  if (kind === 'number')
    return makeData({
      type: new Float64(),
      length: cells.length,
      data: Float64Array.from(cells, cell => Number(cell ?? 0)),
      ...validity(cells)
    })
  const data = new Uint8Array(Math.ceil(cells.length / 64) * 8)
  for (const [i, cell] of cells.entries()) if (cell === true) data[i >> 3]! |= 1 << (i & 7)
  return makeData({type: new Bool(), length: cells.length, data, ...validity(cells)})
}

/** One batch of rows under `schema`. */
export function recordBatch(schema: Schema, columns: readonly Column[], batch: EmbeddingBatch): RecordBatch {
  const n = batch.ids.length
  const split = batch.fields.map(fields => splitFields(columns, fields))
  const vectorType = schema.fields.at(-1)!.type as FixedSizeList<Float32>
  const child = makeData({type: new Float32(), length: batch.vectors.length, nullCount: 0, data: batch.vectors}) // [n · D]
  const children: Data[] = [
    utf8Data(batch.ids),
    ...columns.map(({kind}, c) =>
      cellData(
        kind,
        split.map(({cells}) => cells[c]!)
      )
    ),
    utf8Data(split.map(({extra}) => extra)),
    makeData({type: vectorType, length: n, nullCount: 0, child})
  ]
  return new RecordBatch(schema, makeData({type: new Struct(schema.fields), length: n, nullCount: 0, children}))
}

/** A whole stream of one schema and these batches. */
export function encodeStream(schema: Schema, batches: readonly RecordBatch[]): Uint8Array {
  const writer = new RecordBatchStreamWriter()
  writer.reset(undefined, schema)
  for (const batch of batches) writer.write(batch)
  writer.finish()
  return writer.toUint8Array(true)
}

/**
 * Writes batches to `sink` as they come. `begun` are the columns of a file that is being continued; its schema is not
 * written again.
 */
export function arrowWriter(
  sink: Sink,
  meta: EmbeddingMeta,
  begun?: readonly Column[]
): {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>} {
  let columns = begun
  let schema = begun && arrowSchema(meta, begun)
  let head = begun ? encodeStream(schema!, []).length - endOfStream.length : 0
  const begin = async (first: EmbeddingBatch['fields']): Promise<void> => {
    columns = planColumns(first)
    schema = arrowSchema(meta, columns)
    const empty = encodeStream(schema, [])
    head = empty.length - endOfStream.length
    await sink.write(empty.subarray(0, head))
  }
  return {
    async write(batch) {
      if (!columns) await begin(batch.fields)
      const bytes = encodeStream(schema!, [recordBatch(schema!, columns!, batch)])
      await sink.write(bytes.subarray(head, bytes.length - endOfStream.length))
    },
    async finish() {
      if (!columns) await begin([])
      await sink.write(endOfStream)
    }
  }
}

/** The columns a schema of ours was written with. */
const columnsOf = (schema: Schema): Column[] =>
  schema.fields
    .slice(1, -2)
    .map(({name, type}) => ({name, kind: DataType.isUtf8(type) ? 'string' : DataType.isBool(type) ? 'boolean' : 'number'}))

export type ArrowRows = {readonly meta: EmbeddingMeta; readonly rows: AsyncGenerator<EmbeddingBatch>; close(): Promise<void>}

/**
 * Reads a stream (`source` gives its bytes) or an Arrow file (`source` is its path).
 *
 * Throws `UserError` when there is no column of vectors, a vector is missing, or the bytes end too early.
 */
export async function readArrow(source: AsyncIterable<Uint8Array> | string, name: string): Promise<ArrowRows> {
  const handle = typeof source === 'string' ? await open(source) : undefined
  const cannot = (error: unknown): UserError =>
    error instanceof UserError
      ? error
      : new UserError(`${name} is not a whole Arrow stream: ${(error as Error).message}.`, {
          code: 'EMBEDDINGS_DAMAGED',
          hint: 'Write it again.',
          cause: error
        })
  let tail: Uint8Array = new Uint8Array(0)
  const watched = async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      tail = chunk.length >= 8 ? chunk.subarray(-8) : Buffer.concat([tail, chunk]).subarray(-8)
      yield chunk
    }
  }
  try {
    // Streams that were put together by `cat` are read one after the other.
    const readers = handle
      ? [await RecordBatchReader.from(handle)][Symbol.iterator]()
      : RecordBatchReader.readAll(watched(source as AsyncIterable<Uint8Array>))[Symbol.asyncIterator]()
    const next = async (): Promise<RecordBatchReader | undefined> => {
      const {value, done} = await readers.next()
      if (done || !value) return undefined
      return (await (value as RecordBatchReader).open({autoDestroy: false})) as RecordBatchReader
    }
    const makingOf = ({metadata}: Schema, dim: number): EmbeddingMeta => {
      const found = metadata.get(key)
      return found ? metaFromJson(found, name) : unknownProvenance(dim)
    }
    const first = await next()
    if (!first) throw new Error('it has no schema')
    const {schema} = first
    const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
      let at = 0
      try {
        for (let reader: RecordBatchReader | undefined = first; reader; reader = await next()) {
          const layout = layoutOf(reader.schema, name)
          if (reader !== first)
            assertSameProvenance(
              {name: `the beginning of ${name}`, meta: makingOf(schema, 0)},
              {name: 'what follows', meta: makingOf(reader.schema, 0)}
            )
          for await (const batch of reader as unknown as AsyncIterable<RecordBatch>) {
            if (batch.numRows === 0) continue
            yield batchFrom(batch, layout, name, at)
            at += batch.numRows
          }
        }
        // Our writer always sets the end mark; without it the command that wrote the stream was stopped in the middle.
        if (!handle && schema.metadata.has(key) && !Buffer.from(tail).equals(endOfStream)) throw new Error(`it breaks off after ${at} rows`)
      } catch (error) {
        throw cannot(error)
      } finally {
        await first.cancel()
        await readers.return?.(undefined as never)
        await handle?.close()
      }
    }
    const {dim, rows: all} = await withVectorLength(rows(), layoutOf(schema, name).dim, name)
    return {meta: makingOf(schema, dim), rows: all, close: async () => handle?.close()}
  } catch (error) {
    await handle?.close()
    throw cannot(error)
  }
}

/**
 * The rows again with the length of their vectors, which a plain list column only tells by its first row (`dim` 0).
 * Batches of another length are refused.
 */
export async function withVectorLength(
  rows: AsyncGenerator<EmbeddingBatch>,
  dim: number,
  name: string
): Promise<{dim: number; rows: AsyncGenerator<EmbeddingBatch>}> {
  const first = dim === 0 ? await rows.next() : undefined
  const found = first && !first.done ? first.value.vectors.length / first.value.ids.length : dim
  const all = async function* (): AsyncGenerator<EmbeddingBatch> {
    let at = 0
    try {
      for (let next = first ?? (await rows.next()); !next.done; next = await rows.next()) {
        const {ids, vectors} = next.value
        if (vectors.length !== ids.length * found)
          throw new UserError(`Row ${at} of ${name} has ${vectors.length / ids.length} numbers, but the rows before it have ${found}.`, {
            code: 'NO_VECTORS',
            hint: 'All vectors of a file have one length.'
          })
        yield next.value
        at += ids.length
      }
    } finally {
      await rows.return(undefined)
    }
  }
  return {dim: found, rows: all()}
}

export type Layout = {
  readonly id: string | undefined
  readonly vector: string
  readonly dim: number
  readonly fields: readonly {readonly name: string}[]
  readonly extra: boolean
}

/** Finds ids, vectors and fields in a schema. */
export function layoutOf(schema: Schema, name: string): Layout {
  const isVector = (type: DataType): boolean =>
    (DataType.isFixedSizeList(type) || DataType.isList(type)) && DataType.isFloat(type.children[0]?.type)
  const vector =
    schema.fields.find(field => field.name === 'vector' && isVector(field.type)) ??
    single(schema.fields.filter(field => isVector(field.type)))
  if (!vector) {
    throw new UserError(
      `${name} has no column \`vector\` of number lists; its columns are ${schema.fields.map(field => field.name).join(', ') || 'none'}.`,
      {
        code: 'NO_VECTORS',
        hint: 'Rename the column that holds the embeddings to vector.'
      }
    )
  }
  const id = schema.fields.find(
    field =>
      field.name === 'id' &&
      (DataType.isUtf8(field.type) || DataType.isLargeUtf8(field.type) || DataType.isInt(field.type) || DataType.isDictionary(field.type))
  )
  const extra = schema.metadata.has(key) && schema.fields.some(field => field.name === 'extra')
  const fields = schema.fields
    .filter(field => field !== vector && field !== id && !(extra && field.name === 'extra'))
    .map(({name}) => ({name}))
  return {id: id?.name, vector: vector.name, dim: DataType.isFixedSizeList(vector.type) ? vector.type.listSize : 0, fields, extra}
}

const single = <T>(list: readonly T[]): T | undefined => (list.length === 1 ? list[0] : undefined)

/** Rows of a record batch; `at` is the number of its first row, which names rows without ids. */
export function batchFrom(batch: RecordBatch, layout: Layout, name: string, at: number): EmbeddingBatch {
  const n = batch.numRows
  const ids = layout.id === undefined ? undefined : batch.getChild(layout.id)!
  const columns = layout.fields.map(field => batch.getChild(field.name)!)
  const extra = layout.extra ? batch.getChild('extra') : null
  const vectors = vectorsOf(batch.getChild(layout.vector)!, name, at)
  return {
    ids: Array.from({length: n}, (_, i) => (ids === undefined ? String(at + i) : String(ids.get(i)))),
    vectors,
    fields: Array.from({length: n}, (_, i) =>
      joinFields(
        layout.fields,
        columns.map(column => plainValue(column.get(i))),
        extra?.get(i) as string | null
      )
    )
  }
}

/** A cell of another program's table as a plain value. */
function plainValue(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  if (typeof value === 'object' && value !== null) {
    if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
    return JSON.parse(JSON.stringify(value, (_, child: unknown) => (typeof child === 'bigint' ? Number(child) : child))) as unknown
  }
  return value
}

/** A column of number lists as one run of float32. */
function vectorsOf(column: Vector, name: string, at: number): Float32Array {
  const data = column.data[0]!
  const child = data.children[0]!
  if (
    column.data.length === 1 &&
    DataType.isFixedSizeList(data.type) &&
    DataType.isFloat(child.type) &&
    child.type.precision === 1 &&
    column.nullCount === 0 &&
    child.nullCount === 0
  ) {
    const D = data.type.listSize
    const values = child.values as Float32Array
    if (values.length >= column.length * D) return Float32Array.from(values.subarray(0, column.length * D)) // the stream's own buffer is let go
  }
  let D = -1
  let out = new Float32Array(0)
  for (let i = 0; i < column.length; i++) {
    const list = column.get(i) as Vector | null
    if (list === null) throw new UserError(`Row ${at + i} of ${name} has no vector.`, {code: 'NO_VECTORS', hint: 'Leave such rows out.'})
    if (D < 0) {
      D = list.length
      out = new Float32Array(column.length * D) // [n, D]
    }
    if (list.length !== D)
      throw new UserError(`Row ${at + i} of ${name} has ${list.length} numbers, but the rows before it have ${D}.`, {
        code: 'NO_VECTORS',
        hint: 'All vectors of a file have one length.'
      })
    for (let d = 0; d < D; d++) out[i * D + d] = Number(list.get(d))
  }
  return out
}

/**
 * Finds where the last whole record batch of an interrupted file ends, how many rows come before, and with which
 * columns it was begun. `undefined` when not even the schema is whole.
 */
export async function recoverArrow(
  path: string,
  name: string
): Promise<{end: number; rows: number; columns: Column[]; meta: EmbeddingMeta} | undefined> {
  const handle = await open(path)
  try {
    const {size} = await handle.stat()
    let end = 0
    let schema: Schema | undefined
    let rows = 0
    for (let at = 0; at + 8 <= size;) {
      const prefix = await readAt(handle, at, 8)
      const length = prefix.readInt32LE(4)
      if (prefix.readInt32LE(0) !== -1 || length === 0 || at + 8 + length > size) break
      const head = await readAt(handle, at + 8, length)
      const {bodyLength, rowCount} = messageSizes(head)
      if (at + 8 + length + bodyLength > size) break
      if (!schema) {
        const reader = RecordBatchReader.from(Buffer.concat([prefix, head, endOfStream]))
        reader.open()
        schema = reader.schema
      } else rows += rowCount
      at = end = at + 8 + length + bodyLength
    }
    if (!schema) return undefined
    const found = schema.metadata.get(key)
    if (!found) return undefined
    return {end, rows, columns: columnsOf(schema), meta: metaFromJson(found, name)}
  } finally {
    await handle.close()
  }
}

/**
 * Body length and row count of one encapsulated message, read from its flatbuffer.
 * Arrow format, Message.fbs: field 1 is the header's kind (3: RecordBatch), 2 the header, 3 the body length; of a
 * RecordBatch, field 0 is the number of rows.
 */
function messageSizes(bytes: Buffer): {bodyLength: number; rowCount: number} {
  const field = (table: number, n: number): number => {
    const vtable = table - bytes.readInt32LE(table)
    const offset = 4 + 2 * n < bytes.readUInt16LE(vtable) ? bytes.readUInt16LE(vtable + 4 + 2 * n) : 0
    return offset === 0 ? 0 : table + offset
  }
  const root = bytes.readUInt32LE(0)
  const [kind, header, body] = [field(root, 1), field(root, 2), field(root, 3)]
  const rows = kind !== 0 && bytes[kind] === 3 ? field(header + bytes.readUInt32LE(header), 0) : 0
  return {bodyLength: body === 0 ? 0 : Number(bytes.readBigInt64LE(body)), rowCount: rows === 0 ? 0 : Number(bytes.readBigInt64LE(rows))}
}
