/** The graph against the exact search, its determinism, removal, and saving. */
import assert from 'node:assert/strict'
import {mkdtemp, readFile, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {nearestNeighbours, normalizeRows, oneBlock} from '../../src/search/exact.js'
import {recall} from '../../src/search/recall.js'
import {Graph} from '../../src/search/hnsw.js'
import {rng} from '../../src/tensor/random.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'graph-'))))
after(() => rm(dir, {recursive: true, force: true}))

const [D, N] = [24, 1500]
/** Points around 40 centres, as features of pictures lie. */
function draw(n: number, key: string): Float32Array {
  const [centres, random] = [rng(3, 'centres'), rng(3, key)]
  const c = Float32Array.from({length: 40 * D}, () => centres.normal())
  const out = new Float32Array(n * D)
  for (let i = 0; i < n; i++) {
    const at = random.int(40) * D
    for (let d = 0; d < D; d++) out[i * D + d] = c[at + d]! + 0.5 * random.normal()
  }
  return out
}
const row = (rows: Float32Array, i: number): Float32Array => rows.subarray(i * D, (i + 1) * D)

for (const metric of ['cosine', 'ip', 'l2'] as const) {
  test(`${metric}: finds what the exact search finds, with the same scores`, () => {
    const [rows, queries] = [draw(N, 'rows'), draw(50, 'queries')]
    if (metric === 'cosine') [rows, queries].forEach(side => normalizeRows(side, D))
    const graph = Graph.create(D, metric, N)
    for (let i = 0; i < N; i++) graph.add(row(rows, i), i)
    const truth = nearestNeighbours(oneBlock(rows, D), queries, 10, {metric})
    const found = truth.map((_, q) => graph.nearest(row(queries, q), 10, 200))
    const share = recall(found, truth)
    // Inner products of vectors of unequal length are no metric, which a graph walk presumes.
    assert.ok(share >= (metric === 'ip' ? 0.8 : 0.97), `recall ${share}`)
    const [first, exact] = [found[0]!.scores[0]!, truth[0]!.scores[0]!]
    assert.ok(Math.abs(first - exact) <= 1e-4 * Math.max(1, Math.abs(exact)), `${first} and ${exact}`)
  })
}

test('the same rows give the same bytes, and a saved graph answers as before', async () => {
  const rows = normalizeRows(draw(300, 'rows'), D)
  const paths = [join(dir, 'a'), join(dir, 'b')]
  for (const path of paths) {
    const graph = Graph.create(D, 'cosine', 300)
    for (let i = 0; i < 300; i++) graph.add(row(rows, i), i)
    graph.save(path)
  }
  assert.deepEqual(await readFile(paths[0]!), await readFile(paths[1]!))
  const graph = Graph.load(paths[0]!, D, 'cosine')
  assert.equal(graph.nearest(row(rows, 17), 1, 64).rows[0], 17)
  assert.deepEqual(graph.vector(17), row(rows, 17))
})

test('a removed row is no answer any more, and new rows find room', () => {
  const rows = normalizeRows(draw(40, 'rows'), D)
  const graph = Graph.create(D, 'cosine', 20)
  for (let i = 0; i < 20; i++) graph.add(row(rows, i), i)
  graph.remove(5)
  assert.ok(!graph.nearest(row(rows, 5), 19, 64).rows.includes(5))
  graph.reserve(40)
  for (let i = 20; i < 40; i++) graph.add(row(rows, i), i)
  assert.equal(graph.nearest(row(rows, 33), 1, 64).rows[0], 33)
})

test('an empty graph has no neighbours', () => {
  assert.deepEqual([...Graph.create(D, 'l2', 0).nearest(new Float32Array(D), 3, 10).rows], [])
})
