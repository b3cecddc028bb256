/** What is suggested for a word that is no command or flag. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {meantName} from '../../src/config/nearest.js'

const commands = ['pretrain', 'embed', 'knn-eval', 'depth-eval', 'report']
const flags = ['--batch', '--size', '--seed', '--no-crop', '--output']

test('a word that is mistyped, cut short, or begins or ends a name', () => {
  assert.deepEqual(
    ['pretrian', 'knn', 'train', 'depth', 'reports'].map(word => meantName(word, commands)),
    ['pretrain', 'knn-eval', 'pretrain', 'depth-eval', 'report']
  )
  assert.deepEqual(
    ['--batch-size', '--batchsize', '--szie', '--outputs'].map(word => meantName(word, flags)),
    ['--batch', '--batch', '--size', '--output']
  )
})

test('nothing where no name is near, or too little is shared', () => {
  assert.deepEqual(
    ['serve', 'eval', 'x'.repeat(300)].map(word => meantName(word, commands)),
    [undefined, undefined, undefined]
  )
  assert.deepEqual(
    ['--no-x', '--learning-rate', '--seedling'].map(word => meantName(word, flags)),
    [undefined, undefined, undefined]
  )
})
