/**
 * Steps as a run takes them: read one by one, or, where the device works while the host goes on, several at once. They
 * are read when a line of metrics, a score or a checkpoint is due, and at least once a second, so that progress is
 * seen; of several processes all read at the same step.
 *
 * A step that turns out not to be finite was left out by the device with all after it. It is taken once more, from its
 * own images, and then says what a step says that was read at once.
 */
import {UserError} from '../../config/errors.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {progressOf} from '../../loss/terms.js'
import type {RunEvent, RunOptions, StepResult, Trainer} from './run-types.js'
import {trainingBatches} from './training-batches.js'

/** Steps are read at least so often, in milliseconds. */
const MOST_UNREAD = 1000

/** Where the numbers of steps go, and what is said where one is not finite. */
export type StepSink = {
  readonly onStep: (measured: StepResult<unknown>['measured'], time: {readonly seconds: number; readonly waited: number}) => void
  /** Called before an error of a step is thrown; → the error of one that is not finite. */
  readonly refuse: (error: unknown, made: CropBatch) => Promise<unknown>
  /** A sentence with the last good checkpoint, for hints. */
  readonly lastGood: () => string
}

export class StepReader<Report> {
  /** What the schedules said of the step that was read last. */
  rates: StepResult<Report>['rates'] = {}
  #launched: {step: number; seconds: number; waited: number}[] = []
  #read = performance.now()

  constructor(
    private readonly learner: Trainer<Report>,
    private readonly options: RunOptions,
    private readonly to: StepSink
  ) {}

  /** Whether steps have not been read for so long that nobody sees progress. */
  get isOverdue(): boolean {
    return performance.now() - this.#read > MOST_UNREAD
  }

  /**
   * Takes a step; → the events of the steps that were read, all of them where `due` says so of this one, which all
   * processes of a run say alike. Throws a `UserError` (exit 6) where one is not finite.
   */
  async take(made: CropBatch, due: (step: number) => boolean): Promise<RunEvent<Report>[]> {
    const {learner} = this
    const from = performance.now()
    const result = learner.ahead ? void learner.ahead.launch(made) : await this.#stepOrRefusal(made)
    this.#launched.push({step: learner.stepsTaken, seconds: (performance.now() - from) / 1000 + made.waitSeconds, waited: made.waitSeconds})
    if (result) return this.#events([result])
    return due(learner.stepsTaken) ? this.settle() : []
  }

  /**
   * Reads what has not been read. With `alone` a step that is not finite is not taken again, which all processes would
   * have to do together.
   */
  async settle({alone = false} = {}): Promise<RunEvent<Report>[]> {
    const {ahead} = this.learner
    if (!ahead || this.#launched.length === 0) return []
    const from = performance.now()
    const {taken, notFinite} = ahead.settle(alone)
    this.#launched.at(-1)!.seconds += (performance.now() - from) / 1000
    this.#read = performance.now()
    if (notFinite !== undefined && !alone) return this.#takeAgain(notFinite)
    return this.#events(taken)
  }

  #events(results: readonly StepResult<Report>[]): RunEvent<Report>[] {
    return results.map(({report, measured, rates}) => {
      const {step, seconds, waited} = this.#launched.shift()!
      this.to.onStep(measured, {seconds, waited})
      this.rates = rates
      return {kind: 'step', step, report, progress: progressOf(measured), dataWait: waited, seconds}
    })
  }

  async #takeAgain(step: number): Promise<never> {
    const batches = this.options.batches?.(step) ?? trainingBatches({...this.options, onRejected: undefined}, step)
    try {
      const next = await batches.next()
      if (!next.done) await this.#stepOrRefusal(next.value)
    } finally {
      await batches.return()
    }
    throw new UserError(`Step ${step + 1} is not finite, and finite when it is taken again.`, {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${this.to.lastGood()}The device does not compute the same numbers twice: check it with dinov2 engine verify.`
    })
  }

  /** Takes one step and reads it. */
  async #stepOrRefusal(made: CropBatch): Promise<StepResult<Report>> {
    try {
      return this.learner.step(made)
    } catch (error) {
      throw await this.to.refuse(error, made)
    }
  }
}
