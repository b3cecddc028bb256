/**
 * Arrow streams and files as other programs write them, with what this tool writes none of: views of texts and of
 * lists, dictionaries, structs, maps, decimals, and compressed buffers. None of them carries a checksum.
 */
import {MAGIC} from '../../src/files/embeddings/arrow/messages.js'
import {DICTIONARY_BATCH, RECORD_BATCH, SCHEMA, schemaFields, writeMessage} from '../../src/files/embeddings/arrow/schema.js'
import {writeFlat, type FlatFields} from '../../src/files/embeddings/arrow/flatbuffer.js'

/** The numbers of types in Arrow's schema. */
const types = {int: 2, float: 3, text: 5, bool: 6, decimal: 7, list: 12, struct: 13, map: 17, largeList: 21, bytesView: 23, textView: 24, listView: 25, largeListView: 26} as const // prettier-ignore

/** A column while it is put together: its field of the schema, and its nodes, buffers and numbers of views. */
type Column = {readonly field: FlatFields; readonly nodes: readonly number[]; readonly buffers: readonly Uint8Array[]; readonly variadic: readonly number[]} // prettier-ignore

const absent = new Uint8Array(0)
const int32s = (values: readonly number[]): Uint8Array => new Uint8Array(Int32Array.from(values).buffer)
const int64s = (values: readonly number[]): Uint8Array => new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
const field = (name: string, type: number, parts: FlatFields, children: readonly Column[] = [], dictionary?: FlatFields): FlatFields => [
  {string: name},
  {byte: 1},
  {byte: type},
  {table: parts},
  dictionary && {table: dictionary},
  {tables: children.map(child => child.field)}
]
const column = (made: FlatFields, rows: number, buffers: readonly Uint8Array[], children: readonly Column[] = []): Column => ({
  field: made,
  nodes: [rows, 0, ...children.flatMap(({nodes}) => nodes)],
  buffers: [...buffers, ...children.flatMap(child => child.buffers)],
  variadic: children.flatMap(({variadic}) => variadic)
})

/** Texts as views: up to 12 bytes in the view, else four of them and a place in one of two buffers. */
function views(name: string, texts: readonly string[], type: number): Column {
  const long: Buffer[][] = [[], []]
  const rows = texts.map((text, i) => {
    const bytes = Buffer.from(text)
    const view = Buffer.alloc(16)
    view.writeInt32LE(bytes.length, 0)
    if (bytes.length <= 12) bytes.copy(view, 4)
    else {
      const into = long[i % 2]!
      bytes.copy(view, 4, 0, 4)
      view.writeInt32LE(i % 2, 8)
      view.writeInt32LE(Buffer.concat(into).length, 12)
      into.push(bytes)
    }
    return view
  })
  const made = column(field(name, type, []), texts.length, [absent, Buffer.concat(rows), ...long.map(parts => Buffer.concat(parts))])
  return {...made, variadic: [2]}
}

const floats = (name: string, count: number): Column =>
  column(field(name, types.float, [{int16: 1}]), count, [
    absent,
    new Uint8Array(Float32Array.from({length: count}, (_, i) => Math.sin(i)).buffer)
  ])
const ints = (name: string, count: number): Column =>
  column(field(name, types.int, [{int32: 32}, {byte: 1}]), count, [absent, int32s(Array.from({length: count}, (_, i) => i))])
const listView = (name: string, places: readonly (readonly [number, number])[], items: Column, wide = false): Column => {
  const [starts, sizes] = [places.map(([start]) => start), places.map(([, size]) => size)]
  const write = wide ? int64s : int32s
  return column(field(name, wide ? types.largeListView : types.listView, [], [items]), places.length, [absent, write(starts), write(sizes)], [items]) // prettier-ignore
}
const list = (name: string, offsets: readonly number[], items: Column, type: number = types.list, parts: FlatFields = []): Column =>
  column(field(name, type, parts, [items]), offsets.length - 1, [absent, (type === types.largeList ? int64s : int32s)(offsets)], [items])
const struct = (name: string, rows: number, children: readonly Column[]): Column =>
  column(field(name, types.struct, [], children), rows, [absent], children)
const texts = (name: string, values: readonly string[], dictionary?: FlatFields): Column => {
  const ends = values.map((_, i) => Buffer.from(values.slice(0, i + 1).join('')).length)
  return column(field(name, types.text, [], [], dictionary), values.length, [absent, int32s([0, ...ends]), Buffer.from(values.join(''))])
}

export type Codec = 'none' | 'lz4' | 'zstd'

/** A buffer as a codec keeps it: its length, and one frame with one block of bytes as they are. */
function packed(bytes: Uint8Array, codec: Codec): Uint8Array {
  if (codec === 'none' || bytes.length === 0) return bytes
  const length = Buffer.alloc(8)
  length.writeBigInt64LE(BigInt(bytes.length))
  const size = Buffer.alloc(4)
  if (codec === 'lz4') {
    size.writeUInt32LE((bytes.length | 0x80000000) >>> 0) // the block is not compressed
    return Buffer.concat([length, Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]), size, bytes, Buffer.alloc(4)])
  }
  size.writeUInt32LE(bytes.length)
  const block = Buffer.alloc(4)
  block.writeUInt32LE((bytes.length << 3) | 1) // the last block, as it is
  return Buffer.concat([length, Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xa0]), size, block.subarray(0, 3), bytes])
}

/** A batch of columns: its fields, and its body. */
function batchOf(rows: number, columns: readonly Column[], codec: Codec): {readonly header: FlatFields; readonly body: Buffer} {
  const parts: Buffer[] = []
  const buffers: number[] = []
  let length = 0
  for (const raw of columns.flatMap(made => made.buffers)) {
    const bytes = packed(raw, codec)
    buffers.push(length, bytes.length)
    const padding = (8 - (bytes.length % 8)) % 8
    parts.push(Buffer.from(bytes), Buffer.alloc(padding))
    length += bytes.length + padding
  }
  const variadic = columns.flatMap(made => made.variadic)
  const header: FlatFields = [
    {int64: rows},
    {int64s: columns.flatMap(({nodes}) => nodes), each: 2},
    {int64s: buffers, each: 2},
    codec === 'none' ? undefined : {table: [{byte: codec === 'lz4' ? 0 : 1}]},
    variadic.length > 0 ? {int64s: variadic, each: 1} : undefined
  ]
  return {header, body: Buffer.concat(parts)}
}

function message(kind: number, header: FlatFields, body: Buffer = Buffer.alloc(0)): Buffer {
  const head = writeMessage(kind, header, body.length)
  const prefix = Buffer.alloc(8)
  prefix.writeInt32LE(-1, 0)
  prefix.writeInt32LE(head.length, 4)
  return Buffer.concat([prefix, head, body])
}

const rows = 5
const names = ['a', 'a name of more than twelve bytes', 'b', 'another name that is longer than that', 'c']
const dictionary: FlatFields = [{int64: 7}, {table: [{int32: 8}, {byte: 1}]}]

/** Columns of three kinds of files. */
const columns: Readonly<Record<'views' | 'nested' | 'dictionary', readonly Column[]>> = {
  views: [
    views('id', names, types.textView),
    listView('vector', [[0, 3], [3, 3], [6, 3], [0, 3], [9, 3]], floats('item', 12)), // prettier-ignore
    views('raw', names.map(name => name.repeat(2)), types.bytesView), // prettier-ignore
    listView('counts', [[0, 2], [1, 2], [2, 0], [0, 4], [3, 1]], ints('item', 4), true) // prettier-ignore
  ],
  nested: [
    texts('id', names),
    list('vector', [0, 2, 4, 6, 8, 10], floats('item', 10)),
    list('pairs', [0, 1, 1, 2, 2, 3], list('item', [0, 2, 2, 4], texts('item', ['x', 'yy', 'zzz', 'é'])), types.largeList),
    struct('place', rows, [ints('x', rows), views('name', names, types.textView)]),
    list('map', [0, 1, 2, 2, 3, 3], struct('entries', 3, [texts('key', ['k', 'l', 'm']), ints('value', 3)]), types.map, [{byte: 0}]),
    column(field('price', types.decimal, [{int32: 20}, {int32: 3}, {int32: 128}]), rows, [absent, Buffer.alloc(16 * rows, 7)]),
    column(field('there', types.bool, []), rows, [Uint8Array.of(0b10111), Uint8Array.of(0b01101)])
  ],
  dictionary: [
    texts('id', names),
    list('vector', [0, 2, 4, 6, 8, 10], floats('item', 10)),
    column(field('label', types.text, [], [], dictionary), rows, [absent, Uint8Array.of(0, 1, 1, 0, 1)]),
    column(field('half', types.float, [{int16: 0}]), rows, [absent, new Uint8Array(Uint16Array.of(0, 0x3c00, 0xbc00, 1, 0x7bff).buffer)])
  ]
}

/** A stream of one of the kinds. */
export function arrowStream(kind: keyof typeof columns, codec: Codec = 'none'): Buffer {
  const {header, body} = batchOf(rows, columns[kind], codec)
  const values = batchOf(2, [texts('', ['cat', 'dog'])], codec)
  return Buffer.concat([
    message(
      SCHEMA,
      schemaFields(
        columns[kind].map(made => made.field),
        new Map([['k', 'v']])
      )
    ),
    ...(kind === 'dictionary' ? [message(DICTIONARY_BATCH, [{int64: 7}, {table: values.header}], values.body)] : []),
    message(RECORD_BATCH, header, body),
    Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
  ])
}

/** A file of one of the kinds: the stream between two marks, and a footer with the place of the batch. */
export function arrowFile(kind: 'views' | 'nested'): Buffer {
  const stream = arrowStream(kind)
  const begin = 8 + 8 + stream.readInt32LE(4)
  const head = 8 + stream.readInt32LE(begin - 8 + 4)
  const block = [begin, head, stream.length - 8 - (begin - 8) - head]
  const schema = schemaFields(
    columns[kind].map(made => made.field),
    new Map()
  )
  // a block is a place, the length of its head in 32 bits and padding, and the length of its body
  const footer = writeFlat([{int16: 4}, {table: schema}, undefined, {int64s: block, each: 3}])
  const length = Buffer.alloc(4)
  length.writeInt32LE(footer.length)
  return Buffer.concat([Buffer.from(`${MAGIC}\0\0`), stream, footer, length, Buffer.from(MAGIC)])
}

/**
 * A small stream that unfolds to very much: list views in list views, each of all that the next one holds, or one long
 * text of a dictionary in every row.
 */
export function arrowBomb(kind: 'views' | 'dictionary'): Buffer {
  const n = 1000
  const made: Column[] = []
  if (kind === 'views') {
    let nested = ints('item', n)
    for (let level = 0; level < 4; level++)
      nested = listView(
        'bomb',
        Array.from({length: level === 3 ? 1 : n}, () => [0, n] as const),
        nested
      )
    made.push(list('vector', [0, 2], floats('item', 2)), nested)
  } else
    made.push(
      list(
        'vector',
        Array.from({length: n + 1}, (_, i) => i),
        floats('item', n)
      ),
      column(field('label', types.text, [], [], dictionary), n, [absent, new Uint8Array(n)])
    )
  const {header, body} = batchOf(kind === 'views' ? 1 : n, made, 'none')
  const text = batchOf(1, [texts('', ['x'.repeat(1 << 20)])], 'none')
  const schema = schemaFields(
    made.map(one => one.field),
    new Map()
  )
  return Buffer.concat([
    message(SCHEMA, schema),
    ...(kind === 'views' ? [] : [message(DICTIONARY_BATCH, [{int64: 7}, {table: text.header}], text.body)]),
    message(RECORD_BATCH, header, body)
  ])
}
