/** ONNX files, read back by the wire format: lengths, places, bytes. What others read stands in test/python. */
import assert from 'node:assert/strict'
import {readFile, stat} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import type {OnnxModel} from '../../../src/files/onnx/model.js'
import {PbfReader} from '../../../src/files/onnx/pbf.js'
import {writeOnnx} from '../../../src/files/onnx/write.js'
import {scratch} from '../../support/scratch.js'

type Message = Map<number, (number | Uint8Array)[]>

/** The fields of one message by their numbers, nothing interpreted. */
const fields = (bytes: Uint8Array): Message =>
  new PbfReader(bytes).readFields((tag, into: Message, pbf) => {
    const value = pbf.type === 2 ? new Uint8Array(pbf.readBytes()) : pbf.type === 5 ? pbf.readFloat() : pbf.readVarint(true)
    into.set(tag, [...(into.get(tag) ?? []), value])
  }, new Map())
const messages = (message: Message, tag: number): Message[] => (message.get(tag) ?? []).map(value => fields(value as Uint8Array))
const text = (value: number | Uint8Array | undefined): string => new TextDecoder().decode(value as Uint8Array)

const numbers = (length: number): Uint8Array => new Uint8Array(Float32Array.from({length}, (_, i) => i + 0.5).buffer)

const model: OnnxModel = {
  graph: {
    nodes: [
      {
        op: 'Gemm',
        inputs: ['x', 'w', 'b'],
        outputs: ['y'],
        attributes: {transB: {int: 1}, alpha: {float: 0.5}, mode: {text: 'a'}, pads: {ints: [0, -1]}}
      }
    ],
    initializers: [
      {name: 'w', element: 'float32', shape: [700, 3], read: () => numbers(2100)},
      {name: 'b', element: 'float32', shape: [3], read: () => numbers(3)},
      {name: 'v', element: 'float32', shape: [600], read: () => numbers(600)}
    ],
    inputs: [{name: 'x', element: 'float32', shape: ['batch', 700]}],
    outputs: [{name: 'y', element: 'float16', shape: ['batch', 3]}]
  },
  opset: 17,
  producer: {name: 'test', version: '1'},
  metadata: {side: '14'}
}

test('a model is one message whose lengths agree, with nodes, attributes and the bytes of its tensors', async t => {
  const path = join(await scratch(t), 'a.onnx')
  let written = 0
  await writeOnnx(path, model, {onTensor: () => written++})
  assert.equal(written, 3)
  const whole = fields(await readFile(path))
  assert.deepEqual([whole.get(1), whole.get(2)!.map(text)], [[8], ['test']])
  assert.deepEqual(messages(whole, 8)[0]!.get(2), [17])
  const [graph] = messages(whole, 7)
  const [node] = messages(graph!, 1)
  assert.deepEqual([node!.get(1)!.map(text), node!.get(2)!.map(text), node!.get(4)!.map(text)], [['x', 'w', 'b'], ['y'], ['Gemm']])
  const attributes = messages(node!, 5).map(attribute => [text(attribute.get(1)![0]), attribute.get(20)![0]])
  assert.deepEqual(attributes, [['transB', 2], ['alpha', 1], ['mode', 3], ['pads', 7]]) // prettier-ignore
  assert.deepEqual(messages(node!, 5)[3]!.get(8), [0, -1])
  const tensors = messages(graph!, 5)
  assert.deepEqual(tensors.map(tensor => text(tensor.get(8)![0])), ['w', 'b', 'v']) // prettier-ignore
  assert.deepEqual(tensors[0]!.get(1), [700, 3])
  assert.deepEqual(tensors[0]!.get(9)![0], numbers(2100))
  const dimensions = messages(messages(messages(messages(graph!, 11)[0]!, 2)[0]!, 1)[0]!, 2)[0]!
  assert.deepEqual(messages(dimensions, 1).map(d => d.get(1)?.[0] ?? text(d.get(2)![0])), ['batch', 700]) // prettier-ignore
})

test('above the limit the large tensors lie in a second file, at offsets that can be mapped', async t => {
  const path = join(await scratch(t), 'a.onnx')
  await writeOnnx(path, model, {externalAbove: 100})
  const tensors = messages(messages(fields(await readFile(path)), 7)[0]!, 5)
  const data = await readFile(`${path}_data`)
  const places = tensors.map(tensor => Object.fromEntries(messages(tensor, 13).map(pair => [text(pair.get(1)![0]), text(pair.get(2)![0])])))
  assert.deepEqual(places, [
    {location: 'a.onnx_data', offset: '0', length: '8400'},
    {}, // small ones stay
    {location: 'a.onnx_data', offset: '12288', length: '2400'}
  ])
  assert.deepEqual(tensors.map(tensor => tensor.get(14)?.[0]), [1, undefined, 1]) // prettier-ignore
  assert.deepEqual(tensors[1]!.get(9)![0], numbers(3))
  assert.deepEqual(new Uint8Array(data.subarray(12288)), numbers(600))
  assert.equal((await stat(`${path}_data`)).size, 12288 + 2400)
})

test('bytes that do not fit the shape are refused', async t => {
  const path = join(await scratch(t), 'a.onnx')
  const [w] = model.graph.initializers
  const bad = {...model, graph: {...model.graph, initializers: [{...w!, read: () => numbers(4)}]}}
  await assert.rejects(writeOnnx(path, bad), /Expected 8400 bytes for w but received 16/)
})
