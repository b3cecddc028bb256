/** Hierarchies and balanced sampling, against giving one row after the other. */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {balancedSample, evenness, evenShares, type SampleOptions} from '../../src/curate/balanced-sampling.js'
import {hierarchicalKMeans, membersOf, nearestToCentroids, clusterPath, type Hierarchy} from '../../src/curate/hierarchical-kmeans.js'
import {distancesToCentroids, finish} from '../../src/curate/kmeans.js'
import {arrayRows} from '../../src/curate/rows.js'
import {rng} from '../../src/tensor/random.js'
import {counted, onTorch} from '../support/engine.js'
import {points, squaredDistance} from '../support/points.js'

before(onTorch)

/** One after the other to whoever has least and is not exhausted; equals in `order`. */
function oneByOne(sizes: readonly number[], target: number, least: readonly number[], order: ArrayLike<number>): number[] {
  const got = sizes.map((size, i) => Math.min(size, least[i] ?? 0))
  for (let left = target - got.reduce((a, b) => a + b, 0); left > 0; left--) {
    let next = -1
    for (let j = 0; j < sizes.length; j++) {
      const i = order[j]!
      if (got[i]! < sizes[i]! && (next < 0 || got[i]! < got[next]!)) next = i
    }
    if (next < 0) break
    got[next]!++
  }
  return got
}

test('even shares are what giving one after the other comes to, and their sum is exact', () => {
  for (let seed = 0; seed < 300; seed++) {
    const random = rng(seed, 'shares')
    const sizes = Array.from({length: 1 + random.int(8)}, () => random.int(12))
    const least = seed % 3 === 0 ? sizes.map(size => random.int(size + 1)) : []
    const order = random.permutation(sizes.length)
    const [all, kept] = [sizes.reduce((a, b) => a + b, 0), least.reduce((a, b) => a + b, 0)]
    const target = random.int(all + 4)
    const shares = evenShares(sizes, target, {least, order})
    assert.deepEqual([...shares], oneByOne(sizes, target, least, order), JSON.stringify({sizes, target, least}))
    assert.equal(
      shares.reduce((a, b) => a + b, 0),
      Math.max(kept, Math.min(all, target))
    )
  }
})

const [N, D] = [400, 8]
const drawn = points(N, D)
const rows = arrayRows(drawn, D)
const build = (levels: number[], more: object = {}): Hierarchy =>
  finish(hierarchicalKMeans(rows, {levels, seed: 1, resample: 2, nearest: [4, 2], ...more}))

/** The slow form: a row at a time walks down from the top, at each cluster to the child with the fewest so far. */
function walkDown({rows: count, levels}: Hierarchy, {target, seed, fixed}: SampleOptions): Int32Array {
  const order = (n: number, ...keys: (string | number)[]) => rng(seed, 'balance', ...keys).permutation(n)
  type Node = {children: Node[]; order: ArrayLike<number>; size: number; got: number; rows?: number[]}
  let nodes: Node[] = membersOf(levels[0]!.assignments, levels[0]!.k).map((members, c) => {
    const stay = [...members].filter(row => fixed?.[row])
    const open = [...members].filter(row => !fixed?.[row])
    return {
      children: [],
      order: [],
      size: members.length,
      got: stay.length,
      rows: [...stay, ...Array.from(order(open.length, 'rows', c), j => open[j]!)]
    }
  })
  for (const [l, {assignments, k}] of levels.entries()) {
    if (l === 0) continue
    nodes = membersOf(assignments, k).map((members, c) => {
      const children = [...members].map(i => nodes[i]!)
      return {
        children,
        order: order(children.length, l, c),
        size: children.reduce((s, n) => s + n.size, 0),
        got: children.reduce((s, n) => s + n.got, 0)
      }
    })
  }
  const top: Node = {children: nodes, order: order(nodes.length, 'top'), size: count, got: nodes.reduce((s, n) => s + n.got, 0)}
  while (top.got < Math.min(target, count)) {
    let node = top
    node.got++
    while (node.children.length > 0) {
      let next: Node | undefined
      for (let j = 0; j < node.children.length; j++) {
        const child = node.children[node.order[j]!]!
        if (child.got < child.size && (!next || child.got < next.got)) next = child
      }
      node = next!
      node.got++
    }
  }
  const leaves: Node[] = []
  const collect = (node: Node): void => void (node.rows ? leaves.push(node) : node.children.forEach(collect))
  collect(top)
  return Int32Array.from(leaves.flatMap(leaf => leaf.rows!.slice(0, leaf.got))).sort()
}

test('balanced sampling is what letting one row after the other walk down comes to, and hits the target exactly', () => {
  for (const levels of [[12], [30, 6], [60, 15, 4]]) {
    const hierarchy = build(levels)
    for (const target of [0, 1, 7, 100, 399, 400, 500]) {
      const sample = balancedSample(hierarchy, {target, seed: 5})
      assert.equal(sample.length, Math.min(target, N))
      assert.deepEqual(sample, walkDown(hierarchy, {target, seed: 5}))
      assert.equal(new Set(sample).size, sample.length)
    }
    const fixed = new Uint8Array(N)
    for (const row of rng(8).permutation(N).subarray(0, 60)) fixed[row] = 1
    for (const target of [10, 60, 150]) {
      const sample = balancedSample(hierarchy, {target, seed: 5, fixed})
      assert.deepEqual(sample, walkDown(hierarchy, {target, seed: 5, fixed}))
      assert.equal(sample.length, Math.max(60, target))
      for (let row = 0; row < N; row++) if (fixed[row]) assert.ok(sample.includes(row))
    }
  }
})

test('rows nearest to or farthest from their centroid are taken where that is asked for', () => {
  const hierarchy = build([5])
  const {centroids, assignments} = hierarchy.levels[0]!
  const distances = distancesToCentroids(rows, {centroids, assignments})
  for (const select of ['nearest', 'farthest'] as const) {
    const sample = new Set(balancedSample(hierarchy, {target: 50, seed: 1, select, distances}))
    for (const members of membersOf(assignments, 5)) {
      const taken = [...members].filter(row => sample.has(row)).map(row => distances[row]!)
      const left = [...members].filter(row => !sample.has(row)).map(row => distances[row]!)
      if (left.length > 0 && taken.length > 0)
        assert.ok(select === 'nearest' ? Math.max(...taken) <= Math.min(...left) : Math.min(...taken) >= Math.max(...left))
    }
  }
})

test('levels nest: every row has one path, every cluster has members, and the same seed gives the same', () => {
  const hierarchy = build([40, 10, 3])
  assert.deepEqual(hierarchy, build([40, 10, 3]))
  for (const [l, {assignments, k}] of hierarchy.levels.entries()) {
    assert.equal(assignments.length, l === 0 ? N : hierarchy.levels[l - 1]!.k)
    assert.ok(membersOf(assignments, k).every(members => members.length > 0))
  }
  for (const row of [0, 11, N - 1]) {
    const path = clusterPath(hierarchy, row)
    assert.equal(path.length, 3)
    assert.equal(hierarchy.levels[2]!.assignments[path[1]!], path[0])
  }
})

test('resampling takes the rows nearest to each centroid', () => {
  const {centroids, assignments, k} = build([6], {resample: 0}).levels[0]!
  const chosen = new Set(nearestToCentroids(rows, {centroids, assignments, k}, 5))
  for (const [c, members] of membersOf(assignments, k).entries()) {
    const distance = (row: number): number => squaredDistance(drawn, row, centroids, c, D)
    const near = [...members].sort((a, b) => distance(a) - distance(b)).slice(0, 5)
    assert.deepEqual([...members].filter(row => chosen.has(row)).sort(), near.sort())
  }
})

test('resampling spreads the clusters: sizes of a pool with one crowded place become less even, sampling more so', () => {
  // Nine tenths of the rows in one place, the rest strewn over a wide square.
  const [n, random] = [2000, rng(3)]
  const crowd = new Float32Array(n * 2)
  for (let i = 0; i < n; i++)
    crowd.set(i < 1800 ? [0.05 * random.normal(), 0.05 * random.normal()] : [random.uniform(-3, 3), random.uniform(-3, 3)], 2 * i)
  const inCrowd = (resample: number): number => {
    const hierarchy = finish(hierarchicalKMeans(arrayRows(crowd, 2), {levels: [50], seed: 2, resample, nearest: [3], init: 'random'}))
    return [...balancedSample(hierarchy, {target: 200, seed: 1})].filter(row => row < 1800).length
  }
  assert.ok(inCrowd(5) < inCrowd(0), 'fewer from the crowded place')
})

test('evenness is 1 for equal groups, 0 for one that has all', () => {
  assert.ok(Math.abs(evenness([5, 5, 5]) - 1) < 1e-12)
  assert.equal(evenness([9, 0, 0]), 0)
  assert.ok(evenness([9, 1]) < evenness([6, 4]))
})

test('nothing stays on the engine', () => {
  const begun = counted()
  build([12, 3])
  assert.equal(counted(), begun)
})
