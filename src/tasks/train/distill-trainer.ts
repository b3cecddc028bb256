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
import type {BatchPart, LazyBatch, StepBatch} from './batch-parts.js'
import {featureStep, launchFeatureStep} from './feature-distill-step.js'
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
import type {StepRates, StepSettings, TrainState} from './step-types.js'
import {teacherCropSide} from './teacher.js'
import type {FeatureTargets, TeacherPlan, TeacherTargetCache} from './teacher.js'
import {launchStep, trainStep} from './train-step.js'
import type {Guide} from './train-step.js'
import {TrainerSteps} from './trainer-steps.js'
import type {StepTaker} from './trainer-steps.js'
import type {StepResult, Trainer} from './run-types.js'

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
    ...(teacher.normalization
      ? ["images are normalized for the teacher by the mean and deviation that its file names, and for the student by ImageNet's"]
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
    processes,
    worksAhead
  }: {
    readonly settings: Settings
    readonly plan: Derived
    readonly precision: Precision
    readonly processes?: Processes
    /** Whether numbers of a step may be read later: on a device that works while the host goes on. */
    readonly worksAhead?: boolean
  },
  sharding?: Sharding
): Trainer<DistillReport> {
  const fixed = {...stepSettings(settings, plan, precision, processes), sharding}
  const crops = cropSettings(settings)
  const taker = cache.teacher.heads ? headsTaker : featuresTaker
  const steps = new TrainerSteps(state, taker(cache, fixed, {settings, plan}), {precision, worksAhead})
  return {
    get stepsTaken() {
      return steps.state.step
    },
    stateDict: () => stateDict(steps.state, sharding),
    setStep(step) {
      steps.state = {...steps.state, step}
    },
    step: made => steps.take(made),
    lossScale: steps.lossScale,
    ahead: steps.ahead,
    explain: (error, {globals}) => {
      if (sharding) return explainBriefly(error)
      const found = explainNonFinite(error, steps.state, {globals, side: crops.globalSize, vit: plan.vit, precision})
      return {...found, layer: found.layer.replace('of the teacher', 'of the student’s average')}
    },
    model: () => steps.state.teacher,
    gatherModel: sharding && (() => sharding.wholeOnHost(steps.state.teacher)),
    lendModel: sharding && (() => sharding.lend(steps.state.teacher)),
    memory: () => memoryParts(steps.state, precision),
    dispose: () => {
      steps.dispose()
      freeState(steps.state)
    }
  }
}

type Course = {readonly settings: Settings; readonly plan: Derived}

/** Calls `take` with the tensors of a batch, which are let go afterwards, and the rates of its step. */
function withBatch<T>(
  made: CropBatch,
  {settings, plan}: Course,
  patchLoss: boolean,
  take: (batch: StepBatch | LazyBatch, rates: StepRates) => T
): T {
  const {batch_size_per_gpu: B, grad_accumulation: parts} = settings.train
  const whole = unmaskedBatch(made, 2 * B, plan.vit.grid ** 2)
  const none = {indices: new Int32Array(0), weights: new Float32Array(0)} // a loss of no weight is not computed
  const batch = stepBatch(patchLoss ? whole : {...whole, ...none}, B, cropSettings(settings), plan.vit.patch, parts)
  try {
    return take(batch, ratesAt(plan, made.step))
  } finally {
    freeBatch(batch)
  }
}

/** Steps towards the targets of a teacher's heads. */
function headsTaker(cache: TeacherTargetCache, fixed: StepSettings, course: Course): StepTaker<DistillReport> {
  const patchLoss = course.settings.ibot.loss_weight !== 0
  const guideOf =
    (step: number, rates: StepRates): Guide =>
    (parts, widths) =>
      cache.targets(step, parts, course.plan.vit.grid, widths, rates, fixed)
  return {
    take: (now, made, lossScale) =>
      withBatch(made, course, patchLoss, (batch, rates) => {
        const taken = trainStep(now, batch, rates, {...fixed, lossScale}, undefined, guideOf(made.step, rates))
        return {state: taken.state, result: headResult(taken.report, rates)}
      }),
    launch: (now, made, {add, lossScale}) =>
      withBatch(made, course, patchLoss, (batch, rates) =>
        launchStep(now, batch, rates, {...fixed, lossScale}, undefined, {
          add: ({values, report}) => add({values, report: numbers => headResult(report(numbers), rates)}),
          guide: guideOf(made.step, rates)
        })
      )
  }
}

/** Steps towards a teacher's features. */
function featuresTaker(cache: TeacherTargetCache, fixed: StepSettings, course: Course): StepTaker<DistillReport> {
  const {huber} = course.settings.distill
  /** Takes a step whose features the teacher may let go afterwards. */
  const withFeatures = <T>(step: number, take: (teach: (parts: readonly BatchPart[]) => FeatureTargets) => T): T => {
    let done = (): void => undefined
    const taken = take(parts => {
      const wanted = cache.features(step, parts, course.plan.vit.grid)
      done = wanted.done
      return wanted
    })
    done()
    return taken
  }
  return {
    take: (now, made, lossScale) =>
      withBatch(made, course, true, (batch, rates) => {
        const own = {...fixed, huber, lossScale}
        const taken = withFeatures(made.step, teach => featureStep(now, batch, rates, own, teach))
        return {state: taken.state, result: featureResult(taken.report, rates)}
      }),
    launch: (now, made, {add, lossScale}) =>
      withBatch(made, course, true, (batch, rates) =>
        withFeatures(made.step, teach =>
          launchFeatureStep(
            now,
            batch,
            rates,
            {...fixed, huber, lossScale},
            {
              add: ({values, report}) => add({values, report: numbers => featureResult(report(numbers), rates)}),
              teach
            }
          )
        )
      )
  }
}

const headResult = (report: StepReport, rates: StepRates): StepResult<DistillReport> => ({
  report,
  measured: stepMeasurements(report),
  rates: scheduleMetrics(rates)
})

function featureResult(report: FeatureReport, rates: StepRates): StepResult<DistillReport> {
  const {losses, clsCosine} = report
  const {teacher_temp: _, last_layer_lr: _last, ...shown} = scheduleMetrics(rates)
  const measured = {...losses, ...gradNormMetrics(report), ...(clsCosine === undefined ? {} : {cls_cosine: clsCosine})}
  return {report, measured, rates: shown}
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
