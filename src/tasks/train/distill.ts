/**
 * Distillation: a frozen teacher's knowledge handed on to one or several students, as a generator of plain events
 * (paper section 5; docs/spec.md §2.11).
 *
 * As pretraining, but for what follows from a frozen teacher: its targets do not move with the student, nothing is
 * masked, the patch loss is taken on all patches of both global crops, and stochastic depth is off. An average of the
 * student is kept beside it, in the teacher's place in a checkpoint, and is the model that is judged and kept at last.
 * Several students go in step through one stream of batches and one pass of the teacher; each has a run folder of its
 * own and comes out as it would alone.
 */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import type {CropBatch} from '../../data/loader/batches.js'
import {SharedBatches} from '../../data/loader/shared-batches.js'
import type {EngineInfo} from '../../engine/start.js'
import {atomicFile} from '../../system/atomic.js'
import {runNames} from '../../files/run/run-folder.js'
import {initProjector} from '../../model/init.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {type Tensor, dispose, tidy, zerosLike} from '../../tensor/tf.js'
import {flatten} from '../../tensor/tree.js'
import {autoBatch} from './auto-batch.js'
import type {AutoBatch} from './auto-batch.js'
import {estimateCost} from './cost-estimate.js'
import type {CostEstimate, TeacherCost} from './cost-estimate.js'
import {featureStep} from './feature-distill-step.js'
import type {FeatureReport} from './feature-distill-step.js'
import {memoryParts} from './memory-usage.js'
import {explainNonFinite} from './non-finite.js'
import {onlineEval} from './online-eval.js'
import type {OnlineEvalOptions} from './online-eval.js'
import {
  computingOf,
  cropSettings,
  freeBatch,
  freeState,
  initState,
  stepMeasurements,
  gradNormMetrics,
  ratesAt,
  scheduleMetrics,
  stateDict,
  stepBatch,
  stepSettings
} from './pretrain.js'
import {runTraining, trainingBatches} from './training-loop.js'
import type {Evaluation, Trainer, RunEvent, RunOptions} from './training-loop.js'
import {TeacherTargetCache, loadTeacher, teacherCropSide} from './teacher.js'
import type {Teacher, TeacherPlan} from './teacher.js'
import {withAllPatchesInLoss} from './batch-parts.js'
import {trainStep} from './train-step.js'
import type {TrainState} from './step-types.js'
import type {StepReport} from './student-pass.js'

export type DistillReport = StepReport | FeatureReport

/** One student of a run. */
export type Student = {
  readonly settings: Settings
  readonly plan: Derived
  /** Its run folder, and its settings as they stand there. */
  readonly run: string
  readonly yaml: string
  readonly evaluation?: Evaluation
}

export type DistillOptions = Pick<
  RunOptions,
  'images' | 'version' | 'resume' | 'force' | 'acceptChanges' | 'signal' | 'onRejected' | 'shouldContinue'
> & {
  readonly teacher: Teacher
  readonly students: readonly Student[]
  readonly precision: Precision
  readonly engine?: EngineInfo
  /**
   * What the teacher itself scores; kept in each run folder, so that a report of the student has it beside its own
   * scores.
   */
  readonly teacherScores?: Readonly<Record<string, number>>
}

/** What happens to a student, told by its place in the list. */
export type DistillEvent = {readonly student: number; readonly event: RunEvent<DistillReport>}

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

/** A student at step 0: backbone, and heads or projectors; its average alike. */
async function initStudent(settings: Settings, plan: Derived, teacher: TeacherPlan): Promise<TrainState> {
  if (teacher.heads) return initState(settings, plan)
  const none = {layers: 1, hidden: 1, bottleneck: 1, prototypes: 2} // no heads here: the smallest, which are let go
  const state = await initState(settings, {...plan, dinoHead: none, ibotHead: undefined})
  const [from, to, seed] = [plan.vit.width, teacher.vit.width, settings.train.seed]
  const projectors = flatten({
    cls_projector: initProjector(from, to, seed, 'cls_projector'),
    patch_projector: initProjector(from, to, seed, 'patch_projector')
  })
  const exchange = (named: ParamMap, make: (leaf: Tensor) => Tensor): void => {
    for (const [name, leaf] of named)
      if (!name.startsWith('backbone.')) {
        dispose(leaf)
        named.delete(name)
      }
    for (const [name, leaf] of projectors) named.set(name, make(leaf))
  }
  exchange(state.teacher, leaf => tidy(() => leaf.add(0)))
  exchange(state.moments.m, zerosLike)
  exchange(state.moments.v, zerosLike)
  exchange(state.student, leaf => leaf)
  return state
}

/** A student as something that learns; `state` is given up to it. It asks `lessons` once a step. */
function distillTrainer(
  state: TrainState,
  lessons: TeacherTargetCache,
  {settings, plan, precision}: {readonly settings: Settings; readonly plan: Derived; readonly precision: Precision}
): Trainer<DistillReport> {
  const fixed = stepSettings(settings, plan, precision)
  const crops = cropSettings(settings)
  const grid = plan.vit.grid
  const byHeads = lessons.teacher.heads !== undefined
  return {
    get stepsTaken() {
      return state.step
    },
    stateDict: () => stateDict(state),
    setStep(step) {
      state = {...state, step}
    },
    step(made) {
      const whole = unmaskedBatch(made, 2 * plan.batch, grid * grid)
      const none = {indices: new Int32Array(0), weights: new Float32Array(0)} // a loss of no weight is not computed
      const batch = stepBatch(
        byHeads && settings.ibot.loss_weight === 0 ? {...whole, ...none} : whole,
        plan.batch,
        crops,
        plan.vit.patch,
        settings.train.accumulate
      )
      try {
        const rates = ratesAt(plan, made.step)
        if (byHeads) {
          const stepped = trainStep(state, batch, rates, fixed, undefined, (parts, widths) =>
            lessons.targets(made.step, parts, grid, widths, rates, fixed)
          )
          state = stepped.state
          return {report: stepped.report, measured: stepMeasurements(stepped.report), rates: scheduleMetrics(rates)}
        }
        const {huber} = settings.distill
        let done = (): void => undefined
        const stepped = featureStep(state, batch, rates, {...fixed, huber}, parts => {
          const said = lessons.features(made.step, parts, grid)
          done = said.done
          return said
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
      const found = explainNonFinite(error, state, {globals, side: crops.globalSize, vit: plan.vit, precision})
      return {...found, layer: found.layer.replace('of the teacher', 'of the student’s average')}
    },
    model: () => state.teacher,
    memory: () => memoryParts(state, precision),
    dispose: () => freeState(state)
  }
}

/**
 * The grid of patches on which a student wants targets; 0 where it takes no loss on them. Features are always handed
 * on for both.
 */
const patchTargetGrid = ({ibot}: Settings, {vit}: Derived, {heads}: TeacherPlan): number => (heads && ibot.loss_weight === 0 ? 0 : vit.grid)

/** A batch with nothing masked and all patches in the patch loss. */
const unmaskedBatch = (made: CropBatch, crops: number, patches: number): CropBatch =>
  withAllPatchesInLoss({...made, masks: new Uint8Array(crops * patches)}, crops, patches)

/**
 * Teaches all students to the end of their plans, or until `signal` aborts or `shouldContinue` says no. The
 * teacher stays the
 * caller's.
 *
 * Throws as `runTraining` does for one student; the others then stop first, each with a checkpoint.
 */
export async function* distill(options: DistillOptions): AsyncGenerator<DistillEvent> {
  const {teacher, students, precision, engine, images, signal, onRejected} = options
  const first = students[0]!
  const crops = cropSettings(first.settings)
  const lessons = new TeacherTargetCache(
    teacher,
    students.map(({settings, plan}) => patchTargetGrid(settings, plan, teacher)),
    teacherSide(first.settings, teacher)
  )
  const computing = computingOf(precision, engine)
  const shared = new SharedBatches(
    start => trainingBatches({images, settings: first.settings, plan: first.plan, crops, onRejected}, start),
    first.plan.steps
  )
  const stop = new AbortController()
  const pass = (): void => stop.abort(signal?.reason)
  if (signal?.aborted) pass()
  signal?.addEventListener('abort', pass, {once: true})
  const runs: AsyncGenerator<RunEvent<DistillReport>>[] = []
  try {
    for (const student of students) {
      const {settings, plan} = student
      const learner = distillTrainer(await initStudent(settings, plan, teacher), lessons, {settings, plan, precision})
      runs.push(
        runTraining(learner, {
          ...options,
          ...student,
          crops,
          computing,
          teacherFingerprint: teacher.fingerprint,
          signal: stop.signal,
          batches: start => shared.from(start)
        })
      )
    }
    const told = new Set<number>()
    for await (const event of interleaveRuns(runs, lessons, () => stop.abort())) {
      if (options.teacherScores && event.event.kind === 'step' && !told.has(event.student)) {
        told.add(event.student)
        await writeTeacherScores(students[event.student]!.run, teacher, options.teacherScores)
      }
      yield event
    }
  } finally {
    signal?.removeEventListener('abort', pass)
    for (const run of runs) await run.return(undefined)
    lessons.dispose()
  }
}

/** Writes `teacher.json` of a run folder: which teacher it was, and its scores. */
const writeTeacherScores = async (run: string, {path, parameters}: Teacher, scores: Readonly<Record<string, number>>): Promise<void> =>
  atomicFile(
    join(run, runNames.teacher),
    async file => writeFile(file, `${JSON.stringify({teacher: path, parameters, ...scores}, null, 2)}\n`),
    {
      force: true
    }
  )

/** Pulls the runs so that none takes a step before all have taken the one before it. */
async function* interleaveRuns(
  runs: readonly AsyncGenerator<RunEvent<DistillReport>>[],
  lessons: TeacherTargetCache,
  stopAll: () => void
): AsyncGenerator<DistillEvent> {
  const steps = new Map(runs.map((_, i) => [i, -1]))
  let failure: {readonly error: unknown} | undefined
  while (steps.size > 0) {
    let student = -1
    for (const [i, step] of steps) if (student < 0 || step < steps.get(student)!) student = i
    try {
      const next = await runs[student]!.next()
      if (next.done) {
        steps.delete(student)
        lessons.leave()
        continue
      }
      const event = next.value
      if (event.kind === 'step' || event.kind === 'resumed') steps.set(student, event.step)
      yield {student, event}
    } catch (error) {
      failure ??= {error}
      steps.delete(student)
      lessons.leave()
      stopAll()
    }
    if (steps.size > 0) lessons.doneBefore(Math.min(...steps.values()))
  }
  if (failure) throw failure.error
}

/** Nearest-neighbour scores of the teacher itself on a labelled set, by which its students' scores can be judged. */
export async function scoreTeacher(
  teacher: Teacher,
  options: Omit<OnlineEvalOptions, 'vit' | 'precision'>
): Promise<Readonly<Record<string, number>>> {
  const made = await onlineEval({...options, vit: teacher.vit, precision: teacher.precision})
  return made.run(flatten({backbone: teacher.backbone}))
}

/** The largest batch with which one student can be taught, as `autoBatch`. The teacher stays the caller's. */
export async function batchForStudent(
  settings: Settings,
  {teacher, ...options}: {teacher: Teacher; precision: Precision; device: string; images: number}
): Promise<AutoBatch> {
  return autoBatch(settings, {
    ...options,
    learn: async (own, plan, precision) => {
      const lessons = new TeacherTargetCache(teacher, [patchTargetGrid(own, plan, teacher)], teacherSide(own, teacher))
      const learner = distillTrainer(await initStudent(own, plan, teacher), lessons, {settings: own, plan, precision})
      return {
        ...learner,
        stepsTaken: 0,
        dispose: () => {
          learner.dispose()
          lessons.dispose()
        }
      }
    }
  })
}

/** What a teacher costs in a forecast. */
const teacherCost = (settings: Settings, precision: Precision, plan: TeacherPlan): TeacherCost => ({
  vit: plan.vit,
  heads: plan.heads,
  side: teacherSide(settings, plan),
  bytes: plan.bytes(precision)
})

/**
 * What teaching one student will need, as `bill`: tried where it fits, else counted. The teacher is loaded only where
 * steps are tried, and let go.
 */
export async function estimateDistillCost({
  teacher: known,
  ...options
}: Omit<Parameters<typeof estimateCost>[0], 'begin' | 'teacher'> & {readonly teacher: TeacherPlan}): Promise<CostEstimate> {
  const {settings, plan, precision} = options
  const opened: {teacher: Teacher; lessons: TeacherTargetCache}[] = []
  try {
    return await estimateCost({
      ...options,
      teacher: teacherCost(settings, precision, known),
      begin: async () => {
        const teacher = await loadTeacher(known, precision)
        const lessons = new TeacherTargetCache(teacher, [patchTargetGrid(settings, plan, teacher)], teacherSide(settings, teacher))
        opened.push({teacher, lessons})
        return distillTrainer(await initStudent(settings, plan, teacher), lessons, options)
      }
    })
  } finally {
    for (const {teacher, lessons} of opened) {
      lessons.dispose()
      teacher.dispose()
    }
  }
}
