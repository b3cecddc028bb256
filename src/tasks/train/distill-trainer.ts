/**
 * A student as something that learns: its first state, and the step that asks the teacher for targets.
 *
 * S crops of a student's batch, N patches of a crop.
 */
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {initProjector} from '../../model/init.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose} from '../../tensor/tf.js'
import {flatten} from '../../tensor/tree.js'
import {withAllPatchesInLoss} from './batch-parts.js'
import {featureStep} from './feature-distill-step.js'
import type {FeatureReport} from './feature-distill-step.js'
import {memoryParts} from './memory-usage.js'
import {explainBriefly, explainNonFinite} from './non-finite.js'
import {
  cropSettings,
  freeState,
  initState,
  stepMeasurements,
  gradNormMetrics,
  ratesAt,
  scheduleMetrics,
  stateDict,
  stepSettings
} from './pretrain-state.js'
import type {Sharding} from './sharding.js'
import {freeBatch, stepBatch} from './step-batch.js'
import type {StepReport} from './student-pass.js'
import type {TrainState} from './step-types.js'
import {teacherCropSide} from './teacher.js'
import type {TeacherPlan, TeacherTargetCache} from './teacher.js'
import {trainStep} from './train-step.js'
import type {Trainer} from './run-types.js'

export type DistillReport = StepReport | FeatureReport

/**
 * Side at which the teacher sees the global crops. Throws a `UserError` where the setting is no multiple of its patch.
 */
export function teacherSide({distill, crops}: Settings, {path, vit}: Pick<TeacherPlan, 'path' | 'vit'>): number {
  const asked = distill.teacher_crops_size
  if (asked === 0) return teacherCropSide(crops.global_crops_size, vit)
  if (asked % vit.patch === 0) return asked
  throw new UserError(`distill.teacher_crops_size ${asked} is not a multiple of the patch of the teacher ${path}, ${vit.patch} pixels.`, {
    exit: 2,
    code: 'SETTINGS',
    hint: `Try ${teacherCropSide(asked, vit)}.`
  })
}

/**
 * What stands between a student and its teacher and is bridged, in sentences; none where they look at the same
 * patches.
 */
export function describeTeacherMismatch(settings: Settings, {vit}: Derived, teacher: TeacherPlan): string[] {
  const [own, side] = [settings.crops.global_crops_size, teacherSide(settings, teacher)]
  const M = side / teacher.vit.patch
  return [
    ...(side === own ? [] : [`the teacher sees global crops at ${side} pixels, the student at ${own}`]),
    ...(M === vit.grid ? [] : [`the teacher's ${M} × ${M} patches are resampled to the student's ${vit.grid} × ${vit.grid}`]),
    ...(teacher.normalisation
      ? ["images are normalised for the teacher by the mean and deviation that its file names, and for the student by ImageNet's"]
      : [])
  ]
}

/**
 * A student at step 0: backbone, and heads or projectors; its average alike. `spread` makes of its tensors those of
 * this process.
 */
export async function initStudent(
  settings: Settings,
  plan: Derived,
  teacher: TeacherPlan,
  spread: (whole: ParamMap) => ParamMap = whole => whole
): Promise<TrainState> {
  if (teacher.heads) return initState(settings, plan, undefined, spread)
  const none = {layers: 1, hidden: 1, bottleneck: 1, prototypes: 2} // no heads here: the smallest, which are let go
  return initState(settings, {...plan, dinoHead: none, ibotHead: undefined}, undefined, whole => {
    const [from, to, seed] = [plan.vit.width, teacher.vit.width, settings.train.seed]
    const projectors = flatten({
      cls_projector: initProjector(from, to, seed, 'cls_projector'),
      patch_projector: initProjector(from, to, seed, 'patch_projector')
    })
    for (const [name, leaf] of whole)
      if (!name.startsWith('backbone.')) {
        dispose(leaf)
        whole.delete(name)
      }
    for (const [name, leaf] of projectors) whole.set(name, leaf)
    return spread(whole)
  })
}

/** A student as something that learns; `state` is given up to it. It takes its targets from `cache`, once a step. */
export function distillTrainer(
  state: TrainState,
  cache: TeacherTargetCache,
  {
    settings,
    plan,
    precision,
    processes
  }: {readonly settings: Settings; readonly plan: Derived; readonly precision: Precision; readonly processes?: Processes},
  sharding?: Sharding
): Trainer<DistillReport> {
  const fixed = {...stepSettings(settings, plan, precision, processes), sharding}
  const {batch_size_per_gpu: B} = settings.train
  const crops = cropSettings(settings)
  const grid = plan.vit.grid
  const byHeads = cache.teacher.heads !== undefined
  return {
    get stepsTaken() {
      return state.step
    },
    stateDict: () => stateDict(state, sharding),
    setStep(step) {
      state = {...state, step}
    },
    step(made) {
      const whole = unmaskedBatch(made, 2 * B, grid * grid)
      const none = {indices: new Int32Array(0), weights: new Float32Array(0)} // a loss of no weight is not computed
      const batch = stepBatch(
        byHeads && settings.ibot.loss_weight === 0 ? {...whole, ...none} : whole,
        B,
        crops,
        plan.vit.patch,
        settings.train.grad_accumulation
      )
      try {
        const rates = ratesAt(plan, made.step)
        if (byHeads) {
          const stepped = trainStep(state, batch, rates, fixed, undefined, (parts, widths) =>
            cache.targets(made.step, parts, grid, widths, rates, fixed)
          )
          state = stepped.state
          return {report: stepped.report, measured: stepMeasurements(stepped.report), rates: scheduleMetrics(rates)}
        }
        const {huber} = settings.distill
        let done = (): void => undefined
        const stepped = featureStep(state, batch, rates, {...fixed, huber}, parts => {
          const wanted = cache.features(made.step, parts, grid)
          done = wanted.done
          return wanted
        })
        done()
        state = stepped.state
        const {losses, clsCosine} = stepped.report
        const {teacher_temp: _, last_layer_lr: _last, ...shown} = scheduleMetrics(rates)
        return {
          report: stepped.report,
          measured: {
            ...losses,
            ...gradNormMetrics(stepped.report),
            ...(clsCosine === undefined ? {} : {cls_cosine: clsCosine})
          },
          rates: shown
        }
      } finally {
        freeBatch(batch)
      }
    },
    explain: (error, {globals}) => {
      if (sharding) return explainBriefly(error)
      const found = explainNonFinite(error, state, {globals, side: crops.globalSize, vit: plan.vit, precision})
      return {...found, layer: found.layer.replace('of the teacher', 'of the student’s average')}
    },
    model: () => state.teacher,
    gatherModel: sharding && (() => sharding.wholeOnHost(state.teacher)),
    lendModel: sharding && (() => sharding.lend(state.teacher)),
    memory: () => memoryParts(state, precision),
    dispose: () => freeState(state)
  }
}

/**
 * The grid of patches on which a student wants targets; 0 where it takes no loss on them. Features are always handed
 * on for both.
 */
export const patchTargetGrid = ({ibot}: Settings, {vit}: Derived, {heads}: TeacherPlan): number =>
  heads && ibot.loss_weight === 0 ? 0 : vit.grid

/** A batch with nothing masked and all patches in the patch loss. */
const unmaskedBatch = (made: CropBatch, crops: number, patches: number): CropBatch =>
  withAllPatchesInLoss({...made, masks: new Uint8Array(crops * patches)}, crops, patches)
