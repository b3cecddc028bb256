/** Measures of the nearest neighbours: the table itself, outliers and contradicted labels. */
import assert from 'node:assert/strict'
import {describe, it} from 'node:test'
import {finish} from '../../src/curate/kmeans.js'
import {contradictedLabels, labelVotes, neighbourTable, outlierScores} from '../../src/curate/neighbour-measures.js'
import {arrayRows} from '../../src/curate/rows.js'
import {normalizeRows} from '../../src/search/exact.js'
import {onPlain} from '../support/engine.js'
import {points} from '../support/points.js'

const [N, D, k] = [120, 8, 6]
const rows = points(N, D, {centres: 3, spread: 0.15, unit: true})
const dot = (i: number, j: number): number => {
  let sum = 0
  for (let d = 0; d < D; d++) sum += rows[i * D + d]! * rows[j * D + d]!
  return sum
}

describe('the table of neighbours', () => {
  for (const method of ['exact', 'graph'] as const)
    it(`has the nearest other rows, best first (${method})`, async () => {
      await onPlain()
      const table = finish(neighbourTable(arrayRows(rows, D), {k, method}))
      for (let i = 0; i < N; i++) {
        const wanted = Array.from({length: N}, (_, j) => j)
          .filter(j => j !== i)
          .sort((a, b) => dot(i, b) - dot(i, a))
          .slice(0, k)
        for (let n = 0; n < k; n++) {
          assert.ok(Math.abs(table.similarity[i * k + n]! - dot(i, wanted[n]!)) < 1e-5)
          assert.notEqual(table.rows[i * k + n], i)
        }
      }
    })

  it('has fewer neighbours where there are fewer rows, and none of one row', async () => {
    await onPlain()
    assert.equal(finish(neighbourTable(arrayRows(rows.subarray(0, 3 * D), D), {k})).k, 2)
    assert.deepEqual(finish(neighbourTable(arrayRows(rows.subarray(0, D), D), {k})).rows, new Int32Array(0))
  })
})

describe('what neighbours say', () => {
  it('puts a row that lies alone first', async () => {
    await onPlain()
    const all = rows.slice()
    all.set(
      normalizeRows(
        Float32Array.from({length: D}, (_, d) => (d % 2 ? 1 : -1)),
        D
      ),
      7 * D
    )
    const scores = outlierScores(finish(neighbourTable(arrayRows(all, D), {k})))
    assert.equal(scores.indexOf(Math.max(...scores)), 7)
  })

  it('finds labels that were changed, surest first, and none besides', async () => {
    await onPlain()
    const table = finish(neighbourTable(arrayRows(rows, D), {k}))
    // Rows of one centre share a label: the sign pattern of the row nearest to all others of it.
    const label = new Int32Array(N).fill(-1)
    for (let i = 0, next = 0; i < N; i++) {
      if (label[i]! < 0) label[i] = next++
      for (let j = i + 1; j < N; j++) if (dot(i, j) > 0.7 && label[j]! < 0) label[j] = label[i]!
    }
    const honest = contradictedLabels(table, label)
    const wrong = label.slice()
    for (const i of [3, 50]) wrong[i] = 99
    const found = contradictedLabels(table, wrong)
    assert.deepEqual(
      found
        .map(({row}) => row)
        .filter(row => !honest.some(other => other.row === row))
        .sort(),
      [3, 50]
    )
    for (const {row, label: other, share} of found.filter(({row}) => row === 3 || row === 50)) {
      assert.equal(other, label[row])
      assert.ok(share > 0.6 && share <= 1)
    }
    wrong.fill(-1)
    assert.deepEqual(contradictedLabels(table, wrong), [])
  })
})

it('of equally many votes the own label counts first, then the one of the smaller number; rows without a label neither ask nor vote', () => {
  const table = {k: 2, rows: Int32Array.of(1, 2, 0, 2, 0, 1, 0, 1), similarity: new Float32Array(8).fill(0.5)}
  const votes = (label: number[]) => labelVotes(table, label).map(vote => vote && [vote.label, vote.share, vote.own])
  assert.deepEqual(votes([2, 2, 0, 1]), [[2, 0.5, 0.5], [2, 0.5, 0.5], [2, 1, 0], [2, 1, 0]]) // prettier-ignore
  assert.deepEqual(votes([3, 2, 0, -1]), [[0, 0.5, 0], [0, 0.5, 0], [2, 0.5, 0], undefined]) // prettier-ignore
  assert.deepEqual(votes([1, -1, -1, 1]), [undefined, undefined, undefined, [1, 1, 1]]) // prettier-ignore
})
