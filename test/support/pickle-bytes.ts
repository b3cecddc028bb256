/** Pickles and zip archives put together by hand, for tests: what an honest torch.save never writes. */

const text = (value: string): Buffer => Buffer.from(value, 'utf8')

/** Opcodes by their names in Python's pickletools. */
export const op = {
  proto: (version = 2): Buffer => Buffer.from([0x80, version]),
  stop: text('.'),
  mark: text('('),
  none: text('N'),
  emptyTuple: text(')'),
  emptyList: text(']'),
  emptyDict: text('}'),
  tuple: text('t'),
  tuple1: Buffer.from([0x85]),
  tuple2: Buffer.from([0x86]),
  tuple3: Buffer.from([0x87]),
  setItem: text('s'),
  setItems: text('u'),
  append: text('a'),
  appends: text('e'),
  reduce: text('R'),
  build: text('b'),
  object: text('o'),
  newObject: Buffer.from([0x81]),
  newObjectEx: Buffer.from([0x92]),
  persistent: text('Q'),
  duplicate: text('2'),
  pop: text('0'),
  memoize: Buffer.from([0x94]),
  stackGlobal: Buffer.from([0x93]),
  true: Buffer.from([0x88]),
  false: Buffer.from([0x89]),
  global: (module: string, name: string): Buffer => text(`c${module}\n${name}\n`),
  inst: (module: string, name: string): Buffer => text(`i${module}\n${name}\n`),
  put: (index: number): Buffer => Buffer.from([0x71, index]),
  get: (index: number): Buffer => Buffer.from([0x68, index]),
  int: (value: number): Buffer => {
    const out = Buffer.alloc(5)
    out[0] = 0x4a
    out.writeInt32LE(value, 1)
    return out
  },
  string: (value: string): Buffer => {
    const out = Buffer.alloc(5)
    out[0] = 0x58
    out.writeUInt32LE(Buffer.byteLength(value), 1)
    return Buffer.concat([out, text(value)])
  }
} as const

export const pickle = (...parts: readonly Buffer[]): Buffer => Buffer.concat([op.proto(), ...parts, op.stop])

/**
 * A tensor as torch.save writes it: view of storage `key`, with the given type, offset, shape and strides; `part` ends
 * the id in old files.
 */
export function tensor(
  key: string,
  numel: number,
  shape: readonly number[],
  stride: readonly number[],
  {offset = 0, storage = 'FloatStorage', part = Buffer.alloc(0)}: {offset?: number; storage?: string; part?: Buffer} = {}
): Buffer {
  const tuple = (values: readonly number[]): Buffer => Buffer.concat([op.mark, ...values.map(op.int), op.tuple])
  return Buffer.concat([
    op.global('torch._utils', '_rebuild_tensor_v2'),
    op.mark,
    op.mark,
    op.string('storage'),
    op.global('torch', storage),
    op.string(key),
    op.string('cpu'),
    op.int(numel),
    part,
    op.tuple,
    op.persistent,
    op.int(offset),
    tuple(shape),
    tuple(stride),
    op.false,
    op.global('collections', 'OrderedDict'),
    op.emptyTuple,
    op.reduce,
    op.tuple,
    op.reduce
  ])
}

export const dict = (entries: Readonly<Record<string, Buffer>>): Buffer =>
  Buffer.concat([op.emptyDict, op.mark, ...Object.entries(entries).flatMap(([name, value]) => [op.string(name), value]), op.setItems])

/** A stored zip archive, plain and small; `method` 8 claims compression. Checksums are left zero. */
export function zip(records: Readonly<Record<string, Uint8Array>>, {method = 0}: {method?: number} = {}): Buffer {
  const body: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const [name, content] of Object.entries(records)) {
    const encoded = text(name)
    const shared = Buffer.alloc(26)
    shared.writeUInt16LE(20, 0)
    shared.writeUInt16LE(method, 4)
    shared.writeUInt32LE(content.length, 14)
    shared.writeUInt32LE(content.length, 18)
    shared.writeUInt16LE(encoded.length, 22)
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), shared, encoded, content])
    const place = Buffer.alloc(14)
    place.writeUInt32LE(at, 10)
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00', 'latin1'), shared, place, encoded]))
    body.push(local)
    at += local.length
  }
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(directory.length, 8)
  end.writeUInt16LE(directory.length, 10)
  end.writeUInt32LE(Buffer.concat(directory).length, 12)
  end.writeUInt32LE(at, 16)
  return Buffer.concat([...body, ...directory, end])
}

/** A `.pth` with this pickle and these storages. */
export const pth = (pickled: Buffer, storages: Readonly<Record<string, Uint8Array>> = {}): Buffer =>
  zip({
    'archive/data.pkl': pickled,
    'archive/byteorder': text('little'),
    ...Object.fromEntries(Object.entries(storages).map(([key, content]) => [`archive/data/${key}`, content])),
    'archive/version': text('3\n')
  })

/** A file of torch.save before version 1.6: magic number, version, machine, object, keys, storages of float32. */
export function pthSequence(pickled: Buffer, storages: Readonly<Record<string, Uint8Array>> = {}): Buffer {
  const keys = Object.keys(storages).flatMap(key => [op.string(key), op.append])
  const written = Object.values(storages).flatMap(content => {
    const count = Buffer.alloc(8)
    count.writeBigInt64LE(BigInt(content.byteLength / 4))
    return [count, content]
  })
  return Buffer.concat([
    Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex'),
    pickle(op.int(1001)),
    pickle(dict({protocol_version: op.int(1001), little_endian: op.true})),
    pickled,
    pickle(op.emptyList, ...keys),
    ...written
  ])
}
