/** `dinov2 visualize attention`: what the class token looks at. */
import {extname} from 'node:path'
import {Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {modelFlag} from '../../src/cli/feature-flags.js'

export default class VisualizeAttention extends Command {
  static override group = 'Results'
  static override summary = 'Show what the class token attends to, over the images.'
  static override description =
    'The attention of the class token of one block to all patches: first the mean over heads, then every head apart. Each map has a scale of its own. Where the model has registers, --registers adds a row for each. The probabilities are those that the block computes with; they are worked out by the plain path, which keeps them.'
  static override examples = [
    '<%= config.bin %> visualize attention a.jpg b.jpg --model vits14.pth -o attention.png',
    '<%= config.bin %> visualize attention photos --limit 4 --model run/final --block -2 --registers -o attention.html'
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
    block: Flags.integer({helpValue: 'N', summary: 'Block, counted from 0, or from the end where below 0; the last one by default.'}),
    heads: Flags.boolean({default: true, allowNo: true, summary: 'Show every head beside the mean.'}),
    registers: Flags.boolean({summary: 'Show what the registers attend to, too.'}),
    smooth: Flags.boolean({summary: 'Blend neighbouring patches instead of showing squares.'}),
    limit: Flags.integer({min: 1, max: 200, default: 6, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeAttention)
    const images = this.inputs(args.images)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .png or .html.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {visualizeAttention} = await import('../../src/tasks/visualize/attention.js')
    const progress = this.progress()
    const {content, report} = await visualizeAttention({
      images,
      nul: flags.null,
      model: flags.model,
      engine: this.engineRequest(flags),
      size: flags.size,
      block: flags.block,
      heads: flags.heads,
      registers: flags.registers,
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
    if (flags.registers && report.registers === 0) this.note('the model has no registers')
    if (report.leftOut > 0) this.note(`${report.leftOut} more images are not shown; raise --limit to see them`)
    this.note(`${report.images} images, block ${report.block} of ${report.heads} heads, in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
