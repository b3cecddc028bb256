/** Disjoint sets against a search through the graph, and their independence of order. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {DisjointSets} from '../../src/curate/disjoint-sets.js'
import {rng} from '../../src/tensor/random.js'

const N = 60
const drawPairs = (seed: number, n: number): [number, number][] => {
  const random = rng(seed, 'pairs')
  return Array.from({length: n}, () => [random.int(N), random.int(N)])
}

/** The smallest number that can be walked to from each, by the definition. */
function walked(pairs: readonly [number, number][]): number[] {
  const labels = Array.from({length: N}, (_, i) => i)
  for (let changed = true; changed;) {
    changed = false
    for (const [a, b] of pairs) {
      const low = Math.min(labels[a]!, labels[b]!)
      changed ||= labels[a] !== low || labels[b] !== low
      labels[a] = labels[b] = low
    }
  }
  return labels
}

test('labels are the smallest number of each component, whatever the order of pairs', () => {
  for (let seed = 0; seed < 20; seed++) {
    const pairs = drawPairs(seed, 10 + 3 * seed)
    const wanted = walked(pairs)
    for (let turn = 0; turn < 4; turn++) {
      const sets = new DisjointSets(N)
      for (const [a, b] of rng(seed, 'order', turn).shuffle([...pairs])) sets.join(...((turn % 2 ? [b, a] : [a, b]) as [number, number]))
      assert.deepEqual([...sets.labels()], wanted)
    }
  }
})

test('joining says whether something changed', () => {
  const sets = new DisjointSets(3)
  assert.equal(sets.join(0, 2), true)
  assert.equal(sets.join(2, 0), false)
  assert.equal(sets.find(0), sets.find(2))
  assert.notEqual(sets.find(0), sets.find(1))
})
