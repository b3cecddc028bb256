/**
 * The messages of an Arrow stream or file, one after the other: each is its metadata and its body, and nothing is
 * read beyond what is there.
 *
 * A batch of ours carries a checksum in its own metadata: how many rows came before it, and a CRC-32 of the schema,
 * the batch's own figures and its body. So a changed bit and a lost batch are seen even on a pipe, and a stream can
 * grow without its beginning being written again.
 */
import type {Buffer as Bytes} from 'node:buffer'
import {crc32} from '../../../system/crc32.js'
import type {ByteReader} from '../bytes.js'
import {FlatTable} from './flatbuffer.js'
import {keyValues} from './schema.js'

export type Message = {
  readonly kind: number
  readonly header: FlatTable
  readonly metadata: ReadonlyMap<string, string>
  /** The metadata as they came. */
  readonly head: Bytes
  readonly body: Bytes
}

/** Metadata of one message are small; more than this is a length that was damaged. */
const MAX_HEAD = 256 << 20
export const MAGIC = 'ARROW1'

/**
 * A message's metadata taken apart, and how many bytes of body follow it. Throws `RangeError` where they are
 * damaged.
 */
export function messageOf(head: Bytes): {readonly message: Omit<Message, 'body'>; readonly bodyLength: number} {
  const table = FlatTable.root(head)
  const version = table.int16(0)
  if (version !== 3 && version !== 4) throw new RangeError(`it is of metadata version ${version + 1}; 4 and 5 are read`)
  const header = table.table(2)
  if (!header) throw new RangeError('a message says nothing')
  const bodyLength = table.int64(3)
  if (bodyLength < 0) throw new RangeError('a body has a negative length')
  return {message: {kind: table.byte(1), header, metadata: keyValues(table.tables(4)), head}, bodyLength}
}

/** Reads the messages of a stream in order. `size` is how many bytes there are where that is known. */
export class MessageReader {
  /** Bytes that were read. */
  offset = 0
  /** The stream ended with its mark (not just with its bytes). */
  marked = false

  constructor(
    readonly bytes: ByteReader,
    readonly size = Infinity
  ) {}

  async #take(length: number, what: string): Promise<Bytes> {
    if (length < 0 || this.offset + length > this.size) throw new RangeError(`${what} claims ${length} bytes, more than there are`)
    const found = await this.bytes.take(length)
    this.offset += found.length
    if (found.length < length) throw new RangeError(`it breaks off within ${what}`)
    return found
  }

  /** The next message; undefined at the end of the stream, by its mark or by its last byte. */
  async next(): Promise<Message | undefined> {
    this.marked = false
    const prefix = await this.bytes.take(8)
    this.offset += prefix.length
    if (prefix.length === 0) return undefined
    if (prefix.length < 8) throw new RangeError('it breaks off between two messages')
    if (prefix.readInt32LE(0) !== -1) throw new RangeError('a message does not begin as one')
    const length = prefix.readInt32LE(4)
    if (length === 0) {
      this.marked = true
      return undefined
    }
    if (length > MAX_HEAD) throw new RangeError(`a message claims ${length} bytes of metadata`)
    const {message, bodyLength} = messageOf(await this.#take(length, 'a message'))
    return {...message, body: await this.#take(bodyLength, 'the body of a message')}
  }
}

const CHECK_KEY = 'dinov2.check'
/** Fields of rows of a batch that no column holds, as JSON by their place in the batch. */
export const LATE_KEY = 'dinov2.fields'

/** The figures of a batch, which its checksum covers beside its body. */
export type BatchFigures = {readonly rows: number; readonly nodes: readonly number[]; readonly buffers: readonly number[]}

export const figuresOf = (batch: FlatTable): BatchFigures => ({
  rows: batch.int64(0),
  nodes: batch.int64s(1, 2),
  buffers: batch.int64s(2, 2)
})

/**
 * The metadata of a batch of ours: how many rows came before it in its stream, its checksum, and `late`, the fields
 * that no column holds.
 */
export function checkOf(
  schemaHead: Uint8Array,
  before: number,
  {rows, nodes, buffers}: BatchFigures,
  body: Uint8Array,
  late?: string
): Map<string, string> {
  const figures = Buffer.from([before, rows, ...nodes, ...buffers, ...(late === undefined ? [] : [late])].join(' '))
  const sum = crc32(body, crc32(figures, crc32(schemaHead)))
  const check = [CHECK_KEY, `${before} ${sum.toString(16).padStart(8, '0')}`] as const
  return new Map(late === undefined ? [check] : [check, [LATE_KEY, late]])
}

/** Compares a batch with its checksum, where it has one. Throws `RangeError` where they differ. */
export function verifyBatch(schemaHead: Uint8Array, before: number, {header, metadata, body}: Message, required: boolean): void {
  const found = metadata.get(CHECK_KEY)
  if (found === undefined && !required) return
  if (found !== checkOf(schemaHead, before, figuresOf(header), body, metadata.get(LATE_KEY)).get(CHECK_KEY))
    throw new RangeError(`the batch behind row ${before} does not match its checksum`)
}
