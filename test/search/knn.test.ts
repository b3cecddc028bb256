/** The classifier against the formula worked out by hand, and the draws around it. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {hits, sampleRowsPerClass, vote} from '../../src/search/knn.js'
import {rng} from '../../src/tensor/random.js'

test('votes are softmax(similarity / 0.07) over the largest k, cut to each k and summed per class', () => {
  const scores = Float64Array.of(0.9, 0.88, 0.87, 0.5, 0.49)
  const rows = Int32Array.of(4, 2, 0, 1, 3)
  const labels = Int32Array.of(1, 2, 1, 0, 0)
  // By hand: exp(s / 0.07) relative to the first: 1, 0.7515, 0.6514, 0.0033, 0.0029; classes of the rows: 0, 1, 1, 2,
  // 0.
  const weights = [...scores].map(score => Math.exp(score / 0.07))
  const total = weights.reduce((a, b) => a + b)
  const share = weights.map(weight => weight / total)
  const sums = (k: number): number[] => {
    const out = [0, 0, 0]
    for (let i = 0; i < k; i++) out[labels[rows[i]!]!]! += share[i]!
    return out
  }
  for (const {k, classes} of vote({rows, scores}, labels, 3, [1, 2, 3, 5])) {
    const present = sums(k).flatMap((sum, label) => (sum > 0 ? [label] : []))
    assert.deepEqual(
      classes,
      present.sort((a, b) => sums(k)[b]! - sums(k)[a]!),
      `k = ${k}`
    )
  }
  const votes = vote({rows, scores}, labels, 3, [1, 2, 3, 5])
  assert.deepEqual(
    votes.map(({classes}) => classes[0]),
    [0, 0, 1, 1]
  )
  assert.deepEqual(hits(votes, 1, 1), [false, false, true, true])
  assert.deepEqual(hits(votes, 1, 5), [false, true, true, true])
})

test('equal sums are ordered by class, and five classes at most are named', () => {
  const n = 8
  const rows = Int32Array.from({length: n}, (_, i) => i)
  const [votes] = vote(
    {rows, scores: new Float64Array(n).fill(0.3)},
    Int32Array.from({length: n}, (_, i) => n - 1 - i),
    n,
    [n]
  )
  assert.deepEqual(votes!.classes, [0, 1, 2, 3, 4])
})

test('some of each class: at most n, in order, the same for the same seed, another choice for another', () => {
  const labels = Int32Array.from({length: 60}, (_, i) => (i < 4 ? 7 : i % 3))
  const pick = (seed: number): Int32Array =>
    sampleRowsPerClass(labels, 5, label => {
      const random = rng(seed, label)
      return () => random.uniform()
    })
  const kept = pick(0)
  const counts = new Map<number, number>()
  for (const row of kept) counts.set(labels[row]!, (counts.get(labels[row]!) ?? 0) + 1)
  assert.deepEqual(
    counts,
    new Map([
      [7, 4],
      [0, 5],
      [1, 5],
      [2, 5]
    ])
  )
  assert.deepEqual(
    [...kept],
    [...kept].sort((a, b) => a - b)
  )
  assert.deepEqual(pick(0), kept)
  assert.notDeepEqual(pick(1), kept)
})
