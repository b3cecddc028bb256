/** Products on the wasm engine of transposed operands and of several matrices at once. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {dispose, matMul, tensor, tidy} from '../../../src/tensor/tf.js'
import type {Tensor} from '../../../src/tensor/tf.js'
import {counted, onPlain, onWasm} from '../../support/engine.js'

/** Shapes of a and b, and which of them are transposed. */
const cases: readonly (readonly [a: number[], b: number[], turnA: boolean, turnB: boolean])[] = [
  [[64, 32], [48, 32], false, true],
  [[32, 64], [32, 48], true, false],
  [[32, 64], [48, 32], true, true],
  [[2, 3, 40, 24], [2, 3, 40, 24], false, true],
  [[2, 3, 40, 40], [2, 3, 40, 24], false, false],
  [[5, 40, 24], [1, 24, 40], false, false],
  [[1, 40, 24], [5, 40, 24], false, true],
  [[40, 33], [33, 37], false, false],
  [[2, 3], [3, 2], false, false]
]

const wave = (shape: number[], phase: number): Tensor => {
  const size = shape.reduce((x, y) => x * y, 1)
  return tensor(
    Float32Array.from({length: size}, (_, i) => Math.sin(i * 0.7 + phase)),
    shape
  )
}

async function products(on: () => Promise<void>): Promise<{shape: number[]; values: Float32Array}[]> {
  await on()
  return cases.map(([a, b, turnA, turnB]) => {
    const [left, right] = [wave(a, 0), wave(b, 1)]
    const start = counted()
    const out = tidy(() => matMul(left, right, turnA, turnB))
    assert.equal(counted(), start + 1)
    const result = {shape: out.shape, values: out.dataSync<'float32'>().slice()}
    dispose([left, right, out])
    return result
  })
}

test('they are those of plain loops', async () => {
  const [wanted, got] = [await products(onPlain), await products(onWasm)]
  for (const [i, {shape, values}] of wanted.entries()) {
    assert.deepEqual(got[i]!.shape, shape)
    for (const [n, value] of values.entries())
      assert.ok(Math.abs(got[i]!.values[n]! - value) < 1e-4, `case ${i}: ${got[i]!.values[n]} for ${value}`)
  }
})
