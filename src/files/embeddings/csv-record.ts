/**
 * The record of a CSV table: beside it, or in its cells `dinov2`, how its vectors were made in the first row and a
 * checksum of the vector in each.
 */
import {UserError} from '../../config/errors.js'
import {isObject, jsonObjectOr, parseJson} from '../../system/json.js'
import type {ColumnKind} from './columns.js'
import {metaFromJson, recordCheck, type EmbeddingMeta} from './provenance.js'
import type {RecordBeside} from './record-beside.js'

/** Bytes of a table that were cut off or changed. */
export const damagedTable = (name: string, why: string, cause?: unknown): UserError =>
  new UserError(`${name} is damaged: ${why}.`, {
    code: 'EMBEDDINGS_DAMAGED',
    hint: 'It was cut off or changed after it was written; write it again.',
    cause
  })

/** What the first row says of the whole: the record, and the kinds of columns. */
export type Said = {
  readonly meta: EmbeddingMeta | undefined
  readonly kinds: Readonly<Record<string, ColumnKind>>
  readonly check: string | undefined
  /** Whether texts carry a quote where a spreadsheet would take them for formulas. */
  readonly safe: boolean
}

const areKinds = (kinds: unknown): boolean => isObject(kinds) && Object.values(kinds).every(kind => kind === 'number' || kind === 'boolean')

/** Reads the cell of the first row. Throws `UserError` where it is not one, or is damaged. */
export function recordOf(cell: string | undefined, name: string): Said {
  if (cell === undefined) return {meta: undefined, kinds: {}, check: undefined, safe: false}
  let found: unknown
  try {
    found = parseJson(cell)
    if (!isObject(found)) throw new SyntaxError('it is no object')
  } catch (error) {
    throw new UserError(
      `The first row of ${name} does not carry the record of how its vectors were made: its cell dinov2 is ${cell ? 'no JSON object' : 'empty'}.`,
      {
        code: 'EMBEDDINGS_DAMAGED',
        hint: 'Was the first row removed or moved? Put it back, or drop the column dinov2.',
        cause: error
      }
    )
  }
  const meta = metaFromJson(found as object, name)
  const {kinds, crc32, record_crc32: own, safe} = found
  if (own !== undefined && own !== recordCheck(meta)) throw damagedTable(name, 'the record in its first row does not match its checksum')
  if (kinds !== undefined && !areKinds(kinds)) throw damagedTable(name, 'the record in its first row does not say what its columns hold')
  return {meta, kinds: (kinds ?? {}) as Said['kinds'], check: typeof crc32 === 'string' ? crc32 : undefined, safe: safe === true}
}

/** What the record beside a table says of the whole. Throws `UserError` where it is damaged. */
export function saidBeside({meta, all}: RecordBeside, name: string): Said {
  const {kinds, safe} = all
  if (kinds !== undefined && !areKinds(kinds)) throw damagedTable(name, 'the record beside it does not say what its columns hold')
  return {meta, kinds: (kinds ?? {}) as Said['kinds'], check: undefined, safe: safe === true}
}

/**
 * Reads the cell of a later row: its checksum, or an object of that and of the fields that fit no column. Throws
 * `UserError` where it is neither.
 */
export function rowRecordOf(cell: string, name: string, row: number): {readonly check?: string | undefined; readonly rest?: string} {
  if (!cell.startsWith('{')) return {check: cell || undefined}
  const found = jsonObjectOr(cell)
  if (typeof found?.['crc32'] !== 'string' || !isObject(found['extra']))
    throw damagedTable(name, `the cell dinov2 of row ${row} holds neither a checksum nor a checksum with fields`)
  return {check: found['crc32'], rest: JSON.stringify(found['extra'])}
}
