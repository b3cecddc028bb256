/** The base of the commands that take a model over images: their common flags as options of a task. */
import {existsSync} from 'node:fs'
import {counted} from '../config/counted.js'
import {UserError} from '../config/errors.js'
import type {PredictedRows} from '../tasks/eval/shared/predicted-rows.js'
import {isDevice} from '../system/atomic.js'
import {Command, type BadImages, type EngineAsked, type EngineChoice, type PrecisionChoice} from './command.js'
import type {RejectedImage, SourceNote} from '../data/sources/image-ref.js'

/** The values of the flags that all these commands have. */
export type ImageFlags = {
  readonly null?: boolean
  readonly engine: EngineChoice
  readonly device: string
  readonly precision: PrecisionChoice
  readonly threads?: number
  readonly batch?: number
  readonly workers?: number
  readonly 'max-pixels'?: number
}

/** What a task over images is given, whatever it computes. */
export type ImageOptions = {
  readonly nul: boolean | undefined
  readonly engine: EngineAsked
  readonly batch: number | undefined
  readonly workers: number | undefined
  readonly maxPixels: number | undefined
  readonly toolVersion: string
  readonly onRejected: (image: RejectedImage) => void
  readonly onSkipped: (note: SourceNote) => void
  readonly signal: AbortSignal
}

/** Where predictions into a folder keep their rows. */
export const KEPT_ROWS = '.predictions.jsonl'

export abstract class ImageCommand extends Command {
  static override group = 'Results'

  /**
   * What --dry-run prints of a command that takes a model, and a head where it has one, over images; `computes` says
   * what of each.
   */
  protected reportImagePlan(
    tasks: Parameters<Command['reportPlan']>[0],
    flags: {readonly null?: boolean; readonly model: string; readonly head?: string; readonly limit?: number; readonly output?: string},
    images: readonly string[],
    computes: string,
    writes: readonly (string | undefined)[] = [flags.output]
  ): ReturnType<Command['reportPlan']> {
    return this.reportPlan(tasks, {
      reads: {images},
      nul: flags.null,
      models: [flags.model],
      files: [flags.head],
      computes: flags.limit === undefined ? computes : `${computes}, of ${flags.limit} at most`,
      writes
    })
  }

  /** Refuses to go on with an output that is whole: there, and without the rows of an interrupted run beside it. */
  protected refuseWhole(output: string, kept: string): void {
    if (!existsSync(output) || existsSync(kept)) return
    throw new UserError(`${output} is there, whole, so there is nothing to go on with.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Give --force instead to make it anew, or name another output.'
    })
  }

  /** Whether rows can be kept beside an output: not beside stdout and devices. */
  protected hasPlaceBeside(output: string): boolean {
    return output !== '-' && !isDevice(output)
  }

  /** Says where the rows are that an interruption leaves. */
  protected noteInterrupted(rows: PredictedRows | undefined, done: number): void {
    if (rows) this.note(`${counted(done, 'row is', 'rows are')} kept in ${rows.path}; the same command with --resume goes on`)
  }

  /** Judges the rejected images at the end, and says where the rows are kept if there are too many. */
  protected async finishRows(rows: PredictedRows | undefined, bad: BadImages): Promise<void> {
    try {
      await bad.finish()
    } catch (error) {
      if (error instanceof UserError && rows)
        this.note(`${counted(bad.good, 'row is', 'rows are')} kept in ${rows.path}; --resume with a larger --max-bad goes on behind them`)
      throw error
    }
  }

  /** The flags as options; rejected images are counted in `bad`. */
  protected imageOptions(flags: ImageFlags, bad: BadImages): ImageOptions {
    return {
      nul: flags.null,
      engine: this.engineRequest(flags),
      batch: flags.batch,
      workers: flags.workers,
      maxPixels: flags['max-pixels'],
      toolVersion: this.config.version,
      onRejected: ({pathBase64, ...image}) => bad.add({...image, path_base64: pathBase64}),
      onSkipped: skipped => this.sourceNote(skipped),
      signal: this.signal
    }
  }
}
