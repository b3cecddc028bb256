/**
 * The index as one self-contained file: what was indexed and how, ids and fields, and either the vectors (exact
 * search) or a graph.
 *
 *     8 bytes   "DINOV2IX"
 *     8 bytes   length of the header, little-endian
 *     header    JSON, padded with spaces to a multiple of 64 bytes
 *     rows      JSON Lines, one a row in order: {"id": …, …fields}; `null` for a row that was removed from a graph;
 *     padded with line ends to 64
 *     body      float32 [rows, dim], little-endian; or the graph as hnswlib writes it
 *
 * Rows and body have checksums in the header, and the header has one of its own. A graph is held against itself
 * before it is searched (`graph-check.ts`). Nothing in it depends on time or machine: the same rows and settings
 * give the same bytes.
 */
import {open, rm, type FileHandle} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {writeError} from '../../system/write-error.js'
import {openPlain} from '../../system/plain-file.js'
import {missingPathHint} from '../../config/missing-path.js'
import {crc32, crcText} from '../../system/crc32.js'
import {crcOfFile, fileSink, readAt, type Sink} from '../embeddings/bytes.js'
import {rowLine} from '../embeddings/row-lines.js'
import {checkGraph} from './graph-check.js'
import {headerBytes, parseHeader, type IndexHeader} from './index-header.js'
import {IndexRows, type RowLine} from './index-rows.js'

const magic = 'DINOV2IX'

export type {IndexHeader} from './index-header.js'

const padding = (length: number): number => (64 - (length % 64)) % 64

export {IndexRows, type RowLine} from './index-rows.js'
export type {Sink} from '../embeddings/bytes.js'

/** The bytes of a body, given as often as they are asked for: once to be summed up, once to be written. */
export type IndexBody = {readonly bytes: number; chunks(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>}

/** Writes a whole index to `sink`. Throws an error where the body is not as long as it was said to be. */
export async function writeIndex(sink: Sink, header: IndexHeader, lines: Iterable<RowLine>, body: IndexBody): Promise<void> {
  const parts: Buffer[] = []
  let text = ''
  for (const line of lines) {
    text += line === null ? 'null\n' : rowLine(line.id, line.fields)
    if (text.length < 1 << 20) continue
    parts.push(Buffer.from(text))
    text = ''
  }
  parts.push(Buffer.from(text))
  const rowBytes = parts.reduce((sum, part) => sum + part.length, 0)
  const rowsCrc = parts.reduce((crc, part) => crc32(part, crc), 0)
  let bodyCrc = 0
  for await (const chunk of body.chunks()) bodyCrc = crc32(chunk, bodyCrc)
  const checks = {rows: crcText(rowsCrc), body: crcText(bodyCrc)}
  const json = headerBytes(header, {rows: rowBytes, body: body.bytes, checks}, 16)
  const start = Buffer.alloc(16)
  start.write(magic, 'latin1')
  start.writeBigUInt64LE(BigInt(json.length), 8)
  await sink.write(Buffer.concat([start, json]))
  for (const part of parts) await sink.write(part)
  await sink.write('\n'.repeat(padding(rowBytes)))
  let written = 0
  for await (const chunk of body.chunks()) {
    await sink.write(chunk)
    written += chunk.length
  }
  if (written !== body.bytes) throw new Error(`An index's body should have ${body.bytes} bytes, but ${written} came.`)
}

/** An index that was opened; `close` when done. */
export type IndexFile = {
  readonly path: string
  readonly header: IndexHeader
  readonly rows: IndexRows
  /** The vectors of an exact index in stretches of whole rows. */
  vectors(): AsyncGenerator<Float32Array>
  /** Lays the graph down in a file of its own, hands it to `use`, and removes it. */
  withGraph<T>(use: (path: string) => T | Promise<T>): Promise<T>
  close(): Promise<void>
}

/** Whether the file begins as an index. */
export async function isIndex(path: string): Promise<boolean> {
  const handle = await openPlain(path).catch(() => undefined)
  if (!handle) return false
  try {
    return (await readAt(handle, 0, 8)).toString('latin1') === magic
  } catch {
    return false // a folder
  } finally {
    await handle.close()
  }
}

/** A damaged index as a sentence. */
const damaged = (path: string, error: Error): UserError =>
  new UserError(`${path} is damaged: ${error.message}.`, {
    code: 'INDEX_DAMAGED',
    hint: 'Make it again from the embeddings.',
    cause: error
  })

/** Runs what reads an index, and says as a sentence what is wrong with it. */
async function guarded<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw error instanceof SyntaxError || error instanceof RangeError ? damaged(path, error) : error
  }
}

async function openHandle(path: string): Promise<FileHandle> {
  return openPlain(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error
    throw new UserError(`${path} does not exist.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: missingPathHint(path, {otherwise: `Make an index first: dinov2 index EMBEDDINGS -o ${path}`})
    })
  })
}

/** Reads and checks all of an index but its body. */
async function readIndex(handle: FileHandle, path: string): Promise<IndexFile> {
  const found = await handle.stat()
  const start = found.isFile() ? await readAt(handle, 0, 16) : Buffer.alloc(0)
  if (start.subarray(0, 8).toString('latin1') !== magic) {
    throw new UserError(`${path} is not an index.`, {
      exit: 2,
      code: 'NOT_AN_INDEX',
      hint: 'Make one from embeddings: dinov2 index EMBEDDINGS -o a.index'
    })
  }
  const length = start.length < 16 ? Infinity : Number(start.readBigUInt64LE(8))
  if (16 + length > found.size) throw new RangeError('its header is cut off')
  const {header, sections} = parseHeader(await readAt(handle, 16, length), path)
  const rowsAt = 16 + length
  const bodyAt = rowsAt + sections.rows + padding(sections.rows)
  if (found.size !== bodyAt + sections.body) throw new RangeError(`it should have ${bodyAt + sections.body} bytes, but has ${found.size}`)
  const lines = await readAt(handle, rowsAt, sections.rows)
  const {checks} = sections
  if (checks && checks.rows !== crcText(crc32(lines))) throw new RangeError('its ids and fields do not match their checksum')
  const rows = new IndexRows(lines, header.rows, path)
  if (rows.present !== header.live) throw new RangeError(`it has ${rows.present} rows, but counts ${header.live}`)
  // Without a checksum (an index of an earlier version) every line is looked at, so that no search meets a damaged
  // one.
  if (!checks) for (let i = 0; i < rows.count; i++) rows.at(i)
  const body: Body = {handle, at: bodyAt, bytes: sections.body, check: checks?.body}
  return {
    path,
    header,
    rows,
    vectors: () => vectorBlocks(body, header, path),
    withGraph: async use => {
      await guarded(path, () => verifyGraph(body, header, rows))
      return extractGraph(body, use)
    },
    close: () => handle.close()
  }
}

/** Opens an index. Throws `UserError`: not there (exit 3), not an index (exit 2), cut off or damaged. */
export async function openIndex(path: string): Promise<IndexFile> {
  const handle = await openHandle(path)
  try {
    return await guarded(path, () => readIndex(handle, path))
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** Where the body lies, and its checksum where there is one. */
type Body = {readonly handle: FileHandle; readonly at: number; readonly bytes: number; readonly check: string | undefined}

const checkFailed = (): RangeError => new RangeError('its vectors do not match their checksum')

/** The vectors in stretches of whole rows; the last stretch is only given once the checksum has been compared. */
async function* vectorBlocks({handle, at: bodyAt, check}: Body, {rows, dim}: IndexHeader, path: string): AsyncGenerator<Float32Array> {
  const most = Math.max(1, Math.floor((4 << 20) / dim))
  let crc = 0
  for (let at = 0; at < rows; at += most) {
    const n = Math.min(most, rows - at)
    const bytes = await readAt(handle, bodyAt + at * dim * 4, n * dim * 4)
    crc = crc32(bytes, crc)
    if (at + n === rows && check !== undefined && check !== crcText(crc)) throw damaged(path, checkFailed())
    const vectors = new Float32Array(Uint8Array.from(bytes).buffer) // [n, D], aligned
    if (vectors.some(x => !Number.isFinite(x))) throw damaged(path, new RangeError('a vector of it holds a number that is not finite'))
    yield vectors
  }
}

/** Holds a graph against its checksum and against itself, before a native library is given it. */
async function verifyGraph({handle, at, bytes, check}: Body, {rows: count, live, dim}: IndexHeader, rows: IndexRows): Promise<void> {
  if (check !== undefined && check !== crcText(await crcOfFile(handle, at, at + bytes))) throw checkFailed()
  const expected = {dim, rows: count, live, isRemoved: (label: number) => rows.isRemoved(label)}
  await checkGraph((from, length) => readAt(handle, at + from, length), bytes, expected)
}

/** Whether a graph that was just written is whole. Throws `RangeError` where it is not. */
export async function graphFits(path: string, {dim, rows, live}: IndexHeader, lines: readonly RowLine[]): Promise<void> {
  const handle = await openPlain(path)
  try {
    const {size} = await handle.stat()
    await checkGraph((at, length) => readAt(handle, at, length), size, {dim, rows, live, isRemoved: label => lines[label] === null})
  } finally {
    await handle.close()
  }
}

let graphFileCount = 0

/** Lays the graph down in a file of its own for the time of `use`. */
async function extractGraph<T>({handle, at: bodyAt, bytes}: Body, use: (path: string) => T | Promise<T>): Promise<T> {
  const path = join(tmpdir(), `dinov2-${process.pid}-${++graphFileCount}.graph`)
  const file = await open(path, 'wx', 0o600)
  try {
    const sink = fileSink(file)
    for (let at = 0; at < bytes; at += 1 << 22) await sink.write(await readAt(handle, bodyAt + at, Math.min(1 << 22, bytes - at)))
    await file.close()
    return await use(path)
  } catch (error) {
    throw writeError(path, error)
  } finally {
    await file.close().catch(() => {})
    await rm(path, {force: true})
  }
}
