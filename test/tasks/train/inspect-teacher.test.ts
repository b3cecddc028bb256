/** What the teacher's features say without labels: effective rank and spread over prototypes. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {effectiveRank, inspectTeacher} from '../../../src/tasks/train/inspect-teacher.js'
import {counted, onTorch} from '../../support/engine.js'
import {freeState, settingsOf, stateOf, variants} from '../../support/small-run.js'

test('the effective rank is e to the entropy of the singular values, whichever side is longer', () => {
  const near = (value: number, wanted: number): void => assert.ok(Math.abs(value - wanted) < 1e-6, `${value} instead of ${wanted}`)
  near(effectiveRank(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1), 3, 3), 3)
  near(effectiveRank(Float32Array.of(1, 2, 2, 4, 3, 6), 3, 2), 1)
  // Singular values 3 and 1: shares 3/4 and 1/4.
  const expected = Math.exp(-(0.75 * Math.log(0.75) + 0.25 * Math.log(0.25)))
  near(effectiveRank(Float32Array.of(3, 0, 0, 0, 0, 1), 2, 3), expected)
  near(effectiveRank(Float32Array.of(3, 0, 0, 0, 0, 1), 3, 2), expected)
  assert.equal(effectiveRank(new Float32Array(12), 3, 4), 0)
})

test('a look at the teacher changes nothing, leaves no tensor, and sees images that are all alike', async () => {
  await onTorch()
  const variant = variants['shared head, Sinkhorn']!
  const {vit, precision} = settingsOf(variant)
  const state = stateOf(variant)
  const side = 3 * vit.patch
  const [images, bytes] = [10, side * side * 3]
  const varied = Uint8Array.from({length: 2 * images * bytes}, (_, i) => (i * 2654435761) >>> 24)
  const alike = Uint8Array.from({length: 2 * images * bytes}, (_, i) => varied[i % bytes]!)
  const start = counted()
  const look = (globals: Uint8Array) => inspectTeacher(state.teacher, {globals, side}, {vit, precision})
  const [many, one] = [look(varied)!, look(alike)!]
  assert.deepEqual(look(varied), many, 'the same twice')
  assert.ok(many.feature_rank > 10 * one.feature_rank, `${many.feature_rank} against ${one.feature_rank}`)
  assert.ok(one.feature_rank < 1e-3 && one.prototype_use === 0)
  assert.equal(look(varied.subarray(0, 2 * 7 * bytes)), undefined, 'so few images say nothing')
  assert.deepEqual(counted(), start)
  freeState(state)
})
