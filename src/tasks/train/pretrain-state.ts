/** What pretraining begins with and what its schedules say: settings of a step, state, crops, and names of metrics. */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import type {CropSettings} from '../../data/augment/multi-crop.js'
import type {EngineInfo} from '../../engine/start.js'
import {initHead, initVit} from '../../model/init.js'
import type {ParamMap} from '../../optim/adamw.js'
import {cosine} from '../../optim/schedule.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, tidy, zeros, zerosLike} from '../../tensor/tf.js'
import type {Tensor, Tensor2D} from '../../tensor/tf.js'
import {flatten} from '../../tensor/tree.js'
import {regularizerWeights} from './gradient-sums.js'
import {weightsFor} from './init-weights.js'
import {loadStateDict} from './resume.js'
import type {Computing} from './resume.js'
import {stateDictOf} from './state-dict.js'
import type {TensorSlot} from './state-dict.js'
import {type Sharding} from './sharding.js'
import type {StepRates, StepSettings, TrainState} from './step-types.js'
import type {StepReport} from './student-pass.js'

/** The parts of the step's settings that the plan gives. */
export const stepSettings = (settings: Settings, plan: Derived, precision: Precision, processes?: Processes): StepSettings => {
  const {dino, ibot, train, optim} = settings
  return {
    vit: plan.vit,
    precision,
    centering: train.centering,
    dinoWeight: dino.loss_weight,
    ibotWeight: ibot.loss_weight,
    regularizers: regularizerWeights(settings),
    studentTemp: 0.1,
    dropPath: plan.dropPath,
    clipGrad: optim.clip_grad,
    betas: [optim.adamw_beta1, optim.adamw_beta2],
    eps: 1e-8,
    rules: {depth: plan.vit.depth, layerwiseDecay: optim.layerwise_decay, patchEmbedLrMult: optim.patch_embed_lr_mult},
    memory: train.memory,
    accumulate: train.grad_accumulation,
    processes,
    koleo: train.koleo,
    headWarmup: plan.headWarmup
  }
}

/** What the schedules say about step number `step`, counted from 0. */
export const ratesAt = ({curves, headWarmup}: Derived, step: number): StepRates => ({
  lr: cosine(curves.lr, step),
  ...(headWarmup > 0 ? {backboneLr: step < headWarmup ? 0 : cosine(curves.backboneLr, step - headWarmup)} : {}),
  lastLayerLr: cosine(curves.lastLayerLr, step),
  wd: cosine(curves.weightDecay, step),
  momentum: cosine(curves.momentum, step),
  teacherTemp: cosine(curves.teacherTemperature, step)
})

/**
 * A state at step 0: student and teacher alike, moments zero. `weights` names what they start from; where it is empty,
 * or has no heads that fit, they are drawn. `spread` makes of the student's tensors those of this process.
 */
export async function initState(
  settings: Settings,
  plan: Derived,
  weights = settings.student.pretrained_weights,
  spread: (whole: ParamMap) => ParamMap = whole => whole
): Promise<TrainState> {
  const seed = settings.train.seed
  const given: ParamMap = weights ? await weightsFor(weights, plan, seed) : new Map()
  const drawn = flatten({
    ...(weights ? {} : {backbone: initVit(plan.vit, seed, settings.student.layerscale)}),
    dino_head: initHead({width: plan.vit.width, ...plan.dinoHead}, seed, 'dino_head'),
    ...(plan.ibotHead ? {ibot_head: initHead({width: plan.vit.width, ...plan.ibotHead}, seed, 'ibot_head')} : {})
  })
  const whole: ParamMap = new Map([...given].filter(([name]) => name.startsWith('backbone.'))) // before the heads, as where it is drawn
  for (const [name, leaf] of drawn) {
    const own = given.get(name)
    if (own) dispose(leaf)
    whole.set(name, own ?? leaf)
  }
  const student = spread(whole)
  const copy = (make: (x: Tensor) => Tensor): ParamMap => new Map([...student].map(([name, leaf]) => [name, make(leaf)]))
  const K = plan.dinoHead.prototypes
  return {
    student,
    teacher: copy(leaf => tidy(() => leaf.add(0))), // a copy of the numbers: the average changes in place
    moments: {m: copy(zerosLike), v: copy(zerosLike)},
    ...(settings.train.centering === 'centering'
      ? {centers: {dino: zeros([1, K]) as Tensor2D, ibot: zeros([1, plan.ibotHead?.prototypes ?? K]) as Tensor2D}}
      : {}),
    step: 0
  }
}

/** Where the tensors of a state lie, by their names in a checkpoint file. */
export function stateDict(state: TrainState, sharding?: Sharding): Map<string, TensorSlot> {
  const {student, teacher, moments, centers} = state
  const groups = {student, teacher, moment1: moments.m, moment2: moments.v}
  const places = sharding ? sharding.stateDictOf(groups) : stateDictOf(groups)
  if (centers)
    for (const key of ['dino', 'ibot'] as const)
      places.set(`center.${key}`, {
        get: () => centers[key],
        put: value => {
          dispose(centers[key])
          centers[key] = value as Tensor2D
        }
      })
  return places
}

/** Fills a state from a checkpoint file. Throws a `UserError` where names or shapes differ, with all differences. */
export async function loadState(path: string, state: TrainState): Promise<TrainState & {metadata: Readonly<Record<string, string>>}> {
  const {step, metadata} = await loadStateDict(path, stateDict(state))
  return {...state, step, metadata}
}

/** Lets all tensors of a state go. */
export function freeState({student, teacher, moments, centers}: TrainState): void {
  for (const named of [student, teacher, moments.m, moments.v]) dispose([...named.values()])
  if (centers) dispose([centers.dino, centers.ibot])
}

/** The crops that the settings ask for. */
export const cropSettings = ({crops, train}: Settings): CropSettings => ({
  decode: train.decode,
  globalSize: crops.global_crops_size,
  localSize: crops.local_crops_size,
  globalScale: crops.global_crops_scale,
  localScale: crops.local_crops_scale,
  localCount: crops.local_crops_number,
  blur: crops.blur,
  blurSigma: [0.1, crops.blur_sigma_max],
  jitter: {
    brightness: crops.jitter_brightness,
    contrast: crops.jitter_contrast,
    saturation: crops.jitter_saturation,
    hue: crops.jitter_hue,
    probability: crops.jitter_prob
  },
  grey: crops.grayscale_prob,
  solarize: crops.solarize_prob,
  flip: crops.horizontal_flip_prob,
  verticalFlip: crops.vertical_flip_prob,
  quarterTurns: crops.quarter_turns
})

/** Gradient norms, as metrics name them. */
export const gradNormMetrics = ({gradNorms}: Pick<StepReport, 'gradNorms'>): Record<string, number> =>
  Object.fromEntries(Object.entries(gradNorms).map(([name, norm]) => [`grad_norm_${name}`, norm]))

/** What computes, as checkpoints record it. */
export const computingOf = (precision: Precision, engine: EngineInfo | undefined, processes?: Processes): Computing => ({
  precision,
  processes: processes?.size,
  ...(engine ? {engine: `${engine.engine} ${engine.version}`, device: engine.device, threads: engine.threads} : {})
})

/** What a step over prototypes measured, as metrics name it. */
export const stepMeasurements = (report: Omit<StepReport, 'masked'>): Record<string, number> => ({
  ...report.losses,
  ...gradNormMetrics(report),
  teacher_entropy: report.teacherEntropy,
  ...(report.clsCosine === undefined ? {} : {cls_cosine: report.clsCosine})
})

/** What the schedules said, as metrics name it. */
export const scheduleMetrics = (rates: StepRates): Record<string, number> => ({
  lr: rates.lr,
  ...(rates.backboneLr === undefined ? {} : {backbone_lr: rates.backboneLr}),
  last_layer_lr: rates.lastLayerLr,
  wd: rates.wd,
  momentum: rates.momentum,
  teacher_temp: rates.teacherTemp
})
