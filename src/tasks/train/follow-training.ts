/**
 * A training run as processes other than process 0 go through it: the same steps on other images, and nothing is
 * written. `training-loop.ts` is the run of process 0.
 */
import {progressOf} from '../../loss/terms.js'
import {assertSameCourse, compareSetups, imageSet, loadStateDict} from './resume.js'
import type {RunEvent, RunOptions, Trainer} from './run-types.js'
import {agreeOnStep, beginTogether, nextBatch, rejectionsOf} from './step-agreement.js'
import {trainingBatches} from './training-batches.js'

/** Takes the steps of a run beside process 0. Throws `UserError` as `runTraining`, and what ends another process. */
async function* followTraining<Report>(learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const {plan, settings, processes, acceptChanges = false} = options
  try {
    await beginTogether(processes, learner, undefined, async path => {
      const own = {
        settings,
        plan,
        computing: options.computing,
        set: imageSet(options.images),
        teacherFingerprint: options.teacherFingerprint
      }
      const {step} = await loadStateDict(path, learner.stateDict(), before =>
        assertSameCourse(path, compareSetups(before, own), acceptChanges)
      )
      learner.setStep(step)
    })
    yield {kind: 'resumed', step: learner.stepsTaken, path: undefined, changes: []}
    const onRejected = rejectionsOf(processes, undefined)
    const batches = options.batches?.(learner.stepsTaken) ?? trainingBatches({...options, onRejected}, learner.stepsTaken)
    try {
      for (;;) {
        const next = await nextBatch(batches, options)
        if (next.done) break
        const stop = await agreeOnStep(options)
        const from = performance.now()
        const {report, measured} = learner.step(next.value)
        const {stepsTaken: step} = learner
        const {waitSeconds} = next.value
        yield {
          kind: 'step',
          step,
          report,
          progress: progressOf(measured),
          dataWait: waitSeconds,
          seconds: (performance.now() - from) / 1000 + waitSeconds
        }
        if (stop) break
      }
      await processes?.exchange({end: true}) // process 0 has written what it keeps
    } finally {
      await batches.return()
    }
  } finally {
    learner.dispose()
  }
}

/** The run of this process: that of process 0 by `main`, or one that follows it. */
export const trainingOf =
  <Report>(main: (learner: Trainer<Report>, options: RunOptions) => AsyncGenerator<RunEvent<Report>>) =>
  (learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> =>
    (options.processes?.rank ?? 0) > 0 ? followTraining(learner, options) : main(learner, options)
