/** Scores against cases counted by hand. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {predictedClasses, accuracyByClass, confusionMatrix, trueClassRanks} from '../../src/metrics/accuracy.js'
import {bootstrap, differenceOf, isSignificant, meanOf} from '../../src/metrics/intervals.js'
import {averagePrecision, hitAt, recallAt} from '../../src/metrics/retrieval.js'

const near = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`)

test('ranks of the true class, with equal scores decided by class number', () => {
  const scores = [0.1, 0.7, 0.2, /**/ 0.5, 0.5, 0.1, /**/ 0.5, 0.5, 0.1, /**/ 0.2, 0.3, 0.1]
  assert.deepEqual([...trueClassRanks(scores, [1, 0, 1, 2], 3)], [0, 0, 1, 2])
  assert.deepEqual([...predictedClasses(scores, 4, 3)], [1, 0, 0, 1])
  assert.deepEqual([...trueClassRanks([NaN, NaN], [1], 2)], [1], 'scores that are no numbers win nothing')
})

test('confusion and accuracy by class', () => {
  const counts = confusionMatrix([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], 3)
  assert.deepEqual([...counts], [1, 1, 0, 1, 2, 0, 0, 0, 0])
  const shares = accuracyByClass(counts, 3)
  near(shares[0]!, 1 / 2)
  near(shares[1]!, 2 / 3)
  assert.ok(Number.isNaN(shares[2]))
})

test('average precision by trapezoids, as the Holidays and Oxford scripts take it', () => {
  // Two right answers, at ranks 0 and 2: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2.
  near(averagePrecision([0, 2], 2), (1 + (1 / 2 + 2 / 3) / 2) / 2)
  // One that comes third: precision before it is 0, at it 1/3.
  near(averagePrecision([2], 1), 1 / 6)
  // One of two is never found.
  near(averagePrecision([0], 2), 1 / 2)
  assert.ok(Number.isNaN(averagePrecision([], 0)))
})

test('average precision by steps, as scikit-learn takes it', () => {
  near(averagePrecision([0, 2], 2, 'step'), (1 + 2 / 3) / 2)
  near(averagePrecision([2], 1, 'step'), 1 / 3)
})

test('recall and hits among the first k', () => {
  near(recallAt([0, 3, 9], 4, 5), 2 / 4)
  near(hitAt([3], 4, 3), 0)
  near(hitAt([3], 4, 4), 1)
  assert.ok(Number.isNaN(recallAt([], 0, 1)))
})

test('an interval holds the mean, narrows with the number of items and is the same for the same seed', () => {
  const shares = (n: number): number[] => Array.from({length: n}, (_, i) => Number(i % 4 === 0))
  const [few, many] = [meanOf(shares(40), 0), meanOf(shares(4000), 0)]
  near(few.mean, 0.25)
  assert.ok(few.interval[0] < 0.25 && few.interval[1] > 0.25)
  assert.ok(many.interval[1] - many.interval[0] < (few.interval[1] - few.interval[0]) / 5)
  assert.deepEqual(meanOf(shares(40), 0), few)
  assert.notDeepEqual(meanOf(shares(4000), 1), many)
  // Against the normal approximation: 1.96 · √(p(1 − p) / n).
  const half = 1.96 * Math.sqrt((0.25 * 0.75) / 4000)
  assert.ok(Math.abs(many.interval[0] - (0.25 - half)) < half / 4 && Math.abs(many.interval[1] - (0.25 + half)) < half / 4)
})

test('a difference is taken item by item, so what both find hard does not count', () => {
  const hard = Array.from({length: 300}, (_, i) => Number(i % 3 === 0))
  const better = hard.map((value, i) => (i % 10 === 1 ? 1 : value))
  const gain = differenceOf(better, hard, 0)
  assert.ok(gain.interval[0] > 0)
  assert.ok(differenceOf(hard, better, 0).interval[1] < 0)
  assert.equal(isSignificant(gain, hard.length), true)
  assert.equal(isSignificant(differenceOf(hard, hard, 0), hard.length), false)
  assert.throws(() => differenceOf([1], [1, 2], 0), /1 and 2/)
})

test('no items, no interval', () => {
  const {mean, interval} = bootstrap(0, () => NaN, 0)
  assert.ok(Number.isNaN(mean) && interval.every(Number.isNaN))
})
