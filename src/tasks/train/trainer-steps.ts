/**
 * The steps of a trainer and the state that they change: read one by one, or launched and read together.
 *
 * In float16 a step whose gradients overflow is taken again with a smaller loss scale. Where steps are read together
 * that is found out later: the device has left this step out with all after it, and they are launched once more, from
 * the scale that held before the first of them. Each step so begins with the scale it would have had alone.
 */
import type {CropBatch} from '../../data/loader/crop-batches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {LossScale} from './loss-scale.js'
import type {StepResult, Trainer} from './run-types.js'
import {StepsAhead} from './steps-ahead.js'
import type {TrainState} from './step-types.js'

/** How a learner takes a step; each consumes the state. */
export type StepTaker<Report> = {
  /** Reads the step at once. Throws `NotFiniteStep`, with the state as it was. */
  readonly take: (state: TrainState, made: CropBatch, lossScale?: number) => {state: TrainState; result: StepResult<Report>}
  /** Gives what was measured to `add`, to be read later. */
  readonly launch: (
    state: TrainState,
    made: CropBatch,
    {add, lossScale}: Pick<StepsAhead<StepResult<Report>>, 'add'> & {readonly lossScale?: number | undefined}
  ) => TrainState
}

export class TrainerSteps<Report extends {readonly losses: Readonly<Record<string, number>>}> {
  readonly lossScale: LossScale | undefined
  readonly ahead: Trainer<Report>['ahead']
  readonly #unread = new StepsAhead<StepResult<Report>>()
  /** Steps that may have to be launched again, each with the scale before it; kept in float16 alone. */
  #launched: {readonly made: CropBatch; readonly before: ReturnType<LossScale['kept']>}[] = []

  constructor(
    public state: TrainState,
    private readonly taker: StepTaker<Report>,
    /** `worksAhead`: numbers of a step may be read later, on a device that works while the host goes on. */
    {precision, worksAhead = false}: {readonly precision: Precision; readonly worksAhead?: boolean | undefined}
  ) {
    this.lossScale = precision === 'fp16' ? new LossScale() : undefined
    this.ahead = worksAhead ? {launch: made => this.#launch(made), settle: alone => this.#settle(alone)} : undefined
  }

  /** Takes a step and reads it. Throws `NotFiniteStep` where it cannot be taken. */
  take(made: CropBatch): StepResult<Report> {
    const once = (lossScale?: number) => this.taker.take(this.state, made, lossScale)
    const {state, result} = this.lossScale ? this.lossScale.take(once) : once()
    this.state = state
    return result
  }

  #launch(made: CropBatch): void {
    if (this.lossScale) this.#launched.push({made, before: this.lossScale.kept()})
    this.state = this.taker.launch(this.state, made, {add: step => this.#unread.add(step), lossScale: this.lossScale?.next()})
  }

  #settle(alone = false): {taken: StepResult<Report>[]; notFinite?: number} {
    const all: StepResult<Report>[] = []
    for (;;) {
      const first = this.state.step - this.#unread.waiting
      const {taken, failed} = this.#unread.settle()
      all.push(...taken)
      const left = this.#launched.slice(taken.length)
      this.#launched = []
      if (!failed) return {taken: all}
      this.state = {...this.state, step: first + taken.length}
      const overflows = Object.values(failed.report.losses).every(Number.isFinite)
      const [{before} = {before: undefined}] = left
      if (before) this.lossScale!.restore(before)
      if (alone || !before || !overflows || !this.lossScale!.halve(before)) return {taken: all, notFinite: this.state.step}
      for (const {made} of left) this.#launch(made)
    }
  }

  dispose(): void {
    this.#unread.dispose()
  }
}
