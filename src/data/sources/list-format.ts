/** What a list is, by its first bytes and its first line: its encoding, its separator and the column of its paths. */
import {isUtf8} from 'node:buffer'
import {TextDecoder} from 'node:util'
import {UserError} from '../../config/errors.js'
import {jsonObjectOr} from '../../system/json.js'

export type ListFormat = 'lines' | 'nul' | 'jsonl' | 'csv' | 'tsv'

/** Names under which a table or a JSON list may give the path, the first that is there. */
export const PATH_NAMES = [
  'path',
  'filepath',
  'file_path',
  'filename',
  'file_name',
  'file',
  'image_path',
  'image',
  'img_path',
  'img'
] as const

const DELIMITERS = [',', ';', '\t', '|'] as const
const DELIMITER_NAMES: Readonly<Record<string, string>> = {',': 'commas', ';': 'semicolons', '\t': 'tabs', '|': 'bars'}

/** The cells of a header line. */
const cellsOf = (line: string, delimiter: string): string[] => line.split(delimiter).map(cell => columnName(cell))

/** A column's name without spaces and quotation marks around it. */
export function columnName(cell: string): string {
  const text = cell.trim()
  return text.length > 1 && text.startsWith('"') && text.endsWith('"') ? text.slice(1, -1).trim() : text
}

/** The column that holds the paths, by its number; -1 where there is none. */
export function pathColumn(columns: readonly string[]): number {
  const lower = columns.map(name => name.toLowerCase())
  const exact = columns.indexOf('path')
  if (exact >= 0) return exact
  for (const name of PATH_NAMES) if (lower.includes(name)) return lower.indexOf(name)
  return -1
}

/**
 * The separator of a table by its header. Throws `UserError` (exit 2) naming separator and columns where no column
 * is one of paths.
 */
export function tableDelimiter(header: string, name: string): string {
  const found = DELIMITERS.filter(delimiter => pathColumn(cellsOf(header, delimiter)) >= 0)
  const counts = (delimiter: string): number => header.split(delimiter).length
  const byCount = (some: readonly string[]): string => [...some].sort((a, b) => counts(b) - counts(a))[0]!
  if (found.length > 0) return byCount(found)
  const delimiter = byCount(DELIMITERS)
  const columns = cellsOf(header, delimiter).map(cell => (cell.length > 40 ? `${cell.slice(0, 40)}…` : cell))
  const parts = columns.length > 1 ? `, separated by ${DELIMITER_NAMES[delimiter]},` : ''
  throw new UserError(
    `${name} has no column of paths: its first line${parts} gives the column${columns.length > 1 ? 's' : ''} ${columns.slice(0, 8).join(', ')}${columns.length > 8 ? ', …' : ''}.`,
    {
      exit: 2,
      code: 'BAD_LIST',
      hint: `The first line names the columns; call that of the paths path (or ${PATH_NAMES.slice(1, 5).join(', ')}).`
    }
  )
}

/** What a list without a telling name is, by its first line. */
export function sniffList(first: string): ListFormat {
  if (first.startsWith('{') && jsonObjectOr(first)) return 'jsonl'
  for (const delimiter of DELIMITERS) {
    const cells = cellsOf(first, delimiter)
    const isHeader = cells.includes('path') || (cells.length > 1 && !/[./]/.test(first) && pathColumn(cells) >= 0) // no list of names
    if (isHeader) return delimiter === '\t' ? 'tsv' : 'csv'
  }
  return 'lines'
}

/** Whether these first bytes are names with a NUL behind each, as `find -print0` writes them. */
export function isNulList(head: Uint8Array): boolean {
  const end = head.indexOf(0)
  if (end <= 0) return false
  if (head.subarray(0, end).includes(0x0a)) return false // lines, one of which holds a NUL
  const names = Buffer.from(head.buffer, head.byteOffset, head.length)
  for (let at = 0; at < names.length;) {
    const next = names.indexOf(0, at)
    const name = names.subarray(at, next < 0 ? names.length : next)
    if (name.length === 0) return false
    for (const byte of name) if (byte < 0x20 && byte !== 0x0a && byte !== 0x09) return false
    if (next >= 0 && at === 0 && !isUtf8(name)) return false
    at = next < 0 ? names.length : next + 1
  }
  return true
}

/** UTF-16 by its mark, or by every second of its first bytes being 0. */
function utf16Of(head: Buffer): 'little' | 'big' | undefined {
  if (head[0] === 0xff && head[1] === 0xfe) return 'little'
  if (head[0] === 0xfe && head[1] === 0xff) return 'big'
  if (head.length < 8) return undefined
  let [even, odd] = [0, 0]
  const length = Math.min(64, head.length) & ~1
  for (let i = 0; i < length; i += 2) {
    if (head[i] === 0) even++
    if (head[i + 1] === 0) odd++
  }
  const most = (length / 2) * 0.8
  return odd > most && even === 0 ? 'little' : even > most && odd === 0 ? 'big' : undefined
}

/** The bytes of a list as they come, in UTF-8 where the list is in UTF-16; other encodings as they are. */
export async function* asUtf8(source: AsyncIterable<Buffer | string>): AsyncGenerator<Buffer> {
  let encoding: ReturnType<typeof utf16Of> | 'other'
  let rest: Buffer = Buffer.alloc(0)
  let decoder: TextDecoder | undefined
  for await (const piece of source) {
    const block = Buffer.concat([rest, typeof piece === 'string' ? Buffer.from(piece) : piece])
    rest = Buffer.alloc(0)
    if (encoding === undefined) {
      if (block.length < 2) {
        rest = block
        continue
      }
      encoding = utf16Of(block) ?? 'other'
      if (encoding !== 'other') decoder = new TextDecoder(encoding === 'little' ? 'utf-16le' : 'utf-16be')
    }
    yield decoder ? Buffer.from(decoder.decode(block, {stream: true})) : block
  }
  if (rest.length > 0) yield rest
}
