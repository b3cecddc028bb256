/**
 * Embeddings written as an Arrow stream: `id` (utf8), one column a field, `extra` (JSON) where the first batch needs
 * it, `vector` (fixed-size list of float32). Without `extra`, fields of later rows that fit no column stand in the
 * metadata of their batch.
 *
 * A batch of rows is one record batch, encoded by itself and appended, so a stream of any length needs the memory of
 * one batch.
 */
import type {Sink} from '../bytes.js'
import {planTable, splitFields, type CellValue, type TableColumns} from '../columns.js'
import type {EmbeddingWriter, Recovered} from '../format.js'
import {metaToJson, type EmbeddingMeta} from '../provenance.js'
import {floatBytes, type EmbeddingBatch} from '../rows.js'
import {checkOf, type BatchFigures} from './messages.js'
import {CHECKED_KEY} from './read.js'
import {RECORD_KEY} from './rows.js'
import {boolColumn, float64Column, RECORD_BATCH, SCHEMA, schemaFields, textColumn, vectorColumn, writeMessage} from './schema.js'

export const endOfStream = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)

/** A message as it stands in a stream: a mark, the length of its metadata, the metadata. */
function framed(head: Uint8Array): Buffer {
  const prefix = Buffer.alloc(8)
  prefix.writeInt32LE(-1, 0)
  prefix.writeInt32LE(head.length, 4)
  return Buffer.concat([prefix, head])
}

/** The schema message of a stream with these columns, without its frame. */
function schemaHead(meta: EmbeddingMeta, {columns, hasExtra}: TableColumns): Buffer {
  const fields = columns.map(({name, kind}) =>
    kind === 'string' ? textColumn(name, true) : kind === 'number' ? float64Column(name) : boolColumn(name)
  )
  const all = [textColumn('id', false), ...fields, ...(hasExtra ? [textColumn('extra', true)] : []), vectorColumn('vector', meta.dim)]
  const metadata = new Map([
    [RECORD_KEY, metaToJson(meta)],
    [CHECKED_KEY, 'crc32']
  ])
  return writeMessage(SCHEMA, schemaFields(all, metadata), 0)
}

/** The body of a batch while it is put together: each buffer begins at a multiple of 64 bytes. */
class Body {
  readonly #parts: Uint8Array[] = []
  readonly nodes: number[] = []
  readonly buffers: number[] = []
  length = 0

  node(length: number, nulls: number): void {
    this.nodes.push(length, nulls)
  }

  buffer(bytes: Uint8Array): void {
    this.buffers.push(this.length, bytes.byteLength)
    const padding = (64 - (bytes.byteLength % 64)) % 64
    this.#parts.push(bytes, new Uint8Array(padding))
    this.length += bytes.byteLength + padding
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts, this.length)
  }
}

const bytesOf = (numbers: Float64Array | Int32Array): Uint8Array => new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

/** One bit a row, least significant first. */
function bits(cells: readonly CellValue[], set: (cell: CellValue) => boolean): Uint8Array {
  const found = new Uint8Array(Math.ceil(cells.length / 8))
  for (const [i, cell] of cells.entries()) if (set(cell)) found[i >> 3]! |= 1 << (i & 7)
  return found
}

/** The node of a column and which of its cells are there; nothing is written of that when all are. */
function addValidity(body: Body, cells: readonly CellValue[]): void {
  const nulls = cells.reduce<number>((n, cell) => n + (cell === null ? 1 : 0), 0)
  body.node(cells.length, nulls)
  body.buffer(nulls === 0 ? new Uint8Array(0) : bits(cells, cell => cell !== null))
}

function addTexts(body: Body, cells: readonly (string | null)[]): void {
  addValidity(body, cells)
  const parts = cells.map(cell => Buffer.from(cell ?? '', 'utf8'))
  const offsets = new Int32Array(cells.length + 1)
  for (const [i, part] of parts.entries()) offsets[i + 1] = offsets[i]! + part.length
  body.buffer(bytesOf(offsets))
  body.buffer(Buffer.concat(parts))
}

function addCells(body: Body, kind: TableColumns['columns'][number]['kind'], cells: readonly CellValue[]): void {
  if (kind === 'string') return addTexts(body, cells as readonly (string | null)[])
  addValidity(body, cells)
  body.buffer(kind === 'number' ? bytesOf(Float64Array.from(cells, cell => Number(cell ?? 0))) : bits(cells, cell => cell === true))
}

/** Rests of rows as one JSON object by their place in the batch; undefined where no row has one. */
function lateFields(rests: readonly (string | null)[]): string | undefined {
  const members = rests.flatMap((rest, i) => (rest === null ? [] : [`"${i}":${rest}`]))
  return members.length === 0 ? undefined : `{${members.join(',')}}`
}

/** One batch as a message and its body; `before` rows came before it in the stream. */
function encodeBatch(
  schema: Uint8Array,
  {columns, hasExtra}: TableColumns,
  {ids, vectors, fields}: EmbeddingBatch,
  before: number
): Buffer {
  const body = new Body()
  const split = fields.map(row => splitFields(columns, row))
  addTexts(body, ids)
  for (const [c, {kind}] of columns.entries())
    addCells(
      body,
      kind,
      split.map(({cells}) => cells[c]!)
    )
  const rests = split.map(({extra}) => extra)
  if (hasExtra) addTexts(body, rests)
  body.node(ids.length, 0)
  body.buffer(new Uint8Array(0))
  body.node(vectors.length, 0)
  body.buffer(new Uint8Array(0))
  body.buffer(floatBytes(vectors))
  const figures: BatchFigures = {rows: ids.length, nodes: body.nodes, buffers: body.buffers}
  const bytes = body.bytes()
  const header = [{int64: ids.length}, {int64s: body.nodes, each: 2}, {int64s: body.buffers, each: 2}]
  const metadata = checkOf(schema, before, figures, bytes, hasExtra ? undefined : lateFields(rests))
  return Buffer.concat([framed(writeMessage(RECORD_BATCH, header, bytes.length, metadata)), bytes])
}

/** A whole stream of these batches. */
export function encodeStream(meta: EmbeddingMeta, table: TableColumns, batches: readonly EmbeddingBatch[]): Buffer {
  const schema = schemaHead(meta, table)
  let before = 0
  const messages = batches.map(batch => {
    const bytes = encodeBatch(schema, table, batch, before)
    before += batch.ids.length
    return bytes
  })
  return Buffer.concat([framed(schema), ...messages, endOfStream])
}

/**
 * Writes batches to `sink` as they come. `begun` are columns and rows of a file that is being continued; its schema
 * is not written again.
 */
export function arrowWriter(sink: Sink, meta: EmbeddingMeta, begun?: Recovered): EmbeddingWriter {
  let table = begun?.table
  let schema: Uint8Array | undefined = begun?.schema
  let before = begun?.rows ?? 0
  const begin = async (first: EmbeddingBatch['fields']): Promise<void> => {
    table = planTable(first)
    schema = schemaHead(meta, table)
    await sink.write(framed(schema))
  }
  return {
    async write(batch) {
      if (!table) await begin(batch.fields)
      await sink.write(encodeBatch(schema!, table!, batch, before))
      before += batch.ids.length
    },
    async finish() {
      if (!table) await begin([])
      await sink.write(endOfStream)
    }
  }
}
