/**
 * Bytes in and out for embedding files: a reader that can look ahead, lines of a stream, and sinks that wait for the
 * disk or the pipe.
 */
import {createReadStream} from 'node:fs'
import {open, rm, type FileHandle} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import type {Readable, Writable} from 'node:stream'

/** Reads a stream in order, with a look at its first bytes before any is taken. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>
  #ahead: Uint8Array[] = []

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#chunks = source[Symbol.asyncIterator]()
  }

  /** The first `n` bytes, or fewer when the stream is shorter; they stay in the stream. */
  async peek(n: number): Promise<Uint8Array> {
    let have = this.#ahead.reduce((sum, chunk) => sum + chunk.length, 0)
    while (have < n) {
      const {value, done} = await this.#chunks.next()
      if (done) break
      this.#ahead.push(value)
      have += value.length
    }
    if (this.#ahead.length > 1) this.#ahead = [Buffer.concat(this.#ahead)]
    return this.#ahead[0]?.subarray(0, n) ?? new Uint8Array(0)
  }

  /** All bytes that were not taken yet. */
  async *chunks(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        const next = this.#ahead.shift()
        if (next) yield next
        else {
          const {value, done} = await this.#chunks.next()
          if (done) return
          yield value
        }
      }
    } finally {
      await this.#chunks.return?.()
    }
  }

  /** Lines without their ends (byte `end`); the last may lack one. */
  async *lines(end = 10): AsyncGenerator<string> {
    let rest: Uint8Array[] = []
    for await (const chunk of this.chunks()) {
      let from = 0
      for (let at = chunk.indexOf(end); at >= 0; at = chunk.indexOf(end, from)) {
        rest.push(chunk.subarray(from, at))
        yield text(rest)
        rest = []
        from = at + 1
      }
      if (from < chunk.length) rest.push(chunk.subarray(from))
    }
    if (rest.length > 0) yield text(rest)
  }

  /** Lets go of the source. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}

const text = (parts: readonly Uint8Array[]): string => Buffer.concat(parts).toString('utf8').replace(/\r$/, '')

/** A stream of bytes from a file, from `start` on. */
export const fileBytes = (path: string, start = 0): Readable => createReadStream(path, {start, highWaterMark: 1 << 20})

/** Where a writer appends. */
export type Sink = {write(bytes: Uint8Array | string): Promise<void>}

/** Appends to a file from byte `at` on. */
export function fileSink(handle: FileHandle, at = 0): Sink & {readonly offset: number} {
  let offset = at
  return {
    get offset() {
      return offset
    },
    async write(bytes) {
      const buffer = typeof bytes === 'string' ? Buffer.from(bytes) : bytes
      await writeAt(handle, buffer, offset)
      offset += buffer.length
    }
  }
}

/** Writes all of `bytes` at one place of a file. */
export async function writeAt(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten
}

/** Reads exactly `length` bytes at one place of a file, fewer at its end. */
export async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  let done = 0
  while (done < length) {
    const {bytesRead} = await handle.read(bytes, done, length - done, position + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return bytes.subarray(0, done)
}

/** Writes to a stream and waits while its reader is slower. A closed pipe ends the wait with the stream's error. */
export function streamSink(stream: Writable): Sink {
  return {
    write: bytes =>
      new Promise((resolve, reject) => {
        stream.write(bytes, error => (error ? reject(error) : resolve()))
      })
  }
}

let spoolCount = 0

/** Lays a stream down in a temporary file, for the formats that are read from their end. `remove` deletes it. */
export async function spool(source: AsyncIterable<Uint8Array>): Promise<{path: string; remove(): Promise<void>}> {
  const path = join(tmpdir(), `dinov2-${process.pid}-${++spoolCount}.spool`)
  const handle = await open(path, 'wx', 0o600)
  const remove = (): Promise<void> => rm(path, {force: true})
  try {
    const sink = fileSink(handle)
    for await (const chunk of source) await sink.write(chunk)
  } catch (error) {
    await remove()
    throw error
  } finally {
    await handle.close()
  }
  return {path, remove}
}
