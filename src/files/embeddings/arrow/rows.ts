/** Which columns of an Arrow schema are ids, vectors and fields, and the rows of a batch. */
import {UserError} from '../../../config/errors.js'
import {idPlace, joinFields} from '../columns.js'
import {noteNumbered} from '../file-notes.js'
import {vectorLengthError, type EmbeddingBatch} from '../rows.js'
import {textOf, type ColumnData} from './column-data.js'
import type {ArrowField, ArrowSchema} from './schema.js'

/** Under which key of the metadata the record of how the vectors were made stands. */
export const RECORD_KEY = 'dinov2'

/** Columns by their place in the schema; `id` is absent where rows are named by their number. */
export type Layout = {
  readonly id: number | undefined
  readonly vector: number
  /** Length of a vector where the schema says it, else 0. */
  readonly dim: number
  readonly fields: readonly {readonly name: string; readonly column: number}[]
  readonly extra: number | undefined
}

const isVector = ({type}: ArrowField): boolean =>
  (type.kind === 'list' || type.kind === 'fixed-list') &&
  !('map' in type && type.map) &&
  type.item.type.kind === 'float' &&
  !type.item.dictionary

/** A type in words, for sentences. */
function typeName({type, dictionary}: ArrowField): string {
  const name =
    'bits' in type
      ? `${type.kind === 'int' && !type.signed ? 'u' : ''}${type.kind}${type.bits}`
      : type.kind === 'list' || type.kind === 'fixed-list'
        ? `list of ${typeName(type.item)}`
        : type.kind
  return dictionary ? `dictionary of ${name}` : name
}

/** The one column of this name. */
function named(schema: ArrowSchema, name: string, file: string): number | undefined {
  const found = schema.fields.flatMap((field, i) => (field.name === name ? [i] : []))
  if (found.length > 1)
    throw new UserError(`${file} has ${found.length} columns that are called ${name}.`, {code: 'NO_VECTORS', hint: 'Rename all but one.'})
  return found[0]
}

/**
 * The column that the names of rows stand in. pandas writes an index that has no name of its own as
 * `__index_level_0__`.
 */
function idColumn(schema: ArrowSchema, file: string): number | undefined {
  const index = named(schema, '__index_level_0__', file)
  const like = idPlace(
    schema.fields.map(({name, type: {kind}}) => (name === 'id' || kind === 'text' || /^id$/i.test(name) ? name : undefined)),
    file
  )
  named(schema, 'id', file)
  const id = (like >= 0 ? like : undefined) ?? (index !== undefined && schema.fields[index]!.type.kind === 'text' ? index : undefined)
  if (id === undefined) return undefined
  const field = schema.fields[id]!
  if (!['text', 'bytes', 'int'].includes(field.type.kind))
    throw new UserError(`The column ${field.name} of ${file} is of the type ${typeName(field)}; expected texts or whole numbers.`, {
      code: 'NO_IDS',
      hint: 'Convert the column, or rename it: rows without a column id are named by their number.'
    })
  return id
}

/**
 * Finds ids, vectors and fields in a schema. Throws `UserError` where there is no column of vectors, or two columns
 * have one name.
 */
export function layoutOf(schema: ArrowSchema, file: string): Layout {
  const {fields} = schema
  const byName = named(schema, 'vector', file)
  const candidates = fields.flatMap((field, i) => (isVector(field) ? [i] : []))
  const vector = byName !== undefined && isVector(fields[byName]!) ? byName : candidates.length === 1 ? candidates[0] : undefined
  if (vector === undefined) {
    const columns = fields
      .map(field => `${field.name} (${typeName(field)})`)
      .slice(0, 12)
      .join(', ')
    throw new UserError(`${file} has no column \`vector\` of lists of floating-point numbers; its columns are ${columns || 'none'}.`, {
      code: 'NO_VECTORS',
      hint:
        candidates.length > 1
          ? 'Rename the column that holds the embeddings to vector.'
          : 'Name the column of embeddings vector, as lists of float16, float32 or float64.'
    })
  }
  const id = idColumn(schema, file)
  if (id === undefined)
    noteNumbered(
      file,
      fields.flatMap(({name, type: {kind}}) => (kind === 'text' ? [name] : []))
    )
  const extra = schema.metadata.has(RECORD_KEY) ? named(schema, 'extra', file) : undefined
  const rest = fields.flatMap(({name}, column) => (column === vector || column === id || column === extra ? [] : [{name, column}]))
  for (const {name} of rest) named(schema, name, file)
  const {type} = fields[vector]!
  return {id, vector, dim: type.kind === 'fixed-list' ? type.size : 0, fields: rest, extra}
}

/**
 * Rows of a batch; `first` is the number of its first row, which names rows without ids. Throws `UserError` naming
 * the row at fault.
 */
export function batchFrom(columns: readonly ColumnData[], n: number, layout: Layout, file: string, first: number): EmbeddingBatch {
  const vectors = vectorsOf(columns[layout.vector]!, n, file, first)
  const ids = layout.id === undefined ? undefined : columns[layout.id]!
  const extra = layout.extra === undefined ? undefined : columns[layout.extra]!
  return {
    ids: Array.from({length: n}, (_, i) => (ids ? idOf(ids, i, file, first) : String(first + i))),
    vectors,
    fields: Array.from({length: n}, (_, i) =>
      joinFields(
        layout.fields,
        layout.fields.map(({column}) => columns[column]!.get(i)),
        extra?.get(i) as string | null
      )
    )
  }
}

function idOf(ids: ColumnData, i: number, file: string, first: number): string {
  const noId = (): UserError =>
    new UserError(`Row ${first + i} of ${file} has no id.`, {
      code: 'NO_IDS',
      hint: 'Give each row an id, or drop the column: then rows are named by their number.'
    })
  if (ids.isNull(i)) throw noId()
  const text = ids.bytes ? textOf(ids.bytes(i)) : String(ids.get(i))
  if (text === '') throw noId()
  if (text === undefined)
    throw new UserError(`The id of row ${first + i} of ${file} is bytes that are no UTF-8 text.`, {
      code: 'NO_IDS',
      hint: 'Convert the column id to texts.'
    })
  return text
}

/** A column of lists of numbers as one run of float32: [n, D]. */
function vectorsOf(column: ColumnData, n: number, file: string, first: number): Float32Array {
  const {start, size, items} = column.list!
  const D = n === 0 ? 0 : size(0)
  for (let i = 0; i < n; i++) {
    if (column.isNull(i))
      throw new UserError(`Row ${first + i} of ${file} has no vector.`, {code: 'NO_VECTORS', hint: 'Leave such rows out.'})
    if (size(i) !== D) throw vectorLengthError(file, first + i, size(i), D)
    if (items.hasNulls)
      for (let d = 0; d < D; d++)
        if (items.isNull(start(i) + d))
          throw new UserError(`Number ${d} of the vector of row ${first + i} of ${file} is missing.`, {
            code: 'NO_VECTORS',
            hint: 'Leave such rows out.'
          })
  }
  if (D === 0 && n > 0)
    throw new UserError(`The vectors of ${file} have no numbers.`, {code: 'NO_VECTORS', hint: 'Did the embedding fail?'})
  const begin = n === 0 ? 0 : start(0)
  if (items.float32 && (n === 0 || start(n - 1) === begin + (n - 1) * D)) return items.float32.slice(begin, begin + n * D)
  const out = new Float32Array(n * D)
  for (let i = 0; i < n; i++) for (let d = 0; d < D; d++) out[i * D + d] = items.number!(start(i) + d)
  return out
}
