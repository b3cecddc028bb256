/**
 * KoLeo: value and gradient against a reference implementation on the tape, and what must hold of it whatever the
 * points are.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {koleoLoss} from '../../src/loss/koleo.js'
import {add, div, gather, log, mean, neg, sqrt, square, sub, sum} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {rng} from '../../src/tensor/random.js'
import {apart, counted, normal, onPlain, onTorch, put, take, whole, type Values} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

const [B, C] = [12, 8]
const points = normal('points', [B, C], 3)

/** For each row of x, the row whose direction is nearest. */
function nearest({shape: [rows, columns], data}: Values<readonly [number, number]>): number[] {
  const unit = (i: number): number[] => {
    const row = Array.from(data.subarray(i * columns, (i + 1) * columns))
    const length = Math.hypot(...row)
    return row.map(x => x / length)
  }
  const all = Array.from({length: rows}, (_, i) => unit(i))
  return all.map((u, i) => {
    const cosines = all.map((v, j) => (i === j ? -Infinity : u.reduce((total, x, d) => total + x * v[d]!, 0)))
    return cosines.indexOf(Math.max(...cosines))
  })
}

test('−mean log of the distance to the nearest neighbour, and its gradient', () =>
  checkOp({
    inputs: {x: points},
    forward: ({x}) => {
      const {loss, gradient} = koleoLoss(x)
      return {y: loss, gradient}
    },
    plain: ({x}) => {
      const u = div<Tensor2D>(x, sqrt(sum(square(x), 1, true)))
      const gap = add(sub(u, gather(u, put(whole(nearest(points))))), 1e-8)
      return neg(mean(log(add(sqrt(sum(square(gap), 1)), 1e-8))))
    },
    backward: (_, _inputs, {gradient}) => ({x: gradient!.clone()}),
    ones: true,
    limits: {slope: 2e-2, gradient: 5e-5}
  }))

/** An orthogonal matrix [C, C], by Gram and Schmidt. */
function rotation(): number[][] {
  const random = rng(8, 'rotation')
  const rows: number[][] = []
  while (rows.length < C) {
    let row = Array.from({length: C}, () => random.normal())
    for (const other of rows) {
      const along = row.reduce((total, x, i) => total + x * other[i]!, 0)
      row = row.map((x, i) => x - along * other[i]!)
    }
    const length = Math.hypot(...row)
    rows.push(row.map(x => x / length))
  }
  return rows
}
const turned = ({shape, data}: Values, by: number[][]): Values<readonly [number, number]> => ({
  shape: shape as [number, number],
  data: Float32Array.from(data, (_, at) => by[at % C]!.reduce((total, r, d) => total + r * data[Math.floor(at / C) * C + d]!, 0))
})
async function compute(values: Values<readonly [number, number]>): Promise<{loss: Values; gradient: Values}> {
  const x = put(values)
  const before = counted()
  const {loss, gradient} = koleoLoss(x)
  assert.equal(counted() - before, 2)
  x.dispose()
  return {loss: await take(loss), gradient: await take(gradient)}
}

test('turning all points changes nothing and turns the gradient; lengths do not matter', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const by = rotation()
    const [still, moved] = [await compute(points), await compute(turned(points, by))]
    assert.ok(apart(moved.loss, still.loss) < 1e-5)
    assert.ok(apart(moved.gradient, turned(still.gradient, by)) < 1e-4)
    const longer = await compute({...points, data: points.data.map((x, i) => x * (1 + Math.floor(i / C)))})
    assert.ok(apart(longer.loss, still.loss) < 1e-5)
    // Lengthening a row does nothing, so the gradient is across it.
    for (let i = 0; i < B; i++) {
      let dot = 0
      for (let d = 0; d < C; d++) dot += still.gradient.data[i * C + d]! * points.data[i * C + d]!
      assert.ok(Math.abs(dot) < 1e-5)
    }
  }
})

test('equal images stay finite, and being spread is better', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const same = {shape: [B, C] as const, data: Float32Array.from({length: B * C}, (_, i) => points.data[i % C]!)}
    const pairs = {shape: [B, C] as const, data: Float32Array.from(points.data, (_, i) => points.data[i % ((B * C) / 2)]!)}
    const [all, two, spread] = [await compute(same), await compute(pairs), await compute(points)]
    for (const {loss, gradient} of [all, two]) assert.ok([...loss.data, ...gradient.data].every(Number.isFinite))
    assert.ok(all.loss.data[0]! > 10 && two.loss.data[0]! > 10 && spread.loss.data[0]! < 2)
    const zeros = await compute({shape: [3, C], data: new Float32Array(3 * C)})
    assert.ok([...zeros.loss.data, ...zeros.gradient.data].every(Number.isFinite))
  }
})

test('an image alone has no neighbour: no loss, no gradient', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const {loss, gradient} = await compute(normal('one', [1, C]))
    assert.deepEqual([...loss.data], [0])
    assert.deepEqual([...gradient.data], new Array(C).fill(0))
  }
})
