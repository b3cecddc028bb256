/**
 * Seeded draws: the same names give the same numbers, different names unlike ones, and the moments are those promised.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {rng} from '../../src/tensor/random.js'

const draws = (n: number, draw: () => number): Float64Array => Float64Array.from({length: n}, draw)
const mean = (xs: Float64Array): number => xs.reduce((a, b) => a + b, 0) / xs.length
const correlation = (xs: Float64Array, ys: Float64Array): number => {
  const [mx, my] = [mean(xs), mean(ys)]
  let [xy, xx, yy] = [0, 0, 0]
  for (let i = 0; i < xs.length; i++) {
    xy += (xs[i]! - mx) * (ys[i]! - my)
    xx += (xs[i]! - mx) ** 2
    yy += (ys[i]! - my) ** 2
  }
  return xy / Math.sqrt(xx * yy)
}

test('the same seed and keys give the same stream, today and tomorrow', () => {
  const one = rng(11, 'crops', 3)
  const two = rng(11, 'crops', 3)
  assert.deepEqual(
    draws(50, () => one.uniform()),
    draws(50, () => two.uniform())
  )
  // Recorded: a change here changes every run that anyone has seeded.
  const kept = rng(0, 'kept')
  assert.deepEqual([kept.bits(), kept.bits(), kept.bits(), kept.int(1000), kept.int(1000)], [-17953184, 1873830199, -452667034, 355, 491])
})

test('streams of neighbouring keys and seeds are unlike', () => {
  const n = 20_000
  const names: [number, ...(number | string)[]][] = [
    [0],
    [1],
    [0, 0],
    [0, 1],
    [0, 'a'],
    [0, 'b'],
    [0, 'a', 1],
    [0, 1, 'a'],
    [2 ** 40],
    [0.5],
    [-1]
  ]
  const streams = names.map(([seed, ...keys]) => {
    const r = rng(seed, ...keys)
    return draws(n, () => r.uniform())
  })
  for (let i = 0; i < streams.length; i++)
    for (let j = 0; j < i; j++)
      assert.ok(Math.abs(correlation(streams[i]!, streams[j]!)) < 5 / Math.sqrt(n), `${names[i]} against ${names[j]}`)
  // The first draw of consecutive keys is itself uniform: that is how crops use it.
  const firsts = draws(
    n,
    (
      i => () =>
        rng(5, 'item', i++).uniform()
    )(0)
  )
  assert.ok(Math.abs(mean(firsts) - 0.5) < 5 * Math.sqrt(1 / 12 / n))
  assert.ok(Math.abs(correlation(firsts.subarray(1), firsts.subarray(0, n - 1))) < 5 / Math.sqrt(n))
})

test('uniform, normal and truncated draws have the moments they should', () => {
  const n = 200_000
  const r = rng(3)
  const u = draws(n, () => r.uniform(2, 5))
  assert.ok(u.every(x => x >= 2 && x < 5))
  assert.ok(Math.abs(mean(u) - 3.5) < 5 * Math.sqrt(9 / 12 / n))
  const z = draws(n, () => r.normal(1, 2))
  assert.ok(Math.abs(mean(z) - 1) < (5 * 2) / Math.sqrt(n))
  assert.ok(Math.abs(mean(z.map(x => (x - 1) ** 2)) - 4) < 5 * 4 * Math.sqrt(2 / n))
  assert.ok(Math.abs(mean(z.map(x => ((x - 1) / 2) ** 4)) - 3) < 5 * Math.sqrt(96 / n))
  const t = draws(n, () => r.truncatedNormal(0, 1, -2, 2))
  assert.ok(t.every(x => Math.abs(x) <= 2))
  assert.ok(Math.abs(mean(t.map(x => x * x)) - 0.7737) < 0.01) // variance of a standard normal cut at two: 1 - 4 phi(2) / (2 Phi(2) - 1)
})

test('whole numbers are even over their range, also where it does not divide 2^32', () => {
  const r = rng(9)
  for (const n of [2, 3, 7, 10]) {
    const counts = new Float64Array(n)
    for (let i = 0; i < 70_000; i++) counts[r.int(n)]!++
    const chi2 = counts.reduce((sum, c) => sum + (c - 70_000 / n) ** 2 / (70_000 / n), 0)
    assert.ok(chi2 < n - 1 + 5 * Math.sqrt(2 * (n - 1)), `n = ${n}: ${chi2}`)
  }
  assert.ok(draws(1000, () => r.int(4294967296)).some(x => x > 2 ** 31))
  assert.throws(() => r.int(0), /count from 1/)
  assert.throws(() => rng(NaN), /finite number/)
})

test('a permutation holds every number once, and all orders of three come equally often', () => {
  const order = rng(1, 'order').permutation(5000)
  assert.deepEqual(
    [...order].sort((a, b) => a - b),
    [...order.keys()]
  )
  const seen = new Map<string, number>()
  for (let i = 0; i < 12_000; i++) {
    const key = rng(2, i).permutation(3).join('')
    seen.set(key, (seen.get(key) ?? 0) + 1)
  }
  assert.equal(seen.size, 6)
  for (const count of seen.values()) assert.ok(Math.abs(count - 2000) < 5 * Math.sqrt(2000))
})
