/** How processes of a run differ, in words. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {describeDifferences, differencesBetween} from '../../../src/tasks/train/process-hello.js'

const first = {'the version of dinov2': '1.0.0', 'the version of libtorch': '2.13.0', settings: {train: {seed: 0}, dino: {}}, images: 24}

/** What is said where these processes stand beside process 0. */
const said = (...others: object[]): string | undefined =>
  describeDifferences([first, ...others.map(other => ({...first, ...other}))].map(own => differencesBetween(own, first)))

test('processes that say the same do not differ', () => assert.equal(said({}, {settings: {train: {seed: 0}, dino: {}}}), undefined))

test('another version of libtorch or of the program is named with both and the process', () => {
  assert.equal(
    said({}, {'the version of libtorch': '2.14.1'}),
    'Process 2 differs from process 0: the version of libtorch is "2.14.1" in process 2 and "2.13.0" in process 0.'
  )
  assert.equal(
    said({'the version of dinov2': '0.9.0', images: 23}),
    'Process 1 differs from process 0: the version of dinov2 is "0.9.0" in process 1 and "1.0.0" in process 0; images is 23 in process 1 and 24 in process 0.'
  )
})

test('a setting has its own name, also one that only one of two versions has', () => {
  assert.equal(
    said({settings: {train: {seed: 0, turbo: 1}}}),
    'Process 1 differs from process 0: train.turbo is 1 in process 1 and absent in process 0; dino is absent in process 1 and {} in process 0.'
  )
})

test('all processes that differ are listed, and of many differences the first are named', () => {
  const other = {images: 1}
  assert.match(said(other, {}, other, other)!, /^Processes 1, 3 and 4 differ from process 0: images is 1 in process 1/)
  const many = Object.fromEntries(Array.from({length: 30}, (_, i) => [`setting${i}`, i]))
  assert.match(said({settings: {...first.settings, ...many}})!, /setting7 is 7 in process 1 and absent in process 0; and 22 more\.$/)
})
