/** `dinov2 visualize depth`: predicted depth in colours. */
import {extname} from 'node:path'
import {Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {depthFlags} from '../../src/cli/depth-flags.js'
import {modelFlag, pixelFlags} from '../../src/cli/feature-flags.js'

export default class VisualizeDepth extends Command {
  static override group = 'Results'
  static override dataToStdout = false
  static override summary = 'Show predicted depth in colours, beside the images and the truth.'
  static override description =
    'Near is light, far is dark; each image has its own range of colours. Where the true depth is known (--depths, or the field depth of a list), it stands beside the prediction in the same colours, and the error beside that: |prediction − truth| / truth, white at 0, darkest at 0.5. Grey is unknown. The page says the ranges; the PNG has bars of the colours under prediction and error, and the ranges come with --json.'
  static override examples = [
    '<%= config.bin %> visualize depth photos --model run --head depth.safetensors --limit 6 -o depth.png',
    '<%= config.bin %> visualize depth rooms/images/val --depths rooms/depth/val --model run --head depth.safetensors -o depth.html'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
    head: Flags.string({
      required: true,
      helpValue: 'FILE',
      summary: 'A head of depth-eval --head-out, an mmcv checkpoint, or the name of a released head.'
    }),
    output: Flags.string({
      char: 'o',
      required: true,
      helpValue: 'FILE',
      summary: 'Where the picture goes: .png, or .html for a page that holds all.'
    }),
    force: outputFlags.force,
    limit: Flags.integer({min: 1, max: 200, default: 12, helpValue: 'N', summary: 'Images shown at most; the first ones are taken.'}),
    ...depthFlags,
    size: Flags.integer({
      min: 8,
      max: 4096,
      helpGroup: 'IMAGES',
      helpValue: 'PIXELS',
      summary: 'Short side that the model sees; by default what the head was trained on, else the image as it is.'
    }),
    flip: Flags.boolean({
      allowNo: true,
      default: true,
      helpGroup: 'IMAGES',
      summary: 'Average each prediction with that of the mirrored image.'
    }),
    'max-pixels': pixelFlags['max-pixels'],
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    verbose: reportFlags.verbose
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeDepth)
    const images = this.inputs(args.images)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .png or .html.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {visualizeDepth} = await import('../../src/tasks/visualize/depth.js')
    const progress = this.progress()
    const {content, report} = await visualizeDepth({
      images,
      nul: flags.null,
      model: flags.model,
      head: flags.head,
      ...(flags['min-depth'] === undefined ? {} : {min: flags['min-depth']}),
      ...(flags['max-depth'] === undefined ? {} : {max: flags['max-depth']}),
      ...(flags.size === undefined ? {} : {size: flags.size}),
      ...(flags.depths === undefined ? {} : {depths: flags.depths}),
      ...(flags['depth-scale'] === undefined ? {} : {scale: flags['depth-scale']}),
      flip: flags.flip,
      limit: flags.limit,
      format: ending === '.png' ? 'png' : 'html',
      engine: this.engineRequest(flags),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']}),
      onImage: done => {
        bad.accept()
        progress.update(done)
      },
      onRejected: ({pathBase64, ...image}) => bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})}),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      signal: this.signal
    })
    progress.stop()
    await bad.finish()
    output.stream.write(content)
    await output.commit()
    this.note(`${report.images} images in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
