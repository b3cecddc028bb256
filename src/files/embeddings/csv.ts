/**
 * Embeddings as CSV (RFC 4180): `id`, one column a field, `extra` (JSON), `dinov2`, then `v0` … `v{D-1}`.
 *
 * The record of the making stands in the `dinov2` cell of the first row, and the other cells of that column are empty:
 * the file stays a plain table that spreadsheets and data frames open without being told to skip a line. The record
 * also says which columns hold numbers and booleans, which CSV cannot.
 */
import {parse} from 'csv-parse'
import {pipeline, Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {type ByteReader, type Sink} from './bytes.js'
import {joinFields, planColumns, reservedNames, splitFields, type Cell, type Column, type ColumnKind} from './columns.js'
import {shortestDecimal} from './jsonl.js'
import {
  batchOf,
  metaFromJson,
  metaToJson,
  rowsPerBatch,
  unknownProvenance,
  type EmbeddingBatch,
  type EmbeddingMeta,
  type Row
} from './rows.js'

const quoteCell = (text: string): string => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text)
const vectorColumn = /^v(\d+)$/

/** Writes one line a row; `begun` are the columns of a file that is being continued. */
export function csvWriter(
  sink: Sink,
  meta: EmbeddingMeta,
  begun?: readonly Column[]
): {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>} {
  let columns = begun
  let first = begun === undefined
  const begin = async (fields: EmbeddingBatch['fields']): Promise<void> => {
    columns = planColumns(fields, name => vectorColumn.test(name))
    const names = ['id', ...columns.map(column => column.name), 'extra', 'dinov2', ...Array.from({length: meta.dim}, (_, d) => `v${d}`)]
    await sink.write(names.map(quoteCell).join(',') + '\n')
  }
  return {
    async write({ids, vectors, fields}) {
      if (!columns) await begin(fields)
      let text = ''
      for (const [i, id] of ids.entries()) {
        const {cells, extra} = splitFields(columns!, fields[i]!, true)
        const kinds = Object.fromEntries(columns!.filter(({kind}) => kind !== 'string').map(({name, kind}) => [name, kind]))
        const record = first ? JSON.stringify({...(JSON.parse(metaToJson(meta)) as object), kinds}) : ''
        first = false
        const left = [id, ...cells.map(cell => (cell === null ? '' : String(cell))), extra ?? '', record].map(quoteCell)
        const numbers = Array.from(vectors.subarray(i * meta.dim, (i + 1) * meta.dim), shortestDecimal)
        text += `${[...left, ...numbers].join(',')}\n`
      }
      await sink.write(text)
    },
    async finish() {
      if (!columns) await begin([])
    }
  }
}

/** Reads rows. Throws `UserError` when there are no vector columns or a cell of them is not a number. */
export async function readCsv(
  bytes: ByteReader,
  name: string
): Promise<{meta: EmbeddingMeta; columns: Column[]; rows: AsyncGenerator<EmbeddingBatch>; close(): Promise<void>}> {
  const parser = parse({bom: true})
  pipeline(Readable.from(bytes.chunks()), parser, () => {}) // an error of the source arrives through the parser
  const records = parser[Symbol.asyncIterator]() as AsyncIterator<string[]>
  let number = 0
  const next = async (): Promise<string[] | undefined> => {
    try {
      const {value, done} = await records.next()
      number++
      return done ? undefined : value
    } catch (error) {
      throw new UserError(`${name} is not CSV: ${(error as Error).message}.`, {code: 'EMBEDDINGS_DAMAGED', cause: error})
    }
  }
  const header = (await next()) ?? []
  const at = header.flatMap((column, i) => (vectorColumn.test(column) ? [i] : []))
  if (at.length === 0)
    throw new UserError(`${name} has no columns v0, v1, … of a vector; its columns are ${header.slice(0, 8).join(', ') || 'none'}.`, {
      code: 'NO_VECTORS'
    })
  at.sort((a, b) => Number(header[a]!.slice(1)) - Number(header[b]!.slice(1)))
  const dim = at.length
  const first = await next()
  const [idAt, recordAt, extraAt] = ['id', 'dinov2', 'extra'].map(column => header.indexOf(column)) as [number, number, number]
  const record = recordAt >= 0 ? first?.[recordAt] : undefined
  const meta = record ? metaFromJson(record, name) : unknownProvenance(dim)
  const kinds = record ? ((JSON.parse(record) as {kinds?: Record<string, ColumnKind>}).kinds ?? {}) : {}
  const fieldAt = header.flatMap((column, i) =>
    at.includes(i) || i === idAt || (record && reservedNames.has(column)) || column === 'dinov2' ? [] : [i]
  )
  const columns = fieldAt.map((i): Column => ({name: header[i]!, kind: kinds[header[i]!] ?? 'string'}))
  const rowFrom = (cells: readonly string[]): Row => {
    const vector = Float32Array.from(at, i => (cells[i] === '' ? NaN : Number(cells[i])))
    const hole = vector.findIndex(x => Number.isNaN(x))
    if (hole >= 0 && cells[at[hole]!] !== 'null')
      throw new UserError(
        `Row ${number - 1} of ${name} has ${cells[at[hole]!] || 'nothing'} in column v${hole}, where a number is expected.`,
        {code: 'NO_VECTORS'}
      )
    const fields = fieldAt.map((i, c): Cell => {
      const cell = cells[i]!
      if (cell === '') return null
      return columns[c]!.kind === 'number' ? Number(cell) : columns[c]!.kind === 'boolean' ? cell === 'true' : cell
    })
    return {
      id: idAt < 0 ? String(number - 2) : cells[idAt]!,
      vector,
      fields: joinFields(columns, fields, record && extraAt >= 0 ? cells[extraAt] : null)
    }
  }
  const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
    let held: Row[] = []
    try {
      for (let cells = first; cells; cells = await next()) {
        held.push(rowFrom(cells))
        if (held.length === rowsPerBatch(dim)) {
          yield batchOf(held)
          held = []
        }
      }
      if (held.length > 0) yield batchOf(held)
    } finally {
      parser.destroy()
    }
  }
  return {meta: {...meta, dim}, columns, rows: rows(), close: async () => void parser.destroy()}
}
