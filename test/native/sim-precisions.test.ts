/**
 * tf32 and fp16, which only GPUs compute in, on the simulated device: features and steps beside those of fp32, the
 * scale of losses in float16, and what refuses them.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {type UserError} from '../../src/config/errors.js'
import {torch} from '../../src/engine/torch/binding.js'
import {startEngine} from '../../src/engine/start.js'
import {initVit} from '../../src/model/init.js'
import {castForInference} from '../../src/model/vit.js'
import {embedderOf} from '../../src/tasks/embed/embedder.js'
import {LossScale} from '../../src/tasks/train/loss-scale.js'
import {NotFiniteStep} from '../../src/tasks/train/non-finite.js'
import {carriedOver} from '../../src/tasks/train/resume.js'
import type {StepReport} from '../../src/tasks/train/student-pass.js'
import {trainStep} from '../../src/tasks/train/train-step.js'
import type {Precision} from '../../src/tensor/ops/precision.js'
import {rng} from '../../src/tensor/random.js'
import {dispose} from '../../src/tensor/tf.js'
import {leaves} from '../../src/tensor/tree.js'
import {counted} from '../support/engine.js'
import {onSim} from '../support/sim.js'
import {batchOf, freeBatch, freeState, rates, settingsOf, stateOf, variants} from '../support/small-run.js'
import {tiny} from '../support/tiny-backbone.js'

async function features(precision: Precision): Promise<Float32Array> {
  await onSim(precision)
  assert.equal(torch().describe().tf32, precision === 'tf32')
  const master = initVit(tiny, 1, 1)
  const low = castForInference(master, precision)
  const free = (): void => dispose([...low.owned, ...[...leaves(master)].map(([, leaf]) => leaf)])
  const backbone = {config: tiny, params: low.params, fingerprint: 'x', precision, [Symbol.dispose]: free}
  using embedder = embedderOf(backbone, {pool: 'cls+mean', layers: 1, normalize: true, transform: {crop: 56}, toolVersion: '0'}, 'it')
  const pixels = Uint8Array.from({length: 56 * 56 * 3}, (_, i) => (i * i) % 251)
  return (await embedder.vectors({pixels, height: 56, width: 56}, 1)).slice()
}

test('features: tf32 holds float32, fp16 agrees by its cosine', async () => {
  const expected = await features('fp32')
  assert.deepEqual(await features('tf32'), expected) // nothing rounds here: what changes is a setting of CUDA
  const half = await features('fp16')
  const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, value, i) => sum + value * y[i]!, 0)
  const cosine = dot(half, expected) / Math.sqrt(dot(half, half) * dot(expected, expected))
  assert.ok(cosine > 0.99999 && cosine < 1, `cosine ${cosine}`)
})

/** Three steps of a small model; in fp16 by a scale that may begin anywhere. */
async function steps(precision: Precision, what: string, scale = new LossScale()): Promise<StepReport[]> {
  await onSim(precision)
  const start = counted()
  const variant = variants[what]!
  const settings = settingsOf(variant, {precision})
  let state = stateOf(variant)
  const reports: StepReport[] = []
  for (let step = 0; step < 3; step++) {
    const batch = batchOf(variant, step)
    const once = (lossScale?: number): ReturnType<typeof trainStep> =>
      trainStep(state, batch, rates, {...settings, lossScale}, rng(3, 'drop path', step))
    const next = precision === 'fp16' ? scale.take(once) : once()
    state = next.state
    reports.push(next.report)
    freeBatch(batch)
  }
  freeState(state)
  assert.equal(counted(), start)
  return reports
}

for (const what of ['stochastic depth', 'own head, centring, registers'])
  test(`${what}: steps in fp16 are those of fp32 within half a percent, and the same from another scale`, async () => {
    const expected = await steps('fp32', what)
    const large = new LossScale()
    large.restore({value: 2 ** 40, since: 7})
    const found = await steps('fp16', what)
    const other = await steps('fp16', what, large)
    assert.ok(large.kept().value < 2 ** 40, 'gradients overflow, and the step is taken again with a smaller scale')
    for (const [i, {losses, gradNorms}] of expected.entries())
      for (const reports of [found, other]) {
        const report = reports[i]!
        assert.ok(Math.abs(report.losses.total / losses.total - 1) < 5e-3, `${report.losses.total}, expected ${losses.total}`)
        for (const [name, norm] of Object.entries(gradNorms))
          assert.ok(Math.abs(report.gradNorms[name]! / norm - 1) < 2e-2, `${name} ${report.gradNorms[name]}, expected ${norm}`)
      }
  })

test('the scale halves at an overflow, doubles after 2000 good steps, and is kept exactly', () => {
  const scale = new LossScale()
  const seen: number[] = []
  const overflowing = (most: number) => (by: number) => {
    seen.push(by)
    if (by > most) throw new NotFiniteStep({total: 1}, {backbone: Infinity}, [])
    return by
  }
  assert.equal(scale.take(overflowing(2 ** 14)), 2 ** 14)
  assert.deepEqual(seen, [2 ** 16, 2 ** 15, 2 ** 14])
  for (let i = 1; i < 1500; i++) scale.take(overflowing(Infinity))
  const again = new LossScale()
  const record = {loss_scale: JSON.stringify(scale.kept())}
  again.restore(carriedOver(record, 'x').lossScale)
  assert.deepEqual(again.kept(), {value: 2 ** 14, since: 1500})
  for (let i = 0; i < 500; i++) again.take(overflowing(Infinity))
  assert.deepEqual(again.kept(), {value: 2 ** 15, since: 0})
  for (const broken of [undefined, {}, {value: 3, since: 0}, {value: 0, since: 0}, {value: 8}]) again.restore(broken)
  assert.deepEqual(again.kept(), {value: 2 ** 15, since: 0})
  assert.equal(carriedOver({}, 'x').lossScale, undefined, 'a run that had no scale')
  assert.throws(() => carriedOver({loss_scale: '{"value":3}'}, 'x'), /the loss scale/)
  const sick = new NotFiniteStep({total: NaN}, {backbone: NaN}, [])
  assert.throws(() => scale.take(() => { throw sick }), sick) // prettier-ignore
  assert.equal(scale.kept().value, 2 ** 14, 'a loss that is not finite is no matter of the scale')
  assert.throws(() => scale.take(overflowing(0.5)), NotFiniteStep)
  assert.equal(scale.kept().value, 1)
})

test('a processor refuses what it does not compute in', async () => {
  for (const precision of ['tf32', 'fp16'])
    await assert.rejects(
      startEngine({engine: 'torch', device: 'cpu', precision, note: () => undefined}),
      (error: UserError) => error.exit === 5 && new RegExp(`^${precision} is a format of NVIDIA GPUs, .* on cpu$`).test(error.message)
    )
})
