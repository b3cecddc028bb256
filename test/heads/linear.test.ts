/**
 * Linear classifiers and logistic regression against PyTorch and scikit-learn, as `test/golden/make_probes.py`
 * recorded them.
 */
import assert from 'node:assert/strict'
import {existsSync, readFileSync} from 'node:fs'
import {test} from 'node:test'
import {predictedClasses} from '../../src/metrics/accuracy.js'
import {classifierOf, freeGrid, gridScores, gridStep, initGrid, protocolSlices} from '../../src/heads/linear-grid.js'
import {classifierScores, lbfgs, logistic, meanLoss, meanLossReference, defaultC} from '../../src/heads/logistic.js'
import {dispose, memory, oneHot, softmax, tensor1d, tensor2d, tidy} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {onPlain, onTorch} from '../support/engine.js'
import {golden} from '../support/scratch.js'

type Recording = {
  classes: number
  width: number
  x: number[]
  y: number[]
  val: {x: number[]; y: number[]}
  sgd: {
    kinds: [number, number][]
    rates: number[]
    steps: number
    batch: number
    init: number[][]
    losses: number[][]
    weights: number[][][]
    biases: number[][][]
  }
  logistic: {C: number; weight: number[]; accuracy: number; probabilities: number[]}[]
}
assert.ok(existsSync(golden('probes.json')), 'test/golden/probes.json is absent; make it with test/golden/make_probes.py')
const recorded = JSON.parse(readFileSync(golden('probes.json'), 'utf8')) as Recording
const {classes: K, width: C} = recorded
const D = 3 * C
const rows = (x: number[], from = 0, to = x.length / D): Tensor2D => tensor2d(Float32Array.from(x.slice(from * D, to * D)), [to - from, D])
const near = (computed: ArrayLike<number>, expected: ArrayLike<number>, limit: number, what: string): void => {
  assert.equal(computed.length, expected.length, what)
  for (let i = 0; i < expected.length; i++)
    assert.ok(Math.abs(computed[i]! - expected[i]!) < limit, `${what}, entry ${i}: ${computed[i]} instead of ${expected[i]}`)
}

for (const [name, engine] of [
  ['torch', onTorch],
  ['plain', onPlain]
] as const) {
  test(`classifiers side by side take the steps of PyTorch's SGD (${name})`, async () => {
    await engine()
    const before = memory().numTensors
    const {kinds, rates, steps, batch: B, init, losses, weights, biases} = recorded.sgd
    const grid = initGrid(
      kinds.map(([start, length], i) => ({name: String(i), start, length})),
      K,
      0,
      rates
    )
    for (const [i, part] of grid.parts.entries()) {
      part.weight.dispose()
      part.weight = tensor2d(Float32Array.from(rates.flatMap(() => init[i]!)), [rates.length * K, kinds[i]![1]])
    }
    for (let s = 0; s < steps; s++) {
      const x = rows(recorded.x, s * B, (s + 1) * B)
      const y = tensor1d(Int32Array.from(recorded.y.slice(s * B, (s + 1) * B)), 'int32')
      near(gridStep(grid, x, y, s, steps, true)!, losses[s]!, 1e-5, `losses of step ${s + 1}`)
      dispose([x, y])
    }
    for (const [i] of kinds.entries())
      for (const [r] of rates.entries()) {
        const {weight, bias} = classifierOf(grid, i, r)
        near(weight, weights[i]![r]!, 1e-5, `weights of kind ${i} at rate ${rates[r]}`)
        near(bias, biases[i]![r]!, 1e-5, `biases of kind ${i} at rate ${rates[r]}`)
      }
    const x = rows(recorded.val.x)
    const all = gridScores(grid, x)
    assert.deepEqual(
      all.map(({shape}) => shape),
      kinds.map(() => [60, rates.length, K])
    )
    dispose([x, ...all])
    freeGrid(grid)
    assert.equal(memory().numTensors, before)
  })

  test(`logistic regression finds scikit-learn's solutions (${name})`, async () => {
    await engine()
    const before = memory().numTensors
    const x = rows(recorded.x)
    const val = rows(recorded.val.x)
    const solved = logistic(
      x,
      recorded.y,
      K,
      recorded.logistic.map(({C: c}) => c)
    )
    for (const [i, {C: c, weight, accuracy, probabilities}] of recorded.logistic.entries()) {
      near(solved[i]!.weight, weight, 1e-2 * Math.max(...weight.map(Math.abs)), `weights at C = ${c}`)
      const scores = classifierScores(val, solved[i]!)
      const shares = softmax(scores)
      near(shares.dataSync(), probabilities, 5e-3, `probabilities at C = ${c}`)
      const said = predictedClasses(scores.dataSync(), 60, K)
      assert.equal(said.filter((k, j) => k === recorded.val.y[j]).length / 60, accuracy)
      dispose([scores, shares])
    }
    dispose([x, val])
    assert.equal(memory().numTensors, before)
  })
}

test('the slope by the engine and in plain loops are the same', async () => {
  await onTorch()
  const n = recorded.y.length
  const x = rows(recorded.x)
  const truth = tidy(() => oneHot(tensor1d(Int32Array.from(recorded.y), 'int32'), K) as Tensor2D)
  const at = Float64Array.from({length: K * D + K}, (_, i) => Math.sin(i) / 3)
  const [fast, plain] = [meanLoss(x, truth, at, 0.01), meanLossReference({x: recorded.x, labels: recorded.y, n, F: D, K}, at, 0.01)]
  assert.ok(Math.abs(fast.value - plain.value) < 1e-5)
  near(fast.gradient, plain.gradient, 1e-5, 'gradient')
  dispose([x, truth])
})

test('the search finds the bottom of a curved valley', () => {
  const {at, value} = lbfgs(
    ([x, y]) => ({
      value: (1 - x!) ** 2 + 100 * (y! - x! ** 2) ** 2,
      gradient: Float64Array.from([-2 * (1 - x!) - 400 * x! * (y! - x! ** 2), 200 * (y! - x! ** 2)])
    }),
    Float64Array.from([-1.2, 1])
  )
  assert.ok(value < 1e-8 && Math.abs(at[0]! - 1) < 1e-3 && Math.abs(at[1]! - 1) < 1e-3)
})

test('the published choices: 52 classifiers, 45 values of C', () => {
  assert.deepEqual(
    protocolSlices(4, 10).map(({start, length}) => [start, length]),
    [
      [30, 10],
      [30, 20],
      [0, 40],
      [0, 50]
    ]
  )
  assert.equal(protocolSlices(1, 10).length, 2)
  assert.equal(defaultC.length, 45)
  assert.ok(Math.abs(defaultC[0]! - 1e-6) < 1e-12 && Math.abs(defaultC[44]! - 1e5) < 1e-6)
})
