/**
 * The safetensors format: what is saved is loaded again, the same tensors make the same bytes, and every defect has
 * its sentence.
 */
import assert from 'node:assert/strict'
import {readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import {createSafetensors, openSafetensors, writeSafetensors, type TensorSource} from '../../../src/files/checkpoint/safetensors.js'
import {elements, float16Bytes, float32Entry, itemSize, toFloat32, type DType} from '../../../src/files/checkpoint/tensor-entry.js'
import {golden, scratch} from '../../support/scratch.js'

/** A small generator of numbers, so that each run tests the same cases. */
function draws(seed: number): (below: number) => number {
  return below => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    return Math.floor((seed / 2 ** 32) * below)
  }
}

test('save and load give back every type, shape, byte and string', async t => {
  const folder = await scratch(t)
  const dtypes = Object.keys(itemSize) as DType[]
  for (let seed = 1; seed <= 20; seed++) {
    const draw = draws(seed)
    const tensors: TensorSource[] = Array.from({length: 1 + draw(12)}, (_, i) => {
      const dtype = dtypes[draw(dtypes.length)]!
      const shape = Array.from({length: draw(4)}, () => draw(5))
      const bytes = Uint8Array.from({length: elements(shape) * itemSize[dtype]}, () => draw(256))
      return {name: `layer ${i} ${'äé漢'[draw(3)]}."${draw(1000)}"`, dtype, shape, read: () => bytes}
    })
    const metadata = {seed: String(seed), note: 'a "quoted"\nline'}
    const path = join(folder, `${seed}.safetensors`)
    await writeSafetensors(path, tensors, metadata)
    const file = await openSafetensors(path)
    assert.deepEqual({...file.metadata}, {format: 'pt', ...metadata})
    assert.equal(file.tensors.size, tensors.length)
    for (const {name, dtype, shape, read} of tensors) {
      const entry = file.tensors.get(name)!
      assert.deepEqual([entry.name, entry.dtype, entry.shape], [name, dtype, shape])
      assert.deepEqual(await entry.read(), await read())
    }
    await file.close()
    // The same tensors in another order make the same bytes, and the header ends at a multiple of 8.
    const again = join(folder, `${seed}-again.safetensors`)
    await writeSafetensors(again, tensors.toReversed(), metadata)
    const bytes = await readFile(path)
    assert.ok(bytes.equals(await readFile(again)))
    assert.equal(Number(bytes.readBigUInt64LE(0)) % 8, 0)
  }
})

test('names are in order and wider types come first', async t => {
  const path = join(await scratch(t), 'a.safetensors')
  const entry = (name: string, dtype: DType): TensorSource => ({name, dtype, shape: [2], read: () => new Uint8Array(2 * itemSize[dtype])})
  await writeSafetensors(path, [entry('c', 'U8'), entry('b', 'F32'), entry('a', 'F32'), entry('z', 'F64')])
  const file = await openSafetensors(path)
  assert.deepEqual([...file.tensors.keys()], ['z', 'a', 'b', 'c'])
  await file.close()
})

test('files of the reference library are read and written again to the same tensors', async t => {
  const path = join(await scratch(t), 'copy.safetensors')
  const file = await openSafetensors(golden('vit_plain_io.safetensors'))
  await writeSafetensors(path, file.tensors.values(), file.metadata)
  const copy = await openSafetensors(path)
  assert.deepEqual([...copy.tensors.keys()].sort(), [...file.tensors.keys()].sort())
  for (const [name, entry] of file.tensors) assert.deepEqual(await copy.tensors.get(name)!.read(), await entry.read())
  await file.close()
  await copy.close()
})

test('numbers of every type come out as float32', () => {
  const half = (...bits: number[]): Uint8Array => new Uint8Array(Uint16Array.from(bits).buffer)
  const got = [...toFloat32(half(0x3c00, 0xc000, 0x7c00, 0x0001, 0x8000, 0x7e00, 0x3555), 'F16')]
  assert.deepEqual(got.slice(0, 5), [1, -2, Infinity, 2 ** -24, -0])
  assert.ok(Number.isNaN(got[5]))
  assert.equal(got[6], 1365 / 4096) // a third
  assert.deepEqual([...toFloat32(half(0x3f80, 0xc000, 0x0000), 'BF16')], [1, -2, 0])
  assert.deepEqual([...toFloat32(new Uint8Array(BigInt64Array.from([-3n, 7n]).buffer), 'I64')], [-3, 7])
  assert.deepEqual([...toFloat32(new Uint8Array(Int32Array.from([-3, 7]).buffer), 'I32')], [-3, 7])
  assert.deepEqual([...toFloat32(new Uint8Array(Int16Array.from([-3, 7]).buffer), 'I16')], [-3, 7])
  assert.deepEqual([...toFloat32(new Uint8Array(Float64Array.from([0.5, -2]).buffer), 'F64')], [0.5, -2])
  assert.deepEqual([...toFloat32(Uint8Array.of(255, 7), 'I8')], [-1, 7])
  assert.deepEqual([...toFloat32(Uint8Array.of(255, 7), 'U8')], [255, 7])
  assert.deepEqual([...toFloat32(Uint8Array.of(1, 0), 'BOOL')], [1, 0])
  const shifted = new Uint8Array(9).subarray(1) // not at a multiple of 4
  shifted.set(new Uint8Array(Float32Array.of(1.5, -1).buffer))
  assert.deepEqual([...toFloat32(shifted, 'F32')], [1.5, -1])
})

test('every defect of a header has a sentence', async t => {
  const folder = await scratch(t)
  const make = (header: unknown, data = 8): Buffer => {
    const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
    const head = Buffer.alloc(8)
    head.writeBigUInt64LE(BigInt(json.length))
    return Buffer.concat([head, json, Buffer.alloc(data)])
  }
  const f32 = (begin: number, end: number, shape: unknown = [(end - begin) / 4]): unknown => ({
    dtype: 'F32',
    shape,
    data_offsets: [begin, end]
  })
  const length = (value: bigint): Buffer => {
    const out = make({}, 0)
    out.writeBigUInt64LE(value)
    return out
  }
  const cases: [string, Buffer, RegExp][] = [
    ['empty', Buffer.alloc(0), /0 bytes, less than the 8/],
    ['cut', Buffer.from([1, 2, 3]), /3 bytes/],
    ['long', length(1n << 40n), /more than the 100000000 allowed/],
    ['past', length(5000n), /truncated/],
    ['tiny', length(0n), /claims 0 bytes/],
    ['zip', Buffer.from('PK\x03\x04 and much more of a zip archive'), /zip archive/],
    ['brace', make('[1]  '), /does not begin with \{/],
    ['json', make('{"a": }'), /not JSON/],
    ['utf8', make(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]).toString('latin1')), /entry of ÿ is not an object/],
    ['entry', make({a: 3}), /entry of a is not an object/],
    ['metadata', make({__metadata__: {a: 3}}, 0), /metadata a is not a string/],
    ['dtype', make({a: {dtype: 'F8_E4M3', shape: [8], data_offsets: [0, 8]}}), /type of a is "F8_E4M3"/],
    ['prototype', make({a: {dtype: 'constructor', shape: [8], data_offsets: [0, 8]}}), /type of a is "constructor"/],
    ['shape', make({a: f32(0, 8, [-2])}), /shape of a is \[-2\]/],
    ['fraction', make({a: f32(0, 8, [2.5])}), /shape of a/],
    ['offsets', make({a: {dtype: 'F32', shape: [2], data_offsets: [8, 0]}}), /offsets of a are \[8,0\]/],
    ['size', make({a: f32(0, 8, [3])}), /takes 12 bytes, but 8 are set aside/],
    ['overlap', make({a: f32(0, 8), b: f32(4, 8)}), /b begins at byte 4 of the data, inside/],
    ['hole', make({a: f32(4, 8)}), /4 bytes before a belong to no tensor/],
    ['short', make({a: f32(0, 16)}), /take 16 bytes, but 8 follow the header; it is truncated/],
    ['rest', make({a: f32(0, 4)}), /4 bytes at its end belong to no tensor/]
  ]
  const raw = make('{"?":1}')
  raw[10] = 0xff
  cases.push(['not-utf8', raw, /not UTF-8/])
  for (const [name, bytes, message] of cases) {
    const path = join(folder, `${name}.safetensors`)
    await writeFile(path, bytes)
    await assert.rejects(openSafetensors(path), (error: UserError) => {
      assert.match(error.message, message, name)
      assert.ok(error.message.startsWith(path))
      assert.equal(error.exit, 1)
      return true
    })
  }
})

test('a header whose length begins as a zip archive does is a header', async t => {
  const path = join(await scratch(t), 'pk.safetensors')
  const one: TensorSource = {name: 'a', dtype: 'F32', shape: [1], read: () => new Uint8Array(4)}
  await writeSafetensors(path, [one], {long: ''})
  const without = Number((await readFile(path)).readBigUInt64LE(0))
  await writeSafetensors(path, [one], {long: 'x'.repeat(0x4b50 - without)}, {force: true})
  assert.deepEqual([...(await readFile(path)).subarray(0, 2)], [0x50, 0x4b])
  const file = await openSafetensors(path)
  await file.close()
  assert.deepEqual([...file.tensors.keys()], ['a'])
})

test('a truncated file is refused wherever it is cut', async t => {
  const path = join(await scratch(t), 'cut.safetensors')
  const whole = await readFile(golden('dino_head.safetensors'))
  for (const part of [0, 4, 8, 100, 600, 1500, whole.length - 1]) {
    await writeFile(path, whole.subarray(0, part))
    await assert.rejects(openSafetensors(path), {name: 'UserError'}, `${part} bytes`)
  }
})

test('a writer notices what is missing, twice there, or of another length', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'a.safetensors')
  const specs = [{name: 'a', dtype: 'F32' as const, shape: [2]}]
  await assert.rejects(createSafetensors(path, [...specs, ...specs]), /given twice/)
  const writer = await createSafetensors(path, specs)
  await assert.rejects(writer.write('b', new Uint8Array(8)), /b was not announced/)
  await assert.rejects(writer.write('a', new Uint8Array(4)), /Expected 8 bytes/)
  await assert.rejects(writer.commit(), /lacks a/)
  await writer.write('a', new Uint8Array(8))
  await assert.rejects(writer.write('a', new Uint8Array(8)), /twice/)
  await writer.commit()
  assert.throws(() => float32Entry('a', [3], new Float32Array(2)), /Expected 3 numbers/)
})

test('half precision: every half stays as it is, and what lies between goes to the nearest, or to the even one', () => {
  const decoded = (bytes: Uint8Array): number[] => [...toFloat32(bytes, 'F16')]
  const halves = Uint16Array.from({length: 0x7c00}, (_, i) => i)
  const exact = Float32Array.from(decoded(new Uint8Array(halves.buffer)))
  assert.deepEqual(new Uint16Array(float16Bytes(exact).buffer), halves)
  const between = Float32Array.from({length: exact.length - 1}, (_, i) => (exact[i]! + exact[i + 1]!) / 2)
  const even = new Uint16Array(float16Bytes(between).buffer)
  assert.ok(even.every((bits, i) => bits === (i % 2 === 0 ? i : i + 1)))
  const signed = decoded(float16Bytes(Float32Array.of(-1.5, -0, 65519, 65520, -Infinity, NaN)))
  assert.deepEqual(signed, [-1.5, -0, 65504, Infinity, -Infinity, NaN])
})

test('what this tool wrote carries checksums of header and numbers, which are compared; other files need none', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'm.safetensors')
  const numbers = (values: readonly number[]) => async () => new Uint8Array(Float32Array.from(values).buffer)
  const tensors = [
    {name: 'a', dtype: 'F32' as const, shape: [2], read: numbers([1, 2])},
    {name: 'b', dtype: 'F32' as const, shape: [1], read: numbers([3])}
  ]
  await writeSafetensors(path, tensors, {step: '7'})
  const whole = await readFile(path)
  const refusedWith = async (bytes: Buffer): Promise<string> => {
    await writeFile(path, bytes)
    try {
      const file = await openSafetensors(path)
      try {
        assert.deepEqual(file.metadata, {format: 'pt', step: '7'})
        for (const entry of file.tensors.values()) await entry.read()
      } finally {
        await file.close()
      }
      return 'accepted'
    } catch (error) {
      return (error as Error).message
    }
  }
  assert.equal(await refusedWith(whole), 'accepted')
  const text = whole.toString('latin1')
  const changed = (from: string, to: string): Buffer => Buffer.from(text.replace(from, to), 'latin1')
  assert.match(await refusedWith(changed('"step":"7"', '"step":"8"')), /its header does not match its checksum/)
  assert.match(await refusedWith(changed('"b":{', '"c":{')), /its header does not match its checksum/)
  assert.match(await refusedWith(changed('"crc32":', '"crc33":')), /its checksums have lost their name/)
  assert.match(await refusedWith(changed('"crc32":"crc32:', '"crc33":"crc33:')), /its checksums have lost their name/)
  const flipped = Buffer.from(whole)
  flipped[whole.length - 1]! ^= 1
  assert.match(await refusedWith(flipped), /b is damaged: its numbers do not match their checksum/)
})
