/** DINO, iBOT and KoLeo as something that learns: a step at a time, its numbers read at once or later. */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {rng, type Rng} from '../../tensor/random.js'
import type {LazyBatch, StepBatch} from './batch-parts.js'
import {inspectTeacher} from './inspect-teacher.js'
import {memoryParts} from './memory-usage.js'
import {explainBriefly, explainNonFinite} from './non-finite.js'
import {cropSettings, freeState, ratesAt, scheduleMetrics, stateDict, stepMeasurements, stepSettings} from './pretrain-state.js'
import type {StepResult, Trainer} from './run-types.js'
import type {Sharding} from './sharding.js'
import {freeBatch, stepBatch} from './step-batch.js'
import type {StepRates, TrainState} from './step-types.js'
import type {StepReport} from './student-pass.js'
import {launchStep, trainStep} from './train-step.js'
import {TrainerSteps} from './trainer-steps.js'
import type {StepTaker} from './trainer-steps.js'

/** The draws of stochastic depth at a step: of each process its own. */
const dropPathDraws = (seed: number, step: number, processes: Processes | undefined): Rng =>
  processes && processes.rank > 0 ? rng(seed, 'drop path', step, processes.rank) : rng(seed, 'drop path', step)

/** DINO, iBOT and KoLeo as something that learns; `state` is given up to it. */
export function pretrainTrainer(
  state: TrainState,
  {
    settings,
    plan,
    precision,
    processes,
    worksAhead = false
  }: {
    readonly settings: Settings
    readonly plan: Derived
    readonly precision: Precision
    readonly processes?: Processes
    /** Whether numbers of a step may be read later: on a device that works while the host goes on. */
    readonly worksAhead?: boolean
  },
  sharding?: Sharding
): Trainer<StepReport> {
  const fixed = {...stepSettings(settings, plan, precision, processes), sharding}
  const crops = cropSettings(settings)
  const withBatch = <T>(made: CropBatch, take: (batch: StepBatch | LazyBatch, rates: StepRates, draws: Rng) => T): T => {
    const batch = stepBatch(made, settings.train.batch_size_per_gpu, crops, plan.vit.patch, settings.train.grad_accumulation)
    try {
      return take(batch, ratesAt(plan, made.step), dropPathDraws(settings.train.seed, made.step, processes))
    } finally {
      freeBatch(batch)
    }
  }
  const taker: StepTaker<StepReport> = {
    take: (now, made, lossScale) =>
      withBatch(made, (batch, rates, draws) => {
        const {state: next, report} = trainStep(now, batch, rates, {...fixed, lossScale}, draws)
        return {state: next, result: resultOf(report, rates)}
      }),
    launch: (now, made, {add, lossScale}) =>
      withBatch(made, (batch, rates, draws) =>
        launchStep(now, batch, rates, {...fixed, lossScale}, draws, {
          add: ({values, report}) => add({values, report: numbers => resultOf(report(numbers), rates)})
        })
      )
  }
  const steps = new TrainerSteps(state, taker, {precision, worksAhead})
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
    explain: (error, {globals}) =>
      sharding ? explainBriefly(error) : explainNonFinite(error, steps.state, {globals, side: crops.globalSize, vit: plan.vit, precision}),
    inspect: sharding
      ? undefined
      : ({globals}) => inspectTeacher(steps.state.teacher, {globals, side: crops.globalSize}, {vit: plan.vit, precision}),
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

const resultOf = (report: StepReport, rates: StepRates): StepResult<StepReport> => ({
  report,
  measured: {...stepMeasurements(report), masked_patches: report.masked},
  rates: scheduleMetrics(rates)
})
