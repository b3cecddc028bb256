/** CSV written: to a file with its record beside it, to a pipe with the record in a column `dinov2`. */
import {parseOwnJson} from '../../system/json.js'
import {fileSink, type Sink} from './bytes.js'
import {planTable, splitFields, type TableColumns} from './columns.js'
import {safeText} from './csv-header.js'
import type {EmbeddingWriter, Recovered, Target} from './format.js'
import {shortestDecimal} from './jsonl.js'
import {plainMeta, recordCheck, type EmbeddingMeta} from './provenance.js'
import {TableCheck, vectorCheck} from './content-check.js'
import {finishRecord, writeRecord} from './record-beside.js'
import {crcText} from '../../system/crc32.js'
import type {EmbeddingBatch} from './rows.js'

const quoteCell = (text: string): string => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text)
const isVectorName = (name: string): boolean => /^v\d+$/.test(name)

/** Where the record of a table goes, and what of a row fits no column. */
type Record = {
  /** Whether a row has a cell `dinov2`. */
  readonly inRows: boolean
  begin(table: TableColumns): Promise<void>
  /** Takes a row; gives its cell `dinov2`. `rest`: JSON of fields for which there is no column, or null. */
  row(vector: Float32Array, rest: string | null): string
  /** After each batch. */
  flush(): Promise<void>
  finish(): Promise<void>
}

/** Columns that hold numbers and booleans, which CSV cannot say. */
const kindsOf = ({columns}: TableColumns): object =>
  Object.fromEntries(columns.filter(({kind}) => kind !== 'string').map(({name, kind}) => [name, kind]))

/** The record in the cell of the first row, a checksum and late fields in that of each. */
function recordInRows(meta: EmbeddingMeta, safe: boolean): Record {
  let table: TableColumns
  let first = true
  return {
    inRows: true,
    begin: async planned => void (table = planned),
    row(vector, rest) {
      const check = crcText(vectorCheck(vector))
      if (!first) return rest === null ? check : JSON.stringify({crc32: check, extra: parseOwnJson(rest)})
      first = false
      return JSON.stringify({
        ...plainMeta(meta),
        kinds: kindsOf(table),
        safe: safe || undefined,
        crc32: check,
        record_crc32: recordCheck(meta)
      })
    },
    flush: async () => {},
    finish: async () => {}
  }
}

/** The record in a file of its own, and late fields in another, one line a row that has some. */
function recordBeside([record, lateFile]: Target['sides'], meta: EmbeddingMeta, safe: boolean, begun: Recovered | undefined): Record {
  const check = begun?.check ?? new TableCheck()
  const lateLines = fileSink(lateFile!, begun?.sideEnds[1] ?? 0)
  let late = begun?.lateRows ?? 0
  let pending = ''
  let more = {kinds: kindsOf(begun?.table ?? {columns: [], hasExtra: false}), safe: safe || undefined}
  return {
    inRows: false,
    async begin(table) {
      more = {...more, kinds: kindsOf(table)}
      await writeRecord(record!, meta, more)
    },
    row(vector, rest) {
      if (rest !== null) {
        pending += `{"row":${check.rows},"fields":${rest}}\n`
        late++
      }
      check.add(vector)
      return ''
    },
    async flush() {
      if (pending !== '') await lateLines.write(pending)
      pending = ''
    },
    finish: () => finishRecord(record!, meta, check, {...more, ...(late > 0 && {late_fields: late})})
  }
}

async function writeRows(
  sink: Sink,
  {ids, vectors, fields}: EmbeddingBatch,
  {columns, hasExtra}: TableColumns,
  record: Record,
  textCell: (text: string) => string
): Promise<void> {
  let text = ''
  const D = vectors.length / Math.max(1, ids.length)
  for (const [i, id] of ids.entries()) {
    const {cells, extra} = splitFields(columns, fields[i]!, true)
    const vector = vectors.subarray(i * D, (i + 1) * D)
    const own = record.row(vector, hasExtra ? null : extra)
    const left = [id, ...cells, ...(hasExtra ? [extra] : []), ...(record.inRows ? [own] : [])].map(cell =>
      typeof cell === 'string' ? textCell(cell) : String(cell ?? '')
    )
    text += `${[...left, ...Array.from(vector, shortestDecimal)].join(',')}\n`
  }
  await record.flush()
  await sink.write(text)
}

/**
 * Writes one line a row; `begun` is what there is of a file that is being continued. `safe`: no text is a formula to
 * a spreadsheet.
 */
export function csvWriter({sink, sides}: Target, meta: EmbeddingMeta, begun: Recovered | undefined, safe: boolean): EmbeddingWriter {
  const textCell = (text: string): string => quoteCell(safe ? safeText(text) : text)
  const record = sides.length > 0 ? recordBeside(sides, meta, safe, begun) : recordInRows(meta, safe)
  let table = begun?.table
  const begin = async (fields: EmbeddingBatch['fields']): Promise<TableColumns> => {
    table = planTable(fields, isVectorName, true)
    const plain = [
      'id',
      ...table.columns.map(column => column.name),
      ...(table.hasExtra ? ['extra'] : []),
      ...(record.inRows ? ['dinov2'] : [])
    ]
    const names = [...plain, ...Array.from({length: meta.dim}, (_, d) => `v${d}`)]
    await record.begin(table)
    await sink.write(names.map(textCell).join(',') + '\n')
    return table
  }
  return {
    write: async batch => writeRows(sink, batch, table ?? (await begin(batch.fields)), record, textCell),
    async finish() {
      if (!table) await begin([])
      await record.finish()
    }
  }
}
