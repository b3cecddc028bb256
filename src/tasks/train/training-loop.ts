/**
 * The course of a training run around its steps: batches in, metrics, checkpoints, evaluations and warnings out,
 * stopped and resumed at will.
 *
 * What learns is a `Trainer`; everything else is here, so that pretraining and whatever else trains on crops runs,
 * stops and goes on in the same way. Which batch comes at a step is a pure function of seed and step, and a checkpoint
 * holds the learner's tensors with the sums of the line of metrics that is open: so a run that goes on from it writes
 * the same lines and the same numbers as one that was never stopped.
 */
import {rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import {describeLoad} from '../../data/loader/load-stats.js'
import type {Batches} from '../../data/loader/load-stats.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {clearRun, openRun, runNames, removeTemporaries} from '../../files/run/run-folder.js'
import {stateMetadata} from '../../files/checkpoint/training-state.js'
import {lockRun} from '../../system/lock.js'
import {atomicFile} from '../../system/atomic.js'
import {CheckpointWriter, latestValidCheckpoint} from './checkpoint-writer.js'
import {assessHealth, windowSize, HealthWatch, type Scale} from './health.js'
import {improvementOf} from './improvement.js'
import {Averages, logLine, MetricsLog, otherMetrics} from './metrics-log.js'
import {NotFiniteStep} from './non-finite.js'
import type {Metrics} from './metrics-log.js'
import {assertSameCourse, carriedOver, compareSetups, imageSet, loadStateDict, stateRecord} from './resume.js'
import type {Change, RecordedSetup} from './resume.js'
import {refuseStep} from './run-failures.js'
import type {Evaluation, RunEvent, RunOptions, Trainer} from './run-types.js'
import {agreeOnStep, beginTogether, nextBatch, rejectionsOf} from './step-agreement.js'
import {saveFinal} from './save-final.js'
import {StepReader} from './step-reader.js'
import {trainingBatches} from './training-batches.js'

/**
 * Trains to the end of the plan, or until `signal` aborts or `shouldContinue` says no; then a checkpoint is
 * written first.
 *
 * Throws `UserError`: what `openRun`, `lockRun` and resuming refuse (exit 1, 2, 3); a step that is not finite (exit
 * 6), with the layer, and `not-finite.json` in the run folder; no image can be read any more (exit 4), with a
 * checkpoint; the last checkpoint, the model or the metrics could not be written (exit 1).
 */
export async function* runTraining<Report>(learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const {run, resume = false, force = false} = options
  try {
    await openRun(run, {force, resume})
    const lock = await lockRun(run)
    try {
      yield* underLock(learner, options)
    } finally {
      await lock.release()
    }
  } finally {
    learner.dispose()
  }
}

async function* underLock<Report>(learner: Trainer<Report>, given: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const options = {...given, onRejected: rejectionsOf(given.processes, given.onRejected)}
  const {run, settings, plan} = options
  const recorded = recordOf(options)
  const averages = new Averages()
  await removeTemporaries(run)
  const found = options.resume ? await resumeRun(learner, recorded, averages, options) : undefined
  const begun: Resumed = found?.resumed ?? {history: [], last: undefined}
  if (!found) await clearRun(run)
  await beginTogether(options.processes, learner, {path: begun.last, resumes: found !== undefined})
  if (found) yield found.event
  await atomicFile(join(run, runNames.config), async path => writeFile(path, options.yaml), {force: true})
  const log = await MetricsLog.open(run, learner.stepsTaken)
  const pending: RunEvent<Report>[] = [] // of what ends while a step is taken
  const warn = warnOnce(message => pending.push({kind: 'warning', message}))
  const checkpoints = new CheckpointWriter({
    run,
    train: settings.train,
    last: begun.last,
    sync: () => log.sync(),
    onWritten: (step, path) => {
      warn('checkpoint', undefined, '')
      pending.push({kind: 'checkpoint', step, path})
    },
    onFailure: (failure, last) =>
      warn('checkpoint', failure, `Training goes on${last ? ` (the last good checkpoint is ${last})` : ''}; the next is tried at its time.`)
  })
  const checkpoint = async (): Promise<void> => {
    const step = learner.stepsTaken
    if (learner.gatherModel) {
      await checkpoints.settle() // the others read along with this process, and must not wait for a disk
      await options.processes?.exchange({checkpoint: step})
    }
    const now = {step, window: averages.kept(), lossScale: learner.lossScale?.kept(), metrics: await log.mark()}
    const metadata = stateRecord({...recorded, ...now, history: begun.history})
    return checkpoints.write(step, learner.stateDict(), metadata)
  }
  const write = async (line: Parameters<MetricsLog['write']>[0]): Promise<void> => {
    await log.write(line)
    warn('metrics', log.failure, 'Training goes on, and what is missing is added as soon as there is room.')
  }
  const batches = options.batches?.(learner.stepsTaken) ?? trainingBatches(options, learner.stepsTaken)
  try {
    const course = {averages, checkpoints, checkpoint, write, pending, batches}
    if (yield* takeSteps(learner, options, course)) return void (await options.processes?.exchange({end: true}))
    yield {kind: 'loaded', words: describeLoad(batches.stats())}
    const model = await saveFinal(learner, options).catch(async (error: unknown) => {
      await checkpoints.settle()
      throw error
    })
    await checkpoints.settle()
    yield* pending.splice(0)
    checkpoints.assertWritten(`The model stands in ${model} all the same. `)
    if (log.metricsFailure) throw log.metricsFailure
    await options.processes?.exchange({end: true})
    yield finished(learner.stepsTaken, model, await log.lines(), healthScale(settings, plan))
  } finally {
    await batches.return()
    await checkpoints.settle().catch(() => undefined)
    await log.close()
  }
}

/** What the steps of a run work with. */
type Course<Report> = {
  readonly averages: Averages
  readonly checkpoints: CheckpointWriter
  readonly checkpoint: () => Promise<void>
  readonly write: (line: Parameters<MetricsLog['write']>[0]) => Promise<void>
  readonly pending: RunEvent<Report>[]
  readonly batches: Batches<CropBatch>
}

/** Takes the steps that are left; true where the run was stopped before its end, with a checkpoint. */
async function* takeSteps<Report>(
  learner: Trainer<Report>,
  options: RunOptions,
  {averages, checkpoints, checkpoint, write, pending, batches}: Course<Report>
): AsyncGenerator<RunEvent<Report>, boolean> {
  const {settings, plan, signal, evaluation, shouldContinue} = options
  const {train} = settings
  const watch = new HealthWatch(healthScale(settings, plan), Math.max(plan.curves.lr.warmup, plan.steps / 10))
  const evaluate = async (judge: Evaluation): Promise<RunEvent<Report>> => {
    const {stepsTaken: step} = learner
    const from = performance.now()
    const scores = await judge.run(learner)
    await write({metrics: {step, ...scores}})
    return {kind: 'scores', step, scores, seconds: (performance.now() - from) / 1000}
  }
  const steps = new StepReader(learner, options, {
    onStep: (measured, time) => averages.add(measured, time),
    lastGood: () => checkpoints.lastGood,
    refuse: async (error, made) => {
      await checkpoints.settle()
      return error instanceof NotFiniteStep ? refuseStep(options.run, learner.explain(error, made), made, checkpoints.lastGood) : error
    }
  })
  const everys = [train.log_every, train.checkpoint_every, ...(evaluation ? [evaluation.every] : [])]
  let written = learner.stepsTaken // the step of the last checkpoint
  if (evaluation?.before && learner.stepsTaken === 0) yield await evaluate(evaluation)
  for (;;) {
    const next = await nextBatch(batches, options).catch(async (error: unknown) => {
      await steps.settle({alone: options.processes !== undefined})
      if (learner.stepsTaken > written && !learner.gatherModel) await checkpoint()
      await checkpoints.settle()
      throw withoutImages(error, learner.stepsTaken, checkpoints.lastGood)
    })
    if (next.done) return false
    const made = next.value
    const {stop: agreed, overdue} = await agreeOnStep(options, steps.isOverdue)
    const events = await steps.take(made, step => overdue || step === plan.steps || everys.some(every => step % every === 0))
    const {stepsTaken: step} = learner
    if (options.inStep && learner.ahead) yield {kind: 'launched', step}
    yield* events
    if (step % train.log_every === 0 || step === plan.steps) {
      const line = logLine(step, averages.take(), {...steps.rates, ...learner.inspect?.(made)}, plan.batch, learner.memory?.() ?? {})
      await write(line)
      const metrics = {...line.metrics, ...line.timings}
      yield {kind: 'metrics', metrics}
      for (const message of watch.see(metrics)) yield {kind: 'warning', message}
    }
    if (evaluation && (step % evaluation.every === 0 || step === plan.steps)) yield await evaluate(evaluation)
    const stopping = agreed ?? (signal?.aborted === true || shouldContinue?.() === false)
    if (stopping) yield* await steps.settle()
    if (step % train.checkpoint_every === 0 || step === plan.steps || stopping) {
      await checkpoint()
      written = step
    }
    if (stopping && step < plan.steps) {
      await checkpoints.settle()
      yield* pending.splice(0)
      checkpoints.assertWritten()
      yield {kind: 'loaded', words: describeLoad(batches.stats())}
      yield {kind: 'stopped', step, path: checkpoints.last!}
      return true
    }
    yield* pending.splice(0)
  }
}

type Resumed = {readonly history: readonly Change[]; readonly last: string | undefined}
type CheckpointRecord = Omit<RecordedSetup, 'step' | 'window' | 'metrics' | 'history' | 'lossScale'>

const recordOf = ({version, settings, plan, computing, images, teacherFingerprint}: RunOptions): CheckpointRecord => ({
  version,
  settings,
  plan,
  computing,
  set: imageSet(images),
  teacherFingerprint
})

const healthScale = ({dino, train}: Settings, {dinoHead, batch, steps}: Derived): Scale => ({
  prototypes: dinoHead.prototypes,
  weight: dino.loss_weight,
  rows: train.centering === 'sinkhorn_knopp' ? 2 * batch : undefined,
  steps
})

/** Fills the learner and the averages from the newest checkpoint of the run, where there is one. */
async function resumeRun<Report>(
  learner: Trainer<Report>,
  recorded: CheckpointRecord,
  averages: Averages,
  {run, acceptChanges = false}: RunOptions
): Promise<{resumed: Resumed; event: RunEvent<Report>}> {
  const {path, damaged} = await latestValidCheckpoint(run)
  if (path === undefined) return {resumed: {history: [], last: undefined}, event: {kind: 'resumed', step: 0, path, changes: damaged}}
  const lost = await otherMetrics(run, (await stateMetadata(path))['metrics'])
  const compared = (before: Parameters<typeof compareSetups>[0]): ReturnType<typeof compareSetups> => {
    const found = compareSetups(before, recorded)
    return lost === undefined ? found : {...found, course: [...found.course, lost]}
  }
  const {step, metadata} = await loadStateDict(path, learner.stateDict(), before => assertSameCourse(path, compared(before), acceptChanges))
  learner.setStep(step)
  const kept = carriedOver(metadata, path)
  averages.restore(kept.window)
  learner.lossScale?.restore(kept.lossScale)
  const {course, carried, digits} = compared(metadata)
  const changes = [
    ...damaged,
    ...course.map(change => `${change}: the rest is no longer what the unbroken run would have been`),
    ...carried.map(change => `${change}: what is computed stays the same`),
    ...digits.map(change => `${change}: the last digits may differ from those of the unbroken run`)
  ]
  await rm(join(run, runNames.notFinite), {force: true}) // what stopped it is behind it, or will come again
  const history = course.length > 0 ? [...kept.history, {step, changes: course}] : kept.history
  return {resumed: {history, last: path}, event: {kind: 'resumed', step, path, changes}}
}

/** Warns of each matter once, until it is mended. */
function warnOnce(say: (message: string) => void): (about: string, failure: UserError | undefined, after: string) => void {
  const warned = new Set<string>()
  return (about, failure, after) => {
    if (failure === undefined) warned.delete(about)
    else if (!warned.has(about)) {
      warned.add(about)
      say(`${failure.message} ${after}`)
    }
  }
}

/** The error of a run whose images are gone, with the way back. */
const withoutImages = (error: unknown, step: number, lastGood: string): unknown =>
  error instanceof UserError && step > 0
    ? new UserError(error.message, {
        exit: error.exit,
        code: error.code,
        hint: `${lastGood}When the images are there again, go on with --resume.`
      })
    : error

/** The event of a run that came to its end, with how healthy it is. */
function finished<Report>(step: number, model: string, all: readonly Metrics[], scale: Scale): RunEvent<Report> {
  const lines = all.filter(({total}) => total !== undefined).slice(-windowSize)
  const health = lines.length > 0 ? assessHealth(lines, scale) : {healthy: true, words: 'no step was taken'}
  const worth = improvementOf(all.map(({step: at, ...values}) => ({step: at, values: new Map(Object.entries(values))})))
  return {kind: 'finished', step, model, health, ...(worth ? {worth} : {})}
}
