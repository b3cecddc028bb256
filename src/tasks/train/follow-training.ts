/**
 * A training run as processes other than process 0 go through it: the same steps on other images, and nothing is
 * written. `training-loop.ts` is the run of process 0.
 */
import {UserError} from '../../config/errors.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {checkpointPath} from '../../files/checkpoint/training-state.js'
import {NotFiniteStep} from './non-finite.js'
import {assertSameCourse, carriedOver, compareSetups, imageSet, loadStateDict} from './resume.js'
import type {RunEvent, RunOptions, Trainer} from './run-types.js'
import {agreeOnStep, beginTogether, nextBatch, rejectionsOf} from './step-agreement.js'
import {StepReader} from './step-reader.js'
import {trainingBatches} from './training-batches.js'

/** Takes the steps of a run beside process 0. Throws `UserError` as `runTraining`, and what ends another process. */
async function* followTraining<Report>(learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const {plan, settings, processes, evaluation, acceptChanges = false} = options
  try {
    const goesOn = await beginTogether(processes, learner, {path: undefined, resumes: false}, async name => {
      const path = checkpointPath(options.run, name)
      const own = {
        settings,
        plan,
        computing: options.computing,
        set: imageSet(options.images),
        teacherFingerprint: options.teacherFingerprint
      }
      const {step, metadata} = await loadStateDict(path, learner.stateDict(), before =>
        assertSameCourse(path, compareSetups(before, own), acceptChanges)
      )
      learner.setStep(step)
      learner.lossScale?.restore(carriedOver(metadata, path).lossScale)
    })
    if (goesOn) yield {kind: 'resumed', step: learner.stepsTaken, path: undefined, changes: []} // as process 0, whose order is this one's
    const onRejected = rejectionsOf(processes, undefined)
    const batches = options.batches?.(learner.stepsTaken) ?? trainingBatches({...options, onRejected}, learner.stepsTaken)
    const steps = new StepReader(learner, options, {onStep: () => undefined, lastGood: () => '', refuse: refusal})
    const {log_every, checkpoint_every} = settings.train
    const everys = [log_every, checkpoint_every, ...(evaluation ? [evaluation.every] : [])]
    try {
      if (evaluation?.before && learner.stepsTaken === 0) await evaluation.run(learner)
      for (;;) {
        const next = await nextBatch(batches, options)
        if (next.done) break
        const {stop, overdue} = await agreeOnStep(options, steps.isOverdue)
        const events = await steps.take(next.value, step => overdue || step === plan.steps || everys.some(every => step % every === 0))
        const {stepsTaken: step} = learner
        if (options.inStep && learner.ahead) yield {kind: 'launched', step}
        yield* events
        if (evaluation && (step % evaluation.every === 0 || step === plan.steps)) await evaluation.run(learner)
        if (stop) yield* await steps.settle()
        if (step % checkpoint_every === 0 || step === plan.steps || stop) await readAlong(learner, options)
        if (stop && step < plan.steps) return void (await processes?.exchange({end: true}))
      }
      learner.gatherModel?.()
      await processes?.exchange({end: true}) // process 0 has written what it keeps
    } finally {
      await batches.return()
    }
  } finally {
    learner.dispose()
  }
}

/** Takes part in a checkpoint where no process has the state whole. */
async function readAlong<Report>(learner: Trainer<Report>, {processes}: RunOptions): Promise<void> {
  if (!learner.gatherModel) return
  await processes?.exchange({checkpoint: learner.stepsTaken})
  for (const {read} of learner.stateDict().values()) read?.()
}

/** The error of a step; one that is not finite is explained by process 0, which meets the same numbers. */
const refusal = async (error: unknown, {step}: CropBatch): Promise<unknown> =>
  error instanceof NotFiniteStep
    ? new UserError(`Step ${step + 1} is not finite.`, {exit: 6, code: 'NOT_FINITE', hint: 'Process 0 says where it began.'})
    : error

/** The run of this process: that of process 0 by `main`, or one that follows it. */
export const trainingOf =
  <Report>(main: (learner: Trainer<Report>, options: RunOptions) => AsyncGenerator<RunEvent<Report>>) =>
  (learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> =>
    (options.processes?.rank ?? 0) > 0 ? followTraining(learner, options) : main(learner, options)
