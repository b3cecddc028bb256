/** `dinov2 visualize similarity`: one patch against all patches. */
import {extname} from 'node:path'
import {Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {layers, modelFlag} from '../../src/cli/feature-flags.js'

export default class VisualizeSimilarity extends Command {
  static override group = 'Results'
  static override summary = 'Show which patches are like one patch of the first image.'
  static override description =
    'The cosine between the features of the patch at --at in the first image and those of every patch of all images, as heat over the images, on one scale. An .html page carries the features in one byte a number (up to --page-mb), and a click on any patch of any image then asks for that one, without a server.'
  static override examples = [
    '<%= config.bin %> visualize similarity query.jpg a.jpg b.jpg --at 0.4,0.6 --model vits14.pth -o similar.png',
    '<%= config.bin %> visualize similarity photos --limit 8 --at 120,80 --model run/final -o similar.html'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
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
      summary: 'Short side of the images. By default that of the training, or the multiple of it that gives 16 patches.'
    }),
    at: Flags.string({
      default: '0.5,0.5',
      helpValue: 'X,Y',
      summary: 'Place in the first image: shares of its sides, or pixels of the file where a number is above 1.'
    }),
    layers: layers({helpValue: 'N|LIST', summary: 'Join the last N blocks, or the listed ones, counted from 0; the last one by default.'}),
    smooth: Flags.boolean({summary: 'Blend neighbouring patches instead of showing squares.'}),
    'page-mb': Flags.integer({
      min: 0,
      default: 24,
      helpValue: 'N',
      summary: 'Features that a page carries at most; 0 for a page that only shows.'
    }),
    limit: Flags.integer({min: 1, max: 200, default: 8, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeSimilarity)
    const images = this.inputs(args.images)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .png or .html.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const at = flags.at.split(',').map(Number)
    const [x, y] = at
    if (at.length !== 2 || x === undefined || y === undefined || !(x >= 0) || !(y >= 0) || !Number.isFinite(x + y))
      throw new UserError(`--at: expected two numbers such as 0.5,0.5 or 120,80, but received ${flags.at}.`, {exit: 2, code: 'USAGE'})
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {visualizeSimilarity} = await import('../../src/tasks/visualize/similarity.js')
    const progress = this.progress()
    const {content, report} = await visualizeSimilarity({
      images,
      nul: flags.null,
      model: flags.model,
      engine: this.engineRequest(flags),
      size: flags.size,
      at: [x, y],
      layers: flags.layers,
      pageBytes: flags['page-mb'] * 2 ** 20,
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
    const [column, row] = report.patch
    this.note(`the patch in column ${column} of row ${row} against ${report.images} images, in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
