/** Schedules and groups of parameters: pure functions, at their ends, in between, and by name. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {paramGroup} from '../../src/optim/groups.js'
import {cosine} from '../../src/optim/schedule.js'
import {configs} from '../support/small-vit.js'

test('a warm-up has both its ends, then half a cosine, then the final value for ever', () => {
  const curve = {base: 4, final: 1, total: 105, warmup: 5, start: 0}
  assert.deepEqual(
    [0, 1, 2, 3, 4].map(step => cosine(curve, step)),
    [0, 1, 2, 3, 4]
  )
  assert.equal(cosine(curve, 5), 4)
  assert.ok(Math.abs(cosine(curve, 55) - 2.5) < 1e-12)
  assert.ok(cosine(curve, 104) > 1 && cosine(curve, 104) < 1.001)
  for (const step of [105, 106, 1e6]) assert.equal(cosine(curve, step), 1)
  for (let step = 5; step < 104; step++) assert.ok(cosine(curve, step + 1) < cosine(curve, step))
})

test('without a warm-up it starts at the base; rising curves rise; a constant stays', () => {
  assert.equal(cosine({base: 0.992, final: 1, total: 10}, 0), 0.992)
  for (let step = 0; step < 10; step++)
    assert.ok(cosine({base: 0.992, final: 1, total: 10}, step + 1) > cosine({base: 0.992, final: 1, total: 10}, step))
  for (const step of [0, 3, 9, 10, 11]) assert.equal(cosine({base: 2, final: 2, total: 10}, step), 2)
  assert.equal(cosine({base: 3, final: 1, total: 10, warmup: 1, start: 0.5}, 0), 0.5)
})

test('frozen steps are zero and shift nothing', () => {
  const curve = {base: 4, final: 1, total: 40, warmup: 10, start: 0}
  for (let step = 0; step < 60; step++) assert.equal(cosine({...curve, frozen: 4}, step), step < 4 ? 0 : cosine(curve, step))
  assert.equal(cosine({...curve, total: 2, frozen: 4}, 3), 0)
})

test('each parameter has its group: decay by depth, patches slower, no weight decay on biases, norms and gains', () => {
  const rules = {depth: 2, layerwiseDecay: 0.5, patchEmbedLrMult: 0.2}
  const of = (name: string): [number, number, boolean] => {
    const {lr, wd, last} = paramGroup(name, rules)
    return [lr, wd, last]
  }
  const [zero, first, second, top] = [0.125, 0.25, 0.5, 1]
  assert.deepEqual(of('backbone.cls_token'), [zero, 1, false])
  assert.deepEqual(of('backbone.pos_embed'), [zero, 1, false])
  assert.deepEqual(of('backbone.mask_token'), [zero, 1, false])
  assert.deepEqual(of('backbone.register_tokens'), [zero, 1, false])
  assert.deepEqual(of('backbone.patch_embed.proj.weight'), [zero * 0.2, 1, false])
  assert.deepEqual(of('backbone.patch_embed.proj.bias'), [zero * 0.2, 0, false])
  assert.deepEqual(of('backbone.blocks.0.attn.qkv.weight'), [first, 1, false])
  assert.deepEqual(of('backbone.blocks.1.ls1.gamma'), [second, 0, false])
  assert.deepEqual(of('backbone.blocks.1.norm2.weight'), [second, 0, false])
  assert.deepEqual(of('backbone.norm.weight'), [top, 0, false])
  assert.deepEqual(of('dino_head.mlp.0.weight'), [top, 1, false])
  assert.deepEqual(of('ibot_head.last_layer.weight_g'), [top, 1, true])
  assert.deepEqual(of('dino_head.last_layer.weight_v'), [top, 1, true])
  for (const config of Object.values(configs))
    for (const [name, shape] of expectedShapes(config)) {
      const {lr, wd, last} = paramGroup(`backbone.${name}`, rules)
      assert.ok(lr > 0 && lr <= 1 && !last)
      assert.equal(wd, /bias$|norm|gamma/.test(name) ? 0 : 1, `${name} [${shape.join()}]`)
    }
})
