/**
 * Fields of rows as columns of a table, for the formats that have a schema (Arrow, Parquet, CSV).
 *
 * The columns are fixed by the first batch: a field whose values there are all strings, all numbers or all booleans
 * becomes a column of that kind. Whatever does not fit (a field never seen before, a value of another kind, a list or
 * an object, a field that has the name of one of our own columns) travels as JSON in one more column, `extra`, which a
 * table has where its first batch needs it, and otherwise beside the rows: nothing is lost and nothing is refused.
 */
import {UserError} from '../../config/errors.js'
import {isObject, parseJson} from '../../system/json.js'
import type {Fields} from './rows.js'

export type ColumnKind = 'string' | 'number' | 'boolean'
export type Column = {readonly name: string; readonly kind: ColumnKind}
/** The columns of a table, and whether it has a column `extra` for what fits none of them. */
export type TableColumns = {readonly columns: readonly Column[]; readonly hasExtra: boolean}
export type CellValue = string | number | boolean | null

/** Our own columns; JSON Lines use the same words as keys. */
export const reservedNames: ReadonlySet<string> = new Set(['id', 'vector', 'extra', 'dinov2'])

/** Names of columns that name rows, in small letters, where there is no column `id`. */
const idNames = new Set([
  'id',
  'image_id',
  'imageid',
  'filename',
  'file_name',
  'filepath',
  'file_path',
  'image',
  'image_path',
  'path',
  'key'
])

/**
 * The place of the column that names rows, among columns that can: `id`, else `ID` or `Id`, else the only one that is
 * called `filename`, `file_name`, `image_id`, `path` or the like, in any letters. -1 where there is none. `UserError`
 * where there are several: rows that are numbered instead, or named by the wrong one, would pass for others.
 */
export function idPlace(names: readonly (string | undefined)[], file: string): number {
  const exact = names.indexOf('id')
  if (exact >= 0) return exact
  const places = (fits: (name: string) => boolean): number[] =>
    names.flatMap((name, i) => (name !== undefined && fits(name.toLowerCase()) ? [i] : []))
  const same = places(name => name === 'id')
  const alike = same.length > 0 ? same : places(name => idNames.has(name))
  if (alike.length > 1) {
    const titles = alike.map(i => names[i]).join(', ')
    throw new UserError(`Several columns of ${file} could name its rows: ${titles}; expected one that is called id.`, {
      code: 'NO_IDS',
      hint: 'Rename the one that names the images to id.'
    })
  }
  return alike[0] ?? -1
}

const kindOf = (value: unknown): ColumnKind | undefined =>
  typeof value === 'string' || typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))
    ? (typeof value as ColumnKind)
    : undefined

/** Chooses the columns from the first batch, in order of first appearance. `refused` names belong to the format. */
function planColumns(fields: readonly Fields[], refused: (name: string) => boolean): Column[] {
  const kinds = new Map<string, ColumnKind | 'mixed'>()
  for (const row of fields) {
    for (const [name, value] of Object.entries(row)) {
      if (value === null || value === undefined || reservedNames.has(name) || refused(name)) continue
      const kind = kindOf(value) ?? 'mixed'
      const had = kinds.get(name)
      kinds.set(name, had === undefined || had === kind ? kind : 'mixed')
    }
  }
  return [...kinds].flatMap(([name, kind]) => (kind === 'mixed' ? [] : [{name, kind}]))
}

/**
 * Chooses the columns from the first batch, and a column `extra` where a row of it has more; so a table has no column
 * that is empty from its beginning. `refused` and `emptyIsMissing`: see `planColumns` and `splitFields`.
 */
export function planTable(
  fields: readonly Fields[],
  refused: (name: string) => boolean = () => false,
  emptyIsMissing = false
): TableColumns {
  const columns = planColumns(fields, refused)
  return {columns, hasExtra: fields.some(row => splitFields(columns, row, emptyIsMissing).extra !== null)}
}

const places = new WeakMap<readonly Column[], ReadonlyMap<string, number>>()

/** The columns of a table by name, found once: rows of many fields would look for each among all. */
function placesOf(columns: readonly Column[]): ReadonlyMap<string, number> {
  const found = places.get(columns) ?? new Map(columns.map(({name}, at) => [name, at]))
  places.set(columns, found)
  return found
}

/**
 * Splits one row's fields into a cell for each column and the JSON of the rest (null when nothing is left over).
 * `emptyIsMissing`: the format cannot tell an empty text from none, so an empty text travels in the rest.
 */
export function splitFields(
  columns: readonly Column[],
  fields: Fields,
  emptyIsMissing = false
): {cells: CellValue[]; extra: string | null} {
  const cells: CellValue[] = columns.map(() => null)
  const rest: [string, unknown][] = []
  const byName = placesOf(columns)
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    const at = byName.get(name) ?? -1
    if (at >= 0 && kindOf(value) === columns[at]!.kind && !(emptyIsMissing && value === '')) cells[at] = value as CellValue
    else rest.push([name, value])
  }
  return {cells, extra: rest.length === 0 ? null : JSON.stringify(Object.fromEntries(rest))}
}

/** Puts cells and rest together again; empty cells are no fields. */
export function joinFields(columns: readonly Pick<Column, 'name'>[], cells: readonly unknown[], extra: string | null | undefined): Fields {
  const entries: [string, unknown][] = []
  for (const [i, {name}] of columns.entries()) if (cells[i] !== null && cells[i] !== undefined) entries.push([name, cells[i]])
  if (extra) {
    const rest = parseJson(extra)
    if (!isObject(rest)) throw new RangeError('its column extra holds no fields')
    entries.push(...Object.entries(rest))
  }
  return Object.fromEntries(entries)
}
