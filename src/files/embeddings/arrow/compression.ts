/**
 * Compressed buffers of Arrow batches: LZ4 frames and Zstandard.
 *
 * Each buffer begins with the length that it unpacks to, which is held against what the codec can make of so many
 * bytes before memory is taken for it. Formats: LZ4 frame 1.6.4 and block format; Zstandard by `system/zstd.ts`.
 */
import {safeNumber} from './flatbuffer.js'

export type Codec = 'lz4' | 'zstd'

/** What the buffers of one batch may unpack to. */
const MAX_UNPACKED = 2 ** 31

type Unpack = (packed: Buffer, length: number) => Buffer

/** Loads a codec; what it returns unpacks a buffer, given how many bytes the batch may still unpack to. */
export async function unpacker(codec: Codec): Promise<(buffers: readonly Buffer[]) => Buffer[]> {
  const unpack: Unpack = codec === 'lz4' ? unpackLz4 : (await import('../../../system/zstd.js')).unpackZstd
  return buffers => {
    let left = MAX_UNPACKED
    return buffers.map(buffer => {
      if (buffer.length === 0) return buffer
      if (buffer.length < 8) throw new RangeError('a compressed column lacks its length')
      const length = safeNumber(buffer.readBigInt64LE(0))
      if (length === -1) return buffer.subarray(8) // it was left as it is, because it did not become smaller
      if (length < 0 || (codec === 'lz4' && length > 255 * buffer.length))
        throw new RangeError('a compressed column claims a length that it cannot have')
      if ((left -= length) < 0) throw new RangeError('a batch of it unpacks to more than 2 GiB')
      const data = unpack(buffer.subarray(8), length)
      if (data.length !== length) throw new RangeError(`a compressed column unpacks to ${data.length} bytes instead of ${length}`)
      return data
    })
  }
}

const damaged = (): RangeError => new RangeError('a column of it does not unpack (LZ4)')

/** Unpacks LZ4 frames into `length` bytes; checksums are passed over. */
export function unpackLz4(packed: Buffer, length: number): Buffer {
  const out = Buffer.alloc(length)
  let at = 0
  let to = 0
  const u32 = (): number => {
    if (at + 4 > packed.length) throw damaged()
    at += 4
    return packed.readUInt32LE(at - 4)
  }
  while (at < packed.length) {
    const magic = u32()
    if (magic >>> 4 === 0x184d2a5) {
      at += u32() // a frame to be skipped
      continue
    }
    if (magic !== 0x184d2204 || at + 3 > packed.length) throw damaged()
    const flags = packed[at]!
    // descriptor, length of the content, dictionary, checksum of the header
    at += 2 + (flags & 8 ? 8 : 0) + (flags & 1 ? 4 : 0) + 1
    for (let size = u32(); size !== 0; size = u32()) {
      const bytes = size & 0x7fffffff
      if (at + bytes > packed.length) throw damaged()
      const block = packed.subarray(at, at + bytes)
      if (size >>> 31) {
        if (to + bytes > length) throw damaged()
        to += block.copy(out, to)
      } else to = unpackBlock(block, out, to)
      at += bytes + (flags & 16 ? 4 : 0)
    }
    if (flags & 4) at += 4
  }
  return out.subarray(0, to)
}

/**
 * One block of LZ4: literals, then a copy of what was written before, again and again. Returns where the output
 * ends.
 */
function unpackBlock(block: Buffer, out: Buffer, from: number): number {
  let to = from
  let at = 0
  const more = (length: number): number => {
    let sum = length
    if (length !== 15) return sum
    for (let byte = 255; byte === 255; sum += byte) {
      if (at >= block.length) throw damaged()
      byte = block[at++]!
    }
    return sum
  }
  while (at < block.length) {
    const token = block[at++]!
    const literals = more(token >> 4)
    if (at + literals > block.length || to + literals > out.length) throw damaged()
    block.copy(out, to, at, at + literals)
    at += literals
    to += literals
    if (at === block.length) return to // the last sequence has no copy
    if (at + 2 > block.length) throw damaged()
    const distance = block.readUInt16LE(at)
    at += 2
    const length = more(token & 15) + 4
    if (distance === 0 || distance > to || to + length > out.length) throw damaged()
    for (let i = 0; i < length; i++, to++) out[to] = out[to - distance]!
  }
  return to
}
