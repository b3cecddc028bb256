/**
 * The recorded training runs: losses and gradient norms of each step, and what the steps did to every parameter of
 * student and teacher.
 */
import {UserError} from '../../config/errors.js'
import {expectedShapes, inferConfig} from '../../files/checkpoint/architecture.js'
import type {VitConfig} from '../../model/config.js'
import type {ParamMap} from '../../optim/adamw.js'
import {dispose, zeros, zerosLike} from '../../tensor/tf.js'
import type {Tensor2D} from '../../tensor/tf.js'
import type {StepBatch} from '../train/batch-parts.js'
import type {StepSettings, TrainState} from '../train/step-types.js'
import type {StepReport} from '../train/student-pass.js'
import {trainStep} from '../train/train-step.js'
import {images, overridesOf} from './backbone.js'
import {check, LIMITS, maxError, updateError, type Check} from './checks.js'
import {need, engineTensor, type Golden, type RecordedTensor, type RecordedStep, type RecordedTraining} from './golden.js'

type Tensors = ReadonlyMap<string, RecordedTensor>

/** The architecture of a recorded network. Throws a `UserError` where parameters are missing. */
export function architectureOf(init: Tensors, prefix: string, recorded: RecordedTraining['vit'], who: string): VitConfig {
  const shapes = new Map(
    [...init].flatMap(([name, {shape}]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), shape] as const] : []))
  )
  const config = inferConfig(shapes, {}, overridesOf(recorded), who)
  for (const name of expectedShapes(config).keys()) need(init, prefix + name, 'the initial parameters')
  return config
}

/** The tensors of one recorded network, on the engine. */
export const named = (tensors: Tensors, network: string): ParamMap =>
  new Map(
    [...tensors].flatMap(([name, recorded]) =>
      name.startsWith(`${network}.`) ? [[name.slice(network.length + 1), engineTensor(recorded)] as const] : []
    )
  )

/** One run, `train` or `train_untied`, of as many steps as are recorded. */
export async function* verifyTraining(golden: Golden, run: 'train' | 'train_untied'): AsyncGenerator<Check> {
  const training = golden.index[run]
  const {config} = training
  const [init, batches, final] = await Promise.all([
    golden.tensors(`${run}_init`),
    golden.tensors(`${run}_batches`),
    golden.tensors(`${run}_final`)
  ])
  const vit = architectureOf(init, 'student.backbone.', training.vit, 'The recorded student')
  const settings: StepSettings = {
    vit,
    precision: 'fp32',
    centering: training.centering,
    dinoWeight: config.dino_weight,
    ibotWeight: config.ibot_weight,
    regularizers: {koleo: config.koleo_weight},
    studentTemp: config.student_temp,
    dropPath: [],
    clipGrad: config.clip_grad,
    betas: config.betas,
    eps: config.eps,
    rules: {depth: vit.depth, layerwiseDecay: config.layerwise_decay, patchEmbedLrMult: config.patch_embed_lr_mult}
  }
  const student = named(init, 'student')
  const still = (): ParamMap => new Map([...student].map(([name, leaf]) => [name, zerosLike(leaf)]))
  const center = (): Tensor2D => zeros([1, training.head.out_dim])
  let state: TrainState = {
    student,
    teacher: named(init, 'teacher'),
    moments: {m: still(), v: still()},
    step: 0,
    ...(training.centering === 'centering' ? {centers: {dino: center(), ibot: center()}} : {})
  }
  try {
    for (let i = 0; i < config.lr.length; i++) {
      const batch = batchOf(batches, i, `${run}_batches`)
      const rates = {
        lr: config.lr[i]!,
        lastLayerLr: config.last_layer_lr[i]!,
        wd: config.wd[i]!,
        momentum: config.momentum[i]!,
        teacherTemp: config.teacher_temp[i]!
      }
      const step = trainStep(state, batch, rates, settings)
      dispose([batch.globals, batch.masks, ...(batch.locals ? [batch.locals] : [])])
      state = step.state
      for (const recorded of recordedSteps(golden, run, i)) yield* judgeStep(`${run} step ${i + 1}`, step.report, recorded)
    }
    for (const network of ['student', 'teacher'] as const) yield* judgeUpdates(run, network, state[network], init, final)
    for (const which of ['dino', 'ibot'] as const) {
      const recorded = final.get(`center.${which}`)
      if (!recorded && !state.centers) continue
      const computed = state.centers ? await state.centers[which].data() : []
      // A centre starts at zero, so what it has become is its update.
      const error = recorded ? updateError(new Float32Array(recorded.data.length), computed, recorded.data) : NaN
      yield check(run, `center.${which}`, 'update', error, LIMITS.update)
    }
  } finally {
    for (const leaves of [state.student, state.teacher, state.moments.m, state.moments.v]) for (const leaf of leaves.values()) dispose(leaf)
    if (state.centers) dispose(state.centers)
  }
}

/**
 * What is recorded of step `i`. The recorder appends the steps of the second run to those of the first too: both
 * copies are judged.
 */
function recordedSteps({index, folder}: Golden, run: 'train' | 'train_untied', i: number): RecordedStep[] {
  const own = index[run].steps[i]
  if (!own)
    throw new UserError(`The recording in ${folder} has rates for ${index[run].config.lr.length} steps of ${run}, but losses for ${i}.`, {
      code: 'BAD_RECORDING'
    })
  const copy = run === 'train_untied' ? index.train.steps[index.train.config.lr.length + i] : undefined
  return copy ? [own, copy] : [own]
}

/** The crops and masks of step `i`; indices and weights follow from the masks. */
function batchOf(batches: Tensors, i: number, file: string): StepBatch {
  const masks = need(batches, `${i}.masks`, file)
  const [count, N] = masks.shape as [number, number]
  const indices: number[] = []
  const weights: number[] = []
  for (let image = 0; image < count; image++) {
    const own = [...masks.data.subarray(image * N, (image + 1) * N).keys()].filter(j => masks.data[image * N + j] !== 0)
    for (const j of own) {
      indices.push(image * N + j)
      weights.push(1 / own.length)
    }
  }
  return {
    globals: images(need(batches, `${i}.global`, file)),
    locals: images(need(batches, `${i}.local`, file)),
    masks: engineTensor<Tensor2D>(masks),
    indices: Int32Array.from(indices),
    weights: Float32Array.from(weights)
  }
}

/** Losses as they are optimized, and gradient norms before clipping. A recorded number that nothing computes fails. */
function* judgeStep(part: string, {losses, gradNorms, masked}: StepReport, recorded: RecordedStep): Generator<Check> {
  const computed: Readonly<Record<string, number>> = {
    ...losses,
    ...Object.fromEntries(Object.entries(gradNorms).map(([name, norm]) => [`grad_norm_${name}`, norm])),
    n_masked: masked
  }
  for (const [name, value] of Object.entries(recorded)) {
    if (name === 'n_masked') yield check(part, name, 'count', Math.abs(masked - value), 0)
    else
      yield check(
        part,
        name,
        'max',
        maxError([computed[name] ?? NaN], [value]),
        name.startsWith('grad_norm') ? LIMITS.gradient : LIMITS.forward
      )
  }
}

/**
 * The update of every tensor, without the key third of qkv biases: its gradient is zero but for rounding, which AdamW
 * turns into full steps.
 */
async function* judgeUpdates(
  run: string,
  network: 'student' | 'teacher',
  computed: ParamMap,
  init: Tensors,
  final: Tensors
): AsyncGenerator<Check> {
  const names = [...final.keys()].filter(name => name.startsWith(`${network}.`))
  for (const name of names) {
    const leaf = computed.get(name.slice(network.length + 1))
    const [before, after] = [need(init, name, `${run}_init`), need(final, name, `${run}_final`)]
    const third = after.data.length / 3
    const judged = name.endsWith('.attn.qkv.bias') ? (i: number): boolean => i < third || i >= 2 * third : undefined
    const error = leaf ? updateError(before.data, await leaf.data(), after.data, judged) : NaN
    yield check(run, name, 'update', error, LIMITS.update)
  }
  const unrecorded = [...computed.keys()].filter(name => !final.has(`${network}.${name}`)).length
  yield check(run, `${network} parameters without a recorded end`, 'count', unrecorded, 0)
}
