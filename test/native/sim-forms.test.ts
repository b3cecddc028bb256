/**
 * Fused forms on the simulated device: each agrees with its reference form, and each is left out with one warning
 * where an operator that it stands on is falsified. With all of them falsified at once a step of training gives what
 * it gives on the CPU.
 */
import assert from 'node:assert/strict'
import {mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {scalarType, torch} from '../../src/engine/torch/binding.js'
import {checkAllForms, fusedForms} from '../../src/engine/torch/kernels/all-forms.js'
import {forgetConstants} from '../../src/engine/torch/kernels/constants.js'
import {checkKernelsOn, verdictLines} from '../../src/engine/torch/self-check.js'
import {startEngine} from '../../src/engine/start.js'
import type {StepReport} from '../../src/tasks/train/student-pass.js'
import {launchStep} from '../../src/tasks/train/train-step.js'
import {StepsAhead} from '../../src/tasks/train/steps-ahead.js'
import {rng} from '../../src/tensor/random.js'
import {counted} from '../support/engine.js'
import {onSim, type Sim} from '../support/sim.js'
import {batchOf, freeBatch, freeState, rates, settingsOf, stateOf, variants} from '../support/small-run.js'

let sim: Sim
const said: string[] = []
const write = process.stderr.write.bind(process.stderr)
before(async () => {
  sim = (await onSim()).sim
  process.stderr.write = (text: string | Uint8Array) => said.push(String(text)) > 0
})
after(() => {
  process.stderr.write = write
  forgetConstants()
  assert.equal(sim.counts().bytes, 0)
})

test('every form agrees with its reference form in every format that it is used in', () => {
  checkKernelsOn(undefined)
  assert.deepEqual(checkAllForms(), [])
  assert.deepEqual(said.splice(0), [])
})

/** Operators that a step of training calls elsewhere too, so that they must not be false there. */
const elsewhere = new Set(['exp', 'sub', 'mul', 'index_select', 'reciprocal', 'addcmul'])

for (const {form, width} of fusedForms)
  for (const operator of form.operators)
    test(`${form.name} is left out where ${operator} is wrong, with a warning, once`, () => {
      said.length = 0
      checkKernelsOn(undefined)
      sim.falsify(operator, 1.3)
      try {
        const type = form.formats.includes('fp32') ? scalarType.float32 : scalarType.bfloat16
        assert.equal(form.serves(type, width), false)
        assert.equal(form.serves(type, width), false)
      } finally {
        sim.falsify(operator, 1)
      }
      const [warning, ...more] = said.splice(0)
      assert.deepEqual(more, [])
      assert.match(warning!, new RegExp(`${form.name} \\((fp32|bf16)(, heads of \\d+)?\\) of libtorch is left out: it is off by`))
      checkKernelsOn(undefined)
      assert.equal(form.serves(scalarType.bfloat16, width) || form.serves(scalarType.float32, width), true)
    })

/** Two steps whose numbers are read together. */
async function steps(device: 'sim' | 'cpu', what: string): Promise<StepReport[]> {
  await startEngine({engine: 'torch', device, precision: 'fp32', threads: 1, note: () => undefined})
  const start = counted()
  const variant = variants[what]!
  const ahead = new StepsAhead<StepReport>()
  let state = stateOf(variant)
  for (let step = 0; step < 2; step++) {
    const batch = batchOf(variant, step)
    state = launchStep(state, batch, rates, settingsOf(variant), rng(3, 'drop path', step), ahead)
    freeBatch(batch)
  }
  const reports = ahead.settle().taken
  freeState(state)
  assert.equal(counted(), start)
  return reports
}

for (const what of ['stochastic depth', 'own head, centring, registers'])
  test(`${what}: steps are those of the CPU where every fused form is wrong`, async () => {
    const expected = await steps('cpu', what)
    const wrong = [...new Set(fusedForms.flatMap(({form}) => form.operators))].filter(name => !elsewhere.has(name))
    await onSim()
    for (const operator of wrong) sim.falsify(operator, 1.3)
    try {
      const found = await steps('sim', what)
      assert.ok(said.splice(0).length > 8)
      for (const [i, {losses, gradNorms}] of expected.entries()) {
        assert.ok(Math.abs(found[i]!.losses.total / losses.total - 1) < 1e-5, `${found[i]!.losses.total}, expected ${losses.total}`)
        for (const [name, norm] of Object.entries(gradNorms))
          assert.ok(Math.abs(found[i]!.gradNorms[name]! / norm - 1) < 1e-4, `${name} ${found[i]!.gradNorms[name]}, expected ${norm}`)
      }
    } finally {
      for (const operator of wrong) sim.falsify(operator, 1)
      checkKernelsOn(undefined)
    }
  })

test('verdicts are kept by device, driver and library, and listed', async () => {
  const cache = mkdtempSync(join(tmpdir(), 'dinov2-forms-'))
  const before = process.env['XDG_CACHE_HOME']
  await onSim()
  process.env['XDG_CACHE_HOME'] = cache
  try {
    const place = 'Simulated device, driver 1.0, libtorch 2.13.0'
    checkKernelsOn(place)
    sim.falsify('gelu_backward', 1.3)
    sim.falsify('native_layer_norm', NaN)
    assert.deepEqual(checkAllForms(['fp32']), ['GELU gradient (fp32)', 'layer norm (fp32)'])
    const lines = verdictLines(place)
    assert.ok(
      lines.some(line => /^GELU gradient \(fp32\) is left out: it is off by 0\.\d+ of the largest entry$/.test(line)),
      lines.join('\n')
    )
    assert.ok(lines.includes('layer norm (fp32) is left out: it is off by NaN of the largest entry'))
    assert.ok(lines.some(line => /^fused AdamW \(fp32\) is used: it agrees to [\d.e-]+ of the largest entry$/.test(line)))
    const kept = readFileSync(join(cache, 'dinov2', 'kernels.json'), 'utf8')
    for (const operator of ['gelu_backward', 'native_layer_norm']) sim.falsify(operator, 1)
    checkKernelsOn(place) // as the next process does
    sim.reset()
    assert.deepEqual(checkAllForms(['fp32']), ['GELU gradient (fp32)', 'layer norm (fp32)'])
    assert.equal(sim.counts().operators, 0, 'nothing is asked for twice')
    assert.equal(readFileSync(join(cache, 'dinov2', 'kernels.json'), 'utf8'), kept)
    checkKernelsOn(`${place}+another`)
    assert.deepEqual(checkAllForms(['fp32']), [])
  } finally {
    said.splice(0)
    if (before === undefined) delete process.env['XDG_CACHE_HOME']
    else process.env['XDG_CACHE_HOME'] = before
    rmSync(cache, {recursive: true})
    checkKernelsOn(undefined)
    torch().synchronize()
  }
})
