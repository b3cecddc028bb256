/** Products on the wasm engine whose right operand was multiplied in another shape before. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {initSegmentHead, segmentBackward, segmentForward} from '../../../src/heads/segment-head.js'
import {dispose, matMul, outerProduct, reshape, tensor1d, tensor2d, tidy} from '../../../src/tensor/tf.js'
import type {Tensor2D} from '../../../src/tensor/tf.js'
import {counted, onTorch, onWasm} from '../../support/engine.js'

test('a vector is a column first and a row afterwards', async () => {
  await onWasm()
  const n = 128
  const values = Float32Array.from({length: n}, (_, i) => Math.sin(i))
  const start = counted()
  for (const scale of [0, 1]) {
    const vector = tensor1d(values.map(value => scale * value))
    const matrix = tensor2d(
      Float32Array.from({length: 4 * n}, (_, i) => Math.cos(i)),
      [4, n]
    )
    const left = tensor1d(Float32Array.of(1, -2, 3, -4))
    const times = (): Tensor2D => tidy(() => matMul(matrix, reshape(vector, [-1, 1]) as Tensor2D))
    const column = times()
    const outer = tidy(() => outerProduct(left, vector))
    const again = times()
    assert.deepEqual(
      outer.dataSync(),
      Float32Array.from({length: 4 * n}, (_, i) => [1, -2, 3, -4][Math.floor(i / n)]! * scale * values[i % n]! + 0)
    )
    assert.deepEqual(again.dataSync(), column.dataSync())
    dispose([vector, matrix, left, column, outer, again])
  }
  assert.equal(counted(), start)
})

test('the gradients of a segmentation head are those of the torch engine', async () => {
  const [T, D, K] = [100, 128, 4]
  const gradients = async (on: () => Promise<unknown>): Promise<Record<string, Float32Array>> => {
    await on()
    const head = initSegmentHead(D, K, 0)
    const x = tensor2d(
      Float32Array.from({length: T * D}, (_, i) => Math.sin(i * 1.37)),
      [T, D]
    )
    const dy = tensor2d(
      Float32Array.from({length: T * K}, (_, i) => Math.cos(i) * 1e-2),
      [T, K]
    )
    const {trace} = segmentForward(x, head)
    return Object.fromEntries([...segmentBackward(dy, trace, head)].map(([name, grad]) => [name, grad.dataSync<'float32'>()]))
  }
  const [torch, wasm] = [await gradients(onTorch), await gradients(onWasm)]
  for (const [name, wanted] of Object.entries(torch))
    for (const [i, value] of wanted.entries())
      assert.ok(Math.abs(wasm[name]![i]! - value) < 1e-5, `${name}[${i}]: ${wasm[name]![i]} for ${value}`)
})
