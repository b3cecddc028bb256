/**
 * The record of how vectors were made in a file of its own, `NAME.meta.json`: beside tables of text (CSV, JSON Lines)
 * and arrays, which have no place for it that a data frame would not take for a column.
 *
 * It also counts the rows and sums up their vectors, so that a table that was cut off, or belongs to another record,
 * is noticed. Rows may be reordered, and ids and fields edited; numbers and the number of rows may not.
 */
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {isObject, jsonObjectOr, parseJson, type JsonObject} from '../../system/json.js'
import {readText} from '../../system/plain-file.js'
import {writeAt} from './bytes.js'
import {TableCheck} from './content-check.js'
import type {OpenedRows, SideFile} from './format.js'
import {metaFromJson, plainMeta, recordCheck, type EmbeddingMeta} from './provenance.js'
import {rowsOf} from './rows.js'

const PARTIAL = '.partial'

/** The record beside a table of text; that of a table that is growing is growing as well. */
const recordOf = (path: string): string =>
  path.endsWith(PARTIAL) ? `${path.slice(0, -PARTIAL.length)}.meta.json${PARTIAL}` : `${path}.meta.json`

/** The side file of a table of text at `target`. */
export function recordSide(target: string): SideFile {
  const final = recordOf(target)
  return {final, partial: `${final}${PARTIAL}`}
}

const damaged = (message: string, hint = 'It was cut off, or changed by hand; write it again.'): UserError =>
  new UserError(message, {code: 'EMBEDDINGS_DAMAGED', hint})

/** What a record beside rows says; without counts and checksums in files of earlier versions, or while rows grow. */
export type RecordBeside = {
  readonly meta: EmbeddingMeta
  readonly rows?: number
  /** A checksum by its name. */
  sum(key: string): string | undefined
  /** The whole record. */
  readonly all: JsonObject
}

/** Writes the record; `more` stands behind how the vectors were made. */
export async function writeRecord(handle: FileHandle, meta: EmbeddingMeta, more: object): Promise<void> {
  await handle.truncate(0)
  await writeAt(handle, Buffer.from(`${JSON.stringify({dinov2: plainMeta(meta), ...more}, null, 2)}\n`), 0)
}

/**
 * Reads the record at `file`, which belongs to `path`; undefined where there is none. Throws `UserError` where it is
 * damaged.
 */
export async function readRecord(file: string, path: string): Promise<RecordBeside | undefined> {
  const text = await readText(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (text === undefined) return undefined
  let all: unknown
  try {
    all = parseJson(text)
  } catch {
    throw damaged(`${file}, which belongs to ${path}, is not JSON.`)
  }
  if (!isObject(all) || !isObject(all['dinov2']))
    throw damaged(`${file}, which belongs to ${path}, has no record of how its vectors were made.`)
  const {rows, crc32: sums} = all
  const sum = (key: string): string | undefined => (isObject(sums) && typeof sums[key] === 'string' ? (sums[key] as string) : undefined)
  if (rows !== undefined && !Number.isSafeInteger(rows)) throw damaged(`${file} counts ${JSON.stringify(rows)} rows.`)
  const meta = metaFromJson(all['dinov2'], file)
  if (sum('record') !== undefined && sum('record') !== recordCheck(meta))
    throw damaged(`The record in ${file} does not match its checksum.`)
  return {meta, rows: rows as number | undefined, sum, all}
}

/** The record that an interrupted run began; undefined where it began none, or not in this way. */
export async function begunRecord(file: string): Promise<EmbeddingMeta | undefined> {
  const record = await readText(file).then(
    text => jsonObjectOr(text)?.['dinov2'],
    () => undefined
  )
  return isObject(record) ? metaFromJson(record, file) : undefined
}

/** What the rows of an interrupted table sum up to. */
export async function sumRows({rows}: OpenedRows): Promise<TableCheck> {
  const check = new TableCheck()
  for await (const batch of rows) for (const {vector} of rowsOf(batch)) check.add(vector)
  return check
}

/** Writes the record of a whole table of text. */
export async function finishRecord(handle: FileHandle, meta: EmbeddingMeta, check: TableCheck, more: object): Promise<void> {
  await writeRecord(handle, meta, {...more, rows: check.rows, crc32: {vectors: check.toString(), record: recordCheck(meta)}})
}

/** Reads the record beside the table of text at `path`. */
export const recordOfTable = (path: string | undefined): Promise<RecordBeside | undefined> =>
  path === undefined ? Promise.resolve(undefined) : readRecord(recordOf(path), path)

/**
 * Compares a table of text that was read to its end with the record beside it. Throws `UserError` where they differ.
 */
export function assertWholeTable(name: string, path: string, {rows, sum}: RecordBeside, check: TableCheck): void {
  const file = recordOf(path)
  const hint = `Write it again, or remove ${file} where the change is meant: then nothing is known of how the vectors were made.`
  if (rows !== undefined && rows !== check.rows) throw damaged(`${name} has ${check.rows} rows, but ${file} counts ${rows}.`, hint)
  const vectors = sum('vectors')
  if (vectors !== undefined && vectors !== check.toString())
    throw damaged(`The vectors of ${name} are not those that ${file} was written for.`, hint)
}
