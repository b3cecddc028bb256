/**
 * Parity with the reference: nothing of the recording that is committed here goes unchecked, and the reference implementations agree as the kernels do.
 *
 * `test/steps/verify.test.ts` holds that every judgement passes on each engine and that falsified recordings fail. These tests never skip: a
 * recording that is absent or incomplete fails with a sentence.
 */
import assert from 'node:assert/strict'
import {existsSync, readFileSync} from 'node:fs'
import {test} from 'node:test'
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {verify, type Check} from '../../src/tasks/verify/verify.js'
import {LIMITS} from '../../src/tasks/verify/checks.js'
import {memory} from '../../src/tensor/tf.js'
import {golden} from '../support/scratch.js'

const folder = golden('')
const absent = `The recording of the reference is absent or incomplete: ${folder} must hold golden.json and the files that its README names.`

/** The names of the tensors in a file of the recording. */
async function names(file: string): Promise<string[]> {
  assert.ok(existsSync(golden(`${file}.safetensors`)), `${absent} ${file}.safetensors is not there.`)
  const opened = await openSafetensors(golden(`${file}.safetensors`))
  await opened.close()
  return [...opened.tensors.keys()]
}

type Index = {
  vit: Record<string, unknown>
  train: {steps: Record<string, number>[]; config: {lr: number[]}}
  train_untied: {steps: Record<string, number>[]; config: {lr: number[]}}
}
function index(): Index {
  assert.ok(existsSync(golden('golden.json')), absent)
  return JSON.parse(readFileSync(golden('golden.json'), 'utf8')) as Index
}

const says = ({part, name, error, limit}: Check): string => `${part}: ${name} is off by ${error}, at most ${limit} is allowed`

test('on libtorch every recorded tensor and number is judged, within the limits of the project, and passes', async () => {
  const recording = index()
  const checks: Check[] = []
  for await (const check of verify({golden: folder, engine: 'torch', precision: 'fp32', threads: 2, note: () => undefined}))
    checks.push(check)
  assert.deepEqual(checks.filter(({pass}) => !pass).map(says), [])
  assert.equal(memory().numTensors, 0)
  const judged = new Map(checks.filter(({limit}) => limit !== null).map(check => [`${check.part}: ${check.name}`, check]))
  const expect = (part: string, name: string, measure: Check['measure'], limit: number): void => {
    const found = judged.get(`${part}: ${name}`)
    assert.ok(found, `${part}: ${name} is recorded, but not judged`)
    assert.equal(found.measure, measure, name)
    assert.ok(found.limit! <= limit, `${part}: ${name} is judged by ${found.limit}, expected at most ${limit}`)
  }

  // Backbones: outputs whole, masked, resized and of chosen blocks; the gradient of every parameter.
  assert.deepEqual(Object.keys(recording.vit).sort(), ['chunked', 'plain', 'reg4_swiglu'])
  for (const name of Object.keys(recording.vit)) {
    const inputs = new Set(['x', 'x2', 'masks', 'grad.w_cls', 'grad.w_patch'])
    const recorded = (await names(`vit_${name}_io`)).filter(key => !inputs.has(key))
    assert.ok(recorded.length > 50 && recorded.some(key => key.startsWith('masked.')), absent)
    for (const key of recorded) {
      const gradient = key.startsWith('grad.') && key !== 'grad.scalar'
      expect(
        `vit ${name}`,
        key.replace(/^grad\.blocks\.\d+\.(\d+)\./, 'grad.blocks.$1.'),
        'max',
        gradient ? LIMITS.gradient : LIMITS.forward
      )
    }
    expect(`vit ${name}`, 'parameters without a recorded gradient', 'count', 0)
    expect(`vit ${name}`, 'weights: .pth as .safetensors', 'count', 0)
  }

  // Head and losses: all but what goes in.
  const given = /^(head\.(x|gy)|sinkhorn\.in|dino\.(student|teacher)|ibot\.(student|masks|teacher_logits_padded)|koleo\.x)$/
  const recorded = (await names('losses')).filter(key => !given.test(key))
  assert.ok(recorded.length >= 18, absent)
  for (const key of recorded)
    expect(key.split('.')[0]!.replace('center', 'centering'), key, 'max', /grad|\.g/.test(key) ? LIMITS.gradient : LIMITS.forward)

  // Training: every number of every step, every tensor of student and teacher, the centres.
  for (const run of ['train', 'train_untied'] as const) {
    const {steps, config} = recording[run]
    assert.equal(config.lr.length, 3)
    steps.slice(0, 3).forEach((step, i) => {
      for (const name of Object.keys(step))
        expect(
          `${run} step ${i + 1}`,
          name,
          name === 'n_masked' ? 'count' : 'max',
          name.startsWith('grad_norm') ? LIMITS.gradient : LIMITS.forward
        )
    })
    const final = await names(`${run}_final`)
    assert.ok(final.length > 100, absent)
    for (const name of final) expect(run, name, 'update', LIMITS.update)
    for (const name of ['lr_multiplier', 'wd_multiplier']) expect(`groups ${run}`, name, 'max', 1e-12)
    expect(`groups ${run}`, 'is_last_layer', 'count', 0)
  }
  // Distillation: every gradient, number and tensor of both steps.
  for (const [part, file] of [
    ['distillation by heads', 'distill_heads'],
    ['distillation of features', 'distill_features']
  ] as const) {
    const recorded = await names(file)
    assert.ok(recorded.filter(name => name.startsWith('grad.')).length > 30, absent)
    for (const name of recorded) {
      if (name.startsWith('grad.')) expect(part, name, 'max', LIMITS.gradient)
      if (name.startsWith('final.student.')) expect(part, name, 'update', LIMITS.update)
    }
    assert.ok(existsSync(golden('distill.json')), absent)
    const {losses, grad_norms} = (JSON.parse(readFileSync(golden('distill.json'), 'utf8')) as Record<string, {losses: object; grad_norms: object}>)[
      file.slice('distill_'.length)
    ]!
    for (const name of [...Object.keys(losses), 'total']) expect(part, name, 'max', LIMITS.forward)
    for (const name of Object.keys(grad_norms)) expect(part, `grad_norm_${name}`, 'max', LIMITS.gradient)
    expect(part, 'recorded gradients that nothing computes', 'count', 0)
  }
  for (const name of ['lr', 'wd', 'momentum', 'teacher_temp']) expect('schedule', name, 'max', 1e-12)
  assert.deepEqual([LIMITS.forward, LIMITS.gradient, LIMITS.update], [1e-5, 1e-4, 3e-3])
})

test('the reference implementations agree on TensorFlow.js’s own backend: a backbone with its gradients, head and losses', async () => {
  const wanted = new Set(['vit plain', 'head', 'sinkhorn', 'dino', 'centering', 'ibot', 'koleo'])
  const seen = new Map<string, number>()
  for await (const check of verify({golden: folder, engine: 'cpu', precision: 'fp32', note: () => undefined})) {
    if (check.part === 'schedule') break // what follows are the training runs; wasm runs the same implementations through them
    if (!wanted.has(check.part)) continue
    assert.ok(check.pass, says(check))
    seen.set(check.part, (seen.get(check.part) ?? 0) + 1)
  }
  assert.deepEqual([...seen.keys()].sort(), [...wanted].sort())
  assert.equal(memory().numTensors, 0)
})
