/** Trees of tensors: paths in order, growing and flattening as inverses, and nothing lost on the way. */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {mul, scalar, tensor1d, tidy} from '../../src/tensor/tf.js'
import {count, flatten, disposeTree, unflatten, leaves, map, type Tree} from '../../src/tensor/tree.js'
import {counted, onPlain} from '../support/engine.js'

before(onPlain)

test('leaves come in order with their paths; what is absent is passed over', () => {
  const tree = {b: [scalar(1), undefined, {c: scalar(2)}], a: {x: scalar(3), y: undefined}}
  assert.deepEqual(
    [...leaves(tree)].map(([path, leaf]) => [path, leaf.dataSync()[0]]),
    [
      ['b.0', 1],
      ['b.2.c', 2],
      ['a.x', 3]
    ]
  )
  assert.equal(count(tree), 3)
  disposeTree(tree)
  assert.equal(counted(), 0)
})

test('a tree grows from its leaves again: whole numbers are places of a list, gaps stay', () => {
  const names = [
    'cls_token',
    'blocks.0.norm1.weight',
    'blocks.1.norm1.weight',
    ...Array.from({length: 9}, (_, i) => `blocks.${i + 2}.x`),
    'mlp.0.bias',
    'mlp.2.bias'
  ]
  const named = new Map(names.map((name, i) => [name, scalar(i)]))
  const tree = unflatten<{blocks: Tree[]; mlp: Tree[]; cls_token: Tree}>(named)
  assert.equal(tree.blocks.length, 11)
  assert.equal(tree.mlp.length, 3)
  assert.ok(!(1 in tree.mlp))
  assert.deepEqual([...flatten(tree).keys()], names)
  for (const [name, leaf] of flatten(tree)) assert.equal(leaf, named.get(name))
  disposeTree(tree)
  assert.equal(counted(), 0)
})

test('mapping keeps the form and hands over the path', () => {
  const tree = {a: [tensor1d([1, 2])], b: {c: tensor1d([3])}}
  const doubled = map(tree, (leaf, path) => tidy(() => mul(leaf, path === 'b.c' ? 10 : 2)))
  assert.deepEqual([...doubled.a[0]!.dataSync()], [2, 4])
  assert.deepEqual([...doubled.b.c.dataSync()], [30])
  disposeTree(tree)
  disposeTree(doubled)
  assert.equal(counted(), 0)
})

test('a foreign name reaches no other object', () => {
  const tree = unflatten([
    ['a.x', scalar(1)],
    ['__proto__.polluted', scalar(2)]
  ])
  assert.equal((Object.prototype as Record<string, unknown>)['polluted'], undefined)
  assert.deepEqual(
    [...leaves(tree)].map(([path]) => path),
    ['a.x', '__proto__.polluted']
  )
  disposeTree(tree)
})
