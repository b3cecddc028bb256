/**
 * Embeddings as CSV (RFC 4180): `id`, one column a field, `dinov2`, then `v0` … `v{D-1}`.
 *
 * The record of how the vectors were made stands in the `dinov2` cell of the first row; in the other rows that cell
 * holds a checksum of the vector. So the file stays a plain table that spreadsheets and data frames open without an
 * option to skip a line, and a changed or cut number is noticed. The record also says which columns hold numbers and
 * booleans, which CSV cannot. What of a row fits no column stands as JSON in a column `extra` before `dinov2`, which
 * is there only where the first batch needs it; otherwise beside the checksum in the row's cell. Tables of other
 * programs may have semicolons or tabs, decimal commas beside semicolons, other names of columns (`emb_0`, `emb_1`,
 * …) and pandas' index column.
 */
import {parse} from 'csv-parse'
import {truncate} from 'node:fs/promises'
import {pipeline, Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {parseOwnJson} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader, type Sink} from './bytes.js'
import {joinFields, planColumns, splitFields, type CellValue, type Column} from './columns.js'
import {csvLayout, readSafeText, safeText, separatorNames, separatorOf, type CsvLayout} from './csv-header.js'
import {damagedTable, recordOf, rowRecordOf, type Said} from './csv-record.js'
import type {EmbeddingWriter, Format, OpenedRows, Recovered} from './format.js'
import {shortestDecimal, vectorCheck} from './jsonl.js'
import {plainMeta, recordCheck, unknownProvenance, type EmbeddingMeta} from './provenance.js'
import {recoverLines} from './row-lines.js'
import {batchOf, rowsPerBatch, type EmbeddingBatch, type Row} from './rows.js'

const quoteCell = (text: string): string => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text)
const isVectorName = (name: string): boolean => /^v\d+$/.test(name)

/**
 * Writes one line a row; `begun` are the columns of a file that is being continued. `safe`: no text is a formula to a
 * spreadsheet.
 */
function csvWriter(sink: Sink, meta: EmbeddingMeta, begun: Recovered | undefined, safe: boolean): EmbeddingWriter {
  const textCell = (text: string): string => quoteCell(safe ? safeText(text) : text)
  let columns = begun?.columns
  let hasExtra = begun?.hasExtra ?? false
  let first = begun === undefined
  const begin = async (fields: EmbeddingBatch['fields']): Promise<void> => {
    columns = planColumns(fields, isVectorName)
    hasExtra = fields.some(row => splitFields(columns!, row, true).extra !== null)
    const plain = ['id', ...columns.map(column => column.name), ...(hasExtra ? ['extra'] : []), 'dinov2']
    const names = [...plain, ...Array.from({length: meta.dim}, (_, d) => `v${d}`)]
    await sink.write(names.map(textCell).join(',') + '\n')
  }
  /** The first row's cell: record, kinds of the columns, and checksum. */
  const record = (check: string): string => {
    const kinds = Object.fromEntries(columns!.filter(({kind}) => kind !== 'string').map(({name, kind}) => [name, kind]))
    return JSON.stringify({...plainMeta(meta), kinds, safe: safe || undefined, crc32: check, record_crc32: recordCheck(meta)})
  }
  return {
    async write({ids, vectors, fields}) {
      if (!columns) await begin(fields)
      let text = ''
      for (const [i, id] of ids.entries()) {
        const {cells, extra} = splitFields(columns!, fields[i]!, true)
        const vector = vectors.subarray(i * meta.dim, (i + 1) * meta.dim)
        const check = vectorCheck(vector)
        const own = first ? record(check) : hasExtra || extra === null ? check : JSON.stringify({crc32: check, extra: parseOwnJson(extra)})
        first = false
        const left = [id, ...cells, ...(hasExtra ? [extra] : []), own].map(cell =>
          typeof cell === 'string' ? textCell(cell) : String(cell ?? '')
        )
        text += `${[...left, ...Array.from(vector, shortestDecimal)].join(',')}\n`
      }
      await sink.write(text)
    },
    async finish() {
      if (!columns) await begin([])
    }
  }
}

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
    const found = text.trim() === '' || text === 'null' ? NaN : Number(text)
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
    const {check, rest} = row === 0 ? {check: said.check, rest: null} : said.meta ? rowRecordOf(cells[layout.record]!, name, row) : {}
    if (check !== undefined && check !== vectorCheck(vector))
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
  name: string
): Promise<OpenedRows & {readonly columns: readonly Column[]; readonly csvSafe: boolean; readonly hasExtra: boolean}> {
  const separator = separatorOf(Buffer.from(await bytes.peek(1 << 16)).toString('utf8'))
  const records = new Records(bytes, name, separator)
  try {
    const header = (await records.next()) ?? []
    const layout = csvLayout(header, name, separator)
    const dim = layout.vector.length
    const first = await records.next()
    if (!first && layout.record >= 0 && !records.endsWithLine) throw damagedTable(name, 'its first line is cut off')
    const said = recordOf(layout.record < 0 ? undefined : first?.[layout.record], name)
    if (said.meta && said.meta.dim !== dim)
      throw damagedTable(name, `its record says ${said.meta.dim} numbers a row, but it has the columns of ${dim}`)
    const parser = new RowParser(name, header.length, layout, said, separator)
    const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
      let pending: Row[] = []
      try {
        for (let cells = first, row = 0; cells; cells = await records.next(), row++) {
          pending.push(parser.row(cells, row))
          if (pending.length === rowsPerBatch(dim)) {
            yield batchOf(pending)
            pending = []
          }
        }
        if (said.meta && !records.endsWithLine) throw damagedTable(name, 'its last line is cut off')
        if (pending.length > 0) yield batchOf(pending)
      } finally {
        records.close()
      }
    }
    return {
      meta: said.meta ?? unknownProvenance(dim),
      columns: parser.columns,
      csvSafe: said.safe,
      hasExtra: layout.extra >= 0,
      rows: rows(),
      close: async () => records.close()
    }
  } catch (error) {
    records.close()
    throw error
  }
}

const csvFormat = (safe: boolean): Format<'csv'> => ({
  name: 'csv',
  endings: ['.csv'],
  title: 'one column a number',
  streams: true,
  binary: false,
  begins: head => /^(\uFEFF)?["\w,;\t][^\0]*[,;\t\r\n]/.test(head.toString('utf8')),
  open: ({bytes, name}) => readCsv(bytes, name),
  write: async ({sink}, meta, begun) => csvWriter(sink, meta, begun, safe),
  async recover({partial}, {batch}) {
    const found = await recoverLines(partial, {multiple: batch, header: 1, quotes: true})
    if (found.rows === 0) return undefined
    await truncate(partial, found.end)
    const {meta, columns, csvSafe, hasExtra, close} = await readCsv(new ByteReader(fileBytes(partial)), partial)
    await close!()
    if (csvSafe !== safe)
      throw new UserError(`${partial} was begun ${csvSafe ? 'with' : 'without'} --csv-safe.`, {
        exit: 2,
        code: 'CANNOT_RESUME',
        hint: `Go on ${csvSafe ? 'with' : 'without'} it, or start anew with --force.`
      })
    return {...found, sideEnds: [], columns, hasExtra, meta}
  }
})

export const csv = csvFormat(false)
/** The same, with a quote before texts that a spreadsheet would run as formulas. */
export const safeCsv = csvFormat(true)
