/**
 * One step of training as a whole: engines agree, gradients are slopes of the total loss, nothing is left behind, and
 * what a setting turns off stays off.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {denseLogits} from '../../../src/loss/logits.js'
import type {Targets} from '../../../src/loss/targets.js'
import type {LazyBatch, StepBatch} from '../../../src/tasks/train/batch-parts.js'
import type {Network, StepRates, StepSettings} from '../../../src/tasks/train/step-types.js'
import {studentGradients} from '../../../src/tasks/train/student-pass.js'
import type {StepReport} from '../../../src/tasks/train/student-pass.js'
import {trainStep} from '../../../src/tasks/train/train-step.js'
import {updateError} from '../../../src/tasks/verify/checks.js'
import type {ParamMap} from '../../../src/optim/adamw.js'
import {rng} from '../../../src/tensor/random.js'
import {add, concat, dispose, mul, scalar, softmax, tensor, tidy, zeros} from '../../../src/tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D, Tensor4D} from '../../../src/tensor/tf.js'
import {unflatten} from '../../../src/tensor/tree.js'
import {counted, held, normal, onPlain, onTorch, put} from '../../support/engine.js'
import {batchOf, freeBatch, freeState, images, rates, settingsOf, stateOf, variants, type Variant} from '../../support/small-run.js'

type Numbers = Map<string, Float32Array>
const read = async (named: ParamMap): Promise<Numbers> => {
  const out: Numbers = new Map()
  for (const [name, leaf] of named) out.set(name, ((await leaf.data()) as Float32Array).slice())
  return out
}

type Run = {reports: StepReport[]; before: {student: Numbers; teacher: Numbers}; after: {student: Numbers; teacher: Numbers}}

/**
 * Some steps on the running engine; asserts that tensors and bytes are in the end what they were, and in between those
 * of the state.
 */
async function train(
  variant: Variant,
  {count = 2, at = rates, ...more}: {count?: number; at?: StepRates; batch?: number} & Partial<StepSettings> = {}
): Promise<Run> {
  const start = {tensors: counted(), bytes: held()}
  const settings = settingsOf(variant, more)
  let state = stateOf(variant)
  const before = {student: await read(state.student), teacher: await read(state.teacher)}
  const living = {tensors: counted(), bytes: held()}
  const reports: StepReport[] = []
  for (let step = 0; step < count; step++) {
    const batch = batchOf(variant, step, more.batch)
    const next = trainStep(state, batch, at, settings, rng(3, 'drop path', step))
    freeBatch(batch)
    state = next.state
    reports.push(next.report)
    assert.equal(state.step, step + 1)
    assert.deepEqual({tensors: counted(), bytes: held()}, living, `after step ${step + 1}`)
  }
  const after = {student: await read(state.student), teacher: await read(state.teacher)}
  freeState(state)
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
  return {reports, before, after}
}

for (const [what, variant] of Object.entries(variants))
  test(`${what}: libtorch takes the steps that the reference implementations take, and keeps nothing`, async () => {
    await onPlain()
    const reference = await train(variant)
    await onTorch()
    const kernel = await train(variant)
    for (const [i, expected] of reference.reports.entries()) {
      const found = kernel.reports[i]!
      assert.equal(found.masked, variant.masked > 0 ? images * Math.round(variant.masked * 9) : 0)
      for (const [name, value] of Object.entries(expected.losses))
        assert.ok(Math.abs(found.losses[name as 'total'] - value) <= 2e-5 * Math.max(Math.abs(value), 0.1), `step ${i + 1}: ${name}`)
      for (const [name, norm] of Object.entries(expected.gradNorms))
        assert.ok(Math.abs(found.gradNorms[name]! - norm) <= 1e-4 * norm, `step ${i + 1}: gradient of ${name}`)
      assert.ok(Math.abs(found.teacherEntropy - expected.teacherEntropy) < 1e-4 && found.teacherEntropy <= Math.log(16) + 1e-5)
      assert.ok(Math.abs(found.clsCosine! - expected.clsCosine!) < 1e-5)
      const {total, ...parts} = found.losses
      assert.ok(Math.abs(total - Object.values(parts).reduce((a, b) => a + b, 0)) < 1e-6)
      assert.equal(found.losses.dino_local > 0, variant.locals > 0)
      assert.equal(found.losses.ibot > 0, variant.masked > 0)
    }
    for (const network of ['student', 'teacher'] as const)
      for (const [name, expected] of reference.after[network]) {
        // The key third of a qkv bias has a gradient of rounding alone, which AdamW turns into full steps.
        const third = expected.length / 3
        const counts = name.endsWith('qkv.bias') ? (i: number): boolean => i < third || i >= 2 * third : undefined
        const off = updateError(reference.before[network].get(name)!, kernel.after[network].get(name)!, expected, counts)
        assert.ok(off < 3e-3, `${network} ${name}: the update is off by ${off}`)
      }
  })

/** Targets that are known whole, [n, K]: scores that are their logarithms, at temperature one. Consumes the tensor. */
function given(chances: Tensor2D): {targets: Targets; tensors: Tensor[]} {
  const scores = tidy(() => chances.log<Tensor2D>())
  const [rows, columns] = [zeros([chances.shape[0]]) as Tensor1D, zeros([chances.shape[1]]) as Tensor1D]
  chances.dispose()
  return {
    targets: {logits: denseLogits(scores), logRowScale: rows, logColumnScale: columns, temperature: 1},
    tensors: [scores, rows, columns]
  }
}

for (const what of ['shared head, Sinkhorn', 'own head, centring, registers', 'stochastic depth'])
  test(`${what}: the gradients are the slopes of the total loss`, async () => {
    await onTorch()
    const start = counted()
    const variant = variants[what]!
    const settings = settingsOf(variant)
    const state = stateOf(variant)
    const batch = batchOf(variant)
    const chances = (name: string, rows: number): Tensor2D => tidy(() => softmax(put(normal(name, [rows, 16]))))
    const [cls, patches] = [given(chances('cls', 2 * images)), given(chances('patches', batch.indices.length))]
    const targets = {cls: cls.targets, patches: patches.targets, entropy: scalar(0)}
    const at = (named: ParamMap): ReturnType<typeof studentGradients> =>
      studentGradients(unflatten<Network>(named), batch, targets, settings, rng(3, 'drop path'))
    const {grads} = at(state.student)
    assert.deepEqual([...grads.keys()].sort(), [...state.student.keys()].sort())
    // Along a direction drawn for each part of the network, by central differences.
    const parts = [
      'cls_token',
      'pos_embed',
      'patch_embed',
      'mask_token',
      'blocks.0',
      'blocks.1',
      'backbone.norm',
      'dino_head.mlp',
      'last_layer'
    ]
    for (const part of [...parts, ...(variant.separate ? ['ibot_head.mlp'] : []), ...(variant.vit.registers ? ['register_tokens'] : [])]) {
      const random = rng(10, part)
      let [expected, square] = [0, 0]
      const along = new Map<string, Float32Array>()
      for (const [name, grad] of grads) {
        if (!name.includes(part)) continue
        const signs = Float32Array.from({length: grad.size}, () => (random.chance(0.5) ? 1 : -1))
        along.set(name, signs)
        grad.dataSync().forEach((g, i) => {
          expected += g * signs[i]!
          square += g * g
        })
      }
      assert.ok(along.size > 0, part)
      const total = (h: number): number => {
        const moved: ParamMap = new Map(
          [...state.student].map(([name, leaf]) => {
            const signs = along.get(name)
            return [name, signs ? tidy(() => add(leaf, mul(tensor(signs, leaf.shape), h))) : leaf]
          })
        )
        const {grads: unused, report} = at(moved)
        dispose([...unused.values()])
        for (const name of along.keys()) dispose(moved.get(name)!)
        return report.losses.total
      }
      const h = 2e-3
      const off = Math.abs((total(h) - total(-h)) / (2 * h) - expected) / Math.sqrt(square)
      assert.ok(off < 0.02, `${part}: off by ${off} of the gradient's norm`)
    }
    dispose([...grads.values()])
    dispose([...cls.tensors, ...patches.tensors, targets.entropy])
    freeBatch(batch)
    freeState(state)
    assert.equal(counted(), start)
  })

const same = (a: Numbers, b: Numbers, where: (name: string) => boolean = () => true): string[] =>
  [...a].flatMap(([name, values]) => (where(name) && values.some((x, i) => !Object.is(x, b.get(name)![i])) ? [name] : []))

test('what is turned off does not move: learning rate, last layer, teacher', async () => {
  await onTorch()
  const variant = variants['own head, centring, registers']!
  const still = await train(variant, {at: {...rates, lr: 0, lastLayerLr: 0}})
  assert.deepEqual(same(still.before.student, still.after.student), [])
  const frozen = await train(variant, {at: {...rates, lastLayerLr: 0, momentum: 1}})
  assert.deepEqual(
    same(frozen.before.student, frozen.after.student, name => name.includes('last_layer')),
    []
  )
  const moved = same(frozen.before.student, frozen.after.student)
  assert.equal(moved.length, [...frozen.before.student.keys()].filter(name => !name.includes('last_layer')).length)
  assert.deepEqual(same(frozen.before.teacher, frozen.after.teacher), [])
})

test('loss weights: none of KoLeo, none of iBOT, twice the DINO loss', async () => {
  await onTorch()
  const variant = variants['shared head, Sinkhorn']!
  const [full] = (await train(variant, {count: 1})).reports
  const [bare] = (await train(variant, {count: 1, regularizers: {koleo: 0}, ibotWeight: 0, dinoWeight: 2})).reports
  assert.equal(bare!.losses.koleo, 0)
  assert.equal(bare!.losses.ibot, 0)
  assert.ok(Math.abs(bare!.losses.dino_local / full!.losses.dino_local - 2) < 1e-5)
  assert.ok(Math.abs(bare!.losses.dino_global / full!.losses.dino_global - 2) < 1e-5)
})

test('the same step twice gives the same bits; another draw of stochastic depth does not', async () => {
  await onTorch()
  const variant = variants['stochastic depth']!
  const [one, two] = [await train(variant), await train(variant)]
  assert.deepEqual(one.reports, two.reports)
  assert.deepEqual(same(one.after.student, two.after.student), [])
  assert.deepEqual(same(one.after.teacher, two.after.teacher), [])
  const without = await train({...variant, dropPath: 0})
  assert.notEqual(one.reports[0]!.losses.total, without.reports[0]!.losses.total)
})

test('a batch of one image has no spread, and trains', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const {reports} = await train(variants['shared head, Sinkhorn']!, {count: 1, batch: 1})
    assert.equal(reports[0]!.losses.koleo, 0)
    assert.equal(reports[0]!.clsCosine, undefined)
    assert.ok(Number.isFinite(reports[0]!.losses.total))
  }
})

test('in bf16 the losses are within 1 % of float32, step by step', async () => {
  await onTorch()
  for (const what of ['shared head, Sinkhorn', 'own head, centring, registers', 'stochastic depth']) {
    const [exact, low] = [await train(variants[what]!, {count: 3}), await train(variants[what]!, {count: 3, precision: 'bf16'})]
    for (const [i, {losses}] of exact.reports.entries())
      for (const name of ['dino_local', 'dino_global', 'ibot', 'total'] as const) {
        const off = Math.abs(low.reports[i]!.losses[name] / losses[name] - 1)
        assert.ok(off < 0.01 && off > 0, `${what}, step ${i + 1}: ${name} differs by ${off}`)
      }
  }
})

for (const [what, variant] of Object.entries(variants))
  test(`${what}: every level of memory takes the same steps, bit for bit, in float32 and in bf16`, async () => {
    for (const [engine, precision] of [
      [onPlain, 'fp32'],
      [onTorch, 'fp32'],
      [onTorch, 'bf16']
    ] as const) {
      await engine()
      const fast = await train(variant, {precision, memory: 'fast'})
      for (const memory of ['balanced', 'small'] as const) {
        const other = await train(variant, {precision, memory})
        assert.deepEqual(other.reports, fast.reports)
        assert.deepEqual(same(other.after.student, fast.after.student), [])
        assert.deepEqual(same(other.after.teacher, fast.after.teacher), [])
      }
    }
  })

for (const what of ['shared head, Sinkhorn', 'own head, centring, registers', 'no local crops', 'nothing masked, own head'])
  test(`${what}: a batch in parts gives the step of the whole batch, within rounding`, async () => {
    const variant = variants[what]!
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const whole = await train(variant, {batch: 5, regularizers: {koleo: 0}})
      for (const accumulate of engine === onTorch ? [2, 3, 5] : [2]) {
        const parts = await train(variant, {batch: 5, regularizers: {koleo: 0}, accumulate})
        for (const [i, expected] of whole.reports.entries()) {
          const found = parts.reports[i]!
          assert.equal(found.masked, expected.masked)
          for (const [name, value] of Object.entries(expected.losses))
            assert.ok(
              Math.abs(found.losses[name as 'total'] - value) <= 2e-5 * Math.max(Math.abs(value), 0.1),
              `${accumulate} parts, ${name}`
            )
          for (const [name, norm] of Object.entries(expected.gradNorms))
            assert.ok(Math.abs(found.gradNorms[name]! - norm) <= 1e-4 * norm, `${accumulate} parts, gradient of ${name}`)
          assert.ok(Math.abs(found.teacherEntropy - expected.teacherEntropy) < 1e-4)
          assert.ok(Math.abs(found.clsCosine! - expected.clsCosine!) < 1e-5)
        }
        for (const network of ['student', 'teacher'] as const)
          for (const [name, expected] of whole.after[network]) {
            const third = expected.length / 3
            const counts = name.endsWith('qkv.bias') ? (i: number): boolean => i < third || i >= 2 * third : undefined
            const off = updateError(whole.before[network].get(name)!, parts.after[network].get(name)!, expected, counts)
            assert.ok(off < 5e-3, `${accumulate} parts, ${network} ${name}: the update is off by ${off}`)
          }
      }
    }
  })

test('in parts, KoLeo is the mean of what the parts have, by their images; crops may be made when they are needed', async () => {
  await onTorch()
  const variant = variants['shared head, Sinkhorn']!
  const settings = settingsOf(variant, {dinoWeight: 0, ibotWeight: 0, accumulate: 2})
  const start = counted()
  const whole = batchOf(variant, 0, 5)
  const {globals, locals, masks, indices, weights} = whole
  const some = (crops: Tensor4D, from: number, to: number): Tensor4D =>
    tidy(() => {
      const each = crops.shape[0] / 5
      return concat(Array.from({length: each}, (_, crop) => crops.slice<Tensor4D>(5 * crop + from, to - from)))
    })
  const once = (batch: StepBatch | LazyBatch, own: StepSettings): StepReport => {
    const {state, report} = trainStep(stateOf(variant), batch, rates, own)
    freeState(state)
    return report
  }
  const parts = once(whole, settings)
  const lazy = {masks, indices, weights, localCount: variant.locals, globals: some.bind(null, globals), locals: some.bind(null, locals!)}
  assert.deepEqual(once(lazy, settings), parts)

  const alone = [
    [0, 2],
    [2, 5]
  ].map(([from, to]) => {
    const b = to! - from!
    const own = tidy(() => ({
      globals: some(globals, from!, to!),
      locals: some(locals!, from!, to!),
      masks: concat([masks.slice<Tensor2D>(from!, b), masks.slice<Tensor2D>(5 + from!, b)])
    }))
    const N = masks.shape[1]
    const inside = [...indices].filter(at => Math.trunc(at / N) % 5 >= from! && Math.trunc(at / N) % 5 < to!)
    const moved = inside.map(at => (Math.trunc(at / N) < 5 ? at - from! * N : at - (5 + from! - b) * N))
    const {losses} = once(
      {...own, indices: Int32Array.from(moved), weights: Float32Array.from(moved, () => 1)},
      {...settings, accumulate: 1}
    )
    dispose(own)
    return (b / 5) * losses.koleo
  })
  assert.ok(Math.abs(parts.losses.koleo - (alone[0]! + alone[1]!)) < 1e-6, `${parts.losses.koleo} is not ${alone.join(' + ')}`)
  const state = stateOf(variant)
  assert.throws(() => trainStep(state, whole, rates, {...settings, accumulate: 6}), /expected at most 5 parts/)
  freeState(state)
  freeBatch(whole)
  assert.equal(counted(), start)
})
