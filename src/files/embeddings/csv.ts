/**
 * Embeddings as CSV (RFC 4180): `id`, one column a field, then `v0` … `v{D-1}`.
 *
 * A file is a plain table with the record of how the vectors were made beside it (`record-beside.ts`); the record also
 * says which columns hold numbers and booleans, which CSV cannot. What of a row fits no column stands as JSON in a
 * column `extra`, which is there only where the first batch needs it, or in a file beside the table (see
 * `late-fields.ts`). On a pipe, and in files of earlier versions, the record stands in a column `dinov2`: in the first
 * row's cell, with a checksum of the vector and late fields in that of each. Tables of other programs may have
 * semicolons or tabs, decimal commas beside semicolons, other names of columns (`emb_0`, `emb_1`, …) and pandas' index
 * column.
 */
import {parse} from 'csv-parse'
import {stat, truncate} from 'node:fs/promises'
import {pipeline, Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {crcText} from '../../system/crc32.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from './bytes.js'
import {joinFields, type CellValue, type Column, type TableColumns} from './columns.js'
import {csvLayout, readSafeText, separatorNames, separatorOf, type CsvLayout} from './csv-header.js'
import {damagedTable, recordOf, rowRecordOf, saidBeside, type Said} from './csv-record.js'
import {csvWriter} from './csv-write.js'
import type {Format, OpenedRows, PartialFiles, Recovered} from './format.js'
import {lateEndBefore, LateFields, lateFileOf, lateSide} from './late-fields.js'
import {unknownProvenance} from './provenance.js'
import {TableCheck, vectorCheck} from './content-check.js'
import {assertWholeTable, begunRecord, recordOfTable, recordSide, sumRows, type RecordBeside} from './record-beside.js'
import {recoverLines} from './row-lines.js'
import {batchOf, rowsPerBatch, type EmbeddingBatch, type Row} from './rows.js'
import {refuseWithoutSide} from './unresumable.js'

// ---- reading ------------------------------------------------------------------------------------------------------

/** One record of the file is at most this long; beyond it a quote was not closed. */
const MAX_RECORD = 64 << 20

/** The lines of a table as cells, and whether the bytes ended with the end of a line. */
class Records {
  number = 0
  #last = 0
  readonly #parser
  readonly #records: AsyncIterator<string[]>

  constructor(
    bytes: ByteReader,
    readonly name: string,
    separator: string
  ) {
    this.#parser = parse({bom: true, delimiter: separator, max_record_size: MAX_RECORD, relax_column_count: true, skip_empty_lines: true})
    // an error of the source arrives through the parser
    pipeline(Readable.from(this.#watched(bytes)), this.#parser, () => {})
    this.#records = this.#parser[Symbol.asyncIterator]() as AsyncIterator<string[]>
  }

  async *#watched(bytes: ByteReader): AsyncGenerator<Uint8Array> {
    for await (const chunk of bytes.chunks()) {
      if (chunk.length > 0) this.#last = chunk.at(-1)!
      yield chunk
    }
  }

  get endsWithLine(): boolean {
    return this.#last === 10 || this.#last === 13
  }

  async next(): Promise<string[] | undefined> {
    try {
      const {value, done} = await this.#records.next()
      this.number++
      return done ? undefined : value
    } catch (error) {
      throw damagedTable(this.name, (error as Error).message.replace(/\.$/, ''), error)
    }
  }

  close(): void {
    this.#parser.destroy()
  }
}

/** Takes cells apart into a row. */
class RowParser {
  readonly columns: readonly Column[]
  readonly #text: (cell: string) => string
  readonly #fields: readonly {readonly name: string; readonly column: number}[]

  constructor(
    readonly name: string,
    readonly width: number,
    readonly layout: CsvLayout,
    readonly said: Said,
    readonly separator: string
  ) {
    this.#fields = layout.fields.filter(({column}) => !(said.meta && column === layout.extra))
    this.#text = said.safe ? readSafeText : text => text
    this.columns = this.#fields.map(({name: title}): Column => ({name: this.#text(title), kind: said.kinds[this.#text(title)] ?? 'string'}))
  }

  #number(cell: string, column: string, row: number): number {
    // Where semicolons separate cells, a comma stands for the decimal point.
    const text = this.separator === ';' ? cell.replace(',', '.') : cell
    const found = /^\s*$|^\s*[-+]?0[box]/i.test(text) ? NaN : Number(text) // 0x10 is no number to other programs
    if (!Number.isNaN(found)) return found
    throw new UserError(
      `Row ${row} of ${this.name} has ${cell ? JSON.stringify(cell) : 'nothing'} in ${column}, where a number is expected.`,
      {
        code: text === 'null' || /^[-+]?nan$/i.test(text.trim()) ? 'NOT_FINITE' : 'NO_VECTORS',
        hint: 'Leave the row out, or write the file again.'
      }
    )
  }

  row(cells: readonly string[], row: number): Row {
    const {name, layout, said} = this
    if (cells.length !== this.width)
      throw damagedTable(
        name,
        `row ${row} has ${cells.length} cells, but there are ${this.width} columns, separated by ${separatorNames[this.separator]}`
      )
    const vector = Float32Array.from(layout.vector, (column, d) => this.#number(cells[column]!, `number ${d} of its vector`, row))
    const {check, rest} =
      row === 0 ? {check: said.check, rest: null} : said.meta && layout.record >= 0 ? rowRecordOf(cells[layout.record]!, name, row) : {}
    if (check !== undefined && check !== crcText(vectorCheck(vector)))
      throw damagedTable(name, `the vector of row ${row} does not match its checksum`)
    const values = this.columns.map(({name: title, kind}, c): CellValue => {
      const cell = cells[this.#fields[c]!.column]!
      if (cell === '') return null
      if (kind === 'boolean' && cell !== 'true' && cell !== 'false')
        throw damagedTable(name, `row ${row} has ${JSON.stringify(cell)} in the column ${title}`)
      return kind === 'number' ? this.#number(cell, `the column ${title}`, row) : kind === 'boolean' ? cell === 'true' : this.#text(cell)
    })
    const id = layout.id < 0 ? String(row) : this.#text(cells[layout.id]!)
    if (id === '')
      throw new UserError(`Row ${row} of ${name} has no id.`, {
        code: 'NO_IDS',
        hint: 'Give each row an id, or drop the column: then rows are named by their number.'
      })
    try {
      return {id, vector, fields: joinFields(this.columns, values, said.meta && layout.extra >= 0 ? cells[layout.extra] : rest)}
    } catch (error) {
      throw damagedTable(name, `the column extra of row ${row} is not JSON`, error)
    }
  }
}

/**
 * Reads rows. Throws `UserError` when there are no vector columns, a cell of them is not a number, or a checksum
 * differs.
 */
async function readCsv(
  bytes: ByteReader,
  name: string,
  path?: string
): Promise<OpenedRows & {readonly table: TableColumns; readonly csvSafe: boolean; readonly lateRows: () => number}> {
  const found = await recordOfTable(path)
  const separator = separatorOf(Buffer.from(await bytes.peek(1 << 16)).toString('utf8'))
  const records = new Records(bytes, name, separator)
  try {
    const header = (await records.next()) ?? []
    const layout = csvLayout(header, name, separator)
    const dim = layout.vector.length
    const first = await records.next()
    if (!first && layout.record >= 0 && !records.endsWithLine) throw damagedTable(name, 'its first line is cut off')
    // A table with a record in its rows belongs to none beside it.
    const beside = layout.record < 0 ? found : undefined
    const said = beside ? saidBeside(beside, name) : recordOf(layout.record < 0 ? undefined : first?.[layout.record], name)
    if (said.meta && said.meta.dim !== dim)
      throw damagedTable(name, `its record says ${said.meta.dim} numbers a row, but it has the columns of ${dim}`)
    const parser = new RowParser(name, header.length, layout, said, separator)
    const late = await lateOf(beside, path, name)
    const check = new TableCheck()
    const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
      let pending: Row[] = []
      try {
        for (let cells = first, row = 0; cells; cells = await records.next(), row++) {
          const parsed = parser.row(cells, row)
          const more = await late.of(row)
          check.add(parsed.vector)
          pending.push(more ? {...parsed, fields: {...parsed.fields, ...more}} : parsed)
          if (pending.length === rowsPerBatch(dim)) {
            yield batchOf(pending)
            pending = []
          }
        }
        if (said.meta && !records.endsWithLine) throw damagedTable(name, 'its last line is cut off')
        if (beside) {
          assertWholeTable(name, path!, beside, check)
          late.end()
        }
        if (pending.length > 0) yield batchOf(pending)
      } finally {
        records.close()
        await late.close()
      }
    }
    return {
      meta: said.meta ?? unknownProvenance(dim),
      table: {columns: parser.columns, hasExtra: layout.extra >= 0},
      csvSafe: said.safe,
      lateRows: () => late.lines,
      rows: rows(),
      close: async () => {
        records.close()
        await late.close()
      }
    }
  } catch (error) {
    records.close()
    throw error
  }
}

/** The fields beside a table, where its record says that there are some, or it is growing. */
async function lateOf(beside: RecordBeside | undefined, path: string | undefined, name: string): Promise<LateFields> {
  const file = beside && lateFileOf(path!)
  const there =
    file !== undefined &&
    (await stat(file).then(
      found => found.isFile(),
      () => false
    ))
  const expected = beside?.all['late_fields'] ?? 0
  if (beside && !there && expected !== 0)
    throw damagedTable(name, `${file!}, which holds fields of ${String(expected)} of its rows, is not there`)
  return new LateFields(there && (beside?.rows === undefined || expected !== 0) ? file : undefined, name)
}

/** What of an interrupted table is whole. Throws `UserError` (exit 2) where it was begun in another way. */
async function recoverCsv({partial, sides}: PartialFiles, batch: number, safe: boolean): Promise<Recovered | undefined> {
  const meta = await begunRecord(sides[0]!.partial)
  if (!meta) return refuseWithoutSide(partial, sides[0]!.partial, (await recoverLines(partial, {header: 1, quotes: true})).rows)
  const found = await recoverLines(partial, {multiple: batch, header: 1, quotes: true})
  if (found.rows === 0) return undefined
  await truncate(partial, found.end)
  const lateEnd = await lateEndBefore(sides[1]!.partial, found.rows)
  await truncate(sides[1]!.partial, lateEnd)
  const opened = await readCsv(new ByteReader(fileBytes(partial)), partial, partial)
  const check = await sumRows(opened)
  if (opened.csvSafe !== safe)
    throw new UserError(`${partial} was begun ${opened.csvSafe ? 'with' : 'without'} --csv-safe.`, {
      exit: 2,
      code: 'CANNOT_RESUME',
      hint: `Go on ${opened.csvSafe ? 'with' : 'without'} it, or start anew with --force.`
    })
  const sideEnds = [(await stat(sides[0]!.partial)).size, lateEnd]
  return {...found, sideEnds, table: opened.table, meta, check, lateRows: opened.lateRows()}
}

const csvFormat = (safe: boolean): Format<'csv'> => ({
  name: 'csv',
  endings: ['.csv'],
  title: 'one column a number',
  streams: true,
  binary: false,
  begins: head => /^(\uFEFF)?["\w,;\t][^\0]*[,;\t\r\n]/.test(head.toString('utf8')),
  open: ({bytes, name, path}) => readCsv(bytes, name, path),
  write: async (target, meta, begun) => csvWriter(target, meta, begun, safe),
  sideFiles: target => [recordSide(target), lateSide(target)],
  recover: (files, {batch}) => recoverCsv(files, batch, safe)
})

export const csv = csvFormat(false)
/** The same, with a quote before texts that a spreadsheet would run as formulas. */
export const safeCsv = csvFormat(true)
