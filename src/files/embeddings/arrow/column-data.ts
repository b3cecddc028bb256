/**
 * The columns of one Arrow record batch, as functions from a row to its value.
 *
 * Everything that a batch says of itself (lengths, offsets, sizes, references into a dictionary) is held against the
 * bytes before a value is asked for, so that a damaged batch is refused as a whole instead of being half used.
 * Throws `RangeError`. Layouts: Arrow columnar format, "Physical memory layout".
 */
import {fixedReader, type FixedType} from './fixed-width.js'
import {safeNumber} from './flatbuffer.js'
import type {ArrowField, ArrowType} from './schema.js'

/** A column, or the items of a list: `get(i)` is null where there is no value. */
export type ColumnData = {
  readonly length: number
  readonly isNull: (i: number) => boolean
  readonly get: (i: number) => unknown
  /** Of numbers: the values as they lie in the buffer, without regard to nulls. */
  readonly number?: (i: number) => number
  /** Of bytes: the bytes themselves; `get` gives their base64. */
  readonly bytes?: (i: number) => Buffer
  /** Of lists: where the items of row i begin, how many they are, and the items. */
  readonly list?: {readonly start: (i: number) => number; readonly size: (i: number) => number; readonly items: ColumnData}
  /** Of float32: the values, where they lie aligned and without nulls. */
  readonly float32?: Float32Array
  readonly hasNulls: boolean
  /**
   * How many values and bytes of text row i unfolds to. Views and dictionaries may name the same bytes again and
   * again, and lists of them in each other multiply it.
   */
  readonly weight: (i: number) => number
}

const one = (): number => 1

/** The buffers of a batch in the order in which its columns take them. */
export class BatchCursor {
  #node = 0
  #buffer = 0
  #variadic = 0

  constructor(
    readonly rows: number,
    /** Length and number of nulls of each column, its items included. */
    readonly nodes: readonly number[],
    readonly buffers: readonly Buffer[],
    readonly variadic: readonly number[],
    /** No column may claim more values than this: eight a byte of the batch, so that none can be made of nothing. */
    readonly maxLength: number
  ) {}

  node(): {readonly length: number; readonly nulls: number} {
    const [length, nulls] = [this.nodes[2 * this.#node], this.nodes[2 * this.#node + 1]]
    this.#node++
    if (length === undefined || nulls === undefined) throw new RangeError('a batch lacks columns')
    if (length < 0 || length > this.maxLength || nulls < 0 || nulls > length)
      throw new RangeError('a batch claims more values than it has bytes')
    return {length, nulls}
  }

  /** The next buffer, of which at least `bytes` must be there. */
  buffer(bytes: number): Buffer {
    const buffer = this.buffers[this.#buffer++]
    if (!buffer) throw new RangeError('a batch lacks buffers')
    if (buffer.length < bytes) throw new RangeError(`a column should have ${bytes} bytes, but has ${buffer.length}`)
    return buffer
  }

  /** The buffers that the views of the next column look into. */
  views(): Buffer[] {
    const n = this.variadic[this.#variadic++]
    if (n === undefined || n < 0 || this.#buffer + n > this.buffers.length) throw new RangeError('a batch lacks buffers')
    this.#buffer += n
    return this.buffers.slice(this.#buffer - n, this.#buffer) as Buffer[]
  }
}

/** Values of dictionaries, by their numbers. */
export type Dictionaries = ReadonlyMap<number, ColumnData>

/** Reads the next column of a batch. */
export function columnData(field: ArrowField, cursor: BatchCursor, dictionaries: Dictionaries): ColumnData {
  if (!field.dictionary) return plainColumn(field.type, cursor, dictionaries)
  const indexes = plainColumn(field.dictionary.index, cursor, dictionaries)
  const values = dictionaries.get(field.dictionary.id)
  if (!values) {
    if (indexes.length === 0) return indexes
    throw new RangeError('a column refers to a dictionary that did not come')
  }
  for (let i = 0; i < indexes.length; i++) {
    if (indexes.isNull(i)) continue
    const at = indexes.number!(i)
    if (!(at >= 0 && at < values.length)) throw new RangeError('a column refers to an entry that its dictionary has not')
  }
  const isNull = (i: number): boolean => indexes.isNull(i) || values.isNull(indexes.number!(i))
  const {bytes} = values
  return {
    length: indexes.length,
    isNull,
    hasNulls: indexes.hasNulls || values.hasNulls,
    get: i => (isNull(i) ? null : values.get(indexes.number!(i))),
    weight: i => (isNull(i) ? 1 : values.weight(indexes.number!(i))),
    ...(bytes && {bytes: (i: number) => bytes(indexes.number!(i))})
  }
}

/** Which rows are null: one bit a row, least significant first; without a buffer all are there. */
function validity(cursor: BatchCursor): {length: number; isNull: (i: number) => boolean; hasNulls: boolean} {
  const {length, nulls} = cursor.node()
  const bits = cursor.buffer(0)
  if (bits.length === 0) {
    if (nulls > 0) throw new RangeError('a column has nulls, but does not say where')
    return {length, isNull: () => false, hasNulls: false}
  }
  if (bits.length < Math.ceil(length / 8)) throw new RangeError('a column does not say of each row whether it is there')
  return {length, isNull: i => ((bits[i >> 3]! >> (i & 7)) & 1) === 0, hasNulls: nulls > 0}
}

function plainColumn(type: ArrowType, cursor: BatchCursor, dictionaries: Dictionaries): ColumnData {
  switch (type.kind) {
    case 'null':
      return {length: cursor.node().length, isNull: () => true, get: () => null, hasNulls: true, weight: one}
    case 'text':
    case 'bytes':
      return stringColumn(type, cursor)
    case 'list':
      return listColumn(type, cursor, dictionaries)
    case 'fixed-list': {
      const {length, isNull, hasNulls} = validity(cursor)
      const items = columnData(type.item, cursor, dictionaries)
      if (items.length < length * type.size) throw new RangeError('a list has fewer items than it claims')
      return lists(length, isNull, hasNulls, {start: i => i * type.size, size: () => type.size, items}, false)
    }
    case 'struct': {
      const {length, isNull, hasNulls} = validity(cursor)
      const children = type.children.map(child => ({name: child.name, data: columnData(child, cursor, dictionaries)}))
      if (children.some(({data}) => data.length < length)) throw new RangeError('a column has fewer rows than it claims')
      const get = (i: number): unknown => (isNull(i) ? null : Object.fromEntries(children.map(({name, data}) => [name, data.get(i)])))
      const weight = (i: number): number => children.reduce((sum, {data}) => sum + data.weight(i), 1)
      return {length, isNull, hasNulls, get, weight}
    }
    default:
      return fixedColumn(type, cursor)
  }
}

function fixedColumn(type: FixedType, cursor: BatchCursor): ColumnData {
  const {length, isNull, hasNulls} = validity(cursor)
  const data = cursor.buffer(0)
  const {width, value, number} = fixedReader(type, data)
  if (data.length < Math.ceil(length * width))
    throw new RangeError(`a column should have ${Math.ceil(length * width)} bytes, but has ${data.length}`)
  const aligned = type.kind === 'float' && type.bits === 32 && !hasNulls && data.byteOffset % 4 === 0
  return {
    length,
    isNull,
    hasNulls,
    get: i => (isNull(i) ? null : value(i)),
    weight: one,
    ...(number && {number}),
    ...(aligned && {float32: new Float32Array(data.buffer, data.byteOffset, length)})
  }
}

/** Offsets [n + 1] of 32 or 64 bits, rising from 0 to at most `end`. */
function offsetsOf(buffer: Buffer, length: number, wide: boolean): (i: number) => number {
  const at = wide ? (i: number) => safeNumber(buffer.readBigInt64LE(8 * i)) : (i: number) => buffer.readInt32LE(4 * i)
  if (length === 0) return () => 0
  if (buffer.length < (length + 1) * (wide ? 8 : 4)) throw new RangeError('a column lacks offsets')
  let before = at(0)
  if (before < 0) throw new RangeError('a column begins before its bytes')
  for (let i = 1; i <= length; i++) {
    const next = at(i)
    if (next < before) throw new RangeError('the offsets of a column do not rise')
    before = next
  }
  return at
}

const utf8 = new TextDecoder('utf-8', {fatal: true})

/** Text of bytes; undefined where they are no UTF-8. */
export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes)
  } catch {
    return undefined
  }
}

function stringColumn(type: Extract<ArrowType, {kind: 'text' | 'bytes'}>, cursor: BatchCursor): ColumnData {
  const {length, isNull, hasNulls} = validity(cursor)
  const slice = type.offsets === 'view' ? viewSlices(length, isNull, cursor) : offsetSlices(length, type.offsets === 'offsets64', cursor)
  const weight = (i: number): number => (isNull(i) ? 1 : 1 + slice(i).length)
  if (type.kind === 'bytes')
    return {length, isNull, hasNulls, weight, bytes: slice, get: i => (isNull(i) ? null : slice(i).toString('base64'))}
  const read = (i: number): string => {
    const text = textOf(slice(i))
    if (text === undefined) throw new RangeError('a text of it is no UTF-8')
    return text
  }
  return {length, isNull, hasNulls, weight, get: i => (isNull(i) ? null : read(i))}
}

function offsetSlices(length: number, wide: boolean, cursor: BatchCursor): (i: number) => Buffer {
  const offset = offsetsOf(cursor.buffer(0), length, wide)
  const data = cursor.buffer(offset(length))
  return i => data.subarray(offset(i), offset(i + 1))
}

/**
 * Views of 16 bytes: a length, and either up to 12 bytes, or four of them, the number of a buffer and a place in it.
 */
function viewSlices(length: number, isNull: (i: number) => boolean, cursor: BatchCursor): (i: number) => Buffer {
  const views = cursor.buffer(16 * length)
  const buffers = cursor.views()
  const slice = (i: number): Buffer => {
    const size = views.readInt32LE(16 * i)
    if (size >= 0 && size <= 12) return views.subarray(16 * i + 4, 16 * i + 4 + size)
    const [buffer, at] = [buffers[views.readInt32LE(16 * i + 8)], views.readInt32LE(16 * i + 12)]
    if (size < 0 || !buffer || at < 0 || at + size > buffer.length) throw new RangeError('a text lies outside its column')
    return buffer.subarray(at, at + size)
  }
  for (let i = 0; i < length; i++) if (!isNull(i)) slice(i)
  return slice
}

function listColumn(type: Extract<ArrowType, {kind: 'list'}>, cursor: BatchCursor, dictionaries: Dictionaries): ColumnData {
  const {length, isNull, hasNulls} = validity(cursor)
  if (type.offsets !== 'view') {
    const offset = offsetsOf(cursor.buffer(0), length, type.offsets === 'offsets64')
    const items = columnData(type.item, cursor, dictionaries)
    if (offset(length) > items.length) throw new RangeError('a list has fewer items than it claims')
    return lists(length, isNull, hasNulls, {start: offset, size: i => offset(i + 1) - offset(i), items}, type.map)
  }
  const width = type.wide ? 8 : 4
  const [starts, sizes] = [cursor.buffer(length * width), cursor.buffer(length * width)]
  const at = (buffer: Buffer, i: number): number => (type.wide ? safeNumber(buffer.readBigInt64LE(8 * i)) : buffer.readInt32LE(4 * i))
  const items = columnData(type.item, cursor, dictionaries)
  for (let i = 0; i < length; i++) {
    if (isNull(i)) continue
    const [start, size] = [at(starts, i), at(sizes, i)]
    if (start < 0 || size < 0 || start + size > items.length) throw new RangeError('a list has fewer items than it claims')
  }
  return lists(length, isNull, hasNulls, {start: i => at(starts, i), size: i => at(sizes, i), items}, false)
}

function lists(
  length: number,
  isNull: (i: number) => boolean,
  hasNulls: boolean,
  list: NonNullable<ColumnData['list']>,
  map: boolean
): ColumnData {
  const get = (i: number): unknown => {
    if (isNull(i)) return null
    const found = Array.from({length: list.size(i)}, (_, k) => list.items.get(list.start(i) + k))
    if (!map) return found
    return Object.fromEntries(
      found.map(entry => Object.values((entry ?? {}) as object)).map(([key, value]) => [String(key), value as unknown])
    )
  }
  return {length, isNull, hasNulls, get, list, weight: listWeight(list, isNull)}
}

/** What the lists weigh, from the sums of what their items weigh before each place. */
function listWeight({start, size, items}: NonNullable<ColumnData['list']>, isNull: (i: number) => boolean): ColumnData['weight'] {
  if (items.weight === one) return i => (isNull(i) ? 1 : 1 + size(i))
  const before = new Float64Array(items.length + 1)
  for (let i = 0; i < items.length; i++) before[i + 1] = before[i]! + items.weight(i)
  return i => (isNull(i) ? 1 : 1 + before[start(i) + size(i)]! - before[start(i)]!)
}
