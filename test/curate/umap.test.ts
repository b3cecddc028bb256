/** Places in the plane: neighbours stay together, the same draws give the same bytes, few rows are placed too. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {finish} from '../../src/curate/kmeans.js'
import {neighbourTable} from '../../src/curate/neighbour-measures.js'
import {arrayRows} from '../../src/curate/rows.js'
import {umap} from '../../src/curate/umap.js'
import {rng} from '../../src/tensor/random.js'
import {onPlain} from '../support/engine.js'
import {points} from '../support/points.js'

const [N, D, k] = [200, 12, 10]

test('neighbours in the plane are neighbours of the rows', async () => {
  await onPlain()
  const table = finish(neighbourTable(arrayRows(points(N, D, {centres: 4, spread: 0.2, unit: true}), D), {k}))
  const random = rng(3, 'start')
  const start = Float32Array.from({length: 2 * N}, () => random.normal())
  const places = finish(umap(table, start, {seed: 1}))
  assert.deepEqual(finish(umap(table, start, {seed: 1})), places)
  assert.notDeepEqual(finish(umap(table, start, {seed: 2})), places)
  let [kept, all] = [0, 0]
  for (let i = 0; i < N; i++) {
    const distance = (j: number): number => (places[2 * i]! - places[2 * j]!) ** 2 + (places[2 * i + 1]! - places[2 * j + 1]!) ** 2
    const near = Array.from({length: N}, (_, j) => j)
      .filter(j => j !== i)
      .sort((a, b) => distance(a) - distance(b))
    const own = new Set(table.rows.subarray(i * k, (i + 1) * k))
    kept += near.slice(0, k).filter(j => own.has(j)).length
    all += k
  }
  assert.ok(kept / all > 0.4, `${((100 * kept) / all).toFixed(0)} % of the neighbours stay, where chance keeps 5 %`)
  assert.ok(places.every(Number.isFinite))
})

test('one row, two rows and copies have places', async () => {
  await onPlain()
  for (const n of [1, 2, 5]) {
    const rows = new Float32Array(n * D).fill(Math.sqrt(1 / D))
    const places = finish(umap(finish(neighbourTable(arrayRows(rows, D), {k})), new Float32Array(2 * n), {seed: 0}))
    assert.equal(places.length, 2 * n)
    assert.ok(places.every(Number.isFinite))
  }
})
