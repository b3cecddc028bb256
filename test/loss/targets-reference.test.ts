/**
 * Teacher targets: Sinkhorn–Knopp and centring, the kernel against its reference implementation, and what their rows
 * and columns must sum to.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {cachedLogits, denseLogits} from '../../src/loss/logits.js'
import {centeredDense, nextCenter, centeredReference, sinkhornReference, sinkhornDense} from '../../src/loss/targets-reference.js'
import {targetEntropy, sinkhornTargets, targetRows, targetColumns} from '../../src/loss/targets.js'
import {cast} from '../../src/tensor/ops/precision.js'
import {dispose, zeros} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take, type Values} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

const [n, K] = [24, 10]
const scores = normal('scores', [n, K], 0.3)

const totals = ({shape: [rows, columns], data}: Values): {rows: number[]; columns: number[]} => {
  const found = {rows: new Array<number>(rows!).fill(0), columns: new Array<number>(columns!).fill(0)}
  data.forEach((x, at) => {
    found.rows[Math.floor(at / columns!)]! += x
    found.columns[at % columns!]! += x
  })
  return found
}
async function targetsOf(values: Values<readonly [number, number]>, temperature: number, iterations?: number): Promise<Values> {
  const s = put(values)
  const q = await take(sinkhornDense(s, temperature, iterations))
  s.dispose()
  return q
}

test('the kernel is its reference, at every temperature and number of turns', async () => {
  for (const [temperature, turns] of [
    [0.04, 3],
    [0.07, 3],
    [1, 1],
    [0.05, 10]
  ] as const)
    await checkOp({
      inputs: {scores},
      forward: ({scores}) => sinkhornDense(scores, temperature, turns),
      plain: ({scores}) => sinkhornReference(scores, temperature, turns)
    })
})

test('in pieces of any width, held or not, the targets are those of all columns at once, and no tensor stays', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = {tensors: counted(), bytes: held()}
    const s = put(scores)
    const center = put(normal('center', [1, K], 0.1))
    const expected = {sinkhorn: await take(sinkhornReference(s, 0.05)), centred: await take(centeredReference(s, center, 0.05))}
    for (const width of [1, 3, 4, K - 1, K, 100]) {
      assert.ok(apart(await take(sinkhornDense(s, 0.05, 3, width)), expected.sinkhorn) < 1e-5, `pieces of ${width}`)
      assert.ok(apart(await take(centeredDense(s, center, 0.05, width)), expected.centred) < 1e-5, `pieces of ${width}`)
      const kept = cachedLogits(denseLogits(s))
      const [one, two] = [sinkhornTargets(kept, 0.05, width), sinkhornTargets(denseLogits(s), 0.05, width)]
      for (const name of ['logRowScale', 'logColumnScale'] as const) assert.deepEqual(await take(one[name]), await take(two[name]))
      kept.dispose()
    }
    dispose([s, center])
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  }
})

test('entropy is the mean of −Σ t·log t, and some rows are those rows', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const s = put(scores)
    const targets = sinkhornTargets(denseLogits(s), 0.05, 4)
    const all = await take(targetColumns(targets, 0, K))
    const expected = -[...all.data].reduce((total, t) => total + (t > 0 ? t * Math.log(t) : 0), 0) / n
    for (const width of [3, K]) {
      const [found] = (await take(targetEntropy(targets, width))).data
      assert.ok(Math.abs(found! - expected) < 1e-5)
    }
    const some = targetRows(targets, 5, 7)
    const part = await take(targetColumns(some, 2, 6))
    assert.deepEqual(part.shape, [7, 6])
    part.data.forEach((t, i) => assert.ok(Math.abs(t - all.data[(5 + Math.floor(i / 6)) * K + 2 + (i % 6)]!) < 1e-6))
    dispose([some.logRowScale, targets.logRowScale, targets.logColumnScale, s])
  }
})

test('rows sum to one; each turn brings prototypes nearer to rows / prototypes', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    let before = Infinity
    for (const turns of [1, 3, 20, 200]) {
      const q = await targetsOf(scores, 0.1, turns)
      const {rows, columns} = totals(q)
      assert.ok(q.data.every(x => x >= 0))
      for (const row of rows) assert.ok(Math.abs(row - 1) < 1e-5, `${row}`)
      const off = Math.max(...columns.map(column => Math.abs(column - n / K)))
      assert.ok(off < before / 2, `${turns} turns: ${off} after ${before}`)
      before = off
    }
    assert.ok(before < 1e-4)
  }
})

test('what is added to all scores, or to those of one prototype, changes nothing', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const still = await targetsOf(scores, 0.05)
    const shifted = await targetsOf({...scores, data: scores.data.map(x => x + 2)}, 0.05)
    assert.ok(apart(shifted, still) < 1e-4)
    const favoured = await targetsOf({...scores, data: scores.data.map((x, i) => x + (i % K === 3 ? 0.5 : 0))}, 0.05)
    assert.ok(apart(favoured, still) < 1e-4)
  }
})

test('prototypes that no row comes near stay finite', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    // At 0.04, exp underflows for scores 4.2 below the largest.
    const far = {...scores, data: scores.data.map((x, i) => x * 3 - (i % K === 7 ? 9 : 0))}
    const q = await targetsOf(far, 0.04)
    assert.ok(q.data.every(Number.isFinite))
    for (const row of totals(q).rows) assert.ok(Math.abs(row - 1) < 1e-5)
  }
})

test('centring: softmax of what the centre leaves; the centre follows the mean', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const s = put(scores)
    const none = zeros([1, K]) as Tensor2D
    const first = await take(centeredDense(s, none, 0.04))
    for (const row of totals(first).rows) assert.ok(Math.abs(row - 1) < 1e-5)
    const center = nextCenter(none, s, 0.9)
    const {columns} = totals(scores)
    const {data} = await take(center)
    columns.forEach((total, k) => assert.ok(Math.abs(data[k]! - (0.1 * total) / n) < 1e-6))
    // A centre that is the mean already stays.
    const mean = put({shape: [1, K] as const, data: Float32Array.from(columns, total => total / n)})
    const still = await take(nextCenter(mean, s, 0.3))
    assert.ok(apart(still, await take(mean)) < 1e-5)
    dispose([s, none])
  }
})

test('scores in bf16: targets near those of float32, also over several blocks of prototypes; rows still sum to one', async () => {
  await onTorch()
  const wide = normal('wide', [9, 1100], 0.3)
  const s = put(wide)
  const low = cast(s, 'bf16')
  const exact = cast(low, 'fp32')
  for (const width of [1100, 512, 100]) {
    const [near, expected] = [await take(sinkhornDense(low, 0.07, 3, width)), await take(sinkhornReference(exact, 0.07))]
    assert.ok(apart(near, expected) < 1e-5) // of scores that are rounded once, all that follows is float32
    for (const row of totals(near).rows) assert.ok(Math.abs(row - 1) < 1e-5)
  }
  dispose([s, low, exact])
})
