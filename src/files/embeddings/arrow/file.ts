/**
 * Arrow files (Feather): a stream between two marks, with a footer at the end that says where each batch lies.
 *
 * The footer decides, because some writers leave the messages before it without their frames. Batches must lie one
 * behind the other and reach the footer, so that one that the footer lost is noticed.
 */
import type {FileHandle} from 'node:fs/promises'
import {openPlain} from '../../../system/plain-file.js'
import {readAt} from '../bytes.js'
import {FlatTable} from './flatbuffer.js'
import {MAGIC, messageOf, type Message} from './messages.js'
import {SCHEMA} from './schema.js'

/** Where a message lies: its metadata, framed, and its body. */
type Block = {readonly at: number; readonly head: number; readonly body: number}

/** Footers are small; more than this is a length that was damaged. */
const MAX_FOOTER = 256 << 20
/** Bytes that may lie between two batches, to begin at a round number, or before the footer, to end a stream. */
const MAX_GAP = 64

/** Reads the footer: the schema, and where dictionaries and batches lie. */
async function readFooter(
  handle: FileHandle,
  size: number
): Promise<{schema: FlatTable; bytes: Buffer; dictionaries: Block[]; batches: Block[]; at: number}> {
  const tail = await readAt(handle, Math.max(0, size - 10), 10)
  if (tail.length < 10 || tail.toString('latin1', 4) !== MAGIC) throw new RangeError('it breaks off before its footer')
  const length = tail.readInt32LE(0)
  const at = size - 10 - length
  if (length < 8 || length > MAX_FOOTER || at < 8) throw new RangeError('its footer claims more bytes than there are')
  const bytes = await readAt(handle, at, length)
  const footer = FlatTable.root(bytes)
  const schema = footer.table(1)
  if (!schema) throw new RangeError('its footer has no schema')
  const blocks = (field: number): Block[] => {
    const numbers = footer.blocks(field)
    return numbers.map(([place, head, body]) => ({at: place, head, body}))
  }
  return {schema, bytes, dictionaries: blocks(2), batches: blocks(3), at}
}

/**
 * Where the first batch begins: behind the schema, which some writers leave to the footer. Undefined where that has
 * no frame.
 */
async function firstBatchAt(handle: FileHandle, footerAt: number): Promise<number | undefined> {
  const prefix = await readAt(handle, 8, 8)
  const length = prefix.length === 8 && prefix.readInt32LE(0) === -1 ? prefix.readInt32LE(4) : undefined
  if (length === undefined) return undefined
  if (length <= 0 || 16 + length > footerAt) return 8
  return messageOf(await readAt(handle, 16, length)).message.kind === SCHEMA ? 16 + length : 8
}

/** The blocks with the length that their messages have: some writers leave the frame out of what the footer says. */
async function measured(handle: FileHandle, blocks: readonly Block[]): Promise<Block[]> {
  const found: Block[] = []
  for (const {at, head, body} of blocks) {
    const prefix = await readAt(handle, at, 8)
    if (prefix.length < 8) throw new RangeError('a batch lies outside it')
    const length = prefix.readInt32LE(0) === -1 ? 8 + prefix.readInt32LE(4) : 4 + prefix.readInt32LE(0)
    if (head !== length && head !== length - 8 && head !== length - 4) throw new RangeError('a batch is not as long as its footer says')
    found.push({at, head: length, body})
  }
  return found
}

/** Refuses blocks that lie outside the file, in each other, or with more than a gap between them. */
function checkBlocks(blocks: readonly Block[], begin: number | undefined, footerAt: number): void {
  let end = begin
  for (const {at, head, body} of [...blocks].sort((a, b) => a.at - b.at)) {
    if (head < 16 || body < 0 || at < 8 || at + head + body > footerAt) throw new RangeError('a batch lies outside it')
    if (end !== undefined && (at < end || at - end > MAX_GAP)) throw new RangeError('its batches do not lie one behind the other')
    end = at + head + body
  }
  if (end !== undefined && footerAt - end > MAX_GAP) throw new RangeError('it has batches that its footer does not count')
}

/** What a file holds: its schema, and its messages in the order in which they are needed. */
export type ArrowFile = {
  readonly schema: FlatTable
  /** The bytes of the footer, for nothing but to be compared. */
  readonly head: Uint8Array
  messages(): AsyncGenerator<Message>
  close(): Promise<void>
}

/** Opens a file. Throws `RangeError` where it is damaged or cut off. */
export async function openArrowFile(path: string): Promise<ArrowFile> {
  const handle = await openPlain(path)
  try {
    const {size} = await handle.stat()
    const {schema, bytes, dictionaries, batches, at} = await readFooter(handle, size)
    const blocks = await measured(handle, [...dictionaries, ...batches])
    checkBlocks(blocks, await firstBatchAt(handle, at), at)
    return {
      schema,
      head: bytes,
      async *messages() {
        for (const block of blocks) {
          const found = await readAt(handle, block.at, block.head + block.body)
          const framed = found.readInt32LE(0) === -1
          const length = found.readInt32LE(framed ? 4 : 0)
          const from = framed ? 8 : 4
          if (length < 8 || from + length > block.head) throw new RangeError('a message claims more bytes than there are')
          const {message, bodyLength} = messageOf(found.subarray(from, from + length))
          if (bodyLength > block.body) throw new RangeError('a batch is longer than its footer says')
          yield {...message, body: found.subarray(block.head, block.head + bodyLength)}
        }
      },
      close: () => handle.close()
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}
