/**
 * Health in words: what is wrong with a run, reported once and from the same limits everywhere; and steps that are not
 * finite.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {assessHealth, healthChecks, HealthWatch} from '../../../src/tasks/train/health.js'
import {explainNonFinite, NotFiniteStep} from '../../../src/tasks/train/non-finite.js'
import {trainStep} from '../../../src/tasks/train/train-step.js'
import {rng} from '../../../src/tensor/random.js'
import {tensor} from '../../../src/tensor/tf.js'
import type {Tensor} from '../../../src/tensor/tf.js'
import {counted, onPlain, onTorch} from '../../support/engine.js'
import {batchOf, freeBatch, freeState, rates, settingsOf, stateOf, variants} from '../../support/small-run.js'

const scale = {prototypes: 1024, weight: 1}
const uniform = Math.log(1024)

test('signs of illness, by cause', () => {
  const causes = (signs: Parameters<typeof healthChecks>[0]): string[] => healthChecks(signs, scale).map(({cause}) => cause)
  assert.deepEqual(causes({loss: 5, entropy: 4, cosine: 0.4}), [])
  assert.deepEqual(causes({loss: 5, entropy: 4, cosine: 0.99}), ['alike'])
  assert.deepEqual(causes({loss: uniform, entropy: 4}), ['uniform'])
  assert.deepEqual(causes({loss: 0.01, entropy: 0.01}), ['one prototype', 'sharp targets'])
  assert.deepEqual(causes({loss: 6.5, entropy: 0.2}), ['sharp targets'])
  assert.deepEqual(causes({loss: 6.5, entropy: uniform}), ['flat targets'])
  assert.deepEqual(causes({loss: 6.5, entropy: 0.8 * uniform}), ['warm targets'])
  assert.deepEqual(causes({loss: 6.8, late: true}), ['slow'])
  assert.deepEqual(causes({loss: 6.8}), [], 'early in a run')
  assert.deepEqual(causes({loss: 5, rank: 0.01, use: 0.01}), ['low rank', 'few prototypes'])
  assert.deepEqual(causes({loss: 5, rank: 0.3, use: 0.5}), [])
  // Eight rows share out 65,536 prototypes: each has at least 8,192 of them, whatever the temperature.
  const crowded = healthChecks({entropy: 0.83 * Math.log(65536)}, {prototypes: 65536, weight: 1, rows: 8})
  assert.deepEqual(
    crowded.map(({cause}) => cause),
    ['more prototypes than images']
  )
  assert.match(crowded[0]!.words, /lower dino\.head_n_prototypes or raise train\.batch_size_per_gpu/)
  assert.deepEqual(healthChecks({loss: 0, entropy: 0}, {prototypes: 1024, weight: 0}), [], 'a loss of weight 0 says nothing')
})

test('a run warns once of each cause, and of collapse only past its warm-up', () => {
  const watch = new HealthWatch(scale, 50)
  const line = (step: number, more: object = {}): Record<string, number> & {step: number} => ({
    step,
    dino_local: uniform * 0.8,
    dino_global: uniform * 0.2,
    teacher_entropy: 5,
    cls_cosine: 0.5,
    grad_norm_backbone: 1,
    data_wait: 0,
    ...more
  })
  const said: string[] = []
  for (let step = 10; step <= 300; step += 10)
    said.push(...watch.see(line(step, step === 200 ? {grad_norm_backbone: 50} : step >= 250 ? {data_wait: 0.6} : {})))
  assert.deepEqual(
    said.map(words => words.replace(/ (is|of|DINO).*/, '')),
    ['step 100: not learning: the', 'step 200: grad_norm_backbone', 'step 270: 36 %']
  )
  assert.match(said[1]!, /grad_norm_backbone is 50\.0, 50 times its usual size/)

  // While the heads of a run from weights learn by themselves the backbone has no gradient; its first one is no burst.
  const gentle = new HealthWatch(scale, 0)
  for (let step = 10; step <= 200; step += 10)
    assert.deepEqual(
      gentle.see(line(step, {dino_local: 0.1, grad_norm_backbone: step > 100 ? 0.8 : 0})).filter(words => /grad/.test(words)),
      []
    )
})

for (const [engine, on] of [
  ['torch', onTorch],
  ['plain', onPlain]
] as const)
  test(`a step that is not finite is not taken, and the layer where it began is named (${engine})`, async () => {
    await on()
    const variant = variants['shared head, Sinkhorn']!
    const settings = settingsOf(variant)
    const start = counted()
    const state = stateOf(variant)
    const sick = 'backbone.blocks.1.mlp.fc1.bias'
    const poisoned = state.student.get(sick)!
    const values = (await poisoned.data()).slice() as Float32Array
    values[3] = Infinity
    state.student.set(sick, tensor(values, poisoned.shape))
    poisoned.dispose()
    const before_ = new Map<string, Float32Array>()
    const all = (): [string, Tensor][] => [
      ...[...state.student].map(([name, leaf]): [string, Tensor] => [`student.${name}`, leaf]),
      ...[...state.teacher].map(([name, leaf]): [string, Tensor] => [`teacher.${name}`, leaf]),
      ...[...state.moments.m].map(([name, leaf]): [string, Tensor] => [`m.${name}`, leaf])
    ]
    for (const [name, leaf] of all()) before_.set(name, (await leaf.data()).slice() as Float32Array)
    const batch = batchOf(variant)
    let error: unknown
    try {
      trainStep(state, batch, rates, settings, rng(0))
    } catch (thrown) {
      error = thrown
    }
    assert.ok(error instanceof NotFiniteStep)
    assert.ok(Number.isNaN(error.losses['total']))
    for (const [name, leaf] of all()) assert.deepEqual(await leaf.data(), before_.get(name), name)
    const side = 12
    const globals = Uint8Array.from({length: 6 * side * side * 3}, (_, i) => (i * 7) % 256)
    const why = explainNonFinite(error, state, {globals, side, vit: variant.vit, precision: 'fp32'})
    assert.equal(why.layer, `${sick} of the student`)
    assert.deepEqual(
      why.activations.student.map(({largest}) => largest === null),
      variant.vit.depth === 2 ? [false, true] : [false, true, true]
    )
    assert.ok(why.activations.teacher.every(({largest}) => largest !== null && largest > 0))
    assert.deepEqual([why.parameters.student.largest, why.parameters.teacher.largest! > 0], [null, true])
    assert.ok(why.terms.includes('total is NaN'))
    // With finite losses it began where the backward pass met it first.
    const backward = new NotFiniteStep({total: 1}, {backbone: Infinity}, ['backbone.cls_token', 'backbone.blocks.0.attn.proj.weight'])
    assert.equal(
      explainNonFinite(backward, state, {globals, side, vit: variant.vit, precision: 'fp32'}).layer,
      'backbone.blocks.0.attn.proj.weight'
    )
    freeBatch(batch)
    freeState(state)
    assert.equal(counted(), start)
  })

test('a run of one image a step does not claim a comparison that was not made', () => {
  const alone = assessHealth([{step: 1, dino_local: 3, dino_global: 2, teacher_entropy: 4}], scale)
  assert.match(alone.words, /as far as can be seen.*were not compared, because a step has one image/)
  const several = assessHealth([{step: 1, dino_local: 3, dino_global: 2, teacher_entropy: 4, cls_cosine: 0.2}], scale)
  assert.match(several.words, /^healthy: .*mean cosine of class tokens 0\.200/)
})
