/**
 * Pretraining: images in, a trained backbone out, as a generator of plain events.
 *
 * Every step is a pure function of (settings, seed, step, images): which images, which crops, which masks, which
 * sequences stochastic depth keeps. So the state of a run is its parameters, moments, centres and its step, and a
 * resumed run goes on as if it had never stopped. The run around the steps is `run.ts`.
 */
import {UserError} from '../../config/errors.js'
import type {EngineInfo} from '../../engine/start.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {trainingOf} from './follow-training.js'
import {latestValidCheckpoint} from './checkpoint-writer.js'
import {Sharding} from './sharding.js'
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
  let sharding: Sharding | undefined
  const spread = (whole: ParamMap): ParamMap => {
    if (!processes || settings.train.parallel !== 'fsdp') return whole
    sharding = new Sharding(processes, precision, whole)
    return sharding.shard(whole)
  }
  const state = await initState(settings, plan, goingOn ? '' : undefined, spread)
  if (sharding && options.evaluation) throw noEvaluation()
  const worksAhead = engine !== undefined && engine.device !== 'cpu' && engine.engine === 'torch' && !processes
  yield* trainingOf<StepReport>(runTraining)(pretrainTrainer(state, {...options, worksAhead}, sharding), {
    ...options,
    crops: cropSettings(settings),
    computing: computingOf(precision, engine, processes)
  })
}

const noEvaluation = (): UserError =>
  new UserError('--eval-images needs the whole model in one process, which train.parallel=fsdp does not keep.', {
    exit: 2,
    code: 'USAGE',
    hint: 'Leave it away, and score checkpoints with dinov2 knn-eval; or set train.parallel=ddp.'
  })
