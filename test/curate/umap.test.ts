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
  const rows = points(N, D, {centres: 4, spread: 0.2, unit: true})
  const table = finish(neighbourTable(arrayRows(rows, D), {k}))
  const random = rng(3, 'start')
  const start = Float32Array.from({length: 2 * N}, () => random.normal())
  const places = finish(umap(table, start, {seed: 1}))
  assert.deepEqual(finish(umap(table, start, {seed: 1})), places)
  assert.notDeepEqual(finish(umap(table, start, {seed: 2})), places)
  const ranked = finish(neighbourTable(arrayRows(rows, D), {k: N - 1}))
  let [kept, all, misplaced] = [0, 0, 0]
  for (let i = 0; i < N; i++) {
    const distance = (j: number): number => (places[2 * i]! - places[2 * j]!) ** 2 + (places[2 * i + 1]! - places[2 * j + 1]!) ** 2
    const near = Array.from({length: N}, (_, j) => j)
      .filter(j => j !== i)
      .sort((a, b) => distance(a) - distance(b))
    const order = ranked.rows.subarray(i * (N - 1), (i + 1) * (N - 1))
    for (const j of near.slice(0, k)) {
      const rank = order.indexOf(j) + 1
      kept += Number(rank <= k)
      misplaced += Math.max(0, rank - k)
    }
    all += k
  }
  // Venna and Kaski 2001: 1 where neighbours in the plane are neighbours of the rows, about ½ where they are drawn.
  const trustworthiness = 1 - (2 * misplaced) / (N * k * (2 * N - 3 * k - 1))
  assert.ok(trustworthiness > 0.85, `trustworthiness ${trustworthiness.toFixed(3)}`)
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
