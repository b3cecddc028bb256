/**
 * The base of commands that train: their shared flags, the evaluation that goes along, and the events of a run in
 * words.
 */
import {Errors, Flags} from '@oclif/core'
import {UserError} from '../config/errors.js'
import type {BadImages} from './rejected-inputs.js'
import {Command, badFlags, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags} from './command.js'
import type {CostEstimate} from '../tasks/train/cost-estimate.js'
import type {RunEvent, RunOptions} from '../tasks/train/training-loop.js'
import type {Progress} from './progress.js'

const batchSize = Flags.custom<number | 'auto'>({
  parse: async input => {
    if (input === 'auto') return input
    if (/^[1-9]\d*$/.test(input)) return Number(input)
    throw new Errors.CLIError(`expected a number of images or auto, but received ${input}`, {exit: 2})
  }
})

const positive = Flags.custom<number>({
  parse: async input => {
    const value = Number(input)
    if (value > 0 && Number.isFinite(value)) return value
    throw new Errors.CLIError(`expected a number above 0, but received ${input}`, {exit: 2})
  }
})

/** Where a run goes, and how one is gone on with. */
export const runFlags = {
  output: Flags.string({char: 'o', helpValue: 'FOLDER', summary: 'The run folder; only --dry-run can do without.'}),
  force: Flags.boolean({char: 'f', summary: 'Begin anew in the folder of a run. What that run wrote is removed; other files stay.'}),
  resume: outputFlags.resume,
  'accept-changes': Flags.boolean({
    dependsOn: ['resume'],
    summary: 'Go on although settings or images differ from those of the run; its checkpoints record from which step on.'
  })
}

/** What every command that trains takes besides. */
export const trainingFlags = {
  ...inputFlags,
  'eval-images': Flags.string({
    multiple: true,
    helpGroup: 'EVALUATION',
    helpValue: 'SET',
    summary:
      'Labelled images (a folder of folders, or a list with labels) on which the model is scored while it learns: k-nearest neighbours, each image by the others. Repeatable.'
  }),
  'eval-val': Flags.string({
    multiple: true,
    dependsOn: ['eval-images'],
    helpGroup: 'EVALUATION',
    helpValue: 'SET',
    summary: 'Labelled images to be classified by those of --eval-images. Repeatable.'
  }),
  'eval-every': Flags.integer({min: 1, default: 500, helpGroup: 'EVALUATION', helpValue: 'N', summary: 'Steps between two such scores.'}),
  ...settingsFlags,
  ...engineFlags,
  batch: batchSize({
    helpGroup: 'ENGINE',
    helpValue: 'N|auto',
    summary: 'Images a step; auto takes as many as the memory allows and says how many. By default train.batch_size_per_gpu.'
  }),
  tflops: positive({
    dependsOn: ['dry-run'],
    helpGroup: 'ENGINE',
    helpValue: 'N',
    summary:
      'With --dry-run: hours on a device that achieves N TFLOP/s, counted and not tried. Devices that share a step take as long as one.'
  }),
  ...badFlags,
  ...reportFlags
}

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

/** The words of a forecast: what is needed, and how that is known. */
export function formatCostEstimate(bill: CostEstimate, batch: number): [string, string] {
  const hours = bill.seconds / 3600
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`
  const {estimated} = bill
  const {state, copies, activations, base} = bill.parts
  return [
    `${bill.images} images, ${bill.steps} steps of ${batch}, ${(bill.parameters / 1e6).toFixed(1)} M parameters with heads: ` +
      `${bill.secondsPerStep.toFixed(3)} s a step${estimated === undefined ? ` (${Math.round(100 * bill.dataWait)} % of it waiting for images)` : ''}, ` +
      `${hours >= 1 ? `${hours.toFixed(1)} hours` : `${(bill.seconds / 60).toFixed(1)} minutes`} in all; checkpoints of ${gib(bill.checkpointBytes)}` +
      (bill.processBytes === undefined
        ? estimated === undefined
          ? ''
          : `; ${gib(bill.peakBytes!)} of memory on the device`
        : `; ${gib(bill.processBytes)} of memory at the peak`) +
      (activations === undefined
        ? ''
        : `: state ${gib(state)}, copies of weights ${gib(copies)}, activations and gradients ${gib(activations)}` +
          (base === undefined ? '' : `, the rest of the process ${gib(base + (bill.processBytes! - bill.parts.process!))}`)),
    estimated === undefined
      ? `measured on ${bill.machine}`
      : `an estimate, for no step was tried: ${estimated}. ${(bill.flopsPerStep / 1e12).toPrecision(3)} TFLOP a step on ${bill.machine}; waiting for images is not in it`
  ]
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
  throw new UserError('Where the run goes is not said.', {
    exit: 2,
    code: 'USAGE',
    hint: 'Name a folder: -o run. Only --dry-run can do without.'
  })
}

/** A precision that training computes in. Throws a usage error on any other. */
export function trainingPrecision(command: string, precision: string): 'fp32' | 'bf16' {
  if (precision === 'fp32' || precision === 'bf16') return precision
  throw new UserError(`${command} computes in fp32 or bf16, not in ${precision}.`, {exit: 2, code: 'USAGE'})
}

type Online = {readonly train: number; readonly val: number; readonly classes: number; readonly bytes: number; readonly every: number}

/** A command that trains. */
export abstract class TrainingCommand extends Command {
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

  /**
   * Images a step where --batch auto chooses them, said: those of a run that is gone on with, else what is found to
   * fit.
   */
  protected async autoBatch(
    kept: number | undefined,
    find: () => Promise<{readonly batch: number; readonly expected: number; readonly limit: number}>,
    gib: (bytes: number) => string
  ): Promise<number> {
    if (kept !== undefined) {
      this.note(`--batch auto: ${kept} images a step, as the run began`)
      return kept
    }
    const {batch, expected, limit} = await find()
    this.note(`--batch auto: ${batch} images a step, for which ${gib(expected)} of ${gib(limit)} are expected to be needed`)
    return batch
  }

  /** Options of an evaluation that goes along, for images of `crop` pixels and a backbone of this patch. */
  protected evaluationOptions(
    images: readonly string[],
    flags: {'eval-val'?: string[] | undefined; 'eval-every': number},
    {crop, patch, workers}: {crop: number; patch: number; workers: number}
  ) {
    return {
      images,
      ...(flags['eval-val'] ? {val: flags['eval-val']} : {}),
      every: flags['eval-every'],
      transform: {resize: Math.round((crop * 256) / 224), crop},
      batch: Math.max(1, Math.min(64, Math.round(4096 / ((crop / patch) ** 2 + 1)))),
      ...(workers > 0 ? {workers} : {}),
      signal: this.signal,
      onRejected: ({path, reason}: {path: string; reason: string}) => this.warn(`${path} is left out of the evaluation: ${reason}`),
      onSkipped: (skipped: unknown) => this.detail(JSON.stringify(skipped))
    }
  }

  /** Says what an evaluation looks at. */
  protected describeEvaluation({train, val, classes, bytes, every}: Online, apart: boolean): void {
    const how = apart ? `${val} images by ${train}` : `${train} images, each by the others`
    this.note(`scoring every ${every} steps: ${how}, ${classes} classes, ${Math.ceil(bytes / 2 ** 20)} MiB of pixels`)
  }

  /**
   * Tells the events of one run; the bar shows it where one is given. `name` stands before what is said of one of
   * several runs.
   */
  protected eventReporter(
    run: string,
    batch: number,
    bar: Progress | undefined,
    name?: string
  ): (event: RunEvent<unknown>) => TrainingOutcome | undefined {
    const about = name === undefined ? '' : `${name}: `
    let [waited, spent] = [0, 0]
    let knn: string | undefined
    return event => {
      switch (event.kind) {
        case 'resumed':
          this.note(
            about + (event.path === undefined ? `${run} has no checkpoint yet; beginning at step 0` : `going on from ${event.path}`)
          )
          for (const change of event.changes) this.note(about + change)
          bar?.startAt(event.step * batch)
          return undefined
        case 'step':
          waited = 0.95 * waited + event.dataWait
          spent = 0.95 * spent + event.seconds
          bar?.update(event.step * batch, {
            step: event.step,
            ...event.progress,
            waiting: `${Math.round((100 * waited) / spent)}%`,
            ...(knn === undefined ? {} : {knn})
          })
          return undefined
        case 'scores':
          knn = Object.values(event.scores)
            .map(share => `${(100 * share).toFixed(1)}%`)
            .join('/')
          this.note(
            `${about}${event.step === 0 ? 'before the first step' : `step ${event.step}`}: ${formatScores(event.scores)} (${event.seconds.toFixed(1)} s)`
          )
          return undefined
        case 'warning':
          this.warn(about + event.message)
          return undefined
        case 'loaded':
          this.detail(about + event.words)
          return undefined
        case 'checkpoint':
          this.detail(`${event.path} is written`)
          return undefined
        case 'stopped':
          bar?.stop()
          this.note(`${about}stopped at step ${event.step}; ${event.path} is written. Go on with the same command and --resume.`)
          return {run, step: event.step, checkpoint: event.path, finished: false}
        case 'finished': {
          const {step, model, health, worth} = event
          bar?.stop()
          this.note(`${about}${model} after ${step} steps. ${health.words}`)
          if (worth?.fell) this.warn(`${about}${worth.words}.`)
          else if (worth) this.note(`${about}${worth.words}.`)
          return {run, step, model, finished: true, health, ...(worth ? {worth} : {})}
        }
        default:
          return undefined
      }
    }
  }
}

/** Throws with status 6 where a finished run is not well. */
export function assertHealthy({run, model, health}: TrainingOutcome): void {
  if (!health || health.healthy) return
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
