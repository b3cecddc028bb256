/**
 * The part of the zip format that PyTorch uses: records stored without compression, each readable at its place in the
 * file, zip64 where 4 GiB are passed.
 *
 * The reader trusts the central directory, checks every place against the length of the file, and never holds more
 * than the directory. A record is held against its checksum when it is first read; zero stands for none, because
 * PyTorch can leave them out. Archives are written by `zip-write.ts`.
 */
import {UserError} from '../../config/errors.js'
import {crc32} from '../../system/crc32.js'
import type {FileReader} from '../../system/file-reader.js'

export type ZipRecord = {
  readonly name: string
  /** Bytes of the content. */
  readonly size: number
  /** `length` bytes of the content from `offset`. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/** The first bytes of local headers, of entries of the directory, and of the end records. */
export const LOCAL = 0x04034b50
export const CENTRAL = 0x02014b50
export const END = 0x06054b50
export const END64 = 0x06064b50
export const LOCATOR64 = 0x07064b50
/** Numbers of 16 and 32 bits that stand for one which does not fit. */
export const FULL16 = 0xffff
export const FULL32 = 0xffffffff
/** Bytes that are read at a time to be summed up. */
const STRETCH = 16 << 20
/** A directory beyond this is no checkpoint. */
const MAX_DIRECTORY = 64 << 20

/**
 * Lists the records of a zip archive by name. Throws `UserError` when it is no zip archive, is cut short, or holds
 * compressed records.
 */
export async function readZip(file: FileReader): Promise<Map<string, ZipRecord>> {
  return new ZipFile(file).records()
}

/** Where the directory of an archive lies, and how many records it lists. */
type DirectoryPlace = {readonly count: number; readonly size: number; readonly start: number}

/** What the directory says of a record. */
type DirectoryEntry = {
  readonly name: string
  readonly size: number
  /** Where its local header lies. */
  readonly local: number
  /** Its checksum; 0: none. */
  readonly sum: number
}

/** An archive that is open for reading. */
class ZipFile {
  readonly #file: FileReader

  constructor(file: FileReader) {
    this.#file = file
  }

  async records(): Promise<Map<string, ZipRecord>> {
    const {count, size, start} = await this.#findDirectory()
    if (size > MAX_DIRECTORY) throw this.#broken(`its directory claims ${size} bytes`)
    const directory = await this.#view(start, size)
    const records = new Map<string, ZipRecord>()
    let at = 0
    for (let i = 0; i < count; i++) {
      const {entry, next} = this.#readEntry(directory, at)
      if (records.has(entry.name)) throw this.#broken(`the record ${entry.name} is there twice`)
      records.set(entry.name, this.#record(entry))
      at = next
    }
    return records
  }

  #broken(problem: string): UserError {
    return new UserError(`${this.#file.path} is not a good zip archive: ${problem}.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Fetch or save it again.'
    })
  }

  async #view(offset: number, length: number): Promise<DataView> {
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > this.#file.size)
      throw this.#broken(`it points to byte ${offset + length}, but has ${this.#file.size}`)
    return new DataView((await this.#file.read(offset, length)).buffer)
  }

  /** A number of 64 bits. */
  #big(bytes: DataView, at: number): number {
    const value = Number(bytes.getBigUint64(at, true))
    if (!Number.isSafeInteger(value)) throw this.#broken(`it holds the length ${value}`)
    return value
  }

  /** Finds the end record, of 22 bytes and a comment of at most 65535, from the end of the file backwards. */
  async #findDirectory(): Promise<DirectoryPlace> {
    const fileSize = this.#file.size
    const tail = await this.#view(Math.max(0, fileSize - 22 - FULL16), Math.min(fileSize, 22 + FULL16))
    let end = tail.byteLength - 22
    while (end >= 0 && tail.getUint32(end, true) !== END) end--
    if (end < 0) throw this.#broken('its directory, which lies at the end, is missing; it is truncated')
    const endAt = fileSize - tail.byteLength + end
    const place = {count: tail.getUint16(end + 10, true), size: tail.getUint32(end + 12, true), start: tail.getUint32(end + 16, true)}
    if (place.count !== FULL16 && place.size !== FULL32 && place.start !== FULL32) return place
    const locator = endAt >= 20 ? await this.#view(endAt - 20, 20) : undefined
    if (locator?.getUint32(0, true) !== LOCATOR64) return place
    const end64 = await this.#view(this.#big(locator, 8), 56)
    if (end64.getUint32(0, true) !== END64) throw this.#broken('its zip64 end record is missing')
    return {count: this.#big(end64, 32), size: this.#big(end64, 40), start: this.#big(end64, 48)}
  }

  /** Reads the entry of the directory at byte `at`, and where the next one begins. */
  #readEntry(directory: DataView, at: number): {readonly entry: DirectoryEntry; readonly next: number} {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== CENTRAL) throw this.#broken('its directory is damaged')
    const flags = directory.getUint16(at + 8, true)
    const method = directory.getUint16(at + 10, true)
    const sum = directory.getUint32(at + 16, true)
    const nameLength = directory.getUint16(at + 28, true)
    const extraLength = directory.getUint16(at + 30, true)
    const commentLength = directory.getUint16(at + 32, true)
    const extra = at + 46 + nameLength
    const next = extra + extraLength + commentLength
    if (next > directory.byteLength) throw this.#broken('its directory is damaged')
    const name = Buffer.from(directory.buffer, directory.byteOffset + at + 46, nameLength).toString('utf8')
    const [size, packed, local] = this.#lengths(directory, at, name, {from: extra, to: extra + extraLength})
    if (flags & 1) throw this.#broken(`the record ${name} is encrypted`)
    if (method !== 0)
      throw new UserError(`The record ${name} of ${this.#file.path} is compressed, which torch.save never does.`, {
        code: 'BAD_CHECKPOINT',
        hint: 'Unpack the archive and save it again with torch.save.'
      })
    if (packed !== size || local + 30 + size > this.#file.size)
      throw this.#broken(`the record ${name} ends beyond the file; it is truncated`)
    return {entry: {name, size, local, sum}, next}
  }

  /** Length, packed length and place of a record; where 32 bits are too few, its extra fields hold them in 64. */
  #lengths(
    directory: DataView,
    at: number,
    name: string,
    extra: {readonly from: number; readonly to: number}
  ): [size: number, packed: number, local: number] {
    let packed = directory.getUint32(at + 20, true)
    let size = directory.getUint32(at + 24, true)
    let local = directory.getUint32(at + 42, true)
    for (let field = extra.from; field + 4 <= extra.to;) {
      const fieldEnd = field + 4 + directory.getUint16(field + 2, true)
      if (directory.getUint16(field, true) === 1) {
        // Only the lengths that did not fit their 32 bits stand here, in this order.
        let value = field + 4
        const take = (): number => {
          if (value + 8 > Math.min(fieldEnd, extra.to)) throw this.#broken(`the zip64 lengths of ${name} are missing`)
          value += 8
          return this.#big(directory, value - 8)
        }
        if (size === FULL32) size = take()
        if (packed === FULL32) packed = take()
        if (local === FULL32) local = take()
      }
      field = fieldEnd
    }
    return [size, packed, local]
  }

  #record(entry: DirectoryEntry): ZipRecord {
    const {name, size, sum} = entry
    let dataAt: number | undefined
    let compared = sum === 0
    return {
      name,
      size,
      read: async (offset, length) => {
        if (offset < 0 || length < 0 || offset + length > size)
          throw this.#broken(`bytes up to ${offset + length} are wanted of ${name}, which has ${size}`)
        dataAt ??= await this.#findData(entry)
        if (compared) return this.#file.read(dataAt + offset, length)
        const whole = length === size ? await this.#file.read(dataAt, size) : undefined
        const found = whole ? crc32(whole) : await crcOf(this.#file, dataAt, size)
        if (found !== sum) throw this.#broken(`the record ${name} does not match its checksum`)
        compared = true
        return whole ?? this.#file.read(dataAt + offset, length)
      }
    }
  }

  /** Where the bytes of a record begin: behind its local header, which must name it. */
  async #findData({name, size, local}: DirectoryEntry): Promise<number> {
    const header = await this.#view(local, 30)
    if (header.getUint32(0, true) !== LOCAL) throw this.#broken(`the record ${name} is not where the directory says`)
    const nameLength = header.getUint16(26, true)
    const localName = new Uint8Array((await this.#view(local + 30, nameLength)).buffer)
    if (Buffer.from(localName).toString('utf8') !== name) throw this.#broken(`another record lies where its directory says ${name} is`)
    const dataAt = local + 30 + nameLength + header.getUint16(28, true)
    if (dataAt + size > this.#file.size) throw this.#broken(`the record ${name} ends beyond the file; it is truncated`)
    return dataAt
  }
}

/** The CRC-32 of a stretch of a file. */
async function crcOf(file: FileReader, from: number, length: number): Promise<number> {
  let crc = 0
  for (let done = 0; done < length; done += STRETCH) crc = crc32(await file.read(from + done, Math.min(STRETCH, length - done)), crc)
  return crc
}
