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
 * Nothing in it depends on time or machine: the same rows and settings give the same bytes.
 */
import {open, rm, type FileHandle} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {fileSink, readAt, type Sink} from '../embeddings/bytes.js'
import {rowFields, rowLine} from '../embeddings/row-lines.js'
import {metaToJson, type EmbeddingMeta} from '../embeddings/provenance.js'
import type {Fields} from '../embeddings/rows.js'

const magic = 'DINOV2IX'

export type IndexHeader = {
  readonly version: 1
  readonly kind: 'exact' | 'hnsw'
  readonly metric: 'cosine' | 'ip' | 'l2'
  /** Lines in the table of rows, removed ones too. */
  readonly rows: number
  /** Rows that can be found. */
  readonly live: number
  readonly dim: number
  /** How the vectors were made. */
  readonly meta: EmbeddingMeta
  /** The graph's making, and how many candidates a search looks at. */
  readonly graph?: {readonly m: number; readonly efConstruction: number; readonly seed: number; readonly ef: number}
  /**
   * The share of the true k nearest that a search finds, measured on rows that were not yet in the index; null where
   * there were too few.
   */
  readonly recall: {readonly k: number; readonly value: number; readonly queries: number} | null
}

const padding = (length: number): number => (64 - (length % 64)) % 64

/** The table of rows as text, or line by line. */
export type RowLine = {readonly id: string; readonly fields: Fields} | null

/** Writes a whole index to `sink`; `body` gives `bodyBytes` bytes. */
export async function writeIndex(
  sink: Sink,
  header: IndexHeader,
  lines: Iterable<RowLine>,
  bodyBytes: number,
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
): Promise<void> {
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
  const plain = JSON.stringify({
    ...header,
    meta: JSON.parse(metaToJson(header.meta)) as object,
    sections: {rows: rowBytes, body: bodyBytes}
  })
  const json = Buffer.from(plain + ' '.repeat(padding(16 + Buffer.byteLength(plain))))
  const start = Buffer.alloc(16)
  start.write(magic, 'latin1')
  start.writeBigUInt64LE(BigInt(json.length), 8)
  await sink.write(Buffer.concat([start, json]))
  for (const part of parts) await sink.write(part)
  await sink.write('\n'.repeat(padding(rowBytes)))
  for await (const chunk of body) await sink.write(chunk)
}

/** Ids and fields of an index, kept as the bytes they were read as and parsed when asked for. */
export class IndexRows {
  readonly #bytes: Buffer
  readonly #starts: Float64Array

  constructor(bytes: Buffer, count: number) {
    this.#bytes = bytes
    this.#starts = new Float64Array(count + 1)
    for (let i = 0, at = 0; i < count; i++) {
      this.#starts[i] = at
      const end = bytes.indexOf(10, at)
      if (end < 0) throw new RangeError(`the table of rows ends after ${i} of ${count}`)
      this.#starts[i + 1] = at = end + 1
    }
  }

  get count(): number {
    return this.#starts.length - 1
  }

  /** Row i; null when it was removed. */
  at(i: number): RowLine {
    const row = JSON.parse(this.#bytes.toString('utf8', this.#starts[i]!, this.#starts[i + 1]! - 1)) as Record<string, unknown> | null
    return row && {id: String(row['id']), fields: rowFields(row, true)}
  }

  *[Symbol.iterator](): Generator<RowLine> {
    for (let i = 0; i < this.count; i++) yield this.at(i)
  }
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
  const handle = await open(path).catch(() => undefined)
  if (!handle) return false
  try {
    return (await readAt(handle, 0, 8)).toString('latin1') === magic
  } catch {
    return false // a folder
  } finally {
    await handle.close()
  }
}

/** Opens an index. Throws `UserError`: not there (exit 3), not an index (exit 2), cut off or damaged. */
export async function openIndex(path: string): Promise<IndexFile> {
  const handle = await open(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    throw new UserError(`${path} does not exist.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: `Make an index first: dinov2 index EMBEDDINGS -o ${path}`
    })
  })
  try {
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
    const {sections, ...header} = JSON.parse((await readAt(handle, 16, length)).toString('utf8')) as IndexHeader & {
      sections: {rows: number; body: number}
    }
    if (header.version !== 1) {
      throw new UserError(`${path} is an index of version ${String(header.version)}; this program reads version 1.`, {
        code: 'INDEX_VERSION',
        hint: 'Make it again with this program: dinov2 index EMBEDDINGS -o FILE --force.'
      })
    }
    const rowsAt = 16 + length
    const bodyAt = rowsAt + sections.rows + padding(sections.rows)
    if (found.size !== bodyAt + sections.body) throw new RangeError(`it should have ${bodyAt + sections.body} bytes, but has ${found.size}`)
    const rows = new IndexRows(await readAt(handle, rowsAt, sections.rows), header.rows)
    return {
      path,
      header,
      rows,
      vectors: () => vectorBlocks(handle, bodyAt, header.rows, header.dim),
      withGraph: use => extractGraph(handle, bodyAt, sections.body, use),
      close: () => handle.close()
    }
  } catch (error) {
    await handle.close()
    if (error instanceof SyntaxError || error instanceof RangeError)
      throw new UserError(`${path} is damaged: ${error.message}.`, {
        code: 'INDEX_DAMAGED',
        hint: 'Make it again from the embeddings.',
        cause: error
      })
    throw error
  }
}

async function* vectorBlocks(handle: FileHandle, bodyAt: number, rows: number, dim: number): AsyncGenerator<Float32Array> {
  const most = Math.max(1, Math.floor((4 << 20) / Math.max(1, dim)))
  for (let at = 0; at < rows; at += most) {
    const n = Math.min(most, rows - at)
    const bytes = await readAt(handle, bodyAt + at * dim * 4, n * dim * 4)
    yield new Float32Array(Uint8Array.from(bytes).buffer) // [n, D], aligned
  }
}

let graphFileCount = 0

async function extractGraph<T>(handle: FileHandle, bodyAt: number, bytes: number, use: (path: string) => T | Promise<T>): Promise<T> {
  const path = join(tmpdir(), `dinov2-${process.pid}-${++graphFileCount}.graph`)
  const file = await open(path, 'wx', 0o600)
  try {
    const sink = fileSink(file)
    for (let at = 0; at < bytes; at += 1 << 22) await sink.write(await readAt(handle, bodyAt + at, Math.min(1 << 22, bytes - at)))
    await file.close()
    return await use(path)
  } finally {
    await file.close().catch(() => {})
    await rm(path, {force: true})
  }
}
