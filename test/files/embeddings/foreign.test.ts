/** Files of other programs, made here: other types of ids and numbers, other orders of bytes, other separators. */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import * as arrow from 'apache-arrow'
import {openEmbeddings} from '../../../src/files/embeddings/embeddings.js'
import {arrowBomb, arrowFile, arrowStream} from '../../fuzz/arrow-streams.js'
import {unpackLz4} from '../../../src/files/embeddings/arrow/compression.js'
import {unpackZstd} from '../../../src/system/zstd.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'foreign-'))))
after(() => rm(dir, {recursive: true, force: true}))

async function read(name: string, bytes: string | Uint8Array): Promise<[string, number[], object][]> {
  const path = join(dir, name)
  await writeFile(path, bytes)
  const found: [string, number[], object][] = []
  const {rows} = await openEmbeddings(path)
  for await (const {ids, vectors, fields} of rows) {
    const D = vectors.length / ids.length
    for (const [i, id] of ids.entries()) found.push([id, [...vectors.subarray(i * D, (i + 1) * D)], {...fields[i]}])
  }
  return found
}

const list = (type: arrow.DataType, values: readonly (readonly number[])[]): arrow.Vector =>
  arrow.vectorFromArray(values as number[][], new arrow.List(new arrow.Field('item', type, true)))
const expected = [
  ['a', [0.5, 1]],
  ['b', [2, 3]]
]
const vectors = [
  [0.5, 1],
  [2, 3]
]

describe('Arrow', () => {
  const ids: Readonly<Record<string, arrow.Vector>> = {
    utf8: arrow.vectorFromArray(['a', 'b'], new arrow.Utf8()),
    'large utf8': arrow.vectorFromArray(['a', 'b'], new arrow.LargeUtf8()),
    dictionary: arrow.vectorFromArray(['a', 'b'], new arrow.Dictionary(new arrow.Utf8(), new arrow.Int16())),
    binary: arrow.vectorFromArray([Buffer.from('a'), Buffer.from('b')], new arrow.Binary())
  }
  for (const [type, id] of Object.entries(ids)) {
    for (const kind of ['stream', 'file'] as const)
      test(`ids of the type ${type}, in a ${kind}`, async () => {
        const table = new arrow.Table({id, vector: list(new arrow.Float64(), vectors)} as never)
        const found = await read('t.arrow', arrow.tableToIPC(table, kind))
        assert.deepEqual(
          found.map(([name, vector]) => [name, vector]),
          expected
        )
      })
  }

  test('whole-number ids become texts, other columns become fields', async () => {
    const table = new arrow.Table({
      id: arrow.vectorFromArray([7n, 9n], new arrow.Int64()),
      n: arrow.vectorFromArray([1, null], new arrow.Int32()),
      vector: list(new arrow.Float32(), vectors)
    } as never)
    assert.deepEqual(await read('t.arrow', arrow.tableToIPC(table)), [
      ['7', [0.5, 1], {n: 1}],
      ['9', [2, 3], {}]
    ])
  })

  test('a row without an id, a vector with a gap, an id that is no name: refused, not numbered', async () => {
    const write = (columns: object): Uint8Array => arrow.tableToIPC(new arrow.Table(columns as never))
    const good = list(new arrow.Float32(), vectors)
    await assert.rejects(read('t.arrow', write({id: arrow.vectorFromArray(['a', null], new arrow.Utf8()), vector: good})), {
      code: 'NO_IDS',
      message: /Row 1 of .* has no id/
    })
    await assert.rejects(read('t.arrow', write({id: arrow.vectorFromArray(['a', ''], new arrow.Utf8()), vector: good})), {
      code: 'NO_IDS',
      message: /Row 1 of .* has no id/
    })
    await assert.rejects(read('t.arrow', write({id: arrow.vectorFromArray([0.5, 1], new arrow.Float64()), vector: good})), {
      code: 'NO_IDS',
      message: /of the type float64/
    })
    const gap = arrow.vectorFromArray([[1, null]] as never, new arrow.List(new arrow.Field('item', new arrow.Float32(), true)))
    await assert.rejects(read('t.arrow', write({vector: gap})), {code: 'NO_VECTORS', message: /Number 1 .* is missing/})
  })
})

describe('Arrow with views, nested columns and dictionaries', () => {
  test('is read alike as a stream, as a file and compressed', async () => {
    const views = await read('v.arrow', arrowStream('views'))
    assert.deepEqual(
      views.map(([id]) => id),
      ['a', 'a name of more than twelve bytes', 'b', 'another name that is longer than that', 'c']
    )
    assert.deepEqual(views[3]![1], views[0]![1]) // the same view
    assert.deepEqual(views[1]![2], {raw: Buffer.from('a name of more than twelve bytes'.repeat(2)).toString('base64'), counts: [1, 2]})
    assert.deepEqual(await read('v.arrow', arrowFile('views')), views)
    for (const codec of ['lz4', 'zstd'] as const) assert.deepEqual(await read('v.arrow', arrowStream('views', codec)), views)
    const nested = await read('n.arrow', arrowStream('nested'))
    assert.deepEqual(nested[0]![2], {
      pairs: [['x', 'yy']],
      place: {x: 0, name: 'a'},
      map: {k: 0},
      price: '9341084582143408800955381380479911.687',
      there: true
    })
    assert.deepEqual(
      (await read('d.arrow', arrowStream('dictionary'))).map(([, , {label}]: [string, number[], {label?: string}]) => label),
      ['cat', 'dog', 'dog', 'cat', 'dog']
    )
  })
  for (const kind of ['views', 'dictionary'] as const)
    test(`${kind} that repeat the same bytes again and again: refused at once`, async () => {
      const begun = performance.now()
      await assert.rejects(read('b.arrow', arrowBomb(kind)), {code: 'EMBEDDINGS_DAMAGED', message: /repeat the same bytes too often/})
      assert.ok(performance.now() - begun < 2000)
    })
})

test('LZ4 frames unpack, and damaged ones are refused', () => {
  // A frame: magic, flags, block size, header checksum; then a block of 4 literals, a copy of 8 bytes from 4 back,
  // and "end..".
  const block = Buffer.concat([Buffer.from([0x44]), Buffer.from('abcd'), Buffer.from([4, 0]), Buffer.from([0x50]), Buffer.from('end..')])
  const size = Buffer.alloc(4)
  size.writeUInt32LE(block.length)
  const frame = Buffer.concat([Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0]), size, block, Buffer.alloc(4)])
  assert.equal(unpackLz4(frame, 17).toString(), 'abcdabcdabcdend..')
  assert.throws(() => unpackLz4(frame.subarray(0, 12), 17), RangeError)
  assert.throws(() => unpackLz4(frame, 10), RangeError)
})

test('Zstandard frames unpack, also several and large ones, and damaged ones are refused', () => {
  // "abc" 40 times in a row, as zstd writes it
  const packed = Buffer.from('28b52ffd2078550000186162630100d2d40d01', 'hex')
  const raw = (text: string): Buffer =>
    Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, text.length, (text.length << 3) | 1, 0, 0]), Buffer.from(text)])
  assert.equal(unpackZstd(Buffer.concat([raw('hello '), raw('world')]), 11).toString(), 'hello world')
  assert.equal(unpackZstd(raw('hello'), 9).length, 5) // shorter than claimed: the reader refuses it, instead of taking zeros
  assert.throws(() => unpackZstd(raw('hello'), 4), RangeError)
  assert.throws(() => unpackZstd(raw('hello').subarray(0, -1), 5), RangeError)
  assert.throws(() => unpackZstd(Buffer.from('no frame of it'), 5), RangeError)
  assert.equal(unpackZstd(packed, 120).toString(), 'abc'.repeat(40))
  assert.equal(unpackZstd(Buffer.concat([packed, raw('.')]), 200).toString(), `${'abc'.repeat(40)}.`)
  const begun = performance.now()
  assert.equal(unpackZstd(raw('x'), 1 << 28).length, 1) // a buffer of many bytes costs no time
  assert.ok(performance.now() - begun < 2000)
})

/** An array file with this header and these numbers. */
function npy(header: string, numbers: Buffer): Buffer {
  const text = header.padEnd(117) + '\n'
  return Buffer.concat([Buffer.from('\x93NUMPY\x01\x00', 'latin1'), Buffer.from([text.length, 0]), Buffer.from(text), numbers])
}

describe('NumPy', () => {
  const numbers = [1, 2, 3, 4, 5, 6]
  test('Fortran order and big-endian', async () => {
    const columns = Buffer.from(Float32Array.from([1, 3, 5, 2, 4, 6]).buffer)
    const found = await read('f.npy', npy("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }", columns))
    assert.deepEqual(
      found.map(([, vector]) => vector),
      [
        [1, 2],
        [3, 4],
        [5, 6]
      ]
    )
    const big = Buffer.alloc(48)
    for (const [i, x] of numbers.entries()) big.writeDoubleBE(x, 8 * i)
    assert.deepEqual((await read('b.npy', npy("{'descr': '>f8', 'fortran_order': False, 'shape': (2, 3), }", big)))[1]![1], [4, 5, 6])
  })
  for (const shape of ['(6, 1.5)', '(x, 4)', '(-1, 4)', '(1e999, 4)', '(6, 0)', '(NaN, 4)', '(9007199254740993, 4)'])
    test(`the shape ${shape} is refused`, () =>
      assert.rejects(read('s.npy', npy(`{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`, Buffer.alloc(96))), {
        name: 'UserError'
      }))
})

test('a header or a row that says one thing twice is refused', async () => {
  const data = Buffer.alloc(32)
  for (const twice of ["'shape': (4, 2)", "'descr': '<f8'", "'fortran_order': True"]) {
    const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), ${twice}}`
    await assert.rejects(read('2.npy', npy(header, data)), {message: /it says \w+ twice/})
  }
  const tensor = (shape: string): string => `"vectors":{"dtype":"F32","shape":${shape},"data_offsets":[0,32]}`
  const head = Buffer.from(`{${tensor('[2,4]')},${tensor('[4,2]')}}`)
  const length = Buffer.alloc(8)
  length.writeUInt32LE(head.length)
  await assert.rejects(read('2.safetensors', Buffer.concat([length, head, data])), {
    message: /the name "vectors" twice/
  })
  await assert.rejects(read('2.jsonl', '{"id":"x","id":"y","vector":[1,2]}\n'), {message: /it has the name "id" twice in one object/})
  await assert.rejects(read('3.jsonl', '{"id":"x","vector":[1,2],"a":{"b":1,"\\u0062":2}}\n'), {message: /the name "b" twice/})
})

describe('texts that are none, and ids that are empty', () => {
  test('bytes that are no UTF-8 are refused, not replaced', async () => {
    const latin = (text: string): Buffer => Buffer.from(text, 'latin1')
    for (const [name, bytes] of [
      ['l.csv', latin('id,v0,v1\n\u00e9/1.jpg,1,2\n')],
      ['l.jsonl', latin('{"id":"\u00e9","vector":[1,2]}\n')],
      ['l.tsv', latin('id\tlabel\tv0\tv1\nx\t\u00fc\t1\t2\n')]
    ] as const)
      await assert.rejects(read(name, bytes), {code: 'NOT_UTF8', message: /is not UTF-8 text/})
    assert.deepEqual(await read('u.csv', 'id,v0,v1\n\u00e9\ud83d\ude00,1,2\n'), [['\u00e9\ud83d\ude00', [1, 2], {}]])
  })
  test('an empty id is none', async () => {
    await assert.rejects(read('e.csv', 'id,v0,v1\n,1,2\n'), {code: 'NO_IDS', message: /Row 0 of .* has no id/})
    await assert.rejects(read('e.jsonl', '{"id":"","vector":[1,2]}\n'), {code: 'NO_IDS', message: /Line 1 of .* has no id/})
  })
  test('files of vectors of other kinds are named', async () => {
    for (const [head, hint] of [
      ['FEA1....', /Feather of version 1/],
      ['PK\u0003\u0004....', /numpy\.savez/],
      ['\u0089HDF\r\n', /HDF5/]
    ] as const)
      await assert.rejects(read('o.bin', Buffer.from(head, 'latin1')), {code: 'NOT_EMBEDDINGS', hint})
  })
})

describe('CSV', () => {
  test('semicolons with decimal commas, other names, an index of pandas, a byte order mark', async () => {
    assert.deepEqual(await read('a.csv', 'id;emb_0;emb_1\nx;0,5;1\n'), [['x', [0.5, 1], {}]])
    assert.deepEqual(await read('b.csv', '\uFEFF,id,label,1,2\n0,x,cat,0.5,1\n'), [['x', [0.5, 1], {label: 'cat'}]])
    assert.deepEqual(await read('p.csv', 'id|v0|v1\nx|0.5|1\n'), [['x', [0.5, 1], {}]])
    assert.deepEqual(await read('c.csv', Buffer.from('\uFEFFid\tv0\tv1\r\nx\t1\t2\r\n', 'utf16le')), [['x', [1, 2], {}]])
  })
  test('a column that is missing, doubled or cut is named', async () => {
    await assert.rejects(read('d.csv', 'id,v0,v2\nx,1,2\n'), {message: /lacks the column v1.*separated by commas/})
    await assert.rejects(read('e.csv', 'id,v0,v1,v1\nx,1,2,3\n'), {message: /two columns v1/})
    await assert.rejects(read('f.csv', 'id,a,b\nx,1,2\n'), {message: /no columns v0, v1/})
    await assert.rejects(read('g.csv', 'id,v0,v1\nx,1\n'), {message: /2 cells, but there are 3 columns/})
  })
  test('a hundred thousand columns, of the vector and beside it', async () => {
    const columns = Array.from({length: 100_000}, (_, k) => k)
    const header = ['id', 'v0', 'v1', ...columns.map(k => `c${k}`)].join()
    const [row] = await read('w.csv', `${header}\nx,1,2${',y'.repeat(columns.length)}\n`)
    assert.deepEqual([row![1], Object.keys(row![2]).length], [[1, 2], columns.length])
    const [long] = await read('x.csv', `id,${columns.map(k => `v${k}`).join()}\nx,${columns.join()}\n`)
    assert.deepEqual(long![1], columns)
  })
  test('numbers of programming languages are no numbers of a table', async () => {
    for (const cell of ['0x10', '0b1', '-0o7', ' 0X1'])
      await assert.rejects(read('h.csv', `id,v0,v1\nx,1,${cell}\n`), {message: /number 1 of its vector, where a number is expected/})
    assert.deepEqual(await read('i.csv', 'id,v0,v1\nx,+1.50,-0.0e0\n'), [['x', [1.5, -0], {}]])
  })
})

test('NaN and infinity are refused in every format that can say them', async () => {
  await assert.rejects(read('n.csv', 'id,v0,v1\nx,1,Infinity\n'), {code: 'NOT_FINITE'})
  await assert.rejects(read('n.jsonl', '{"id":"x","vector":[1,1e999]}\n'), {code: 'NOT_FINITE'})
  await assert.rejects(read('f.jsonl', '{"id":"x","vector":[1,2],"score":{"of":-1e999}}\n'), {code: 'NOT_FINITE'})
  const bytes = Buffer.from(Float32Array.of(1, NaN).buffer)
  await assert.rejects(read('n.npy', npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", bytes)), {code: 'NOT_FINITE'})
})
