/** The stream of training visits every image once a pass, and knows no state but the position. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {shuffledSampler} from '../../../src/data/loader/sampler.js'

test('every pass is a permutation, and no two are alike', () => {
  for (const size of [1, 2, 7, 1000]) {
    const sampler = shuffledSampler(size, 5)
    const passes = [0, 1, 2].map(pass => Array.from({length: size}, (_, i) => sampler.at(pass * size + i)))
    for (const pass of passes)
      assert.deepEqual(
        [...pass].sort((a, b) => a - b),
        Array.from({length: size}, (_, i) => i)
      )
    if (size === 1000) assert.notDeepEqual(passes[0], passes[1])
  }
})

test('a position gives its image whatever was asked before: resuming is exact', () => {
  const straight = shuffledSampler(37, 1)
  const stream = Array.from({length: 400}, (_, i) => straight.at(i))
  const resumed = shuffledSampler(37, 1)
  for (const position of [399, 0, 36, 37, 38, 200, 73, 74, 12, 399]) assert.equal(resumed.at(position), stream[position])
  assert.notDeepEqual(
    Array.from({length: 37}, (_, i) => shuffledSampler(37, 2).at(i)),
    stream.slice(0, 37)
  )
  assert.throws(() => shuffledSampler(0, 1), /at least one image/)
})

test('images are even over places: first of a pass', () => {
  const sampler = shuffledSampler(5, 3)
  const counts = new Float64Array(5)
  for (let pass = 0; pass < 5000; pass++) counts[sampler.at(pass * 5)]!++
  for (const count of counts) assert.ok(Math.abs(count - 1000) < 5 * Math.sqrt(800))
})
