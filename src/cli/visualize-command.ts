/** The base of the commands that draw one picture or page of images: progress, rejected images, and the output. */
import {counted} from '../config/counted.js'
import {extname} from 'node:path'
import {Flags} from './oclif.js'
import {UserError} from '../config/errors.js'
import {engineFlags, inputFlags, outputFlags, reportFlags, strictBadFlags, type MaxBad} from './command.js'
import {ImageCommand, type ImageFlags, type ImageOptions} from './image-command.js'
import type {ProgressOptions} from './progress.js'

/** The flags of every command that draws; `limit` is how many images are shown where none says. */
export const visualizeFlags = (limit: number) => ({
  ...inputFlags,
  output: Flags.string({
    char: 'o',
    required: true,
    helpValue: 'FILE',
    summary: 'Where the picture goes: .png, or .html for a page that holds all.'
  }),
  force: outputFlags.force,
  limit: Flags.integer({min: 1, max: 200, default: limit, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
  engine: engineFlags.engine,
  device: engineFlags.device,
  precision: engineFlags.precision,
  threads: engineFlags.threads,
  ...strictBadFlags,
  ...reportFlags
})

/** The size of images whose patches are drawn. */
export const patchSizeFlag = Flags.integer({
  min: 8,
  max: 4096,
  helpValue: 'PIXELS',
  summary:
    'Short side of the images; larger gives finer patches. By default that of the training, or the multiple of it that gives 16 patches.'
})
export const smoothFlag = Flags.boolean({summary: 'Blend neighbouring patches instead of showing squares.'})

export type VisualizeOptions = ImageOptions & {
  readonly format: 'png' | 'html'
  readonly limit: number
  readonly onImage: (done: number) => void
}
export type Drawing<R> = {readonly content: Uint8Array | string; readonly report: R}

export abstract class VisualizeCommand extends ImageCommand {
  /**
   * Draws and writes the output. Returns the report with the name of the file, which is the result of the command.
   * `describe` says in sentences what was drawn; `report.leftOut`, where there is one, is said here. `endings` are
   * those of outputs that are no pictures, whose `format` the command knows.
   */
  protected async draw<R extends object>(
    flags: ImageFlags & {readonly output: string; readonly limit: number; readonly 'max-bad': MaxBad; readonly bad?: string},
    start: (options: VisualizeOptions) => Promise<Drawing<R>>,
    describe: (report: R) => readonly string[],
    {endings = [], ...progressOptions}: Omit<ProgressOptions, 'quiet'> & {readonly endings?: readonly string[]} = {}
  ): Promise<R & {output: string}> {
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm' && !endings.includes(ending))
      throw new UserError(`The output ${flags.output} should end in ${['.png', ...endings].join(', ')} or .html.`, {
        exit: 2,
        code: 'UNKNOWN_FORMAT'
      })
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const progress = this.progress(progressOptions)
    const {content, report} = await start({
      ...this.imageOptions(flags, bad),
      format: ending === '.png' ? 'png' : 'html',
      limit: flags.limit,
      onImage: done => {
        bad.accept()
        progress.update(done)
      }
    })
    progress.stop()
    await bad.finish()
    output.stream.write(content)
    await output.commit()
    const leftOut = (report as {leftOut?: number}).leftOut ?? 0
    if (leftOut > 0) this.note(`${counted(leftOut, 'more image is', 'more images are')} not shown; raise --limit to see them`)
    for (const sentence of describe(report)) this.note(`${sentence}, in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
