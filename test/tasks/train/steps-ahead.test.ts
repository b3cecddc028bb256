/**
 * Steps that are read later are the steps that are read at once, and a step that is not finite changes nothing, nor
 * does any after it.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import type {ParamMap} from '../../../src/optim/adamw.js'
import {launchStep, trainStep} from '../../../src/tasks/train/train-step.js'
import {StepsAhead} from '../../../src/tasks/train/steps-ahead.js'
import type {StepReport} from '../../../src/tasks/train/student-pass.js'
import type {TrainState} from '../../../src/tasks/train/step-types.js'
import {rng} from '../../../src/tensor/random.js'
import {tensor} from '../../../src/tensor/tf.js'
import {counted, onPlain, onTorch} from '../../support/engine.js'
import {onSim} from '../../support/sim.js'
import {batchOf, freeBatch, freeState, rates, settingsOf, stateOf, variants} from '../../support/small-run.js'

const engines = [
  ['torch', onTorch],
  ['torch on the simulated device', onSim],
  ['plain', onPlain]
] as const

const groups = ({student, teacher, moments, centers}: TrainState): ParamMap =>
  new Map([
    ...[student, teacher, moments.m, moments.v].flatMap((named, i) => [...named].map(([name, leaf]) => [`${i}.${name}`, leaf] as const)),
    ...(centers
      ? ([
          ['dino', centers.dino],
          ['ibot', centers.ibot]
        ] as const)
      : [])
  ])
/** Largest difference over the largest entry. */
const worst = (x: Float32Array, expected: Float32Array): number =>
  x.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0) /
  expected.reduce((most, e) => Math.max(most, Math.abs(e)), 1e-30)

async function numbers(state: TrainState): Promise<Map<string, Float32Array>> {
  const out = new Map<string, Float32Array>()
  for (const [name, leaf] of groups(state)) out.set(name, ((await leaf.data()) as Float32Array).slice())
  return out
}

for (const [engine, on] of engines) {
  test(`${engine}: three steps read at last are three steps read at once`, async () => {
    await on()
    const start = counted()
    for (const what of ['stochastic depth', 'own head, centring, registers']) {
      const variant = variants[what]!
      const settings = settingsOf(variant, {clipGrad: 0.5}) // gradients are clipped, each sub-module by its own norm
      let [one, other] = [stateOf(variant), stateOf(variant)]
      const ahead = new StepsAhead<StepReport>()
      const expected: StepReport[] = []
      for (let step = 0; step < 3; step++) {
        const batch = batchOf(variant, step)
        const next = trainStep(one, batch, rates, settings, rng(3, step))
        one = next.state
        expected.push(next.report)
        other = launchStep(other, batch, rates, settings, rng(3, step), ahead)
        freeBatch(batch)
      }
      assert.equal(ahead.waiting, 3)
      const found = ahead.settle().taken
      assert.equal(found.length, 3)
      for (const [i, {losses, gradNorms, teacherEntropy, masked}] of found.entries()) {
        for (const [name, value] of Object.entries(expected[i]!.losses)) assert.ok(Math.abs(losses[name as 'total'] - value) < 1e-5, name)
        for (const [name, norm] of Object.entries(expected[i]!.gradNorms)) assert.ok(Math.abs(gradNorms[name]! / norm - 1) < 1e-4, name)
        assert.ok(Math.abs(teacherEntropy - expected[i]!.teacherEntropy) < 1e-5)
        assert.equal(masked, expected[i]!.masked)
      }
      assert.equal(one.step, other.step)
      const [a, b] = [await numbers(one), await numbers(other)]
      // The key third of a qkv bias has a gradient of rounding alone, which AdamW turns into full steps.
      for (const [name, values] of a) if (!name.endsWith('qkv.bias')) assert.ok(worst(b.get(name)!, values) < 2e-3, name)
      freeState(one)
      freeState(other)
    }
    assert.equal(counted(), start)
  })

  test(`${engine}: a step that is not finite, and all after it, change nothing`, async () => {
    await on()
    const variant = variants['own head, centring, registers']!
    const settings = settingsOf(variant)
    let state = stateOf(variant)
    const ahead = new StepsAhead<StepReport>()
    const launch = (batch: ReturnType<typeof batchOf>): void => void (state = launchStep(state, batch, rates, settings, rng(0), ahead))
    const good = batchOf(variant)
    launch(good)
    assert.equal(ahead.settle().taken.length, 1)
    launch(good)
    const before = await numbers(state)
    const first = good.globals
    const pixels = (await first.data()).slice() as Float32Array
    pixels[5] = Infinity
    const sick = {...good, globals: tensor(pixels, first.shape) as typeof first}
    launch(sick)
    launch(good)
    sick.globals.dispose()
    for (const [name, values] of await numbers(state)) assert.deepEqual(values, before.get(name), name)
    assert.equal(ahead.settle().taken.length, 1, 'only the first of the three was taken')
    launch(good)
    assert.equal(ahead.settle().taken.length, 1, 'after the reading steps are taken again')
    assert.notDeepEqual((await numbers(state)).get('0.backbone.norm.weight'), before.get('0.backbone.norm.weight'))
    freeBatch(good)
    freeState(state)
  })
}
