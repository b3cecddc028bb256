/** Ids and fields of an index: JSON Lines, one a row in order, `null` for a row that was removed from a graph. */
import {UserError} from '../../config/errors.js'
import {isObject, parseJson} from '../../system/json.js'
import {rowFields} from '../embeddings/row-lines.js'
import type {Fields} from '../embeddings/rows.js'

/** A row of the table; null where it was removed. */
export type RowLine = {readonly id: string; readonly fields: Fields} | null

/** The table, kept as the bytes it was read as and parsed when a row is asked for. */
export class IndexRows {
  readonly #bytes: Buffer
  readonly #starts: Float64Array
  readonly #path: string
  /** Rows that were not removed. */
  readonly present: number

  /** Throws `RangeError` where there are more or fewer lines than `count`. */
  constructor(bytes: Buffer, count: number, path: string) {
    if (count > bytes.length) throw new RangeError(`its table of rows has ${bytes.length} bytes for ${count} rows`)
    this.#bytes = bytes
    this.#path = path
    this.#starts = new Float64Array(count + 1)
    let [at, removed] = [0, 0]
    for (let i = 0; i < count; i++) {
      this.#starts[i] = at
      const end = bytes.indexOf(10, at)
      if (end < 0) throw new RangeError(`its table of rows ends after ${i} of ${count}`)
      if (bytes[at] === 110) removed++ // the n of null
      this.#starts[i + 1] = at = end + 1
    }
    if (at !== bytes.length) throw new RangeError(`its table goes on behind ${count} rows`)
    this.present = count - removed
  }

  get count(): number {
    return this.#starts.length - 1
  }

  isRemoved(i: number): boolean {
    return this.#bytes[this.#starts[i]!] === 110
  }

  /** Row i; null when it was removed. Throws `UserError` where its line is damaged. */
  at(i: number): RowLine {
    if (this.isRemoved(i)) return null
    try {
      const row = parseJson(this.#bytes.toString('utf8', this.#starts[i]!, this.#starts[i + 1]! - 1))
      if (!isObject(row) || typeof row['id'] !== 'string') throw new SyntaxError('it has no id')
      return {id: row['id'], fields: rowFields(row, true)}
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
      throw new UserError(`${this.#path} is damaged: line ${i + 1} of its rows cannot be read (${error.message}).`, {
        code: 'INDEX_DAMAGED',
        hint: 'Make it again from the embeddings.',
        cause: error
      })
    }
  }

  *[Symbol.iterator](): Generator<RowLine> {
    for (let i = 0; i < this.count; i++) yield this.at(i)
  }
}
