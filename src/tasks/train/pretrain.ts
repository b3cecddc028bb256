/**
 * Pretraining: images in, a trained backbone out, as a generator of plain events.
 *
 * Every step is a pure function of (settings, seed, step, images): which images, which crops, which masks, which
 * sequences stochastic depth keeps. So the state of a run is its parameters, moments, centres and its step, and a
 * resumed run goes on as if it had never stopped. The run around the steps is `run.ts`.
 */
import {worksAhead, type EngineInfo} from '../../engine/start.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {trainingOf} from './follow-training.js'
import {latestValidCheckpoint} from './checkpoint-writer.js'
import {shardingOf} from './spread.js'
import {runTraining} from './training-loop.js'
import {pretrainTrainer} from './pretrain-trainer.js'
import type {RunEvent, RunOptions} from './run-types.js'
import type {StepReport} from './student-pass.js'
import {cropSettings, computingOf, initState} from './pretrain-state.js'

export type PretrainOptions = Omit<RunOptions, 'crops' | 'computing'> & {
  readonly precision: Precision
  /** What computes, as a checkpoint records it. */
  readonly engine?: EngineInfo
}

export type PretrainEvent = RunEvent<StepReport>

/** Trains from step 0, or from the newest checkpoint; as `runTraining`. */
export async function* pretrain(options: PretrainOptions): AsyncGenerator<PretrainEvent> {
  const {settings, plan, precision, engine} = options
  // A run that goes on from a checkpoint has all it needs there; the weights it once began with may be gone.
  const goingOn = options.resume === true && (await latestValidCheckpoint(options.run)).path !== undefined
  const {processes} = options
  const spreading = shardingOf(settings, precision, processes)
  const state = await initState(settings, plan, goingOn ? '' : undefined, spreading.spread)
  const learner = pretrainTrainer(state, {...options, worksAhead: worksAhead(engine)}, spreading.sharding)
  yield* trainingOf<StepReport>(runTraining)(learner, {
    ...options,
    crops: cropSettings(settings),
    computing: computingOf(precision, engine, processes)
  })
}
