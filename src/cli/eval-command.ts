/**
 * The base of all evaluations: opens outputs, shows how far the work is, counts rejected inputs, and writes report,
 * rows and page.
 *
 * A command turns its flags into options once and passes the evaluation to `evaluate`.
 */
import {counted} from '../config/counted.js'
import {UserError} from '../config/errors.js'
import type {EvalEvent, EvalProgress, EvalReport, EvalResult, ItemRow} from '../tasks/eval/shared/evaluation.js'
import type {BadImages, MaxBad} from './command.js'
import {ImageCommand, type ImageFlags, type ImageOptions} from './image-command.js'
import type {Output} from '../system/output.js'
import type {Progress} from './progress.js'
import {endEarly} from './shutdown.js'
import {textSummary} from './text-table.js'

/** The values of the shared flags. */
export type EvalFlags = ImageFlags & {
  readonly output?: string
  readonly predictions?: string
  readonly html?: string
  readonly root?: string
  readonly 'crop-borders'?: boolean
  readonly 'max-bad': MaxBad
  readonly bad?: string
  readonly seed?: number
}

/** What every evaluation is given, whatever it evaluates. */
export type CommonEvalOptions = ImageOptions & {readonly seed: number; readonly stdin: AsyncIterable<Uint8Array>}

export abstract class EvalCommand extends ImageCommand {
  static override group = 'Evaluation'
  static override dataToStdout = false

  /**
   * Runs an evaluation to its end and writes what the flags ask for. Returns the report, which is the result of the
   * command. Throws a `UserError` (exit 4) where more inputs were rejected than `--max-bad` allows, as soon as that is
   * certain.
   */
  protected async evaluate<R extends EvalReport>(
    flags: EvalFlags,
    start: (common: CommonEvalOptions) => AsyncGenerator<EvalEvent, EvalResult<R>>
  ): Promise<R> {
    const open = async (target: string | undefined): Promise<Output | undefined> =>
      target === undefined ? undefined : await this.output(target)
    const outputs = {report: await open(flags.output), rows: await open(flags.predictions), page: await open(flags.html)}
    const bad = this.badImages(flags)
    const result = await this.#finish(start({...this.imageOptions(flags, bad), seed: flags.seed ?? 0, stdin: process.stdin}), bad)
    await bad.finish()
    for (const note of result.report.notes) this.note(note)
    if (outputs.rows) await write(outputs.rows, rowLines(result.items()))
    if (outputs.page) {
      const {content, missing} = await result.page({root: flags.root, cropBorders: flags['crop-borders']})
      await write(outputs.page, [content])
      if (missing > 0) this.warn(`${counted(missing, 'image')} could not be opened by name; --root DIR says where names start`)
    }
    if (outputs.report) await write(outputs.report, [JSON.stringify(result.report, null, 2) + '\n'])
    this.print(textSummary(result.summary))
    return result.report
  }

  /** Follows the events to the result. */
  async #finish<R extends EvalReport>(events: AsyncGenerator<EvalEvent, EvalResult<R>>, bad: BadImages): Promise<EvalResult<R>> {
    const show = this.#progressView()
    try {
      let next = await events.next()
      for (; !next.done; next = await events.next()) {
        const event = next.value
        if (event.kind === 'note') this.note(event.text)
        else if (event.kind === 'progress') show(event)
        else if (event.kind === 'accepted') {
          bad.accept(event.images)
          if (bad.isTooManyOf(event.pending ?? 0)) await bad.finish()
        }
      }
      return next.value
    } catch (error) {
      // Where no input is left, the rejected ones are the reason.
      if (error instanceof UserError && error.code === 'NO_INPUT' && bad.count > 0) await bad.finish()
      throw error
    } finally {
      await endEarly(events).catch(() => undefined)
    }
  }

  /** One bar a stage; under `--verbose` the mean loss ten times a training. */
  #progressView(): (event: EvalProgress) => void {
    let bar: Progress | undefined
    let label = ''
    let losses: number[] = []
    return event => {
      const {stage, features, done, total, loss} = event
      const next = labelOf(event)
      if (next !== label) {
        bar = this.progress({label: next, unit: stage === 'training' ? 'steps' : 'images', total})
        losses = []
      }
      label = next
      bar!.update(done)
      if (loss === undefined) return
      losses.push(loss)
      if (done % Math.max(1, Math.round((total ?? 1) / 10)) !== 0) return
      this.detail(`${features}: step ${done}, loss ${(losses.reduce((a, b) => a + b, 0) / losses.length).toFixed(4)}`)
      losses = []
    }
  }
}

const labelOf = ({stage, features, set}: EvalProgress): string =>
  [features === 'model' ? '' : features, set ?? '', stage === 'features' ? '' : stage].filter(part => part !== '').join(' ') || features

function* rowLines(rows: Iterable<ItemRow>): Generator<string> {
  for (const row of rows) yield JSON.stringify(row) + '\n'
}

async function write(output: Output, parts: Iterable<string>): Promise<void> {
  for (const part of parts) output.stream.write(part)
  await output.commit()
}
