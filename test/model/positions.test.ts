/**
 * Position embeddings on other grids: both resamplers against PyTorch's own (recorded by `positions.py`), and their
 * gradients as transposes.
 */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {
  offsetWeights,
  positionsFor,
  resamplePositions,
  resamplePositionsBackward,
  resamplePositionsReference,
  sizeWeights
} from '../../src/model/positions.js'
import type {VitConfig} from '../../src/model/config.js'
import {reshape, slice, tidy} from '../../src/tensor/tf.js'
import {apart, counted, normal, onPlain, onTorch, put, take} from '../support/engine.js'
import {projectFolder} from '../support/scratch.js'
import {checkOp} from '../support/check-op.js'

type Case = {mode: 'offset' | 'size'; rows: number; columns: number; values: number[]}
type Recording = {grid: number; channels: number; cases: Case[]}
const recording = JSON.parse(readFileSync(join(projectFolder(), 'test', 'model', 'positions.json'), 'utf8')) as Recording
const {grid: M, channels: C} = recording

const config = (mode: Case['mode'], grid = M): VitConfig => ({
  width: C,
  depth: 1,
  heads: 1,
  patch: 14,
  ffn: 'mlp',
  hidden: 8,
  registers: 0,
  grid,
  layerScale: true,
  interpolateOffset: mode === 'offset' ? 0.1 : 0,
  interpolateAntialias: mode === 'size'
})

const stored = {
  shape: [M * M, C] as const,
  data: Float32Array.from({length: M * M * C}, (_, at) => {
    const [i, j, c] = [Math.floor(at / C / M), Math.floor(at / C) % M, at % C]
    return Math.sin(0.7 * i + 1.3 * j + 2 * c) + 0.3 * Math.cos(1.9 * i * j)
  })
}

/** The places that the recording keeps: first row, last column, a slanted line. */
const places = (rows: number, columns: number): [number, number][] => [
  ...Array.from({length: columns}, (_, j): [number, number] => [0, j]),
  ...Array.from({length: rows}, (_, i): [number, number] => [i, columns - 1]),
  ...Array.from({length: rows}, (_, i): [number, number] => [i, (3 * i + 1) % columns])
]

for (const {mode, rows, columns, values} of recording.cases)
  test(`${M} × ${M} to ${rows} × ${columns} by ${mode} is PyTorch's`, async () => {
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const pos = put(stored)
      const {data} = await take(resamplePositions(pos, config(mode), rows, columns))
      pos.dispose()
      const kept = places(rows, columns).flatMap(([i, j]) => Array.from({length: C}, (_, c) => data[(i * columns + j) * C + c]!))
      const off = apart({shape: [kept.length], data: Float32Array.from(kept)}, {shape: [values.length], data: Float32Array.from(values)})
      assert.ok(off < 1e-5, `off by ${off}`) // coordinates are float32 there, doubles here
    }
  })

for (const mode of ['offset', 'size'] as const) {
  test(`the gradient by ${mode} is the transpose`, async () => {
    for (const [rows, columns] of [
      [3, 9],
      [7, 5]
    ] as const) {
      const small = config(mode, 6)
      await checkOp({
        inputs: {pos: normal('pos', [36, C])},
        forward: ({pos}) => resamplePositions(pos, small, rows, columns),
        plain: ({pos}) => resamplePositions(pos, small, rows, columns),
        backward: dy => ({pos: resamplePositionsBackward(dy, small, rows, columns)}),
        limits: {slope: 1e-3}
      })
    }
  })

  test(`the reference implementation by ${mode}, which needs no engine, gives the same`, async () => {
    await onPlain()
    for (const [rows, columns] of [
      [M, M],
      [3, 9],
      [41, 5]
    ] as const) {
      const pos = put(stored)
      const expected = await take(resamplePositions(pos, config(mode), rows, columns))
      pos.dispose()
      const data = resamplePositionsReference(stored.data as Float32Array, config(mode), rows, columns)
      assert.ok(apart({shape: [rows * columns, C], data}, expected) < 1e-6)
    }
  })

  test(`by ${mode}, constant positions stay constant, and every target takes weights that sum to one`, () => {
    for (const [from, target] of [
      [37, 7],
      [37, 46],
      [16, 7],
      [5, 1],
      [1, 4]
    ] as const) {
      const weights = mode === 'size' ? sizeWeights(from, target) : offsetWeights(from, target, 0.1)
      for (let d = 0; d < target; d++) {
        const total = weights.subarray(d * from, (d + 1) * from).reduce((a, b) => a + b, 0)
        assert.ok(Math.abs(total - 1) < 1e-6, `${from} to ${target}: ${total}`)
      }
    }
  })
}

test('the stored grid serves as it is; the class position is never resampled', async () => {
  await onTorch()
  const before = counted()
  const pos = put(stored)
  assert.deepEqual(await take(resamplePositions(pos, config('size'), M, M)), {...stored, shape: [...stored.shape]})
  assert.deepEqual(await take(resamplePositionsBackward(pos, config('offset'), M, M)), {...stored, shape: [...stored.shape]})
  pos.dispose()
  const all = put(normal('all', [1, 37, C]))
  const first = await take(tidy(() => reshape(slice(all, [0, 0, 0], [1, 1, C]), [C])))
  for (const [rows, columns] of [
    [6, 6],
    [4, 7]
  ] as const) {
    const {shape, data} = await take(positionsFor(all, config('offset', 6), rows, columns))
    assert.deepEqual(shape, [1 + rows * columns, C])
    assert.deepEqual(data.slice(0, C), first.data)
  }
  all.dispose()
  assert.equal(counted(), before)
})
