/**
 * Writing zip archives as PyTorch does: records are streamed without compression, their bytes aligned to 64, and no
 * time stamps are written, so the same content gives the same file.
 */
import type {AtomicOutput} from '../../system/atomic.js'
import {crc32} from '../../system/crc32.js'
import {CENTRAL, END, END64, FULL16, FULL32, LOCAL, LOCATOR64} from './zip.js'

/** Puts records one after another into an output that is open for writing at any position. */
export class ZipWriter {
  readonly #output: AtomicOutput
  readonly #zip64Above: number
  readonly #directory: Buffer[] = []
  #at = 0

  /** `zip64Above`: lengths and places from here on are written in 64 bits; lower it only to test that path. */
  constructor(output: AtomicOutput, {zip64Above = FULL32}: {readonly zip64Above?: number} = {}) {
    this.#output = output
    this.#zip64Above = zip64Above
  }

  /**
   * Adds one record of known size whose bytes come in pieces. Throws an `Error` when they are more or fewer, which is
   * a defect of the caller.
   */
  async add(name: string, size: number, pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
    const encoded = Buffer.from(name)
    const local = this.#at
    const wideSize = size >= this.#zip64Above
    const wideLocal = local >= this.#zip64Above
    const sizes = wideSize ? [size, size] : []
    const zip64 = wideSize ? extraField(1, lengths(sizes)) : Buffer.alloc(0)
    // The bytes begin at a multiple of 64: a padding field fills the header up.
    const unpadded = local + 30 + encoded.length + zip64.length
    const padding = extraField(0x4246, Buffer.alloc((64 - ((unpadded + 4) % 64)) % 64))
    const extra = Buffer.concat([zip64, padding])
    const dataAt = unpadded + padding.length

    let crc = 0
    let written = 0
    for await (const piece of pieces) {
      crc = crc32(piece, crc)
      await this.#put(piece, dataAt + written)
      written += piece.byteLength
    }
    if (written !== size) throw new Error(`Expected ${size} bytes for the record ${name} but received ${written}`)

    const shared = Buffer.alloc(26)
    shared.writeUInt16LE(wideSize || wideLocal ? 45 : 20, 0) // version needed
    shared.writeUInt16LE(0x0800, 2) // names are UTF-8
    shared.writeUInt16LE(0, 4) // stored
    shared.writeUInt16LE(0, 6) // midnight
    shared.writeUInt16LE(0x21, 8) // of 1 January 1980, the first day that zip knows
    shared.writeUInt32LE(crc, 10)
    shared.writeUInt32LE(wideSize ? FULL32 : size, 14)
    shared.writeUInt32LE(wideSize ? FULL32 : size, 18)
    shared.writeUInt16LE(encoded.length, 22)
    shared.writeUInt16LE(extra.length, 24)
    await this.#put(Buffer.concat([number32(LOCAL), shared, encoded, extra]), local)

    const centralExtra = wideSize || wideLocal ? extraField(1, lengths([...sizes, ...(wideLocal ? [local] : [])])) : Buffer.alloc(0)
    shared.writeUInt16LE(centralExtra.length, 24)
    const rest = Buffer.alloc(14) // no comment, disk 0, no attributes
    rest.writeUInt32LE(wideLocal ? FULL32 : local, 10)
    this.#directory.push(Buffer.concat([number32(CENTRAL), Buffer.from([45, 0]), shared, rest, encoded, centralExtra]))
    this.#at = dataAt + size
  }

  /** Writes the directory; nothing can be added after. */
  async finish(): Promise<void> {
    const start = this.#at
    const directory = Buffer.concat(this.#directory)
    const count = this.#directory.length
    const pieces = [directory]
    const wide = start >= this.#zip64Above || count >= FULL16
    if (wide) {
      const end64 = Buffer.alloc(56)
      end64.writeUInt32LE(END64, 0)
      end64.writeBigUInt64LE(44n, 4)
      end64.writeUInt16LE(45, 12)
      end64.writeUInt16LE(45, 14)
      for (const [i, value] of [count, count, directory.length, start].entries()) end64.writeBigUInt64LE(BigInt(value), 24 + 8 * i)
      const locator = Buffer.alloc(20)
      locator.writeUInt32LE(LOCATOR64, 0)
      locator.writeBigUInt64LE(BigInt(start + directory.length), 8)
      locator.writeUInt32LE(1, 16)
      pieces.push(end64, locator)
    }
    const end = Buffer.alloc(22)
    end.writeUInt32LE(END, 0)
    end.writeUInt16LE(wide ? FULL16 : count, 8)
    end.writeUInt16LE(wide ? FULL16 : count, 10)
    end.writeUInt32LE(wide ? FULL32 : directory.length, 12)
    end.writeUInt32LE(wide ? FULL32 : start, 16)
    pieces.push(end)
    await this.#put(Buffer.concat(pieces), start)
  }

  async #put(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.byteLength;)
      done += (await this.#output.handle.write(bytes, done, Math.min(bytes.byteLength - done, 1 << 30), position + done)).bytesWritten
  }
}

function extraField(id: number, content: Buffer): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt16LE(id, 0)
  head.writeUInt16LE(content.length, 2)
  return Buffer.concat([head, content])
}

function lengths(values: readonly number[]): Buffer {
  const out = Buffer.alloc(8 * values.length)
  for (const [i, value] of values.entries()) out.writeBigUInt64LE(BigInt(value), 8 * i)
  return out
}

function number32(value: number): Buffer {
  const out = Buffer.alloc(4)
  out.writeUInt32LE(value)
  return out
}
