/**
 * Fields of rows for which a CSV table has no column, in a file of lines beside it: `{"row": 17, "fields": {…}}`, in
 * the order of rows. There is such a file only where a row has such fields.
 */
import {jsonObjectOr, isObject} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from './bytes.js'
import {damagedTable} from './csv-record.js'
import type {SideFile} from './format.js'
import type {Fields} from './rows.js'

const PARTIAL = '.partial'

export const lateFileOf = (path: string): string =>
  path.endsWith(PARTIAL) ? `${path.slice(0, -PARTIAL.length)}.fields.jsonl${PARTIAL}` : `${path}.fields.jsonl`

/** The side file of a table at `target`. */
export function lateSide(target: string): SideFile {
  const final = lateFileOf(target)
  return {final, partial: `${final}${PARTIAL}`, optional: true}
}

/** Late fields by their row, read in step with the rows. */
export class LateFields {
  readonly #lines: AsyncGenerator<string> | undefined
  #ahead: {readonly row: number; readonly fields: Fields} | undefined
  #begun = false
  lines = 0

  constructor(
    readonly file: string | undefined,
    readonly name: string
  ) {
    if (file !== undefined) this.#lines = new ByteReader(fileBytes(file)).lines()
  }

  async #next(): Promise<void> {
    const {value, done} = await this.#lines!.next()
    const found = done ? undefined : jsonObjectOr(value as string)
    if (!done && !(isObject(found?.['fields']) && Number.isSafeInteger(found['row'])))
      throw damagedTable(this.name, `line ${this.lines + 1} of ${this.file!} is not fields of a row`)
    if (!done) this.lines++
    this.#ahead = done ? undefined : {row: found!['row'] as number, fields: found!['fields'] as Fields}
  }

  /** The fields of row number `row`; rows are asked for in order. */
  async of(row: number): Promise<Fields | undefined> {
    if (!this.#lines) return undefined
    if (!this.#begun) await this.#next()
    this.#begun = true
    if (this.#ahead?.row !== row) return undefined
    const {fields} = this.#ahead
    await this.#next()
    return fields
  }

  /** Refuses lines that belong to no row. */
  end(): void {
    if (this.#ahead) throw damagedTable(this.name, `${this.file!} goes on behind its last row, or its rows are in another order`)
  }

  async close(): Promise<void> {
    await this.#lines?.return(undefined)
  }
}

/** Where the lines end that belong to the first `rows` rows of an interrupted table. */
export async function lateEndBefore(file: string, rows: number): Promise<number> {
  let end = 0
  for await (const line of new ByteReader(fileBytes(file)).lines()) {
    const row = jsonObjectOr(line)?.['row']
    if (typeof row !== 'number' || row >= rows) break
    end += Buffer.byteLength(line) + 1
  }
  return end
}
