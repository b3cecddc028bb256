/**
 * Rows without their vectors, as lines of JSON: `{"id": …, …fields}`. They stand beside `.npy` and inside
 * `.safetensors` and indexes. A field with the name of one of our own keys travels in `extra`.
 */
import {UserError} from '../../config/errors.js'
import {isObject, parseRow} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from './bytes.js'
import {reservedNames} from './columns.js'
import type {Fields} from './rows.js'

/** Fields as JSON members, each with its comma behind it. */
export function fieldMembers(fields: Fields): string {
  let text = ''
  const extra: [string, unknown][] = []
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    if (reservedNames.has(name)) extra.push([name, value])
    else text += `${JSON.stringify(name)}:${JSON.stringify(value)},`
  }
  return extra.length === 0 ? text : `${text}"extra":${JSON.stringify(Object.fromEntries(extra))},`
}

/** Takes the fields out of a parsed row again. `ours`: the key `extra` holds fields with reserved names. */
export function rowFields(row: Readonly<Record<string, unknown>>, ours: boolean): Fields {
  const {id: _id, vector: _vector, dinov2: _dinov2, extra, ...fields} = row
  if (ours && isObject(extra)) return {...fields, ...extra}
  return extra === undefined ? fields : {...fields, extra}
}

/** Parses a line of JSON that must be an object. Throws `UserError` naming the line. */
export function parseObject(line: string, name: string, number: number): Readonly<Record<string, unknown>> {
  try {
    return parseRow(line)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    // Python writes these words, which are no JSON.
    const word =
      /(?:^|[[,:\s])(NaN|-?Infinity)(?=[\],}\s])/.exec(line.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""'))?.[1] ??
      /^it holds a number that is not finite \((.*)\)$/.exec(error.message)?.[1]
    if (word !== undefined)
      throw new UserError(`Line ${number} of ${name} holds a number that is not finite (${word}).`, {
        code: 'NOT_FINITE',
        hint: 'Leave the row out, or make it again with finite numbers.',
        cause: error
      })
    throw new UserError(`Line ${number} of ${name} is not JSON of a row: ${error.message}.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Expected one JSON object a line.',
      cause: error
    })
  }
}

/** The id of a parsed row. Throws `UserError` where it is neither a text nor a number. */
export function idOf(row: Readonly<Record<string, unknown>>, name: string, number: number): string {
  const {id} = row
  if ((typeof id === 'string' && id !== '') || (typeof id === 'number' && Number.isFinite(id))) return String(id)
  throw new UserError(
    `Line ${number} of ${name} has ${id === undefined || id === null || id === '' ? 'no id' : 'an id that is no text'}.`,
    {
      code: 'NO_IDS',
      hint: 'Give each row an "id", a text or a number.'
    }
  )
}

/** One row as a line. */
export function rowLine(id: string, fields: Fields): string {
  const members = fieldMembers(fields)
  return `{"id":${JSON.stringify(id)}${members === '' ? '' : `,${members.slice(0, -1)}`}}\n`
}

/** A row of a list of lines; `record` is what stands under `dinov2` in files of earlier versions. */
export type LineRow = {readonly id: string; readonly fields: Fields; readonly record: unknown}

/**
 * Ids and fields of a list of lines. `ours`: it was written by this program; without it, that follows from a record
 * in the first line.
 */
export async function* lineRows(bytes: ByteReader, name: string, {ours = false} = {}): AsyncGenerator<LineRow> {
  let number = 0
  let own = ours
  let named: boolean | undefined
  for await (const line of bytes.lines()) {
    if (line.trim() === '') continue
    const row = parseObject(line, name, ++number)
    if (row['dinov2'] !== undefined) own = true
    named ??= row['id'] !== undefined
    // Rows of a list that names none are named by their number; once one has an id, all need one.
    const id = named ? idOf(row, name, number) : String(number - 1)
    if (!named && row['id'] !== undefined) idOf({}, name, 1)
    yield {id, fields: rowFields(row, own), record: row['dinov2']}
  }
}

/** Ids and fields of a list of ours. */
export const ownLines = (list: string): AsyncGenerator<LineRow> => lineRows(new ByteReader(fileBytes(list)), list, {ours: true})

/**
 * Where the last whole line of an interrupted file ends when only `multiple`s of rows count, and how many rows that
 * is. `upTo`: no more rows than these. `quotes`: a line end between double quotes belongs to a cell (CSV).
 */
export async function recoverLines(
  path: string,
  {multiple = 1, header = 0, quotes = false, upTo = Infinity} = {}
): Promise<{end: number; rows: number}> {
  let lines = 0
  let at = 0
  let inside = false
  let kept = {end: 0, rows: 0}
  for await (const chunk of fileBytes(path)) {
    for (let i = quotes ? 0 : chunk.indexOf(10); i >= 0 && i < chunk.length; i = quotes ? i + 1 : chunk.indexOf(10, i + 1)) {
      if (quotes && chunk[i] === 34) inside = !inside
      if (chunk[i] !== 10 || inside) continue
      const rows = ++lines - header
      if (rows >= 0 && rows % multiple === 0 && rows <= upTo) kept = {end: at + i + 1, rows}
    }
    at += chunk.length
  }
  return kept
}
