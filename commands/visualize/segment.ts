/** `dinov2 visualize segment`: classes over images, by a trained head. */
import {extname} from 'node:path'
import {Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {modelFlag} from '../../src/cli/feature-flags.js'

export default class VisualizeSegment extends Command {
  static override group = 'Results'
  static override summary = 'Show the classes that a trained head finds, over the images.'
  static override description =
    'Each image beside itself with the colours of its classes over it. The head is one of seg-eval --head-out, or a published one; a page (.html) has a legend too. For masks as files see predict segment.'
  static override examples = [
    '<%= config.bin %> visualize segment photos --head seg.safetensors --model run/final -o classes.html',
    '<%= config.bin %> visualize segment a.jpg b.jpg --head seg.safetensors --model run/final -o classes.png'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
    head: Flags.string({required: true, helpValue: 'FILE', summary: 'Segmentation head: .safetensors of seg-eval, or a published .pth.'}),
    output: Flags.string({
      char: 'o',
      required: true,
      helpValue: 'FILE',
      summary: 'Where the picture goes: .png, or .html for a page that holds all.'
    }),
    force: outputFlags.force,
    size: Flags.integer({
      min: 16,
      max: 8192,
      helpValue: 'PIXELS',
      summary: 'Short side at which images are looked at; by default as the head was trained.'
    }),
    limit: Flags.integer({min: 1, max: 200, default: 12, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
    ...engineFlags,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeSegment)
    const images = this.inputs(args.images)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .png or .html.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {visualizeSegment} = await import('../../src/tasks/visualize/segmentation.js')
    const progress = this.progress()
    const {content, report} = await visualizeSegment({
      images,
      nul: flags.null,
      model: flags.model,
      head: flags.head,
      engine: this.engineRequest(flags),
      batch: flags.batch,
      size: flags.size,
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
    this.note(`${report.images} images, ${report.classes.length} classes, in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
