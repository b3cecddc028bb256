/**
 * Bills without a probe: what is counted is what is there, and where no step can be tried it is said, with a machine,
 * before anything is loaded.
 */
import assert from 'node:assert/strict'
import {readdirSync} from 'node:fs'
import {before, describe, test} from 'node:test'
import {derive} from '../../../src/config/derived.js'
import {readLayers} from '../../../src/config/read-layers.js'
import {recipeFolder} from '../../../src/config/recipes.js'
import {resolveSettings} from '../../../src/config/settings.js'
import type {Settings} from '../../../src/config/table.js'
import {countCost} from '../../../src/tasks/train/cost-counts.js'
import {estimateCost, throughputOf} from '../../../src/tasks/train/cost-estimate.js'
import {stateBytes} from '../../../src/tasks/train/memory-usage.js'
import {initState} from '../../../src/tasks/train/pretrain-state.js'
import {counted, onTorch} from '../../support/engine.js'
import {freeState} from '../../support/small-run.js'

const settings = (recipe: string | undefined, ...sets: string[]): Settings =>
  resolveSettings(readLayers(recipe === undefined ? [] : [recipe], sets, {flags: [], settings: true}).settings).settings
const tiny = [
  'student.arch=custom',
  'student.embed_dim=32',
  'student.depth=2',
  'student.num_heads=2',
  'student.patch_size=8',
  'dino.head_n_prototypes=32',
  'dino.head_hidden_dim=24',
  'crops.global_crops_size=32',
  'crops.local_crops_size=16',
  'train.batch=4'
]
const engine = {engine: 'torch', version: '2', device: 'cpu', threads: 1} as const

describe('without trying a step', () => {
  before(onTorch)

  test('parameters and bytes of the state are those of the state, for every kind of model', async () => {
    for (const more of [
      [],
      [
        'student.ffn_layer=swiglu',
        'student.num_register_tokens=2',
        'ibot.separate_head=true',
        'ibot.head_n_prototypes=48',
        'train.centering=sinkhorn_knopp'
      ],
      ['student.layerscale=0', 'dino.head_nlayers=1', 'ibot.separate_head=true', 'ibot.head_n_prototypes=16']
    ]) {
      const own = settings(undefined, ...tiny, ...more)
      const plan = derive(own)
      const found = countCost(own, plan, 'fp32')
      const state = await initState(own, plan)
      let parameters = 0
      for (const leaf of state.student.values()) parameters += leaf.size
      assert.equal(found.parameters, parameters)
      assert.equal(found.state, stateBytes(state))
      freeState(state)
    }
  })

  test('arithmetic and memory go with the images of a step; levels of memory trade one for the other', () => {
    const of = (...sets: string[]) => {
      const own = settings('vits14', ...sets)
      return countCost(own, derive(own), 'bf16')
    }
    const ratio = of('train.batch=64').flops / of('train.batch=32').flops
    assert.ok(Math.abs(ratio - 2) < 1e-6, `${ratio}`)
    const [fast, balanced, small] = (['fast', 'balanced', 'small'] as const).map(level => of(`train.memory=${level}`))
    assert.ok(fast!.activations > balanced!.activations && balanced!.activations > small!.activations)
    assert.ok(fast!.flops < balanced!.flops && balanced!.flops < small!.flops)
    assert.ok(of('train.grad_accumulation=8').activations < fast!.activations)
  })

  test('the published runs come out at the hours of their machines: 3.3 days on A100s at what those achieve', () => {
    const own = settings('vitl14')
    const seconds = 3.3 * 86400
    const achieved = (countCost(own, derive(own), 'bf16').flops * 625_000) / seconds / 1e12
    assert.ok(achieved > 60 && achieved < 250, `${achieved} TFLOP/s of 312`)
  })

  test('throughput is measured and leaves nothing', () => {
    const start = counted()
    const plan = derive(settings(undefined, ...tiny))
    const found = throughputOf(plan.vit, 'fp32', {seconds: 0.05, pixels: 32})
    assert.ok(found > 1e6 && Number.isFinite(found))
    assert.equal(counted(), start)
  })

  test('every recipe has an estimate of memory, steps and hours for a stated machine', async () => {
    const recipes = readdirSync(recipeFolder).flatMap(name => (/^(small|vit.*|highres)\.yaml$/.test(name) ? [name.slice(0, -5)] : []))
    assert.ok(recipes.length >= 7)
    for (const recipe of recipes) {
      const own = settings(recipe, ...(recipe === 'highres' ? ['student.patch_size=14'] : []))
      const plan = derive(own)
      const found = await estimateCost({images: 1000, settings: own, plan, precision: 'bf16', engine, tflops: 100})
      assert.ok(found.seconds > 0 && found.steps === plan.steps && found.processBytes! > found.parts.state, recipe)
      assert.equal(found.machine, 'a device of 100 TFLOP/s, bf16')
    }
  })

  test('what does not fit, or takes too long, is not tried: the estimate says why and what was measured', async () => {
    const own = settings(undefined, ...tiny)
    const plan = derive(own)
    const start = counted()
    const large = await estimateCost({images: 10, settings: own, plan, precision: 'fp32', engine, limits: {bytes: 2 ** 20}})
    assert.match(
      large.estimated!,
      /^a probe would need about [\d.]+ GiB and 0\.00 GiB are free; one block of this width achieves .* TFLOP\/s here/
    )
    assert.match(large.machine, /, 1 thread, torch 2, fp32$/)
    const slow = await estimateCost({images: 10, settings: own, plan, precision: 'fp32', engine, limits: {seconds: 0}})
    assert.match(slow.estimated!, /^a step takes about .* s, too long to try some/)
    assert.equal(counted(), start)
    const tried = await estimateCost({
      images: 10,
      settings: own,
      plan,
      precision: 'fp32',
      engine,
      probe: {warm: 1, least: 1, most: 1, seconds: 0}
    })
    assert.equal(tried.estimated, undefined)
    assert.equal(tried.parameters, large.parameters)
    assert.ok(tried.secondsPerStep > 0 && tried.flopsPerStep === large.flopsPerStep)
    assert.equal(counted(), start)
  })
})
