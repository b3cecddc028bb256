/**
 * The step of distillation: engines agree, nothing is left behind, parts and memory levels change nothing, a student
 * that knows all its teacher knows is left alone, and the teacher's bytes never change. Agreement with the reference
 * is judged by `engine verify` (test/golden).
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {standardizeRows} from '../../../src/loss/feature.js'
import {lazyLogits} from '../../../src/loss/logits.js'
import {centeredTargets} from '../../../src/loss/targets.js'
import type {VitConfig} from '../../../src/model/config.js'
import {headForward} from '../../../src/model/head.js'
import {initHead, initProjector} from '../../../src/model/init.js'
import {forward, castForInference} from '../../../src/model/vit.js'
import type {ParamMap} from '../../../src/optim/adamw.js'
import {featureStep} from '../../../src/tasks/train/feature-distill-step.js'
import {TeacherTargetCache} from '../../../src/tasks/train/teacher.js'
import type {Teacher} from '../../../src/tasks/train/teacher.js'
import {freeParts, splitBatch, withAllPatchesInLoss} from '../../../src/tasks/train/batch-parts.js'
import type {StepBatch} from '../../../src/tasks/train/batch-parts.js'
import type {Network, TrainState} from '../../../src/tasks/train/step-types.js'
import {studentGradients} from '../../../src/tasks/train/student-pass.js'
import {castHead} from '../../../src/tasks/train/teacher-targets.js'
import {trainStep} from '../../../src/tasks/train/train-step.js'
import {type Tensor, concat, dispose, reshape, scalar, slice, tidy, zeros, zerosLike} from '../../../src/tensor/tf.js'
import type {Tensor2D, Tensor4D} from '../../../src/tensor/tf.js'
import {flatten, unflatten} from '../../../src/tensor/tree.js'
import {counted, onPlain, onTorch, take} from '../../support/engine.js'
import {configs, smallVit} from '../../support/small-vit.js'
import {batchOf, freeBatch, freeState, images, rates, settingsOf, variants, type Variant} from '../../support/small-run.js'

const K = 16
const wide: VitConfig = {...configs.registers, width: 16, heads: 2, patch: 6, grid: 2}
const variant: Variant = {...variants['own head, centring, registers']!, vit: configs.plain, centering: 'sinkhorn_knopp', masked: 0}

const head = (width: number, name: string, seed: number) => {
  const fresh = initHead({width, hidden: 16, bottleneck: 8, prototypes: K, layers: 3}, seed, name)
  const named = flatten({[name]: fresh})
  for (const [path, leaf] of named)
    if (/mlp.*weight$/.test(path)) {
      named.set(
        path,
        tidy(() => leaf.mul(10))
      )
      leaf.dispose()
    }
  return named
}

/** A teacher of another width and patch, with or without heads. */
function teacherOf(config: VitConfig = wide, withHeads = true): Teacher {
  const masters = smallVit(config, 7)
  const {params, owned} = castForInference(masters, 'fp32')
  const [dino, ibot] = [head(config.width, 'dino_head', 7), head(config.width, 'ibot_head', 7)]
  const copies = {
    dino: castHead(unflatten<Network>(dino).dino_head, 'fp32'),
    ibot: castHead(unflatten<{ibot_head: Network['dino_head']}>(ibot).ibot_head, 'fp32')
  }
  const size = {layers: 3, hidden: 16, bottleneck: 8, prototypes: K}
  return {
    path: 'teacher',
    vit: config,
    parameters: 0,
    bytes: () => 0,
    precision: 'fp32',
    fingerprint: '',
    backbone: params,
    ...(withHeads ? {heads: {dino_head: size, ibot_head: size}, copies} : {}),
    dispose: () => {
      const all = new Set<Tensor>([
        ...flatten(masters).values(),
        ...owned,
        ...dino.values(),
        ...ibot.values(),
        ...copies.dino.owned,
        ...copies.ibot.owned
      ])
      dispose([...all])
    }
  }
}

const stateFrom = (student: ParamMap): TrainState => {
  const copy = (make: (leaf: Tensor) => Tensor): ParamMap => new Map([...student].map(([name, leaf]) => [name, make(leaf)]))
  return {student, teacher: copy(leaf => tidy(() => leaf.add(0))), moments: {m: copy(zerosLike), v: copy(zerosLike)}, step: 0}
}
const withHeads = (): TrainState =>
  stateFrom(new Map([...flatten({backbone: smallVit(variant.vit, 1)}), ...head(12, 'dino_head', 1), ...head(12, 'ibot_head', 1)]))
const withProjectors = (): TrainState =>
  stateFrom(
    flatten({
      backbone: smallVit(variant.vit, 1),
      cls_projector: initProjector(12, 16, 1, 'cls_projector'),
      patch_projector: initProjector(12, 16, 1, 'patch_projector')
    })
  )

/** Crops of step `step`, unmasked, all patches in the loss. */
const batchAt = (step: number): StepBatch => withAllPatchesInLoss(batchOf(variant, step), 2 * images, 9)

type Numbers = Map<string, Float32Array>
async function read(named: Iterable<readonly [string, Tensor]>): Promise<Numbers> {
  const out: Numbers = new Map()
  for (const [name, leaf] of named) out.set(name, ((await leaf.data()) as Float32Array).slice())
  return out
}

type Kind = 'heads' | 'features'
const kinds: readonly Kind[] = ['heads', 'features']

/** Two steps on the running engine; → what the student and its average became, and the losses. */
async function learn(kind: Kind, more: {accumulate?: number; memory?: 'fast' | 'balanced' | 'small'} = {}) {
  const before = counted()
  const teacher = teacherOf(wide, kind === 'heads')
  const bytes = await read(flatten(teacher.backbone))
  let state = kind === 'heads' ? withHeads() : withProjectors()
  const cache = new TeacherTargetCache(teacher, [3], 12)
  const settings = settingsOf(variant, more)
  const losses: Record<string, number>[] = []
  const living = counted()
  for (let step = 0; step < 2; step++) {
    const batch = batchAt(step)
    let next: {state: TrainState; report: {losses: Readonly<Record<string, number>>}}
    if (kind === 'heads')
      next = trainStep(state, batch, rates, settings, undefined, (parts, widths) => cache.targets(step, parts, 3, widths, rates, settings))
    else {
      let done = (): void => undefined
      next = featureStep(state, batch, rates, {...settings, huber: 0.5}, parts => {
        const said = cache.features(step, parts, 3)
        done = said.done
        return said
      })
      done()
    }
    freeBatch(batch)
    state = next.state
    losses.push(next.report.losses)
    assert.equal(counted(), living, `${kind}: tensors after step ${step}`)
  }
  const after = {student: await read(state.student), average: await read(state.teacher)}
  assert.deepEqual(await read(flatten(teacher.backbone)), bytes, 'the teacher is frozen')
  freeState(state)
  cache.dispose()
  teacher.dispose()
  assert.equal(counted(), before)
  return {...after, losses}
}

const largest = (a: Float32Array, b: Float32Array): number => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

for (const kind of kinds) {
  test(`${kind}: libtorch takes the steps that the reference implementations take; the mask token stands still`, async () => {
    await onPlain()
    const reference = await learn(kind)
    await onTorch()
    const own = await learn(kind)
    for (const [i, losses] of reference.losses.entries())
      for (const [name, value] of Object.entries(losses))
        assert.ok(Math.abs(own.losses[i]![name]! - value) <= 3e-5 * Math.max(Math.abs(value), 0.1), `step ${i + 1}: ${name}`)
    for (const [name, value] of reference.student) {
      if (name.endsWith('qkv.bias')) continue // its key third has a gradient of rounding alone, which AdamW turns into full steps
      assert.ok(largest(own.student.get(name)!, value) < 1e-4, name)
    }
    const start = withHeads()
    assert.deepEqual(own.student.get('backbone.mask_token'), (await read(start.student)).get('backbone.mask_token'))
    freeState(start)
  })

  test(`${kind}: what is kept for the backward pass changes no bit`, async () => {
    await onTorch()
    const fast = await learn(kind)
    for (const memory of ['balanced', 'small'] as const) assert.deepEqual(await learn(kind, {memory}), fast, memory)
  })

  test(`${kind}: a batch in parts is the same batch, but for KoLeo`, async () => {
    await onTorch()
    const [whole, parts] = [await learn(kind), await learn(kind, {accumulate: 3})]
    for (const [name, value] of Object.entries(whole.losses[0]!))
      if (!/koleo|total/.test(name)) assert.ok(Math.abs(parts.losses[0]![name]! - value) < 1e-5 * Math.max(1, Math.abs(value)), name)
  })
}

test('at equal temperatures, with plain softmax targets, on the same crop and without KoLeo, a student equal to its teacher has no gradient', async () => {
  await onTorch()
  const before = counted()
  const state = withHeads()
  const student = unflatten<Network>(state.student)
  const settings = settingsOf(variant, {regularizers: {koleo: 0}})
  const bare = batchOf({...variant, locals: 0})
  const [n, ...sides] = bare.globals.shape
  const twice = tidy(() => {
    const one = slice(bare.globals, [0, 0, 0, 0], [n / 2, ...sides])
    return concat([one, one]) as Tensor4D
  })
  const batch = withAllPatchesInLoss({...bare, globals: twice}, n, 9)
  // The student's own scores as targets, at the student's temperature.
  const own = tidy(() => {
    const {cls, patches} = forward(student.backbone, twice, variant.vit)
    return {
      cls: headForward(cls, student.dino_head).z,
      patches: headForward(reshape(patches, [-1, variant.vit.width]) as Tensor2D, student.ibot_head!).z
    }
  })
  const w = {dino: castHead(student.dino_head, 'fp32'), ibot: castHead(student.ibot_head!, 'fp32')}
  const none = zeros([1, K]) as Tensor2D
  const cls = centeredTargets(lazyLogits(own.cls, w.dino.w), none, 0.1, K)
  const patches = centeredTargets(lazyLogits(own.patches, w.ibot.w), none, 0.1, K)
  const entropy = scalar(0)
  const {grads, report} = studentGradients(student, batch, {cls: cls.targets, patches: patches.targets, entropy}, settings)
  assert.ok(report.losses.dino_global > 0.1 && report.losses.ibot > 0.1)
  for (const [name, grad] of grads) {
    const {data} = await take(grad)
    assert.ok(
      data.every(value => Math.abs(value) < 2e-6),
      `${name}: ${Math.max(...Array.from(data, Math.abs))}`
    )
  }
  dispose([...grads.values(), entropy, none, own.cls, own.patches, twice, bare.globals, bare.masks])
  for (const {targets, mean} of [cls, patches]) dispose([targets.logRowScale, targets.logColumnScale, mean])
  dispose([...w.dino.owned, ...w.ibot.owned])
  freeState(state)
  assert.equal(counted(), before)
})

test('features: a student whose projected tokens are the teacher’s has no loss', async () => {
  await onTorch()
  const start = counted()
  const config = configs.plain
  const teacher = teacherOf(config, false)
  const cache = new TeacherTargetCache(teacher, [3], 12)
  const batch = batchAt(0)
  const parts = splitBatch(batch, 1)
  const {cls, patches, done} = cache.features(0, parts, 3)
  const tokens = tidy(() => {
    const seen = forward(teacher.backbone, batch.globals, config)
    return {cls: standardizeRows(seen.cls), patches: standardizeRows(reshape(seen.patches, [-1, config.width]) as Tensor2D)}
  })
  for (const [said, expected] of [
    [cls, tokens.cls],
    [patches, tokens.patches]
  ] as const)
    assert.ok(largest((await take(said)).data as Float32Array, (await take(expected)).data as Float32Array) < 1e-6)
  done()
  dispose([tokens.cls, tokens.patches])
  freeParts(parts)
  freeBatch(batch)
  cache.dispose()
  teacher.dispose()
  assert.equal(counted(), start)
})

test('another normalization: the teacher sees the image as its own mean and deviation would have made it', async () => {
  await onTorch()
  const start = counted()
  const teacher = teacherOf(configs.plain, false)
  const other: Teacher = {...teacher, normalization: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.25, 0.5]}}
  const batch = batchAt(0)
  const parts = splitBatch(batch, 1)
  const [of, by] = [new TeacherTargetCache(other, [3], 12), new TeacherTargetCache(teacher, [3], 12)]
  const said = await take(of.features(0, parts, 3).cls)
  const again = tidy(() => {
    const raw = batch.globals.mul([0.229, 0.224, 0.225]).add([0.485, 0.456, 0.406])
    return raw.sub(0.5).div([0.5, 0.25, 0.5]) as Tensor4D
  })
  const expected = await take(by.features(0, splitBatch({...batch, globals: again}, 1), 3).cls)
  assert.ok(largest(said.data as Float32Array, expected.data as Float32Array) < 1e-4)
  of.dispose()
  by.dispose()
  again.dispose()
  freeParts(parts)
  freeBatch(batch)
  teacher.dispose()
  assert.ok(counted() - start <= 1) // the masks of the second batch in parts
})

test('targets are freed when the last student has taken them, and one pass serves all', async () => {
  await onTorch()
  const teacher = teacherOf()
  const settings = settingsOf(variant)
  const cache = new TeacherTargetCache(teacher, [3, 2], 12)
  const batch = batchAt(0)
  let passes = 0
  const parts = splitBatch(batch, 1).map(part => ({...part, globals: () => (passes++, part.globals())}))
  const before = counted()
  for (const grid of [3, 2]) {
    const said = cache.targets(0, parts, grid, {dino: K, ibot: K}, rates, settings)
    assert.equal(said.patches!.logits.rows, 2 * images * grid * grid)
    said.entropy.dispose()
    said.dispose()
  }
  assert.equal(passes, 1)
  assert.equal(counted(), before)
  cache.targets(1, parts, 3, {dino: K, ibot: K}, rates, settings).entropy.dispose()
  cache.doneBefore(2)
  cache.leave()
  cache.dispose()
  teacher.dispose()
})
