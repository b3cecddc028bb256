/** Ranks of right answers against sorting the whole list, with equal rows and an engine's products. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {normalizeRows} from '../../src/search/exact.js'
import {rankQueries, type RankQuery} from '../../src/search/ranks.js'
import {rng} from '../../src/tensor/random.js'

const [N, D] = [60, 5]
const random = rng(4, 'rows')
const rows = normalizeRows(
  Float32Array.from({length: N * D}, () => random.normal()),
  D
)
for (const copy of [7, 20, 21]) rows.copyWithin(copy * D, 3 * D, 4 * D) // equal rows
const asked: RankQuery[] = [0, 3, 20, 59].map(row => ({row, relevant: [3, 7, 21, 30, 58].filter(other => other !== row)}))

/** Every row but the query, best first; of equal ones the earlier. */
function sorted(query: number): {row: number; similarity: number}[] {
  const dot = (row: number): number => {
    let sum = 0
    for (let d = 0; d < D; d++) sum += rows[query * D + d]! * rows[row * D + d]!
    return sum
  }
  return Array.from({length: N}, (_, row) => ({row, similarity: dot(row)}))
    .filter(({row}) => row !== query)
    .sort((a, b) => b.similarity - a.similarity || a.row - b.row)
}

test('ranks and first rows are those of the sorted list', () => {
  for (const [i, {ranks, first}] of [...rankQueries(rows, D, asked, {keep: 4})].entries()) {
    const list = sorted(asked[i]!.row)
    assert.deepEqual(
      ranks,
      asked[i]!.relevant.map(row => list.findIndex(entry => entry.row === row)).sort((a, b) => a - b)
    )
    assert.deepEqual(first, list.slice(0, 4))
  }
})

test('through an engine’s products, in parts, the ranks are the same', () => {
  let calls = 0
  const products = (queries: Float32Array, all: Float32Array, dim: number): Float32Array => {
    calls++
    const out = new Float32Array((queries.length / dim) * N)
    for (let i = 0; i < out.length; i++) {
      let sum = 0
      for (let d = 0; d < dim; d++) sum += queries[Math.floor(i / N) * dim + d]! * all[(i % N) * dim + d]!
      out[i] = sum
    }
    return out
  }
  const ranksOf = (options: object): unknown => [...rankQueries(rows, D, asked, options)].map(({ranks}) => ranks)
  assert.deepEqual(ranksOf({products}), ranksOf({}))
  assert.equal(calls, 1)
  assert.deepEqual([...rankQueries(rows, D, [{row: 1, relevant: []}])], [{ranks: [], first: []}])
})
