/** What is said of the size at which images are prepared. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import type {Preprocessing} from '../../../src/files/checkpoint/preprocessing.js'
import {transformNotes} from '../../../src/tasks/embed/transform.js'

const model = (crop: number, source: string | undefined = 'run'): Preprocessing => ({
  resize: Math.round(1.14 * crop),
  crop,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
  source,
  notes: []
})
const advice = (size: number, own: Preprocessing): string[] =>
  transformNotes({resize: own.crop === size ? own.resize : size, crop: size}, own).filter(note => note.startsWith('recommended'))

test('a size below that of the model, and a small model at its own size, get one line that recommends another', () => {
  assert.match(advice(64, model(96)).join(), /^recommended: --size 96, for which run was made; [^,]*$/)
  assert.match(advice(48, model(48)).join(), /^recommended: --size 96; features of a model for 48 pixels are mostly better/)
})

test('nothing is recommended for a larger size, a model of usual size, and one that records no size', () => {
  assert.deepEqual(advice(96, model(48)), [])
  assert.deepEqual(advice(224, model(224)), [])
  const {source: _, ...unrecorded} = model(224)
  assert.deepEqual(advice(64, unrecorded as Preprocessing), [])
})
