/** What the course of a run has to do with: what learns, what judges it, options, and events. */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import type {CropSettings} from '../../data/augment/multi-crop.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {Batches} from '../../data/loader/load-stats.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import type {ImageList} from '../../data/sources/image-table.js'
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Health} from './health.js'
import type {Improvement} from './improvement.js'
import type {LossScale} from './loss-scale.js'
import type {Metrics} from './metrics-log.js'
import type {Explanation, NotFiniteStep} from './non-finite.js'
import type {TrainingProcesses} from './processes.js'
import type {Computing} from './resume.js'
import type {LentNetwork} from './sharding.js'
import type {HostTensor, StateDict} from './state-dict.js'

/** What a step gave. */
export type StepResult<Report> = {
  readonly report: Report
  /** Measured: a line of metrics holds their means over its steps. */
  readonly measured: Readonly<Record<string, number>>
  /** What the schedules said of this step. */
  readonly rates: Readonly<Record<string, number>>
}

/** What learns, one batch at a time. */
export type Trainer<Report> = {
  /** Steps taken. */
  readonly stepsTaken: number
  /** All that training changes, by its name in a checkpoint. */
  stateDict(): StateDict
  /** After `places` were filled from a checkpoint of this step. */
  setStep(step: number): void
  /** Takes one step. Throws `NotFiniteStep` where it cannot be taken, with everything as it was. */
  step(made: CropBatch): StepResult<Report>
  /**
   * Where the device works while the host goes on: steps that are read later. `settle` gives the results of those
   * since the last reading; where `notFinite` names a step, that one and all after it were left out, and the state is
   * as before it. Steps whose gradients overflowed in float16 are launched again with a smaller loss scale, but where
   * this process settles `alone`.
   */
  readonly ahead?:
    | {
        launch(made: CropBatch): void
        settle(alone?: boolean): {readonly taken: readonly StepResult<Report>[]; readonly notFinite?: number}
      }
    | undefined
  /** How losses are scaled, where they are; a checkpoint keeps it. */
  readonly lossScale?: Pick<LossScale, 'kept' | 'restore'> | undefined
  /** Where a step that could not be taken stopped being finite. */
  explain(error: NotFiniteStep, made: CropBatch): Explanation
  /**
   * What can be said of the model from the images of a step, for a line of metrics: taken after the step, from its
   * state and images alone.
   */
  inspect?(made: CropBatch): Readonly<Record<string, number>> | undefined
  /** The weights that are judged and kept at last: `backbone.…` and heads. */
  model(): ParamMap
  /**
   * Where no process has the model whole: gathers it into the memory of the machine, which all processes do at the
   * same time, as they read the places of the state.
   */
  readonly gatherModel?: (() => ReadonlyMap<string, HostTensor>) | undefined
  /** The same model, lent to an evaluation that all processes make together; `dispose` when it has served. */
  readonly lendModel?: (() => LentNetwork<{backbone: Vit}>) | undefined
  /** What memory was made of at its highest point so far, in bytes by part. */
  memory?(): Readonly<Record<string, number | undefined>>
  dispose(): void
}

/** Judges the model while it learns. It must not draw from the run's random numbers nor change its tensors. */
export type Evaluation = {
  /** Steps between two evaluations; one more is made at the end. */
  readonly every: number
  /** Whether the model is judged before the first step too: where it begins with weights that are worth something. */
  readonly before?: boolean
  /** Scores by name. Where several processes train, all call it at the same step. */
  run(learner: Pick<Trainer<unknown>, 'model' | 'lendModel'>): Promise<Readonly<Record<string, number>>>
}

export type RunOptions = {
  readonly images: ImageList
  readonly settings: Settings
  readonly plan: Derived
  readonly crops: CropSettings
  readonly computing: Computing
  /** The run folder. */
  readonly run: string
  /** The settings as YAML, as they stand in the run folder. */
  readonly yaml: string
  readonly version: string
  /** Go on from the newest checkpoint of the run folder, or from the beginning where none was written yet. */
  readonly resume?: boolean
  /** Begin anew where a run is in the folder. */
  readonly force?: boolean
  /** Go on although settings or images differ. */
  readonly acceptChanges?: boolean
  readonly evaluation?: Evaluation
  readonly signal?: AbortSignal
  /** The processes that train together; absent where this one is alone. */
  readonly processes?: TrainingProcesses
  /**
   * Fingerprint of a frozen teacher that the run learns from; part of what a resumed run must have in common with the
   * one so far.
   */
  readonly teacherFingerprint?: string
  /** Whether other runs take each step beside this one, and so are to hear of it as soon as it is launched. */
  readonly inStep?: boolean
  /** Batches from a step on, where they do not come from `images` alone for this run. */
  readonly batches?: (start: number) => Batches<CropBatch>
  readonly onRejected?: (bad: RejectedImage) => void
  /** Asked after each step; false ends the run as a signal does, with a checkpoint. */
  readonly shouldContinue?: () => boolean
}

export type RunEvent<Report> =
  | {
      readonly kind: 'resumed'
      readonly step: number
      /** Undefined where no checkpoint was written before. */
      readonly path: string | undefined
      /** How the rest differs from the run so far, as sentences; empty where it does not. */
      readonly changes: readonly string[]
    }
  /** A step is under way, whose numbers are read later; of a run that takes its steps beside others. */
  | {readonly kind: 'launched'; readonly step: number}
  | {
      readonly kind: 'step'
      readonly step: number
      readonly report: Report
      /** Losses as a progress line shows them. */ readonly progress: Readonly<Record<string, number>>
      readonly dataWait: number
      readonly seconds: number
    }
  | {readonly kind: 'metrics'; readonly metrics: Metrics}
  | {readonly kind: 'scores'; readonly step: number; readonly scores: Readonly<Record<string, number>>; readonly seconds: number}
  | {readonly kind: 'warning'; readonly message: string}
  | {readonly kind: 'checkpoint'; readonly step: number; readonly path: string}
  /** How the images were loaded, in words, once, before the run stops or ends. */
  | {readonly kind: 'loaded'; readonly words: string}
  | {readonly kind: 'stopped'; readonly step: number; readonly path: string}
  | {readonly kind: 'finished'; readonly step: number; readonly model: string; readonly health: Health; readonly worth?: Improvement}
