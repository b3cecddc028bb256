/**
 * The loss of feature distillation: value and gradient against a reference implementation on the tape, and what must
 * hold of it.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {featureLoss, standardizeRows} from '../../src/loss/feature.js'
import {abs, add, div, mean, minimum, mul, sqrt, square, sub, sum, tidy} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {apart, counted, normal, onPlain, onTorch, put, take} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

const [n, C] = [7, 6]
const student = normal('projected', [n, C], 1.5)
const teacher = normal('teacher', [n, C])
const weights = {shape: [n] as const, data: Float32Array.from({length: n}, (_, i) => 0.1 + 0.05 * i)}

test('cosine and Huber terms, and their gradient', () =>
  checkOp({
    inputs: {p: student},
    ones: true,
    forward: ({p}) => {
      return tidy(() => {
        const {losses, gradient} = featureLoss(p, put(teacher), put(weights), 0.5)
        return {y: sum(losses), gradient}
      })
    },
    plain: ({p}) => {
      const t = put(teacher)
      const length = (x: Tensor2D) => sqrt(sum(square(x), 1))
      const cosine = div(sum(mul(p, t), 1), mul(length(p as Tensor2D), length(t)))
      const gap = sub(p, t)
      const inside = minimum(abs(gap), 1)
      const huber = add(mul(square(inside), 0.5), sub(abs(gap), inside))
      return sum(mul(put(weights), add(sub(1, cosine), mul(mean(huber, 1), 0.5))))
    },
    backward: (_, _inputs, {gradient}) => ({p: gradient!.clone()}),
    limits: {gradient: 5e-5}
  }))

test('is nothing, with no gradient, where the student says what the teacher says', async () => {
  await onPlain()
  const t = standardizeRows(put(teacher))
  const w = put(weights)
  const {losses, gradient} = featureLoss(t, t, w, 1)
  assert.ok(losses.dataSync().every(loss => Math.abs(loss) < 1e-6))
  assert.ok(gradient.dataSync().every(g => Math.abs(g) < 1e-6))
})

test('rows of the teacher are brought to mean 0 and variance 1, whatever their scale', async () => {
  await onTorch()
  const before = counted()
  const x = put(normal('rows', [5, 16], 3, 2))
  const once = standardizeRows(x)
  const scaled = mul<Tensor2D>(x, 7)
  const twice = standardizeRows(scaled)
  const values = await once.data()
  assert.ok(apart(await take(twice), await take(once)) < 1e-5)
  for (let row = 0; row < 5; row++) {
    const own = [...values.subarray(row * 16, (row + 1) * 16)]
    const average = own.reduce((a, b) => a + b, 0) / 16
    const spread = own.reduce((a, b) => a + (b - average) ** 2, 0) / 16
    assert.ok(Math.abs(average) < 1e-5 && Math.abs(spread - 1) < 1e-4)
  }
  for (const leaf of [x, scaled]) leaf.dispose()
  assert.equal(counted(), before)
})
