/**
 * The part of the zip format that PyTorch uses: records stored without compression, each readable at its place in the
 * file, zip64 where 4 GiB are passed.
 *
 * The reader trusts the central directory, checks every place against the length of the file, and never holds more
 * than the directory. A record is held against its checksum when it is first read; zero stands for none, because
 * PyTorch can be told to leave them out. The writer streams records, aligns their bytes to 64 as PyTorch does, and
 * writes no time stamps, so the same content gives the same file.
 */
import {UserError} from '../../config/errors.js'
import type {AtomicOutput} from '../../system/atomic.js'
import {crc32} from '../../system/crc32.js'
import type {FileReader} from '../../system/file-reader.js'

export type ZipRecord = {
  readonly name: string
  /** Bytes of the content. */
  readonly size: number
  /** `length` bytes of the content from `offset`. */
  read(offset: number, length: number): Promise<Uint8Array>
}

const LOCAL = 0x04034b50
const CENTRAL = 0x02014b50
const END = 0x06054b50
const END64 = 0x06064b50
const LOCATOR64 = 0x07064b50
const FULL16 = 0xffff
const FULL32 = 0xffffffff
/** Bytes that are read at a time to be summed up. */
const STRETCH = 16 << 20
/** A directory beyond this is no checkpoint. */
const MAX_DIRECTORY = 64 << 20

/**
 * Lists the records of a zip archive by name. Throws `UserError` when it is no zip archive, is cut short, or holds
 * compressed records.
 */
export async function readZip(file: FileReader): Promise<Map<string, ZipRecord>> {
  const broken = (what: string): UserError =>
    new UserError(`${file.path} is not a good zip archive: ${what}.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save it again.'})
  const view = async (offset: number, length: number): Promise<DataView> => {
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > file.size)
      throw broken(`it points to byte ${offset + length}, but has ${file.size}`)
    return new DataView((await file.read(offset, length)).buffer)
  }
  const big = (bytes: DataView, at: number): number => {
    const value = Number(bytes.getBigUint64(at, true))
    if (!Number.isSafeInteger(value)) throw broken(`it holds the length ${value}`)
    return value
  }

  // The end record is 22 bytes and a comment of at most 65535; it is looked for backwards.
  const tail = await view(Math.max(0, file.size - 22 - FULL16), Math.min(file.size, 22 + FULL16))
  let end = tail.byteLength - 22
  while (end >= 0 && tail.getUint32(end, true) !== END) end--
  if (end < 0) throw broken('its directory, which lies at the end, is missing; it is truncated')
  const endAt = file.size - tail.byteLength + end
  let count = tail.getUint16(end + 10, true)
  let size = tail.getUint32(end + 12, true)
  let start = tail.getUint32(end + 16, true)
  if (count === FULL16 || size === FULL32 || start === FULL32) {
    const locator = endAt >= 20 ? await view(endAt - 20, 20) : undefined
    if (locator?.getUint32(0, true) === LOCATOR64) {
      const end64 = await view(big(locator, 8), 56)
      if (end64.getUint32(0, true) !== END64) throw broken('its zip64 end record is missing')
      count = big(end64, 32)
      size = big(end64, 40)
      start = big(end64, 48)
    }
  }
  if (size > MAX_DIRECTORY) throw broken(`its directory claims ${size} bytes`)
  const directory = await view(start, size)

  const records = new Map<string, ZipRecord>()
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== CENTRAL) throw broken('its directory is damaged')
    const flags = directory.getUint16(at + 8, true)
    const method = directory.getUint16(at + 10, true)
    const sum = directory.getUint32(at + 16, true)
    let packed = directory.getUint32(at + 20, true)
    let length = directory.getUint32(at + 24, true)
    const nameLength = directory.getUint16(at + 28, true)
    const extraLength = directory.getUint16(at + 30, true)
    const commentLength = directory.getUint16(at + 32, true)
    let local = directory.getUint32(at + 42, true)
    const next = at + 46 + nameLength + extraLength + commentLength
    if (next > directory.byteLength) throw broken('its directory is damaged')
    const name = Buffer.from(directory.buffer, directory.byteOffset + at + 46, nameLength).toString('utf8')
    for (let extra = at + 46 + nameLength, stop = extra + extraLength; extra + 4 <= stop;) {
      const fieldEnd = extra + 4 + directory.getUint16(extra + 2, true)
      if (directory.getUint16(extra, true) === 1) {
        // Only the lengths that did not fit their 32 bits stand here, in this order.
        let field = extra + 4
        const take = (): number => {
          if (field + 8 > Math.min(fieldEnd, stop)) throw broken(`the zip64 lengths of ${name} are missing`)
          field += 8
          return big(directory, field - 8)
        }
        if (length === FULL32) length = take()
        if (packed === FULL32) packed = take()
        if (local === FULL32) local = take()
      }
      extra = fieldEnd
    }
    at = next
    if (flags & 1) throw broken(`the record ${name} is encrypted`)
    if (records.has(name)) throw broken(`the record ${name} is there twice`)
    if (method !== 0)
      throw new UserError(`The record ${name} of ${file.path} is compressed, which torch.save never does.`, {
        code: 'BAD_CHECKPOINT',
        hint: 'Unpack the archive and save it again with torch.save.'
      })
    if (packed !== length || local + 30 + length > file.size) throw broken(`the record ${name} ends beyond the file; it is truncated`)

    let dataAt: number | undefined
    let compared = sum === 0
    records.set(name, {
      name,
      size: length,
      async read(offset, wanted) {
        if (offset < 0 || wanted < 0 || offset + wanted > length)
          throw broken(`bytes up to ${offset + wanted} are wanted of ${name}, which has ${length}`)
        if (dataAt === undefined) {
          const header = await view(local, 30)
          if (header.getUint32(0, true) !== LOCAL) throw broken(`the record ${name} is not where the directory says`)
          const localName = header.getUint16(26, true)
          const there = new Uint8Array((await view(local + 30, localName)).buffer)
          if (Buffer.from(there).toString('utf8') !== name) throw broken(`another record lies where its directory says ${name} is`)
          dataAt = local + 30 + localName + header.getUint16(28, true)
          if (dataAt + length > file.size) throw broken(`the record ${name} ends beyond the file; it is truncated`)
        }
        if (compared) return file.read(dataAt + offset, wanted)
        const whole = wanted === length ? await file.read(dataAt, length) : undefined
        const found = whole ? crc32(whole) : await crcOf(file, dataAt, length)
        if (found !== sum) throw broken(`the record ${name} does not match its checksum`)
        compared = true
        return whole ?? file.read(dataAt + offset, wanted)
      }
    })
  }
  return records
}

/** The CRC-32 of a stretch of a file. */
async function crcOf(file: FileReader, from: number, length: number): Promise<number> {
  let crc = 0
  for (let done = 0; done < length; done += STRETCH) crc = crc32(await file.read(from + done, Math.min(STRETCH, length - done)), crc)
  return crc
}

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
