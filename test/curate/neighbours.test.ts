/** Pairs, components, retrieval and hashes against their definitions. */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {plainArithmetic} from '../../src/curate/matmul-backend.js'
import {hamming, hashPairs} from '../../src/curate/hashes.js'
import {finish, kmeans} from '../../src/curate/kmeans.js'
import {keepBest} from '../../src/curate/near-duplicates.js'
import {nearestRows, pairRecall, pairsAbove, reached, type Pairs, type NearOptions} from '../../src/curate/neighbours.js'
import {retrieveFromClusters, retrieveNearest} from '../../src/curate/retrieval.js'
import {arrayRows, memoryRows} from '../../src/curate/rows.js'
import {thresholdFor} from '../../src/curate/threshold.js'
import {nearestNeighbours, oneBlock, VectorBuilder} from '../../src/search/exact.js'
import {rng} from '../../src/tensor/random.js'
import {counted, onTorch} from '../support/engine.js'
import {points} from '../support/points.js'

before(onTorch)

const [N, D] = [600, 16]
const drawn = points(N, D, {centres: 40, spread: 0.25, unit: true})
const rows = arrayRows(drawn, D)
const cosine = (i: number, j: number): number => {
  let sum = 0
  for (let d = 0; d < D; d++) sum += drawn[i * D + d]! * drawn[j * D + d]!
  return sum
}
const threshold = 0.93
const all: [number, number][] = []
for (let i = 0; i < N; i++) for (let j = i + 1; j < N; j++) if (cosine(i, j) >= threshold) all.push([i, j])
const listed = ({a, b}: Pairs): [number, number][] => Array.from(a, (x, i) => [x, b[i]!])
const find = (more: Partial<NearOptions> = {}): Pairs => finish(pairsAbove(rows, {threshold, k: N, seed: 1, ...more}))

test('exact pairs are those of the definition, in order, once each', () => {
  assert.ok(all.length > 200)
  const found = find()
  assert.deepEqual(listed(found), all)
  assert.ok(found.similarity.every((s, i) => Math.abs(s - cosine(found.a[i]!, found.b[i]!)) < 1e-5))
  assert.deepEqual(listed(find({arithmetic: plainArithmetic})), all)
})

test('lists that look everywhere find all; few probes and a graph find nearly all, and recall says how many', () => {
  assert.deepEqual(listed(find({method: 'lists', probes: 1000})), all)
  for (const method of ['lists', 'graph'] as const) {
    const found = find({method, k: 64})
    const exact = new Set(all.map(String))
    assert.ok(
      listed(found).every(pair => exact.has(String(pair))),
      'nothing is found that is not there'
    )
    const reported = pairRecall(rows, found, {threshold, k: 64, seed: 1})!
    assert.ok(reported.recall > 0.97, `${method} ${reported.recall}`)
  }
  const none: Pairs = {a: new Int32Array(0), b: new Int32Array(0), similarity: new Float32Array(0)}
  assert.equal(pairRecall(rows, none, {threshold, k: 64, seed: 1})!.recall, 0)
  assert.equal(pairRecall(rows, none, {threshold: 1.5, k: 64, seed: 1}), undefined)
})

test('a row keeps its best k partners, and a pair is there when one of the two keeps it', () => {
  const k = 2
  const best = Array.from({length: N}, (_, i) =>
    [...Array(N).keys()]
      .filter(j => j !== i && cosine(i, j) >= threshold)
      .sort((x, y) => cosine(i, y) - cosine(i, x))
      .slice(0, k)
  )
  assert.deepEqual(
    listed(find({k})),
    all.filter(([a, b]) => best[a]!.includes(b) || best[b]!.includes(a))
  )
})

test('rows that were settled before are not compared with each other', () => {
  const settled = new Uint8Array(N)
  for (const row of rng(2).permutation(N).subarray(0, 300)) settled[row] = 1
  const wanted = all.filter(([a, b]) => !(settled[a] && settled[b]))
  assert.deepEqual(listed(find({settled})), wanted)
  assert.deepEqual(listed(find({settled, method: 'lists', probes: 1000})), wanted)
})

test('a thousand rows that are all alike hang together by their k nearest', () => {
  const alike = arrayRows(new Float32Array(1000 * 4).fill(0.5), 4)
  const pairs = finish(pairsAbove(alike, {threshold: 0.99, k: 8, seed: 1}))
  const {keeper, groups} = keepBest(
    1000,
    pairs,
    Int32Array.from({length: 1000}, (_, i) => 1000 - i)
  )
  assert.equal(groups, 1)
  assert.ok(keeper.every(k => k === 999))
})

test('one row of each component is kept, the best; no two kept rows are a pair; the order of pairs does not matter', () => {
  const rank = rng(4).permutation(N)
  const pairs = find()
  const {keeper, size} = keepBest(N, pairs, rank)
  for (const [a, b] of all) {
    assert.equal(keeper[a], keeper[b])
    assert.ok(keeper[a] !== a || keeper[b] !== b)
  }
  for (let i = 0; i < N; i++) {
    assert.equal(keeper[keeper[i]!], keeper[i])
    assert.ok(rank[keeper[i]!]! <= rank[i]!)
    assert.equal(size[i], keeper.filter(k => k === keeper[i]).length)
  }
  const order = rng(6).permutation(pairs.a.length)
  const mixed = {a: Int32Array.from(order, i => pairs.b[i]!), b: Int32Array.from(order, i => pairs.a[i]!), similarity: pairs.similarity}
  assert.deepEqual(keepBest(N, mixed, rank), {keeper, size, groups: keepBest(N, pairs, rank).groups})
  const fixed = new Uint8Array(N).fill(1, 100, 140)
  const again = keepBest(N, pairs, rank, fixed)
  for (let i = 100; i < 140; i++) assert.equal(again.keeper[i], i, 'what was kept before stays')
})

test('what hangs together with queries is what a walk through all pairs reaches', () => {
  const queries = points(6, D, {centres: 40, spread: 0.25, unit: true})
  const near = (q: number, i: number): number => {
    let sum = 0
    for (let d = 0; d < D; d++) sum += queries[q * D + d]! * drawn[i * D + d]!
    return sum
  }
  const seen = new Int32Array(N)
  let front = [...Array(N).keys()].filter(i => [...Array(6).keys()].some(q => near(q, i) >= threshold))
  for (let step = 1; front.length > 0; step++) {
    for (const i of front) seen[i] = step
    front = [...Array(N).keys()].filter(i => !seen[i] && front.some(j => cosine(i, j) >= threshold))
  }
  const found = reached(rows, queries, {threshold})
  assert.deepEqual(found.step, seen)
  assert.ok(seen.includes(2), 'the walk goes beyond the first step')
  for (let i = 0; i < N; i++) {
    if (found.step[i] === 1) assert.ok(Math.abs(near(found.from[i]!, i) - found.similarity[i]!) < 1e-5)
    else if (found.step[i]! > 1) assert.equal(found.step[found.from[i]!], found.step[i]! - 1)
  }
})

test('nearest rows are those of the exact search', () => {
  const queries = points(9, D, {seed: 2, unit: true})
  const [a, b] = [nearestRows(rows, queries, 7), nearestNeighbours(oneBlock(drawn, D), queries, 7)]
  assert.deepEqual(
    a.map(x => [...x.rows]),
    b.map(x => [...x.rows])
  )
})

test('sample-based retrieval is the greedy choice over all pairs, each row for one seed', () => {
  const seeds = points(30, D, {centres: 40, spread: 0.25, unit: true})
  for (const [perSeed, floor] of [
    [4, -2],
    [1, 0.8],
    [40, -2]
  ] as const) {
    const dots = plainArithmetic.products(seeds, drawn, D)
    const pairs = [...dots.keys()].filter(i => dots[i]! >= floor).sort((x, y) => dots[y]! - dots[x]! || x - y)
    const owner = new Int32Array(N).fill(-1)
    const got = new Int32Array(30)
    for (const i of pairs) {
      const [q, row] = [Math.floor(i / N), i % N]
      if (owner[row]! >= 0 || got[q]! >= perSeed) continue
      owner[row] = q
      got[q]!++
    }
    const found = retrieveNearest(rows, seeds, {perSeed, floor, arithmetic: plainArithmetic})
    assert.deepEqual(found.seed, owner)
    if (floor < -1) assert.equal(found.seed.filter(s => s >= 0).length, Math.min(N, perSeed * 30), 'every seed brings rows of its own')
  }
})

test('cluster-based retrieval draws from clusters that more than T seeds fall into', () => {
  const {centroids, assignments, k} = finish(kmeans(rows, {k: 20, seed: 1}))
  const seeds = points(50, D, {centres: 40, spread: 0.25, unit: true, seed: 1})
  const options = {centroids, assignments, moreThan: 3, perCluster: 6, seed: 2}
  const {hits, seed} = retrieveFromClusters(rows, seeds, options)
  assert.equal(
    hits.reduce((a, b) => a + b, 0),
    50
  )
  for (let c = 0; c < k; c++) {
    const members = [...assignments.keys()].filter(i => assignments[i] === c)
    const taken = members.filter(i => seed[i]! >= 0)
    assert.equal(taken.length, hits[c]! > 3 ? Math.min(6, members.length) : 0)
  }
  assert.ok(hits.some(n => n > 3) && hits.some(n => n <= 3))
  assert.equal(retrieveFromClusters(rows, seeds, {...options, cap: 10}).seed.filter(s => s >= 0).length, 10)
})

test('hash pairs are those of the definition, once each', () => {
  const random = rng(3)
  const hashes = Uint32Array.from({length: 2 * 300}, () => random.bits())
  for (let i = 0; i < 150; i++) {
    const from = random.int(300)
    const to = random.int(300)
    hashes.set(hashes.subarray(2 * from, 2 * from + 2), 2 * to)
    for (let flips = random.int(7); flips > 0; flips--) hashes[2 * to + random.int(2)]! ^= 1 << random.int(32)
  }
  for (const most of [0, 1, 3, 6]) {
    const found: string[] = []
    hashPairs(hashes, most, (i, j, d) => {
      assert.equal(d, hamming(hashes, i, j))
      found.push(`${i},${j}`)
    })
    assert.equal(new Set(found).size, found.length)
    const equal = (i: number, j: number): boolean => hamming(hashes, i, j) === 0
    const first = (i: number): boolean => ![...Array(i).keys()].some(j => equal(j, i))
    const wanted: string[] = []
    for (let j = 0; j < 300; j++)
      for (let i = 0; i < j; i++) {
        if (equal(i, j) ? first(i) : hamming(hashes, i, j) <= most && first(i) && first(j)) wanted.push(`${i},${j}`)
      }
    assert.deepEqual(found.sort(), wanted.sort())
  }
})

test('the threshold has the wanted precision and gains copies, halfway to the next pair', () => {
  const copies = {jpeg: [0.99, 0.98, 0.97, 0.9], crop: [0.8, 0.5]}
  const others = [0.85, 0.6, 0.4, 0.3]
  const found = thresholdFor(copies, others, {precision: 1})
  assert.deepEqual(found, {threshold: 0.875, precision: 1, recall: 4 / 6, byKind: {jpeg: 1, crop: 0}, reached: true})
  assert.equal(thresholdFor(copies, others, {precision: 0.8}).threshold, 0.7)
  assert.equal(thresholdFor(copies, others, {precision: 0.8, weight: 10}).threshold, 0.875)
  // Below 0.9 the precision allows one pair of different images, but no copy is gained by it.
  const many = Array.from({length: 10}, () => 0.9)
  assert.equal(thresholdFor({jpeg: many}, [0.5, 0.2], {precision: 0.9}).threshold.toFixed(3), '0.700')
  const lost = thresholdFor({jpeg: [0.7]}, [0.9, 0.8], {precision: 0.99})
  assert.equal(lost.reached, false)
  assert.ok(lost.threshold > 0.9)
})

test('rows read the same from blocks and from one array', () => {
  const builder = new VectorBuilder(D)
  builder.append(drawn)
  const {dim, count, blocks} = builder.finish()
  const cut = memoryRows({
    dim,
    count,
    blockRows: 100,
    blocks: Array.from({length: 6}, (_, i) => blocks[0]!.subarray(i * 100 * D, (i + 1) * 100 * D))
  })
  for (const [from, n] of [
    [0, 600],
    [90, 30],
    [240, 20],
    [300, 5],
    [250, 0]
  ] as const)
    assert.deepEqual([...cut.block(from, n)], [...rows.block(from, n)])
  assert.deepEqual(cut.gather([7, 599, 250, 249]), rows.gather([7, 599, 250, 249]))
})

test('nothing stays on the engine', () => {
  const begun = counted()
  find({method: 'lists'})
  reached(rows, drawn.slice(0, 4 * D), {threshold})
  retrieveNearest(rows, drawn.slice(0, 4 * D), {perSeed: 2})
  assert.equal(counted(), begun)
})
