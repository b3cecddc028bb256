/**
 * The recorded step of distillation, from a teacher with heads and from one without: losses, gradient norms, the
 * gradient of every parameter of the student, and what the step made of it. Judged where the recording holds one.
 */
import {existsSync} from 'node:fs'
import {readText} from '../../system/plain-file.js'
import {castForInference} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import type {Head} from '../../model/head.js'
import type {ParamMap} from '../../optim/adamw.js'
import {Tensor, dispose, tidy, zeros, zerosLike} from '../../tensor/tf.js'
import type {Tensor2D} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import {featureGradients, featureStep} from '../train/feature-distill-step.js'
import type {FeatureNetwork} from '../train/feature-distill-step.js'
import {TeacherTargetCache} from '../train/teacher.js'
import type {Teacher} from '../train/teacher.js'
import {freeParts, splitBatch, withAllPatchesInLoss} from '../train/batch-parts.js'
import {studentGradients} from '../train/student-pass.js'
import {castHead} from '../train/teacher-targets.js'
import {trainStep} from '../train/train-step.js'
import type {StepBatch} from '../train/batch-parts.js'
import type {Network, StepRates, StepSettings, TrainState} from '../train/step-types.js'
import {images} from './backbone.js'
import {check, compareTensor, LIMITS, maxError, updateError, type Check} from './checks.js'
import {distillationKind, parseRecorded} from './recorded-kinds.js'
import {need, type Golden, type RecordedTensor} from './golden.js'
import {architectureOf, named} from './training.js'

type Tensors = ReadonlyMap<string, RecordedTensor>

/** `distill.json`: what was recorded of each case. */
type RecordedCase = {
  readonly losses: Readonly<Record<string, number>>
  readonly total: number
  readonly grad_norms: Readonly<Record<string, number>>
}
type RecordedDistillation = {
  readonly lr: number
  readonly wd: number
  readonly momentum: number
  readonly teacher_temp: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly clip_grad: number
  readonly koleo_weight: number
  readonly huber: number
  readonly student: {readonly heads: number}
  readonly teacher: {readonly heads: number}
  readonly heads: RecordedCase
  readonly features: RecordedCase
}

/**
 * Yields one verdict after the other; nothing where the recording has no such step. Throws a `UserError` where it is
 * damaged.
 */
export async function* verifyDistillation(golden: Golden): AsyncGenerator<Check> {
  const file = golden.path('distill.json')
  if (!existsSync(file)) return
  const recorded = parseRecorded(await readText(file), file, distillationKind) as RecordedDistillation
  yield* verifyHeads(await golden.tensors('distill_heads'), recorded)
  yield* verifyFeatures(await golden.tensors('distill_features'), recorded)
}

/** A recorded teacher as it teaches; its weights are read from the recording. */
function teacherOf(tensors: Tensors, heads: number, withHeads: boolean): Teacher {
  const prefix = 'teacher.backbone.'
  const vit = architectureOf(tensors, prefix, {num_heads: heads}, 'The recorded teacher')
  const masters = named(tensors, 'teacher.backbone')
  const {params} = castForInference(unflatten<Vit>(masters), 'fp32')
  const head = (name: string): {own: ParamMap; copy: ReturnType<typeof castHead>} => {
    const own = named(tensors, `teacher.${name}`)
    return {own, copy: castHead(unflatten<Head>(own), 'fp32')}
  }
  const made = withHeads ? {dino: head('dino_head'), ibot: head('ibot_head')} : undefined
  const all = new Set<Tensor>([...masters.values(), ...leavesOf(params)])
  return {
    path: 'the recording',
    vit,
    parameters: 0,
    bytes: () => 0,
    precision: 'fp32',
    fingerprint: '',
    backbone: params,
    ...(made ? {copies: {dino: made.dino.copy, ibot: made.ibot.copy}} : {}),
    dispose: () => {
      dispose([...all])
      for (const one of made ? [made.dino, made.ibot] : []) dispose([...one.own.values(), ...one.copy.owned])
    }
  }
}

const leavesOf = (tree: object): Tensor[] =>
  Object.values(tree).flatMap(value =>
    value instanceof Tensor ? [value] : typeof value === 'object' && value !== null ? leavesOf(value as object) : []
  )

function beginning(
  tensors: Tensors,
  {student, clip_grad, betas, eps, koleo_weight}: RecordedDistillation
): {state: TrainState; settings: StepSettings} {
  const vit = architectureOf(tensors, 'student.backbone.', {num_heads: student.heads}, 'The recorded student')
  const own = named(tensors, 'student')
  const copy = (make: (x: Tensor) => Tensor): ParamMap => new Map([...own].map(([name, leaf]) => [name, make(leaf)]))
  return {
    state: {student: own, teacher: copy(leaf => tidy(() => leaf.add(0))), moments: {m: copy(zerosLike), v: copy(zerosLike)}, step: 0},
    settings: {
      vit,
      precision: 'fp32',
      centering: 'sinkhorn_knopp',
      dinoWeight: 1,
      ibotWeight: 1,
      regularizers: {koleo: koleo_weight},
      studentTemp: 0.1,
      dropPath: [],
      clipGrad: clip_grad,
      betas,
      eps,
      rules: {depth: vit.depth, layerwiseDecay: 1, patchEmbedLrMult: 1}
    }
  }
}

const ratesOf = ({lr, wd, momentum, teacher_temp}: RecordedDistillation): StepRates => ({
  lr,
  lastLayerLr: lr,
  wd,
  momentum,
  teacherTemp: teacher_temp
})

function batchOf(tensors: Tensors, settings: StepSettings, file: string): StepBatch {
  const globals = images(need(tensors, 'globals', file))
  const [crops, side] = globals.shape
  const N = (side / settings.vit.patch) ** 2
  const bare = {
    globals,
    ...(tensors.has('locals') ? {locals: images(need(tensors, 'locals', file))} : {}),
    masks: zeros([crops, N]) as Tensor2D,
    indices: new Int32Array(0),
    weights: new Float32Array(0)
  }
  return withAllPatchesInLoss(bare, crops, N)
}

const freeBatch = ({globals, locals, masks}: StepBatch): void => dispose([globals, masks, ...(locals ? [locals] : [])])

async function* verifyHeads(tensors: Tensors, recorded: RecordedDistillation): AsyncGenerator<Check> {
  const part = 'distillation by heads'
  const {state, settings} = beginning(tensors, recorded)
  const teacher = teacherOf(tensors, recorded.teacher.heads, true)
  const batch = batchOf(tensors, settings, 'distill_heads')
  const grid = Math.sqrt(batch.masks.shape[1])
  const cache = new TeacherTargetCache(teacher, [grid], batch.globals.shape[1])
  const rates = ratesOf(recorded)
  try {
    // Gradients for targets wanted once; then the step itself, for which the teacher is asked again.
    const parts = splitBatch(batch, 1)
    const K = need(tensors, 'teacher.dino_head.last_layer.weight_v', 'distill_heads').shape[0]!
    const wanted = cache.targets(0, parts, grid, {dino: K, ibot: K}, rates, {...settings, memory: 'balanced'})
    const {grads} = studentGradients(unflatten<Network>(state.student), batch, wanted, {...settings, memory: 'balanced'})
    dispose(wanted.entropy)
    freeParts(parts)
    wanted.dispose()
    yield* judgeGradients(part, grads, tensors)
    const {state: next, report} = trainStep(state, batch, rates, settings, undefined, (own, widths) =>
      cache.targets(1, own, grid, widths, rates, settings)
    )
    yield* judgeNumbers(part, report, recorded.heads)
    yield* judgeEnd(part, next.student, tensors)
  } finally {
    cache.dispose()
    freeBatch(batch)
    freeAll(state, teacher)
  }
}

async function* verifyFeatures(tensors: Tensors, recorded: RecordedDistillation): AsyncGenerator<Check> {
  const part = 'distillation of features'
  const {state, settings: bare} = beginning(tensors, recorded)
  const settings = {...bare, huber: recorded.huber}
  const teacher = teacherOf(tensors, recorded.teacher.heads, false)
  const batch = batchOf(tensors, settings, 'distill_features')
  const grid = Math.sqrt(batch.masks.shape[1])
  const cache = new TeacherTargetCache(teacher, [grid], batch.globals.shape[1])
  try {
    const parts = splitBatch(batch, 1)
    const wanted = cache.features(0, parts, grid)
    const {grads} = featureGradients(unflatten<FeatureNetwork>(state.student), parts, wanted, settings)
    freeParts(parts)
    wanted.done()
    yield* judgeGradients(part, grads, tensors)
    const {state: next, report} = featureStep(state, batch, ratesOf(recorded), settings, own => cache.features(1, own, grid))
    yield* judgeNumbers(part, report, recorded.features)
    yield* judgeEnd(part, next.student, tensors)
  } finally {
    cache.dispose()
    freeBatch(batch)
    freeAll(state, teacher)
  }
}

/** The mask token has no gradient in the recording, since nothing was masked. */
async function* judgeGradients(part: string, grads: ParamMap, tensors: Tensors): AsyncGenerator<Check> {
  for (const [name, grad] of grads) {
    const recorded = tensors.get(`grad.${name}`)
    if (recorded) yield await compareTensor(part, `grad.${name}`, grad, recorded, LIMITS.gradient)
  }
  const missing = [...tensors.keys()].filter(name => name.startsWith('grad.') && !grads.has(name.slice(5)))
  yield check(part, 'recorded gradients that nothing computes', 'count', missing.length, 0)
  dispose([...grads.values()])
}

function* judgeNumbers(
  part: string,
  {losses, gradNorms}: {losses: Readonly<Record<string, number>>; gradNorms: Readonly<Record<string, number>>},
  recorded: RecordedCase
): Generator<Check> {
  const own = (name: string): number => losses[name] ?? losses[`${name}_loss`] ?? NaN
  for (const [name, value] of Object.entries(recorded.losses))
    yield check(part, name, 'max', maxError([own(name)], [value]), LIMITS.forward)
  yield check(part, 'total', 'max', maxError([losses['total'] ?? NaN], [recorded.total]), LIMITS.forward)
  for (const [name, value] of Object.entries(recorded.grad_norms))
    yield check(part, `grad_norm_${name}`, 'max', maxError([gradNorms[name] ?? NaN], [value]), LIMITS.gradient)
}

/**
 * What the step made of the student. The key third of qkv biases is left out: its gradient is zero but for rounding,
 * which AdamW turns into full steps.
 */
async function* judgeEnd(part: string, student: ParamMap, tensors: Tensors): AsyncGenerator<Check> {
  for (const [name, leaf] of student) {
    const [before, after] = [need(tensors, `student.${name}`, part), need(tensors, `final.student.${name}`, part)]
    const third = after.data.length / 3
    const judged = name.endsWith('.attn.qkv.bias') ? (i: number): boolean => i < third || i >= 2 * third : undefined
    yield check(part, `final.student.${name}`, 'update', updateError(before.data, await leaf.data(), after.data, judged), LIMITS.update)
  }
}

/** The step changes a state in place, or puts new tensors into its maps: either way they hold what is to be freed. */
function freeAll({student, teacher: average, moments}: TrainState, teacher: Teacher): void {
  for (const own of [student, average, moments.m, moments.v]) dispose([...own.values()])
  teacher.dispose()
}
