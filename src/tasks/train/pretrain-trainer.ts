/** DINO, iBOT and KoLeo as something that learns: a step at a time, its numbers read at once or later. */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {rng, type Rng} from '../../tensor/random.js'
import type {LazyBatch, StepBatch} from './batch-parts.js'
import {inspectTeacher} from './inspect-teacher.js'
import {LossScale} from './loss-scale.js'
import {memoryParts} from './memory-usage.js'
import {explainBriefly, explainNonFinite} from './non-finite.js'
import {cropSettings, freeState, ratesAt, scheduleMetrics, stateDict, stepMeasurements, stepSettings} from './pretrain-state.js'
import type {StepResult, Trainer} from './run-types.js'
import type {Sharding} from './sharding.js'
import {freeBatch, stepBatch} from './step-batch.js'
import {StepsAhead} from './steps-ahead.js'
import type {StepRates, TrainState} from './step-types.js'
import type {StepReport} from './student-pass.js'
import {launchStep, trainStep} from './train-step.js'

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
    /** Whether numbers of a step may be read later: of one process, on a device that works while the host goes on. */
    readonly worksAhead?: boolean
  },
  sharding?: Sharding
): Trainer<StepReport> {
  const ahead = new StepsAhead<StepResult<StepReport>>()
  const fixed = {...stepSettings(settings, plan, precision, processes), sharding}
  const crops = cropSettings(settings)
  const scale = precision === 'fp16' ? new LossScale() : undefined
  const withBatch = <T>(made: CropBatch, take: (batch: StepBatch | LazyBatch, rates: StepRates, draws: () => Rng) => T): T => {
    const batch = stepBatch(made, settings.train.batch_size_per_gpu, crops, plan.vit.patch, settings.train.grad_accumulation)
    try {
      return take(batch, ratesAt(plan, made.step), () => dropPathDraws(settings.train.seed, made.step, processes))
    } finally {
      freeBatch(batch)
    }
  }
  return {
    get stepsTaken() {
      return state.step
    },
    stateDict: () => stateDict(state, sharding),
    setStep(step) {
      state = {...state, step}
    },
    step: made =>
      withBatch(made, (batch, rates, draws) => {
        const once = (lossScale?: number) => trainStep(state, batch, rates, {...fixed, lossScale}, draws())
        const stepped = scale ? scale.take(once) : once()
        state = stepped.state
        return resultOf(stepped.report, rates)
      }),
    lossScale: scale,
    ahead:
      worksAhead && !scale // whose steps may have to be taken again
        ? {
            launch: made =>
              withBatch(made, (batch, rates, draws) => {
                state = launchStep(state, batch, rates, fixed, draws(), {
                  add: ({values, report}) => ahead.add({values, report: numbers => resultOf(report(numbers), rates)})
                })
              }),
            settle: () => {
              const first = state.step - ahead.waiting
              const taken = ahead.settle()
              if (first + taken.length === state.step) return {taken}
              state = {...state, step: first + taken.length}
              return {taken, notFinite: state.step}
            }
          }
        : undefined,
    explain: (error, {globals}) =>
      sharding ? explainBriefly(error) : explainNonFinite(error, state, {globals, side: crops.globalSize, vit: plan.vit, precision}),
    inspect: sharding
      ? undefined
      : ({globals}) => inspectTeacher(state.teacher, {globals, side: crops.globalSize}, {vit: plan.vit, precision}),
    model: () => state.teacher,
    gatherModel: sharding && (() => sharding.wholeOnHost(state.teacher)),
    lendModel: sharding && (() => sharding.lend(state.teacher)),
    memory: () => memoryParts(state, precision),
    dispose: () => {
      ahead.dispose()
      freeState(state)
    }
  }
}

const resultOf = (report: StepReport, rates: StepRates): StepResult<StepReport> => ({
  report,
  measured: {...stepMeasurements(report), masked_patches: report.masked},
  rates: scheduleMetrics(rates)
})
