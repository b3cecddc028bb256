/**
 * Zstandard through fzstd, which neither says how many bytes a frame came to nor reads two frames into one buffer: so
 * each frame is walked block by block, and gets an empty last block, at whose place its content ends.
 *
 * Format: RFC 8878, section 3.1.1.
 */
import {decompress} from 'fzstd'

const damaged = (why: string): RangeError => new RangeError(`data of it do not unpack (Zstandard: ${why})`)

/** Where a frame's blocks begin, its last block begins, and its blocks end; and where the frame ends. */
type Frame = {readonly lastBlock: number; readonly blocksEnd: number; readonly end: number}

/** Walks the frame at the beginning of `packed`. Throws `RangeError` where it is none, or is cut off. */
function frameOf(packed: Buffer): Frame {
  const flags = packed[4]!
  const single = (flags >> 5) & 1
  const dictionary = [0, 1, 2, 4][flags & 3]!
  const contentSize = [single, 2, 4, 8][flags >> 6]!
  for (let at = 5 + (1 - single) + dictionary + contentSize; ;) {
    if (at + 3 > packed.length) throw damaged('it is cut off')
    const head = packed.readUIntLE(at, 3)
    const next = at + 3 + (((head >> 1) & 3) === 1 ? 1 : head >> 3)
    if (next > packed.length) throw damaged('it is cut off')
    if (head & 1) return {lastBlock: at, blocksEnd: next, end: next + ((flags >> 2) & 1 ? 4 : 0)}
    at = next
  }
}

/** Unpacks one frame into the beginning of `out`; returns how many bytes it came to. */
function unpackFrame(packed: Buffer, {lastBlock, blocksEnd, end}: Frame, out: Uint8Array): number {
  const marked = Buffer.concat([packed.subarray(0, blocksEnd), Uint8Array.of(1, 0, 0), packed.subarray(blocksEnd, end)])
  marked[lastBlock]! &= ~1
  let length = 0
  // fzstd compares the buffer with a number, which would turn all of it into a text; and the empty block is `set`
  Object.defineProperty(out, Symbol.toPrimitive, {value: () => 0})
  Object.defineProperty(out, 'set', {
    value: (bytes: Uint8Array, at: number) => {
      length = at + bytes.length
      Uint8Array.prototype.set.call(out, bytes, at)
    }
  })
  try {
    decompress(marked, out)
  } catch (error) {
    throw damaged((error as Error).message)
  }
  return length
}

/** Unpacks frames into `length` bytes. Throws `RangeError` where they are damaged or longer. */
export function unpackZstd(packed: Buffer, length: number): Buffer {
  const out = Buffer.alloc(length)
  let to = 0
  for (let left = packed; left.length > 0;) {
    if (left.length < 8) throw damaged('it is cut off')
    const magic = left.readUInt32LE(0)
    if (magic >>> 4 === 0x184d2a5) {
      left = left.subarray(8 + left.readUInt32LE(4)) // a frame to be skipped
      continue
    }
    if (magic !== 0xfd2fb528) throw damaged('it does not begin as a frame')
    const frame = frameOf(left)
    to += unpackFrame(left, frame, new Uint8Array(out.buffer, out.byteOffset + to, length - to))
    if (to > length) throw damaged('it is longer than it claims')
    left = left.subarray(frame.end)
  }
  return out.subarray(0, to)
}
