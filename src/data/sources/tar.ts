/**
 * The members of a tar file by their headers alone: what each is called, what it is, and where its bytes lie.
 *
 * Reads ustar, pax (`path` and `size`) and GNU headers (long names, sizes above 8 GiB). Libraries for tar read a
 * stream from front to back; here contents are stepped over, which for images is a thousandth of the reading.
 */
import {readSync} from 'node:fs'

export type TarMember = {
  /** The path, as bytes. */
  readonly name: Buffer
  /** `file`, `directory`, or what else it is, in a word. */
  readonly type: string
  /** Where its content begins in the file, and how long it is, in bytes. */
  readonly offset: number
  readonly size: number
}

const BLOCK = 512
/** Bytes read at once: headers of small members come together. */
const WINDOW = 4096
/** Longest extended header that is believed. */
const LONGEST = 1 << 20

const TYPES: Readonly<Record<string, string>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'hard link',
  '2': 'symbolic link',
  '3': 'device',
  '4': 'device',
  '5': 'directory',
  '6': 'pipe',
  S: 'sparse file'
}

/** Text up to the first NUL. */
function field(header: Buffer, at: number, length: number): Buffer {
  const whole = header.subarray(at, at + length)
  const end = whole.indexOf(0)
  return end < 0 ? whole : whole.subarray(0, end)
}

/** A number: octal digits, or where the first bit is set, 95 bits of which no more than 53 may be used. */
function number(header: Buffer, at: number, length: number): number {
  if (header[at]! & 0x80) {
    let value = header[at]! & 0x7f
    for (let i = 1; i < length; i++) value = value * 256 + header[at + i]!
    return value
  }
  const digits = field(header, at, length).toString('latin1').trim()
  if (!/^[0-7]*$/.test(digits)) throw new Error('a header holds a number that is none')
  return digits === '' ? 0 : parseInt(digits, 8)
}

/** Sum of the bytes of a header, its own sum counted as spaces. */
function checksum(header: Buffer): number {
  let sum = 8 * 0x20
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += header[i]!
  return sum
}

/** Whether these first bytes are a header of a tar file, of whatever age, or the end of one without members. */
export function isTarHeader(head: Buffer): boolean {
  if (head.length < BLOCK) return false
  if (head.subarray(0, BLOCK).every(byte => byte === 0)) return true
  try {
    return checksum(head) === number(head, 148, 8)
  } catch {
    return false // no number
  }
}

/** The records of a pax header: `27 path=some/where.jpg\n`, each with its own length in front. */
function paxRecords(bytes: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>()
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at)
    const length = space < 0 ? NaN : Number(bytes.toString('latin1', at, space))
    if (!(length > space - at && at + length <= bytes.length)) break
    const equals = bytes.indexOf(0x3d, space)
    if (equals > 0 && equals < at + length)
      records.set(bytes.toString('utf8', space + 1, equals), bytes.subarray(equals + 1, at + length - 1))
    at += length
  }
  return records
}

/**
 * Yields the members of the open `file` of so many bytes, in its order. Raises Error where it is damaged or no tar
 * file.
 */
export function* tarMembers(file: number, bytes: number): Generator<TarMember> {
  const window = Buffer.allocUnsafe(WINDOW)
  let [from, held] = [0, 0]
  /** The block at a place of the file. */
  const block = (at: number): Buffer => {
    if (at < from || at + BLOCK > from + held) {
      from = at
      held = readSync(file, window, 0, WINDOW, at)
      if (held < BLOCK) throw new Error('it ends within a header')
    }
    return window.subarray(at - from, at - from + BLOCK)
  }
  const content = (at: number, size: number): Buffer => {
    if (size > LONGEST) throw new Error('an extended header is too long')
    const read = Buffer.alloc(size)
    readSync(file, read, 0, size, at)
    return read
  }
  let longName: Buffer | undefined
  let ended = false
  let pax = new Map<string, Buffer>()
  for (let at = 0; at < bytes;) {
    const header = block(at)
    at += BLOCK
    const sum = checksum(header)
    ended = sum === 8 * 0x20
    if (ended) continue // zeros: the end, or what was the end before another archive was appended
    if (sum !== number(header, 148, 8)) throw new Error('a header has a wrong sum')
    const flag = String.fromCharCode(header[156]!)
    const given = pax.get('size')
    const extension = flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K'
    const size = given && !extension ? Number(given.toString('latin1')) : number(header, 124, 12)
    const offset = at
    if (!Number.isSafeInteger(size) || size < 0) throw new Error('a header holds a size that is none')
    if (offset + size > bytes) throw new Error('it ends within a member')
    at += Math.ceil(size / BLOCK) * BLOCK
    if (flag === 'x') pax = paxRecords(content(offset, size))
    else if (flag === 'L') longName = field(content(offset, size), 0, size)
    if (extension) continue
    const ustar = header.toString('latin1', 257, 262) === 'ustar' && header[262] === 0
    const prefix = ustar ? field(header, 345, 155) : Buffer.alloc(0)
    const short = field(header, 0, 100)
    const name = Buffer.from(pax.get('path') ?? longName ?? (prefix.length > 0 ? Buffer.concat([prefix, Buffer.from('/'), short]) : short))
    const sparse = [...pax.keys()].some(key => key.startsWith('GNU.sparse.'))
    const type = sparse ? 'sparse file' : (TYPES[flag] ?? `member of kind ${flag}`)
    yield {name, type: type === 'file' && name.at(-1) === 0x2f ? 'directory' : type, offset, size}
    pax = new Map()
    longName = undefined
    if (at > bytes) throw new Error('it ends within a member')
  }
  if (!ended) throw new Error(bytes === 0 ? 'it is empty' : 'it ends without the mark of its end, as a copy that was cut off does')
}
