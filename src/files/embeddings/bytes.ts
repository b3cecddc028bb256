/**
 * Bytes in and out for embedding files: a reader that can look ahead, lines of a stream, and sinks that wait for the
 * disk or the pipe.
 */
import {UserError} from '../../config/errors.js'
import type {FileHandle} from 'node:fs/promises'
import type {Writable} from 'node:stream'
import {crc32} from '../../system/crc32.js'

/** Reads a stream in order, with a look at its first bytes before any is taken. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>
  #ahead: Uint8Array[] = []

  constructor(source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
    this.#chunks = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
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

  /**
   * The next `n` bytes, or fewer at the end of the stream, in memory of their own. Memory is only taken for bytes
   * that came.
   */
  async take(n: number): Promise<Buffer> {
    const parts: Uint8Array[] = []
    let have = 0
    while (have < n) {
      let chunk = this.#ahead.shift()
      if (!chunk) {
        const {value, done} = await this.#chunks.next()
        if (done) break
        chunk = value
      }
      if (chunk.length > n - have) {
        this.#ahead.unshift(chunk.subarray(n - have))
        chunk = chunk.subarray(0, n - have)
      }
      parts.push(chunk)
      have += chunk.length
    }
    const out = Buffer.from(new ArrayBuffer(have)) // aligned, so that numbers in it can be read as they lie
    let at = 0
    for (const part of parts) {
      out.set(part, at)
      at += part.length
    }
    return out
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

  /**
   * Lines of UTF-8 text without their ends (byte `end`); the last may lack one. A byte order mark is passed over,
   * and UTF-16 that begins with one is read.
   */
  async *lines(end = 10): AsyncGenerator<string> {
    const head = Buffer.from(await this.peek(3))
    if (head.equals(BYTE_ORDER_MARK)) await this.take(3)
    const order = utf16Order(head)
    let rest: Uint8Array[] = []
    for await (const chunk of order ? fromUtf16(this.chunks(), order) : this.chunks()) {
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

const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf])

/** The byte order of UTF-16 that begins with a mark. */
function utf16Order(head: Uint8Array): 'utf-16le' | 'utf-16be' | undefined {
  return head[0] === 0xff && head[1] === 0xfe ? 'utf-16le' : head[0] === 0xfe && head[1] === 0xff ? 'utf-16be' : undefined
}

async function* fromUtf16(chunks: AsyncIterable<Uint8Array>, order: 'utf-16le' | 'utf-16be'): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder(order) // passes over the mark
  for await (const chunk of chunks) yield Buffer.from(decoder.decode(chunk, {stream: true}))
  yield Buffer.from(decoder.decode())
}

/** The reader of a text as UTF-8: the same reader, unless it begins as UTF-16. */
export async function utf8Reader(bytes: ByteReader): Promise<ByteReader> {
  const order = utf16Order(await bytes.peek(2))
  return order ? new ByteReader(fromUtf16(bytes.chunks(), order)) : bytes
}

/** The same reader of a text, which throws a `UserError` naming the byte where it is no UTF-8. */
export const checkedUtf8 = (bytes: ByteReader, name: string): ByteReader => new ByteReader(checkedChunks(bytes.chunks(), name))

async function* checkedChunks(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder('utf-8', {fatal: true})
  let at = 0
  for await (const chunk of chunks) {
    try {
      decoder.decode(chunk, {stream: true})
    } catch (error) {
      throw new UserError(
        `${name} is not UTF-8 text: there are other bytes between byte ${Math.max(0, at - 3)} and ${at + chunk.length}.`,
        {
          code: 'NOT_UTF8',
          hint: 'Save it as UTF-8, or as UTF-16 with its byte order mark; iconv -f latin1 -t utf8 converts it.',
          cause: error
        }
      )
    }
    at += chunk.length
    yield chunk
  }
}

const text = (parts: readonly Uint8Array[]): string => Buffer.concat(parts).toString('utf8').replace(/\r$/, '')

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

/** The CRC-32 of bytes `from` … `to` of a file. */
export async function crcOfFile(handle: FileHandle, from: number, to: number): Promise<number> {
  let crc = 0
  for (let at = from; at < to; at += 1 << 20) crc = crc32(await readAt(handle, at, Math.min(1 << 20, to - at)), crc)
  return crc
}
