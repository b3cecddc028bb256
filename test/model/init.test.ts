/**
 * Fresh parameters: named and shaped as in Meta's checkpoints, drawn as the reference draws them, the same for the
 * same seed.
 */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import type {VitConfig} from '../../src/model/config.js'
import {initHead, initVit} from '../../src/model/init.js'
import {flatten, disposeTree} from '../../src/tensor/tree.js'
import {counted, onPlain} from '../support/engine.js'
import {configs} from '../support/small-vit.js'

before(onPlain)

const config: VitConfig = {...configs.registers, width: 96, hidden: 128, heads: 3, registers: 4, grid: 10, patch: 8, depth: 3}

function moments(data: ArrayLike<number>): {mean: number; std: number; largest: number; n: number} {
  const values = Array.from(data)
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length
  return {mean, std: Math.sqrt(variance), largest: Math.max(...values.map(Math.abs)), n: values.length}
}

/** Mean and deviation within five standard errors of what they should be. */
function drawn(name: string, data: ArrayLike<number>, std: number): void {
  const found = moments(data)
  assert.ok(Math.abs(found.mean) < (5 * std) / Math.sqrt(found.n), `${name}: mean ${found.mean}`)
  assert.ok(Math.abs(found.std / std - 1) < 5 / Math.sqrt(2 * found.n), `${name}: deviation ${found.std}, expected ${std}`)
}

test('a backbone has all parameters by name and shape, and their statistics', () => {
  const vit = initVit(config, 7, 0.1)
  const named = flatten(vit)
  assert.deepEqual(
    new Map([...named].map(([name, leaf]) => [name, leaf.shape])),
    new Map([...expectedShapes(config)].map(([name, shape]) => [name, [...shape]]))
  )
  const bound = 1 / Math.sqrt(3 * 64)
  for (const [name, leaf] of named) {
    const data = leaf.dataSync()
    if (/^(cls_token|register_tokens)$/.test(name)) drawn(name, data, 1e-6)
    else if (name === 'mask_token' || (/bias$/.test(name) && !name.startsWith('patch_embed')))
      assert.ok(
        data.every(x => x === 0),
        name
      )
    else if (name.startsWith('patch_embed')) {
      drawn(name, data, bound / Math.sqrt(3))
      assert.ok(moments(data).largest <= bound)
    } else if (/norm\d?\.weight$/.test(name))
      assert.ok(
        data.every(x => x === 1),
        name
      )
    else if (name.endsWith('gamma'))
      assert.ok(
        data.every(x => x === Math.fround(0.1)),
        name
      )
    else drawn(name, data, 0.02)
  }
  disposeTree(vit)
})

test('a head has its layers, gains of one and directions within 1/√D', () => {
  for (const layers of [1, 3]) {
    const head = initHead({width: 48, hidden: 64, bottleneck: 32, prototypes: 500, layers}, 7, 'dino_head')
    const named = flatten(head)
    const mlp = layers === 1 ? ['mlp.weight', 'mlp.bias'] : [0, 2, 4].flatMap(i => [`mlp.${i}.weight`, `mlp.${i}.bias`])
    assert.deepEqual([...named.keys()].sort(), [...mlp, 'last_layer.weight_g', 'last_layer.weight_v'].sort())
    assert.deepEqual(named.get('last_layer.weight_g')!.shape, [500, 1])
    assert.ok(
      named
        .get('last_layer.weight_g')!
        .dataSync()
        .every(x => x === 1)
    )
    const directions = named.get('last_layer.weight_v')!.dataSync()
    drawn('weight_v', directions, 1 / Math.sqrt(32) / Math.sqrt(3))
    assert.ok(moments(directions).largest <= 1 / Math.sqrt(32))
    for (const [name, leaf] of named) if (/^mlp.*weight$/.test(name)) drawn(name, leaf.dataSync(), 0.02)
    disposeTree(head)
  }
})

test('draws depend on seed and name alone', () => {
  const start = counted()
  const [one, same, deeper, other] = [
    initVit(config, 7),
    initVit(config, 7),
    initVit({...config, depth: 5, registers: 0}, 7),
    initVit(config, 8)
  ]
  for (const [name, leaf] of flatten(one)) {
    assert.deepEqual(flatten(same).get(name)!.dataSync(), leaf.dataSync(), name)
    const there = flatten(deeper).get(name)
    if (there) assert.deepEqual(there.dataSync(), leaf.dataSync(), name)
  }
  assert.notDeepEqual(flatten(other).get('blocks.0.mlp.w12.weight')!.dataSync(), flatten(one).get('blocks.0.mlp.w12.weight')!.dataSync())
  const weight = (i: number): ArrayLike<number> => flatten(one).get(`blocks.${i}.attn.qkv.weight`)!.dataSync()
  assert.notDeepEqual(weight(0), weight(1))
  const shape = {width: 8, hidden: 8, bottleneck: 8, prototypes: 8, layers: 2}
  const [dino, ibot] = [initHead(shape, 7, 'dino_head'), initHead(shape, 7, 'ibot_head')]
  assert.notDeepEqual(flatten(dino).get('mlp.0.weight')!.dataSync(), flatten(ibot).get('mlp.0.weight')!.dataSync())
  ;[one, same, deeper, other, dino, ibot].forEach(tree => disposeTree(tree))
  assert.equal(counted(), start)
})
