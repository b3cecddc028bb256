/** `dinov2 predict segment`: masks of images by a trained head. */
import {counted} from '../../src/config/counted.js'
import {Flags} from '../../src/cli/oclif.js'
import {UserError} from '../../src/config/errors.js'
import {engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {ImageCommand} from '../../src/cli/image-command.js'
import {modelFlag, pixelFlags} from '../../src/cli/feature-flags.js'

export default class PredictSegment extends ImageCommand {
  static override summary = 'Segment images with a trained head: mask PNGs and JSON Lines.'
  static override description =
    'The head is one of seg-eval --head-out, or a published one (.pth); its record says which blocks, sizes, windows and scales to use. Masks have the size of the image, hold the ids of the masks that the head was trained on, and carry its colours as a palette; they are laid out under the folder as the images are. The rows on stdout name the mask and give the share of every class.'
  static override examples = [
    '<%= config.bin %> predict segment photos --head seg.safetensors --model run/final -o masks',
    'find photos -name "*.jpg" | <%= config.bin %> predict segment - --head dinov2_vits14_ade20k_linear_head.pth --model vits14.pth -o masks > rows.jsonl'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
    head: Flags.string({required: true, helpValue: 'FILE', summary: 'Segmentation head: .safetensors of seg-eval, or a published .pth.'}),
    output: Flags.string({char: 'o', helpValue: 'DIR', summary: 'Folder for the masks; without it only rows are written.'}),
    rows: Flags.string({default: '-', helpValue: 'FILE', summary: 'Where the rows go; - is stdout.'}),
    force: outputFlags.force,
    size: Flags.integer({
      min: 16,
      max: 8192,
      helpValue: 'PIXELS',
      summary: 'Short side at which images are looked at; by default as the head was trained.'
    }),
    'max-pixels': pixelFlags['max-pixels'],
    ...engineFlags,
    ...strictBadFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(PredictSegment)
    const images = this.inputs(args.images)
    if (flags['dry-run'])
      return this.reportPlan(import('../../src/tasks/plan.js'), {
        reads: {images},
        nul: flags.null,
        models: [flags.model],
        files: [flags.head],
        computes: 'a mask of each image',
        writes: [flags.output, flags.rows]
      })
    if (flags.json && flags.rows === '-')
      throw new UserError('--json and the rows both want stdout.', {exit: 2, code: 'USAGE', hint: 'Give --rows FILE.'})
    const output = await this.output(flags.rows)
    const bad = this.badImages(flags)
    const {assertDistinctMask, maskPath, segmentImages, segmentRow} = await import('../../src/tasks/eval/segmentation/predict.js')
    const progress = this.progress()
    const seen = new Map<string, string>()
    let done = 0
    for await (const event of segmentImages({
      ...this.imageOptions(flags, bad),
      images,
      model: flags.model,
      head: flags.head,
      size: flags.size
    })) {
      if (event.kind !== 'image') continue
      if (flags.output !== undefined) assertDistinctMask(seen, maskPath(flags.output, event.ref.id), event.ref.id)
      const row = await segmentRow(event, {
        folder: flags.output,
        force: flags.force
      })
      output.stream.write(JSON.stringify(row) + '\n')
      bad.accept()
      progress.update(++done)
    }
    progress.stop()
    await bad.finish()
    await output.commit()
    this.note(`${counted(done, 'image')}${flags.output === undefined ? '' : `, masks in ${flags.output}`}`)
    return {images: done, ...(flags.output === undefined ? {} : {masks: flags.output})}
  }
}
