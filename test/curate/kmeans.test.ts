/**
 * k-means on the engine against its reference implementation and the definition; starts, empty clusters, mini-batches,
 * repeatability, and what stays on the engine.
 */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {engineArithmetic, plainArithmetic} from '../../src/curate/matmul-backend.js'
import {assign, distancesToCentroids, finish, kmeans, type KMeansOptions} from '../../src/curate/kmeans.js'
import {drawRows, firstCentroids} from '../../src/curate/kmeans-init.js'
import {arrayRows, selectRows, type RowSource} from '../../src/curate/rows.js'
import {rng} from '../../src/tensor/random.js'
import {counted, onTorch} from '../support/engine.js'
import {points, squaredDistance} from '../support/points.js'

before(onTorch)

const [N, D] = [700, 12]
const drawn = points(N, D)
const rows = arrayRows(drawn, D)
const run = (options: Partial<KMeansOptions> = {}, source: RowSource = rows) => finish(kmeans(source, {k: 10, seed: 3, ...options}))

test('every row belongs to its nearest centroid, and sizes and objective are those of the definition', () => {
  const {centroids, assignments, sizes, objective, k} = run()
  let sum = 0
  for (let i = 0; i < N; i++) {
    const all = Array.from({length: k}, (_, c) => squaredDistance(drawn, i, centroids, c, D))
    const nearest = Math.min(...all)
    assert.ok(all[assignments[i]!]! <= nearest + 1e-4)
    sum += nearest
  }
  assert.ok(Math.abs(objective - sum / N) < 1e-4 * objective, `${objective} and ${sum / N}`)
  assert.deepEqual(
    [...sizes],
    Array.from({length: k}, (_, c) => assignments.filter(a => a === c).length)
  )
  assert.ok(sizes.every(n => n > 0))
})

test('the engine and the reference implementation agree', () => {
  const [fast, plain] = [run(), run({arithmetic: plainArithmetic})]
  assert.deepEqual(fast.assignments, plain.assignments)
  assert.deepEqual(fast.centroids, plain.centroids)
  const centroids = drawn.slice(0, 9 * D)
  using a = engineArithmetic.centroids(centroids, D)
  using b = plainArithmetic.centroids(centroids, D)
  const some = drawn.subarray(20 * D, 200 * D)
  assert.deepEqual([...a.closest(some)], [...b.closest(some)])
  assert.deepEqual([...a.probe(some, 3)], [...b.probe(some, 3)])
  assert.deepEqual([...a.closest(some)], [...a.probe(some, 1)])
  const [p, q] = [engineArithmetic.products(some, centroids, D), plainArithmetic.products(some, centroids, D)]
  assert.ok(p.every((x, i) => Math.abs(x - q[i]!) < 1e-4))
})

test('the objective falls round by round, and the end is a fixed point', () => {
  const seen: number[] = []
  const {rounds, centroids, assignments} = finish(kmeans(rows, {k: 10, seed: 3, iterations: 100}), ({objective}) => seen.push(objective))
  assert.equal(seen.length, rounds)
  assert.ok(rounds < 100, 'it settles')
  for (let i = 1; i < seen.length; i++) assert.ok(seen[i]! <= seen[i - 1]! + 1e-6)
  assert.deepEqual(assign(rows, centroids), assignments)
  for (let c = 0; c < 10; c++) {
    const own = [...assignments.keys()].filter(i => assignments[i] === c)
    for (let d = 0; d < D; d++)
      assert.ok(Math.abs(own.reduce((sum, i) => sum + drawn[i * D + d]!, 0) / own.length - centroids[c * D + d]!) < 1e-4)
  }
})

test('the same seed gives the same bytes; another gives another result; reading by stretches changes nothing', () => {
  assert.deepEqual(run(), run())
  assert.notDeepEqual(run().centroids, run({seed: 4}).centroids)
  const all = Int32Array.from({length: N}, (_, i) => i)
  assert.deepEqual(run({}, selectRows(rows, all)), run())
})

test('k-means++ starts better than random rows do, on the average', () => {
  const apart = arrayRows(points(N, D, {centres: 40, spread: 0.1}), D)
  const mean = (init: 'random' | 'k-means++'): number => {
    let sum = 0
    for (let seed = 0; seed < 8; seed++) sum += run({seed, init, iterations: 1, k: 40}, apart).objective
    return sum
  }
  assert.ok(mean('k-means++') < 0.5 * mean('random'))
  for (const k of [1, 40, 200]) {
    const chosen = firstCentroids(rows, {k, seed: 2})
    const keys = new Set(Array.from({length: k}, (_, c) => chosen.subarray(c * D, (c + 1) * D).join()))
    assert.equal(keys.size, k, 'no row is chosen twice')
  }
})

test('an empty cluster is filled by splitting a wide one', () => {
  // Two far groups and a start in which all centroids but one lie in the first: some must become empty and move over.
  const far = new Float32Array(200 * 2)
  const random = rng(5)
  for (let i = 0; i < 200; i++) far.set([(i < 100 ? 0 : 1000) + random.normal(), random.normal()], 2 * i)
  for (let seed = 0; seed < 10; seed++) {
    const {sizes, objective} = finish(kmeans(arrayRows(far, 2), {k: 30, seed, init: 'random'}))
    assert.ok(
      sizes.every(n => n > 0),
      `seed ${seed}`
    )
    assert.ok(objective < 2)
  }
})

test('rows that are all alike are one cluster, few rows are each their own, none are none', () => {
  const alike = finish(kmeans(arrayRows(new Float32Array(50 * 4).fill(0.5), 4), {k: 5, seed: 1}))
  assert.equal(alike.objective, 0)
  assert.deepEqual([...alike.sizes], [50, 0, 0, 0, 0])
  const few = run({k: 20}, arrayRows(drawn.slice(0, 3 * D), D))
  assert.equal(few.k, 3)
  assert.ok(few.objective < 1e-6)
  assert.equal(run({}, arrayRows(new Float32Array(0), D)).k, 0)
})

test('mini-batches come near the full result', () => {
  const [full, small] = [run({iterations: 50}), run({batch: 100, iterations: 150})]
  assert.ok(small.objective < 1.25 * full.objective, `${small.objective} and ${full.objective}`)
  assert.deepEqual(small, run({batch: 100, iterations: 150}))
})

test('distances to centroids, and drawn rows', () => {
  const {centroids, assignments} = run()
  const distances = distancesToCentroids(rows, {centroids, assignments})
  for (const i of [0, 17, N - 1]) assert.ok(Math.abs(distances[i]! - squaredDistance(drawn, i, centroids, assignments[i]!, D)) < 1e-6)
  const some = drawRows(100, 30, rng(1))
  assert.equal(new Set(some).size, 30)
  assert.ok(some.every((x, i) => x >= 0 && x < 100 && (i === 0 || x > some[i - 1]!)))
  assert.equal(drawRows(5, 9, rng(1)).length, 5)
})

test('nothing stays on the engine', () => {
  const begun = counted()
  run()
  assert.equal(counted(), begun)
})
