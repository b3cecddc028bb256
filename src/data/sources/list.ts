/**
 * Lists of images, one a row, read as a stream: lines, NUL-separated names, JSON Lines, CSV and TSV.
 *
 * Rows are cut out of large blocks and handed on in chunks, so ten million of them cost no await each and no memory
 * beyond a block. Empty lines, a byte order mark and Windows line ends are taken as they come. A row that names
 * nothing (broken JSON, no `path`) is yielded as a problem, so that it is counted with the other bad images and the
 * rest goes on.
 */
import {isUtf8} from 'node:buffer'
import {resolve, isAbsolute} from 'node:path'
import type {Readable} from 'node:stream'
import {parse} from 'csv-parse'
import {UserError} from '../../config/errors.js'
import {isCount, parseFields} from '../../system/json.js'
import {asUtf8, columnName, isNulList, PATH_NAMES, pathColumn, sniffList, tableDelimiter, type ListFormat} from './list-format.js'
import {problemRef, refOf, type ImageRef} from './image-ref.js'
import {changeFile, isParquetName} from './container-names.js'

export type ListOptions = {
  /** The list's own name, for the ids of rows that name nothing: `photos.jsonl:17`. */
  readonly name: string
  /** What relative paths are relative to; `''` leaves them as they are (relative to the process). */
  readonly base: string
  /**
   * Absent: JSON Lines where the first line is a JSON object, CSV where it is a header with a `path` column, else
   * lines.
   */
  readonly format?: ListFormat
}

const ROWS = 1024
/** First bytes by which a list of NUL-separated names is known. */
const HEAD = 4096
const LONGEST = 16 << 20
const LONG_HINT = 'A list made by `find -print0` is read with -0; an image itself is named, not piped.'
const NEWLINE = 0x0a
const RETURN = 0x0d
const SLASH = 0x2f

/** Behind the problem of a row that has no path: what to do where its id is one. */
const ONLY_ID = `, only an id; where ids are paths, jq -c '.path = .id' LIST | dinov2 COMMAND - reads them`

function opened(path: string | Buffer, base: string): string | Buffer {
  if (base === '') return path
  if (typeof path === 'string') return isAbsolute(path) ? path : changeFile(path, file => resolve(base, file))
  return path[0] === SLASH ? path : Buffer.concat([Buffer.from(`${base}/`), path])
}

/** `[offset, size]`: where an image lies in the file of its path, as lists write members of a tar shard. */
function rangeOf(range: unknown): {offset: number; size: number} | undefined {
  if (!Array.isArray(range) || range.length !== 2 || !range.every(n => Number.isSafeInteger(n) && (n as number) >= 0)) return undefined
  const [offset, size] = range as [number, number]
  return {offset, size}
}

/**
 * The image of one row of fields, or the problem with it. `path`, `id`, a `range` and the `row` of a Parquet file are
 * taken out; the rest rides along.
 */
function fromFields(row: Record<string, unknown>, line: number, {name, base}: ListOptions): ImageRef {
  const {id, path_base64: odd, range, row: number, ...others} = row
  const column = PATH_NAMES.find(key => typeof others[key] === 'string') ?? 'path'
  const {[column]: path, ...fields} = others
  if (id !== undefined && id !== null && typeof id !== 'string' && typeof id !== 'number')
    return problemRef(`${name}:${line}`, '', `line ${line} of ${name} has an id that is neither a text nor a number`)
  const given = id === undefined || id === null ? undefined : String(id)
  const bytes = typeof odd === 'string' && odd !== '' ? Buffer.from(odd, 'base64') : undefined
  if (!bytes && (typeof path !== 'string' || path === ''))
    return problemRef(given ?? `${name}:${line}`, '', `line ${line} of ${name} has no path${given === undefined ? '' : ONLY_ID}`)
  const shown = bytes ?? (path as string)
  if (shown.includes('\0')) return problemRef(given ?? `${name}:${line}`, '', `line ${line} of ${name} has a NUL inside its path`)
  const place = rangeOf(range)
  const inParquet = typeof shown === 'string' && isParquetName(shown) && isCount(number) ? number : undefined
  const riding = {
    ...fields,
    ...(place || range === undefined ? {} : {range}),
    ...(inParquet !== undefined || number === undefined ? {} : {row: number})
  }
  const plain = refOf(shown, opened(shown, base), riding)
  const found = {...plain, ...(place ? {range: place} : {}), ...(inParquet === undefined ? {} : {row: inParquet})}
  const ref = base === '' || Object.keys(fields).length === 0 ? found : {...found, base}
  if (given !== undefined && given !== '') return {...ref, id: given}
  return inParquet === undefined ? ref : {...ref, id: `${ref.id}/${inParquet}`}
}

function fromJson(text: string, line: number, options: ListOptions): ImageRef {
  try {
    return fromFields(parseFields(text), line, options)
  } catch (error) {
    const {message} = error as Error
    const why = message === 'it is no JSON object' ? '' : `: ${message}`
    return problemRef(`${options.name}:${line}`, '', `line ${line} of ${options.name} is not a JSON object${why}`)
  }
}

export {sniffList, type ListFormat} from './list-format.js'

/** Whole rows of the stream as blocks that end with the separator (the last one may not). */
async function* blocks(source: AsyncIterable<Buffer | string>, separator: number, name: string): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  let start = true
  let held = 0
  for await (const piece of source) {
    let block = typeof piece === 'string' ? Buffer.from(piece) : piece
    if (start && block.length > 0) {
      if (rest.length > 0) block = Buffer.concat([...rest.splice(0), block])
      if (block.length < 3 && block[0] === 0xef) {
        rest.push(block) // perhaps the beginning of a byte order mark
        continue
      }
      if (block[0] === 0xef && block[1] === 0xbb && block[2] === 0xbf) block = block.subarray(3)
      start = false
    }
    const end = block.lastIndexOf(separator)
    if (end < 0) {
      rest.push(block)
      held += block.length
      if (held > LONGEST)
        throw new UserError(`A row of ${name} is longer than ${LONGEST} bytes.`, {exit: 2, code: 'BAD_LIST', hint: LONG_HINT})
    } else {
      const head = block.subarray(0, end + 1)
      yield rest.length > 0 ? Buffer.concat([...rest, head]) : head
      rest = end + 1 < block.length ? [block.subarray(end + 1)] : []
      held = block.length - end - 1
    }
  }
  if (rest.length > 0) yield Buffer.concat(rest)
}

/** The rows of a block as text where all of it is UTF-8 (the common case, one conversion), else each by itself. */
function rowsOf(block: Buffer, separator: number): (string | Buffer)[] {
  if (isUtf8(block)) return block.toString('utf8').split(separator === 0 ? '\0' : '\n')
  const rows: (string | Buffer)[] = []
  for (let at = 0; at < block.length;) {
    const end = block.indexOf(separator, at)
    const row = block.subarray(at, end < 0 ? block.length : end)
    rows.push(isUtf8(row) ? row.toString('utf8') : Buffer.from(row))
    at = end < 0 ? block.length : end + 1
  }
  return rows
}

const withoutReturn = (row: string | Buffer): string | Buffer =>
  typeof row === 'string' ? (row.endsWith('\r') ? row.slice(0, -1) : row) : row.at(-1) === RETURN ? row.subarray(0, -1) : row

/** Puts a block that was looked at back in front of the others. */
async function* again(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield first
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value
}

/** The names of the columns, that of the paths as `path`. Throws `UserError` where two are called the same. */
function columnsOf(header: readonly string[], name: string): string[] {
  const names = header.map(cell => columnName(cell))
  const column = pathColumn(names)
  const seen = new Set<string>()
  const twice = names.find(title => title !== '' && (seen.has(title) || void seen.add(title)))
  if (twice !== undefined)
    throw new UserError(`${name} has two columns that are called ${twice}.`, {exit: 2, code: 'BAD_LIST', hint: 'Rename one of them.'})
  return names.map((title, i) => (i === column ? 'path' : title))
}

/** A row of a table as an image; a row with more cells than there are columns has come apart. */
function fromCells(cells: readonly string[], columns: readonly string[], line: number, options: ListOptions, odd: boolean): ImageRef {
  const problem = (why: string): ImageRef => problemRef(`${options.name}:${line}`, '', `line ${line} of ${options.name} ${why}`)
  if (cells.slice(columns.length).some(cell => cell.trim() !== ''))
    return problem(`has ${cells.length} cells, but there are ${columns.length} columns; a separator within a cell needs quotation marks`)
  if (odd && cells.some(cell => cell.includes('\ufffd'))) return problem('is not UTF-8 text')
  return fromFields(Object.fromEntries(columns.flatMap((column, i) => (i < cells.length ? [[column, cells[i]]] : []))), line, options)
}

async function* table(pieces: AsyncIterable<Buffer>, delimiter: string, options: ListOptions): AsyncGenerator<ImageRef[]> {
  const parser = parse({delimiter, bom: true, relax_column_count: true, skip_empty_lines: true, info: true})
  let odd = false // bytes that are no UTF-8 were seen
  let wake = (): void => undefined
  parser.on('drain', () => wake()).on('close', () => wake())
  const feed = async (): Promise<void> => {
    for await (const piece of pieces) {
      if (parser.destroyed) return
      odd ||= !isUtf8(piece)
      if (!parser.write(piece)) await new Promise<void>(resume => (wake = resume))
    }
    parser.end()
  }
  feed().catch((error: Error) => parser.destroy(error))
  let ready: ImageRef[] = []
  let line = 1
  let columns: string[] | undefined
  try {
    for await (const {record, info} of parser as AsyncIterable<{record: string[]; info: {lines: number}}>) {
      line = info.lines
      if (!columns) {
        columns = columnsOf(record, options.name)
        continue
      }
      ready.push(fromCells(record, columns, line, options, odd))
      if (ready.length >= ROWS) {
        yield ready
        ready = []
      }
    }
  } catch (error) {
    if (error instanceof UserError) throw error
    ready.push(problemRef(options.name, '', `the table ${options.name} cannot be read after line ${line} (${(error as Error).message})`))
  } finally {
    parser.destroy() // the feeding loop ends by itself, at the latest when the source is closed
  }
  if (ready.length > 0) yield ready
}

/** Yields the images of a list, some at a time, in its order. */
export async function* readList(source: Readable | AsyncIterable<Buffer | string>, options: ListOptions): AsyncGenerator<ImageRef[]> {
  const bytes = asUtf8(source as AsyncIterable<Buffer | string>)
  const head = await bytes.next()
  const isNul = options.format === 'nul' || (options.format === undefined && !head.done && isNulList(head.value.subarray(0, HEAD)))
  const separator = isNul ? 0 : NEWLINE
  const pieces = blocks(head.done ? bytes : again(head.value, bytes), separator, options.name)
  try {
    let first = await pieces.next()
    while (!first.done && !isNul && first.value.toString('latin1').trim() === '') first = await pieces.next() // blank lines in front
    if (first.done) return
    const line = (first.value.toString('utf8').trimStart().split(/\r?\n/, 1)[0] ?? '').trim()
    const format = isNul ? 'nul' : (options.format ?? sniffList(line))
    const all = again(first.value, pieces)
    if (format === 'csv' || format === 'tsv') yield* table(all, tableDelimiter(line, options.name), options)
    else yield* rows(all, format, separator, options)
  } finally {
    if ('destroy' in source) source.destroy() // whoever waits for more of it is let go
    await pieces.return(undefined)
  }
}

async function* rows(
  pieces: AsyncIterable<Buffer>,
  format: ListFormat,
  separator: number,
  options: ListOptions
): AsyncGenerator<ImageRef[]> {
  let line = 0
  for await (const piece of pieces) {
    let ready: ImageRef[] = []
    const found = rowsOf(piece, separator)
    const ended = piece.at(-1) === separator
    for (const [i, raw] of found.entries()) {
      if (i === found.length - 1 && raw.length === 0 && ended) break // behind the last separator there is no row
      line++
      const row = format === 'nul' ? raw : withoutReturn(raw)
      if (row.length === 0) continue
      if (format === 'jsonl') {
        if (typeof row !== 'string')
          ready.push(problemRef(`${options.name}:${line}`, '', `line ${line} of ${options.name} is not UTF-8 text`))
        else if (row.trim() !== '') ready.push(fromJson(row, line, options))
      } else
        ready.push(
          typeof row === 'string' && row.includes('\0')
            ? problemRef(`${options.name}:${line}`, '', NUL_INSIDE)
            : refOf(row, opened(row, options.base))
        )
      if (ready.length >= ROWS) {
        yield ready
        ready = []
      }
    }
    if (ready.length > 0) yield ready
  }
}

const NUL_INSIDE = 'the line holds a NUL; a list made by `find -print0` is read with -0'
