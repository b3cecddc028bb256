/** Rows that are each other's nearest. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {mutualNearest} from '../../src/curate/mutual.js'
import {onPlain} from '../support/engine.js'

test('a pair is there when each row is the nearest of the other, the most similar pair first', async () => {
  await onPlain()
  const at = (degrees: number): number[] => [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)]
  const a = Float32Array.from([at(0), at(10), at(90)].flat())
  const b = Float32Array.from([at(95), at(8), at(200)].flat())
  // 0° is nearest to 8°, which is nearer to 10°; 200° is nearest to 90°, which is nearer to 95°.
  assert.deepEqual(
    mutualNearest(a, b, 2).map(pair => [pair.a, pair.b, Math.round(1e4 * pair.similarity)]),
    [
      [1, 1, 9994],
      [2, 0, 9962]
    ]
  )
})

test('of equally near rows the first counts', async () => {
  await onPlain()
  const same = Float32Array.from([1, 0, 1, 0])
  assert.deepEqual(mutualNearest(same, same, 2), [{a: 0, b: 0, similarity: 1}])
})
