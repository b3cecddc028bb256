/** Exact search against the definition, its ties, and the shapes it must not stumble over. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {nearestNeighbours, normalizeRows, oneBlock, rowAt, VectorBuilder, type Metric, type Vectors} from '../../src/search/exact.js'
import {recall} from '../../src/search/recall.js'
import {rng} from '../../src/tensor/random.js'

const D = 7
const draw = (n: number, key: string): Float32Array => {
  const random = rng(1, key)
  return Float32Array.from({length: n * D}, () => random.uniform(-1, 1))
}

/** Every pair by the formula, then a full sort. */
function byDefinition(rows: Float32Array, queries: Float32Array, k: number, metric: Metric): {rows: number[]; scores: number[]}[] {
  return Array.from({length: queries.length / D}, (_, q) => {
    const all = Array.from({length: rows.length / D}, (_, i) => {
      let score = 0
      for (let d = 0; d < D; d++) {
        const [x, y] = [rows[i * D + d]!, queries[q * D + d]!]
        score += metric === 'l2' ? -((x - y) ** 2) : x * y
      }
      return {i, score}
    })
    all.sort((a, b) => b.score - a.score || a.i - b.i)
    return {rows: all.slice(0, k).map(({i}) => i), scores: all.slice(0, k).map(({score}) => score)}
  })
}

/** Blocks of three rows, so that a few rows cross their borders. */
const inBlocks = (rows: Float32Array): Vectors => {
  const blocks: Float32Array[] = []
  for (let at = 0; at < rows.length; at += 3 * D) blocks.push(rows.subarray(at, at + 3 * D))
  return {dim: D, count: rows.length / D, blockRows: 3, blocks}
}

for (const metric of ['cosine', 'ip', 'l2'] as const) {
  test(`${metric}: the k nearest by definition, in one block or many, for any number of queries`, () => {
    const rows = draw(100, 'rows')
    for (const n of [1, 4, 7]) {
      const queries = draw(n, `queries ${n}`)
      if (metric === 'cosine') [rows, queries].forEach(side => normalizeRows(side, D))
      const truth = byDefinition(rows, queries, 10, metric)
      for (const vectors of [oneBlock(rows, D), inBlocks(rows)]) {
        const found = nearestNeighbours(vectors, queries, 10, {metric})
        assert.deepEqual(
          found.map(({rows: list}) => [...list]),
          truth.map(({rows: list}) => list)
        )
        for (const [q, {scores}] of found.entries())
          for (const [i, score] of scores.entries()) assert.ok(Math.abs(score - truth[q]!.scores[i]!) < 1e-12)
      }
    }
  })
}

test('an engine’s matrix product gives the same neighbours', () => {
  const [rows, queries] = [draw(100, 'rows'), draw(9, 'queries')]
  const products = (q: Float32Array, r: Float32Array, dim: number): Float32Array =>
    Float32Array.from({length: (q.length / dim) * (r.length / dim)}, (_, at) => {
      const [i, j] = [Math.floor(at / (r.length / dim)), at % (r.length / dim)]
      let sum = 0
      for (let d = 0; d < dim; d++) sum += q[i * dim + d]! * r[j * dim + d]!
      return sum
    })
  const plain = nearestNeighbours(inBlocks(rows), queries, 5, {metric: 'ip'})
  const quick = nearestNeighbours(inBlocks(rows), queries, 5, {metric: 'ip', innerProduct: products})
  assert.deepEqual(
    quick.map(({rows: list}) => [...list]),
    plain.map(({rows: list}) => [...list])
  )
})

test('equal scores are ordered by `before`, not by where rows stand', () => {
  const rows = new Float32Array(6 * D).fill(0.5)
  const names = ['f', 'b', 'd', 'a', 'c', 'e']
  const [found] = nearestNeighbours(inBlocks(rows), new Float32Array(D).fill(1), 3, {metric: 'ip', before: (a, b) => names[a]! < names[b]!})
  assert.deepEqual(
    [...found!.rows].map(row => names[row]),
    ['a', 'b', 'c']
  )
})

test('more neighbours than rows, no rows, no queries, a row left out', () => {
  const rows = draw(3, 'rows')
  const query = draw(1, 'query')
  assert.equal(nearestNeighbours(oneBlock(rows, D), query, 10)[0]!.rows.length, 3)
  assert.deepEqual([...nearestNeighbours(oneBlock(new Float32Array(0), D), query, 10)[0]!.rows], [])
  assert.deepEqual(nearestNeighbours(oneBlock(rows, D), new Float32Array(0), 10), [])
  const [all] = nearestNeighbours(oneBlock(rows, D), query, 3)
  const [some] = nearestNeighbours(oneBlock(rows, D), query, 3, {skip: (_, row) => row === all!.rows[0]})
  assert.deepEqual([...some!.rows], [...all!.rows].slice(1))
})

test('rows collected in pieces come back whole', () => {
  const rows = draw(5000, 'many')
  const builder = new VectorBuilder(D)
  for (let at = 0, n = 1; at < rows.length; at += n * D, n = (n * 3) % 701) builder.append(rows.subarray(at, at + n * D))
  const vectors = builder.finish()
  assert.equal(vectors.count, 5000)
  for (const i of [0, 1, 1023, 1024, 4999]) assert.deepEqual(rowAt(vectors, i), rows.subarray(i * D, (i + 1) * D))
})

test('a row of zeros stays zero when normalized, others get length 1', () => {
  const rows = normalizeRows(Float32Array.of(0, 0, 3, 4), 2)
  assert.deepEqual([...rows], [0, 0, Math.fround(0.6), Math.fround(0.8)])
})

test('recall counts neighbours that are as near as the true ones', () => {
  const truth = [{scores: Float64Array.of(0.9, 0.8)}]
  assert.equal(recall([{scores: Float64Array.of(0.9, 0.7)}], truth), 0.5)
  assert.equal(recall([{scores: Float64Array.of(0.8, 0.8)}], truth), 1)
  assert.equal(recall([], []), 1)
})
