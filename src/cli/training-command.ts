/**
 * The base of commands that train: from flags to the options of a run, and the events of a run in words.
 */
import {UserError} from '../config/errors.js'
import {counted} from '../config/counted.js'
import type {Derived} from '../config/derived.js'
import type {EvalRequest} from '../tasks/train/attach-eval.js'
import type {BeginOptions} from '../tasks/train/begin-pretraining.js'
import type {CostEstimate} from '../tasks/train/cost-estimate.js'
import type {TrainingProcesses} from '../tasks/train/processes.js'
import type {RunEvent, RunOptions} from '../tasks/train/run-types.js'
import {Command} from './command.js'
import {formatCostEstimate} from './cost-words.js'
import {launchOf, type Launch} from '../system/launch.js'
import type {EngineChoice, PrecisionChoice} from './flags.js'
import {goesOnAfterRestart} from './restarted.js'
import type {Progress} from './progress.js'
import type {BadImages} from './rejected-inputs.js'

type Scores = Readonly<Record<string, number>>

/** How a run ended, for the report of a command. */
export type TrainingOutcome = {
  readonly run: string
  readonly step: number
  readonly finished: boolean
  readonly checkpoint?: string
  readonly model?: string
  readonly health?: {readonly healthy: boolean; readonly words: string}
  readonly worth?: {readonly fell: boolean; readonly words: string}
}

/** Reports the events of a run, and has what came of it. */
export type EventReporter = ((event: RunEvent<unknown>) => void) & {
  readonly outcome: () => TrainingOutcome | undefined
  /** The newest scores of the evaluation that goes along. */
  readonly scores: () => Scores | undefined
}

/** The flags of a command that trains, as far as they are read here. */
type TrainingFlags = {
  readonly output?: string | undefined
  readonly 'dry-run'?: boolean | undefined
  readonly null: boolean
  readonly force: boolean
  readonly resume: boolean
  readonly 'accept-changes': boolean
  readonly config?: string[] | undefined
  readonly batch?: number | 'auto' | undefined
  readonly engine: EngineChoice
  readonly device: string
  readonly precision: PrecisionChoice
  readonly threads?: number | undefined
  readonly 'eval-images'?: string[] | undefined
  readonly 'eval-val'?: string[] | undefined
  readonly 'eval-every': number
}

/** The run folder of a command that is no trial. Throws a usage error where none is named. */
export function runFolderOf({
  output,
  'dry-run': trial
}: {
  output?: string | undefined
  'dry-run'?: boolean | undefined
}): string | undefined {
  if (trial) return undefined
  if (output !== undefined) return output
  throw new UserError('No output folder: give -o.', {
    exit: 2,
    code: 'USAGE',
    hint: 'For example -o run. Only --dry-run goes without.'
  })
}

/** So many warnings are shown of each process but the first. */
const SHOWN_WARNINGS = 3

/** A command that trains, in one process or in several that `torchrun`, `mpirun` or `srun` has started. */
export abstract class TrainingCommand extends Command {
  #launch: Launch | undefined
  #warnings = 0

  /** Processes other than the first stay silent, unless each trains by itself. */
  protected override get silentProcess(): number | undefined {
    return this.#launch && this.#launch.rank > 0 ? this.#launch.rank : undefined
  }

  protected override async init(): Promise<void> {
    this.#launch = launchOf()
    await super.init()
  }

  /** Of a process that stays silent the first warnings are shown, with its number; the others are counted. */
  override warn(input: Error | string): Error | string {
    if (this.silentProcess === undefined) return super.warn(input)
    this.#warnings++
    return this.#warnings > SHOWN_WARNINGS ? input : super.warn(input)
  }

  protected override async _run<T>(): Promise<T> {
    const result = await super._run<T>()
    if (this.#warnings > SHOWN_WARNINGS) super.warn(`${this.#warnings} warnings in all, of which the first ${SHOWN_WARNINGS} are shown`)
    return result
  }

  /** Other processes have nothing to write about images: what they meet is counted by the first. */
  override badImages(flags: Parameters<Command['badImages']>[0]): BadImages {
    return super.badImages(this.silentProcess === undefined ? flags : {...flags, bad: undefined})
  }

  /**
   * Does the work of a run that writes `output` with the other processes that a launcher started, or alone. A command
   * imports `loading` (`tasks/train/with-processes.ts`), because cli takes only types of tasks.
   */
  protected async together<T>(
    loading: Promise<Pick<typeof import('../tasks/train/with-processes.js'), 'withProcesses'>>,
    output: string | undefined,
    work: (processes: TrainingProcesses | undefined) => Promise<T>
  ): Promise<T | undefined> {
    if (this.settings.train.parallel === 'none') this.#launch = undefined
    if (output === undefined && this.silentProcess !== undefined) return undefined // process 0 makes the trial
    if (!this.#launch || output === undefined) return work(undefined)
    const {withProcesses} = await loading
    return withProcesses({settings: this.settings, note: sentence => this.note(sentence)}, work)
  }

  /**
   * Images that cannot be read while a run goes on: counted, and enough of them end it. All were taken for good at
   * first.
   */
  protected rejectionHandlers(bad: BadImages): Required<Pick<RunOptions, 'onRejected' | 'shouldContinue'>> {
    return {
      onRejected: ({pathBase64, ...image}) => {
        bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})})
        bad.accept(-1)
      },
      shouldContinue: () => !bad.tooMany
    }
  }

  /** What a run needs before its first step, by flags. */
  protected beginOptions(
    images: readonly string[] | string | undefined,
    flags: TrainingFlags,
    bad: BadImages,
    processes?: TrainingProcesses
  ): BeginOptions {
    const {config, force, batch} = flags
    return {
      inputs: this.inputs(images, 'images', [...(flags['eval-images'] ?? []), ...(flags['eval-val'] ?? [])]),
      null: flags.null,
      config,
      output: runFolderOf(flags),
      trialOf: flags['dry-run'] ? flags.output : undefined,
      force,
      resume: flags.resume || goesOnAfterRestart(this.#launch, flags.output),
      batch,
      processes,
      evaluation: {images: flags['eval-images'], val: flags['eval-val'], every: flags['eval-every']},
      version: this.config.version,
      engine: this.engineRequest(flags),
      note: sentence => this.note(sentence),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      onImages: count => bad.accept(count)
    }
  }

  /** How a run is carried out, by flags. */
  protected runOptions({output, force, resume: asked, 'accept-changes': acceptChanges}: TrainingFlags, bad: BadImages) {
    const goesOn = goesOnAfterRestart(this.#launch, output)
    return {
      force: force && !goesOn,
      resume: asked || goesOn,
      acceptChanges,
      version: this.config.version,
      signal: this.signal,
      ...this.rejectionHandlers(bad)
    }
  }

  /** The evaluation that goes along, where `--eval-images` asks for one. */
  protected evalRequest(flags: TrainingFlags, processes?: TrainingProcesses): EvalRequest | undefined {
    const images = flags['eval-images']
    if (!images) return undefined
    return {
      images,
      processes,
      val: flags['eval-val'],
      every: flags['eval-every'],
      lists: new Map(),
      signal: this.signal,
      note: sentence => this.note(sentence),
      onRejected: ({path, reason}) => this.warn(`${path} is left out of the evaluation: ${reason}`),
      onSkipped: skipped => this.detail(JSON.stringify(skipped))
    }
  }

  /** Processes that a trial is about: so many as are asked for, or as a launcher has started. */
  protected processesOf({processes}: {readonly processes?: number | undefined}): number {
    return processes ?? this.#launch?.size ?? 1
  }

  /** Reports a cost estimate in words, and gives it back. */
  protected reportCost(estimate: CostEstimate, batch: number, name?: string): CostEstimate {
    for (const sentence of formatCostEstimate(estimate, batch)) this.note(name === undefined ? sentence : `${name}: ${sentence}`)
    return estimate
  }

  /** The bar of a run. */
  protected trainingBar({steps, batch}: Pick<Derived, 'steps' | 'batch'>): Progress {
    return this.progress({total: steps * batch, unit: 'images', label: this.id ?? 'training'})
  }

  /**
   * Reports the events of one run, on the bar too where one is given. `name` stands before what concerns one of
   * several runs.
   */
  protected eventReporter(run: string, batch: number, bar: Progress | undefined, name?: string): EventReporter {
    const about = name === undefined ? '' : `${name}: `
    let [waited, spent] = [0, 0]
    let knn: string | undefined
    let outcome: TrainingOutcome | undefined
    let scores: Scores | undefined
    const report = (event: RunEvent<unknown>): void => {
      switch (event.kind) {
        case 'resumed':
          this.note(
            about + (event.path === undefined ? `${run} has no checkpoint yet; beginning at step 0` : `going on from ${event.path}`)
          )
          for (const change of event.changes) this.note(about + change)
          bar?.startAt(event.step * batch)
          return
        case 'step':
          waited = 0.95 * waited + event.dataWait
          spent = 0.95 * spent + event.seconds
          bar?.update(event.step * batch, {
            step: event.step,
            ...event.progress,
            waiting: `${Math.round((100 * waited) / spent)}%`,
            ...(knn === undefined ? {} : {knn})
          })
          return
        case 'scores':
          scores = event.scores
          knn = Object.values(event.scores)
            .map(share => `${(100 * share).toFixed(1)}%`)
            .join('/')
          this.note(
            `${about}${event.step === 0 ? 'before the first step' : `step ${event.step}`}: ${formatScores(event.scores)} (${event.seconds.toFixed(1)} s)`
          )
          return
        case 'warning':
          this.warn(about + event.message)
          return
        case 'loaded':
          this.detail(about + event.words)
          return
        case 'checkpoint':
          this.detail(`${event.path} is written`)
          return
        case 'stopped':
          bar?.stop()
          this.note(`${about}stopped at step ${event.step}; ${event.path} is written. Go on with the same command and --resume.`)
          outcome = {run, step: event.step, checkpoint: event.path, finished: false}
          return
        case 'finished': {
          const {step, model, health, worth} = event
          bar?.stop()
          this.note(`${about}${model} after ${counted(step, 'step')}. ${health.words}`)
          if (worth?.fell) this.warn(`${about}${worth.words}.`)
          else if (worth) this.note(`${about}${worth.words}.`)
          outcome = {run, step, model, finished: true, health, worth}
          return
        }
        case 'metrics':
      }
    }
    return Object.assign(report, {outcome: () => outcome, scores: () => scores})
  }
}

/** Throws with status 6 where a finished run is unhealthy; otherwise gives how it ended. */
export function assertHealthy(outcome: TrainingOutcome | undefined): TrainingOutcome | undefined {
  if (!outcome?.health || outcome.health.healthy) return outcome
  const {run, model, health} = outcome
  throw new UserError(`The run ended unhealthy; ${health.words}.`, {
    exit: 6,
    code: 'UNHEALTHY',
    hint: `The model stands in ${model} all the same. Look at it with: dinov2 report ${run} -o run.html`
  })
}

/** Scores in words: `k-nearest neighbours 41.2 % (k = 10), 39.8 % (k = 20)`. */
export const formatScores = (scores: Scores): string =>
  `k-nearest neighbours ${Object.entries(scores)
    .map(([name, share]) => `${(100 * share).toFixed(1)} % (k = ${name.replace('knn_', '')})`)
    .join(', ')}`
