/**
 * FlatBuffers, as far as Arrow's messages need them: tables read with every offset held against the bytes, and
 * tables written.
 *
 * A damaged message may point anywhere, so nothing here trusts an offset, a length or a count: each is compared with
 * the end of the buffer before it is used, and a table that shares its parts too often is refused. What does not fit
 * throws `RangeError`, which the readers turn into a sentence. Format: https://flatbuffers.dev/internals.
 */

/** How many tables one message may open: a bound on what a message whose parts are shared can cost. */
const MAX_TABLES = 100_000

const outside = (): RangeError => new RangeError('its metadata point outside themselves')

/** The bytes of one message, and how many tables of it were opened. */
class Message {
  tables = 0

  constructor(readonly bytes: Buffer) {}

  /** Checks that `length` bytes from `at` are there. */
  check(at: number, length: number): number {
    if (!Number.isSafeInteger(at) || at < 0 || length < 0 || at + length > this.bytes.length) throw outside()
    return at
  }
}

/** A vector inside a message: where its elements begin, and how many there are. */
type VectorPlace = {readonly at: number; readonly length: number}

/**
 * One table of a message. Fields are named by their number in Arrow's schema files; an absent field has its default.
 */
export class FlatTable {
  readonly #message: Message
  readonly #at: number
  readonly #vtable: number
  readonly #vtableBytes: number

  private constructor(message: Message, at: number) {
    if (++message.tables > MAX_TABLES) throw new RangeError('its metadata have too many parts')
    const {bytes} = message
    this.#message = message
    this.#at = message.check(at, 4)
    this.#vtable = message.check(at - bytes.readInt32LE(at), 4)
    this.#vtableBytes = bytes.readUInt16LE(this.#vtable)
    message.check(this.#vtable, Math.max(4, this.#vtableBytes))
  }

  /** The table that a message begins with. Throws `RangeError` where the bytes hold none. */
  static root(bytes: Buffer): FlatTable {
    const message = new Message(bytes)
    return new FlatTable(message, bytes.readUInt32LE(message.check(0, 4)))
  }

  /** Where the value of a field stands, `size` bytes long; undefined where it has its default. */
  #place(field: number, size: number): number | undefined {
    const entry = 4 + 2 * field
    if (entry + 2 > this.#vtableBytes) return undefined
    const offset = this.#message.bytes.readUInt16LE(this.#vtable + entry)
    return offset === 0 ? undefined : this.#message.check(this.#at + offset, size)
  }

  byte(field: number, absent = 0): number {
    const at = this.#place(field, 1)
    return at === undefined ? absent : this.#message.bytes[at]!
  }

  int16(field: number, absent = 0): number {
    const at = this.#place(field, 2)
    return at === undefined ? absent : this.#message.bytes.readInt16LE(at)
  }

  int32(field: number, absent = 0): number {
    const at = this.#place(field, 4)
    return at === undefined ? absent : this.#message.bytes.readInt32LE(at)
  }

  /** A 64-bit number. Throws `RangeError` where it is larger than a JavaScript number counts. */
  int64(field: number, absent = 0): number {
    const at = this.#place(field, 8)
    return at === undefined ? absent : safeNumber(this.#message.bytes.readBigInt64LE(at))
  }

  /** Where a reference leads. */
  #target(field: number): number | undefined {
    const at = this.#place(field, 4)
    return at === undefined ? undefined : this.#message.check(at + this.#message.bytes.readUInt32LE(at), 4)
  }

  table(field: number): FlatTable | undefined {
    const at = this.#target(field)
    return at === undefined ? undefined : new FlatTable(this.#message, at)
  }

  string(field: number): string | undefined {
    const at = this.#target(field)
    if (at === undefined) return undefined
    const length = this.#message.bytes.readUInt32LE(at)
    this.#message.check(at + 4, length)
    return this.#message.bytes.toString('utf8', at + 4, at + 4 + length)
  }

  #vector(field: number, elementBytes: number): VectorPlace | undefined {
    const at = this.#target(field)
    if (at === undefined) return undefined
    const length = this.#message.bytes.readUInt32LE(at)
    return {at: this.#message.check(at + 4, length * elementBytes), length}
  }

  /** The tables of a vector of tables. */
  tables(field: number): FlatTable[] {
    const vector = this.#vector(field, 4)
    if (!vector) return []
    return Array.from({length: vector.length}, (_, i) => {
      const at = vector.at + 4 * i
      return new FlatTable(this.#message, at + this.#message.bytes.readUInt32LE(at))
    })
  }

  /** The numbers of a vector of 64-bit numbers, or of structs of them (`each` numbers an element). */
  int64s(field: number, each = 1): number[] {
    const vector = this.#vector(field, 8 * each)
    if (!vector) return []
    return Array.from({length: vector.length * each}, (_, i) => safeNumber(this.#message.bytes.readBigInt64LE(vector.at + 8 * i)))
  }

  /** The blocks of a file's footer: structs of 64, 32 (padded to 64) and 64 bits. */
  blocks(field: number): [number, number, number][] {
    const vector = this.#vector(field, 24)
    if (!vector) return []
    const {bytes} = this.#message
    return Array.from({length: vector.length}, (_, i) => {
      const at = vector.at + 24 * i
      return [safeNumber(bytes.readBigInt64LE(at)), bytes.readInt32LE(at + 8), safeNumber(bytes.readBigInt64LE(at + 16))]
    })
  }
}

/** A 64-bit number as a JavaScript number. */
export function safeNumber(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER))
    throw new RangeError('it counts more than there can be')
  return Number(value)
}

// ---- writing ------------------------------------------------------------------------------------------------------

/** The value of a field: a number of some width, or something that the field refers to. */
export type FlatValue =
  | {readonly byte: number}
  | {readonly int16: number}
  | {readonly int32: number}
  | {readonly int64: number}
  | {readonly string: string}
  | {readonly table: FlatFields}
  | {readonly tables: readonly FlatFields[]}
  | {readonly int64s: readonly number[]; readonly each: number}

/** The fields of a table, by their number; undefined where a field has its default. */
export type FlatFields = readonly (FlatValue | undefined)[]

const widthOf = (value: FlatValue): number => ('byte' in value ? 1 : 'int16' in value ? 2 : 'int64' in value ? 8 : 4)

/**
 * Writes tables one behind the other; a reference always leads forward, so each is filled in when its target is
 * placed.
 */
class FlatWriter {
  #bytes = Buffer.alloc(1024)
  length = 4 // the root's offset

  #room(length: number): number {
    const at = this.length
    if (at + length > this.#bytes.length) this.#bytes = Buffer.concat([this.#bytes], Math.max(this.#bytes.length * 2, at + length))
    this.length += length
    return at
  }

  #align(width: number, behind = 0): void {
    while ((this.length + behind) % width !== 0) this.length++
    this.#room(0)
  }

  refer(from: number, to: number): void {
    this.#bytes.writeUInt32LE(to - from, from)
  }

  /** Places a table and what it refers to; returns where it stands. */
  table(fields: FlatFields): number {
    this.#align(2)
    const vtable = this.#room(4 + 2 * fields.length)
    // The widest fields come first, so that each stands at a multiple of its width.
    const order = fields.flatMap((value, field) => (value ? [{field, value, width: widthOf(value)}] : [])).sort((a, b) => b.width - a.width)
    this.#align(8, 4)
    const at = this.#room(4)
    let bytes = 4
    const places = order.map(({field, value, width}) => {
      const place = this.#room(width)
      this.#bytes.writeUInt16LE(place - at, vtable + 4 + 2 * field)
      bytes += width
      return {value, place}
    })
    this.#bytes.writeInt32LE(at - vtable, at)
    this.#bytes.writeUInt16LE(4 + 2 * fields.length, vtable)
    this.#bytes.writeUInt16LE(bytes, vtable + 2)
    for (const {value, place} of places) this.#fill(value, place)
    return at
  }

  #fill(value: FlatValue, place: number): void {
    if ('byte' in value) this.#bytes.writeUInt8(value.byte, place)
    else if ('int16' in value) this.#bytes.writeInt16LE(value.int16, place)
    else if ('int32' in value) this.#bytes.writeInt32LE(value.int32, place)
    else if ('int64' in value) this.#bytes.writeBigInt64LE(BigInt(value.int64), place)
    else if ('string' in value) this.refer(place, this.#string(value.string))
    else if ('table' in value) this.refer(place, this.table(value.table))
    else if ('tables' in value) this.refer(place, this.#tables(value.tables))
    else this.refer(place, this.#int64s(value.int64s, value.each))
  }

  #string(text: string): number {
    const bytes = Buffer.from(text, 'utf8')
    this.#align(4)
    const at = this.#room(4 + bytes.length + 1) // a zero byte ends it
    this.#bytes.writeUInt32LE(bytes.length, at)
    bytes.copy(this.#bytes, at + 4)
    return at
  }

  #tables(list: readonly FlatFields[]): number {
    this.#align(4)
    const at = this.#room(4 + 4 * list.length)
    this.#bytes.writeUInt32LE(list.length, at)
    for (const [i, fields] of list.entries()) this.refer(at + 4 + 4 * i, this.table(fields))
    return at
  }

  #int64s(numbers: readonly number[], each: number): number {
    this.#align(8, 4)
    const at = this.#room(4 + 8 * numbers.length)
    this.#bytes.writeUInt32LE(numbers.length / each, at)
    for (const [i, value] of numbers.entries()) this.#bytes.writeBigInt64LE(BigInt(value), at + 4 + 8 * i)
    return at
  }

  finish(root: number): Buffer {
    this.#align(8)
    this.#bytes.writeUInt32LE(root, 0)
    return Buffer.from(this.#bytes.subarray(0, this.length))
  }
}

/** A whole message: the root table and all it refers to, padded to a multiple of eight bytes. */
export function writeFlat(root: FlatFields): Buffer {
  const writer = new FlatWriter()
  return writer.finish(writer.table(root))
}
