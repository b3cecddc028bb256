/** `dinov2 visualize pca`: patch features as colours. */
import {extname} from 'node:path'
import {Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'

export default class VisualizePca extends Command {
  static override group = 'Results'
  static override summary = 'Show patch features as colours, beside the images.'
  static override description =
    'The first principal component of the patches of all images parts what stands in front from what lies behind; the first three components of what stands in front become red, green and blue, on one scale for all images, so that like parts of different images have like colours. The sign of the first component, which is arbitrary, is chosen so that it grows towards the middle of the images.'
  static override examples = [
    '<%= config.bin %> visualize pca a.jpg b.jpg c.jpg --model vits14.pth -o parts.png',
    '<%= config.bin %> visualize pca photos --limit 8 --model run/final -o parts.html --no-foreground'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: Flags.string({char: 'm', required: true, helpValue: 'MODEL', summary: 'Backbone: a file or folder in any format that is read.'}),
    output: Flags.string({
      char: 'o',
      required: true,
      helpValue: 'FILE',
      summary: 'Where the picture goes: .png, or .html for a page that holds all.'
    }),
    force: outputFlags.force,
    size: Flags.integer({
      min: 8,
      max: 4096,
      helpValue: 'PIXELS',
      summary:
        'Short side of the images; larger gives finer patches. By default that of the training, or the multiple of it that gives 16 patches.'
    }),
    foreground: Flags.boolean({default: true, allowNo: true, summary: 'Colour only what stands in front.'}),
    smooth: Flags.boolean({summary: 'Blend neighbouring patches instead of showing squares.'}),
    limit: Flags.integer({min: 1, max: 200, default: 12, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizePca)
    const images = this.inputs(args.images)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .png or .html.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {visualizePca} = await import('../../src/tasks/visualize/pca.js')
    const progress = this.progress()
    const {content, report} = await visualizePca({
      images,
      nul: flags.null,
      model: flags.model,
      engine: this.engineRequest(flags),
      size: flags.size,
      foreground: flags.foreground,
      smooth: flags.smooth,
      limit: flags.limit,
      format: ending === '.png' ? 'png' : 'html',
      signal: this.signal,
      onImage: done => {
        bad.accept()
        progress.update(done)
      },
      onRejected: bad.add
    })
    progress.stop()
    await bad.finish()
    output.stream.write(content)
    await output.commit()
    if (report.leftOut > 0) this.note(`${report.leftOut} more images are not shown; raise --limit to see them`)
    this.note(`${report.images} images, ${report.patches} patches, in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
