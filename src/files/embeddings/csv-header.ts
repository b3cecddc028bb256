/** Which columns of a CSV file are ids, vectors and fields, and by what its cells are separated. */
import {idPlace} from './columns.js'
import {noteNumbered} from './file-notes.js'
import {UserError} from '../../config/errors.js'

/** What separates cells: of comma, semicolon, tab and bar, the one that the first line has most of outside quotes. */
export function separatorOf(head: string): ',' | ';' | '\t' | '|' {
  const line = head.replace(/"[^"]*"/g, '').split(/\r?\n/, 1)[0]!
  const counts = ([',', ';', '\t', '|'] as const).map(separator => ({separator, n: line.split(separator).length}))
  return counts.reduce((best, next) => (next.n > best.n ? next : best)).separator
}

export const separatorNames: Readonly<Record<string, string>> = {',': 'commas', ';': 'semicolons', '\t': 'tabs', '|': 'bars'}

/**
 * Columns by their place: those of the vector in order, of the id, of the record and of fields. Absent ones are -1.
 */
export type CsvLayout = {
  readonly vector: readonly number[]
  readonly id: number
  readonly record: number
  readonly extra: number
  readonly fields: readonly {readonly name: string; readonly column: number}[]
}

const OURS = 'v'

/**
 * Columns whose names are one word and a rising number: `v0`, `v1` … or `emb_0`, `emb_1` … or `0`, `1` …, by that
 * word.
 */
function families(header: readonly string[]): Map<string, {readonly number: number; readonly column: number}[]> {
  const found = new Map<string, {number: number; column: number}[]>()
  for (const [column, name] of header.entries()) {
    const digits = /\d{1,7}$/.exec(name)?.[0]
    if (digits === undefined) continue
    const word = name.slice(0, -digits.length)
    const family = found.get(word)
    if (family) family.push({number: Number(digits), column})
    else found.set(word, [{number: Number(digits), column}])
  }
  return found
}

/** The places of a family's columns in order, or what is wrong with it. */
function inOrder(word: string, family: {readonly number: number; readonly column: number}[]): number[] | string {
  const order = [...family].sort((a, b) => a.number - b.number)
  const first = order[0]!.number === 1 && word !== OURS ? 1 : 0
  for (const [i, {number}] of order.entries()) {
    if (number === first + i) continue
    const twice = i > 0 && order[i - 1]!.number === number
    return twice ? `it has two columns ${word}${number}` : `it lacks the column ${word}${first + i}`
  }
  return order.map(({column}) => column)
}

/**
 * The columns of the vector. Throws `UserError` naming columns and separator where there are none, or one is missing
 * or doubled.
 */
function vectorColumns(header: readonly string[], name: string, separator: string): number[] {
  const all = families(header)
  const many = [...all].filter(([, family]) => family.length > 1)
  const chosen = all.has(OURS) ? ([OURS, all.get(OURS)!] as const) : many.length === 1 ? many[0] : undefined
  const found = chosen ? inOrder(chosen[0], chosen[1]) : 'it has no columns v0, v1, …'
  if (typeof found !== 'string') return found
  const columns =
    header
      .map(column => column || '(without a name)')
      .slice(0, 12)
      .join(', ') + (header.length > 12 ? ', …' : '')
  throw new UserError(
    `${name} holds no whole vectors: ${found}; its ${header.length} columns, separated by ${separatorNames[separator]}, are ${columns || 'none'}.`,
    {
      code: 'NO_VECTORS',
      hint: 'Name the columns of the vector v0, v1, … and that of the names id; cells are separated by commas, semicolons, tabs or bars.'
    }
  )
}

/** Finds ids, vectors and fields in the first line. Throws `UserError` where a column is missing or there twice. */
export function csvLayout(header: readonly string[], name: string, separator: string): CsvLayout {
  const vector = vectorColumns(header, name, separator)
  const taken = new Set(vector)
  const seen = new Set<string>()
  for (const [column, title] of header.entries()) {
    if (taken.has(column)) continue
    if (seen.has(title))
      throw new UserError(`${name} has two columns that are called ${title || '(nothing)'}.`, {
        code: 'NO_VECTORS',
        hint: 'Rename one of them.'
      })
    seen.add(title)
  }
  const place = (title: string): number => header.findIndex((found, column) => found === title && !taken.has(column))
  // pandas writes its index first, without a name: it names rows where nothing else does, and is only a count of
  // them otherwise.
  const index = header[0] === '' || header[0] === 'Unnamed: 0' ? 0 : -1
  const names = header.map((title, column) => (taken.has(column) ? undefined : title))
  const like = idPlace(names, name)
  const id = like >= 0 ? like : index
  const [record, extra] = [place('dinov2'), place('extra')]
  const fields = header.flatMap((title, column) =>
    taken.has(column) || [id, record, index].includes(column) ? [] : [{name: title, column}]
  )
  if (id < 0)
    noteNumbered(
      name,
      fields.map(({name: title}) => title)
    )
  return {vector, id, record, extra, fields}
}

/**
 * A text that a spreadsheet would take for a formula, behind the quote that makes it a text; one that begins with a
 * quote gets another, so that what is read is what was written.
 */
export const safeText = (text: string): string => (/^[=+\-@\t\r\n']/.test(text) ? `'${text}` : text)

/** What `safeText` was made of. */
export const readSafeText = (text: string): string => (text.startsWith("'") ? text.slice(1) : text)
