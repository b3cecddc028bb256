/** Rows of an index as tables of the library's own copy of Apache Arrow, and back. */
import type {Arrow, Batch} from './lance-library.js'

/** Under which name the rows carry the mark that their header has too. */
export const MARK_KEY = 'dinov2.index'

/** The schema of the rows of an index, with its mark where it has one. */
export function schemaOf(
  {Schema, Field, Utf8, FixedSizeList, Float32}: Arrow,
  dim: number,
  mark: string | undefined
): import('apache-arrow').Schema {
  const fields = [
    new Field('id', new Utf8(), false),
    new Field('fields', new Utf8(), false),
    new Field('vector', new FixedSizeList(dim, new Field('item', new Float32(), false)), false)
  ]
  return new Schema(fields, mark === undefined ? undefined : new Map([[MARK_KEY, mark]]))
}

/** Rows as a table. */
export function tableOf(
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
export function batchVectors(batch: Batch, dim: number): Float32Array {
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
