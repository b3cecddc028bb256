/** `dinov2 predict segment`: masks of images by a trained head. */
import {join} from 'node:path'
import {counted} from '../../src/config/counted.js'
import {Flags} from '../../src/cli/oclif.js'
import {UserError} from '../../src/config/errors.js'
import {engineFlags, imagesArg, inputFlags, outputFlags, refuseFilled, reportFlags, strictBadFlags} from '../../src/cli/command.js'
import {ImageCommand, KEPT_ROWS} from '../../src/cli/image-command.js'
import {segmentationHeadFlags} from '../../src/cli/segmentation-flags.js'

export default class PredictSegment extends ImageCommand {
  static override dataFlag = 'rows'
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
    ...segmentationHeadFlags,
    output: Flags.string({char: 'o', helpValue: 'DIR', summary: 'Folder for the masks; without it only rows are written.'}),
    rows: Flags.string({default: '-', helpValue: 'FILE', summary: 'Where the rows go; - is stdout.'}),
    force: outputFlags.force,
    resume: outputFlags.resume,
    ...engineFlags,
    ...strictBadFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(PredictSegment)
    const images = this.inputs(args.images)
    if (flags['dry-run'])
      return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'a mask of each image', [flags.output, flags.rows])
    const {resume, size} = flags
    if (resume && flags.output === undefined)
      throw new UserError('Without a folder of masks no rows are kept that --resume could go on from.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Give -o DIR.'
      })
    if (flags.output !== undefined) await refuseFilled(flags.output, {force: flags.force, resume})
    const output = await this.output(flags.rows, {force: flags.force || resume})
    const bad = this.badImages(flags)
    const {assertDistinctMask, maskPath, segmentImages, segmentRow} = await import('../../src/tasks/eval/segmentation/predict.js')
    const {PredictedRows} = await import('../../src/tasks/eval/shared/predicted-rows.js')
    await using kept =
      flags.output === undefined
        ? undefined
        : await PredictedRows.open({
            path: join(flags.output, KEPT_ROWS),
            output: flags.output,
            head: flags.head,
            file: 'mask',
            resume,
            options: {size}
          })
    const progress = this.progress()
    const seen = new Map<string, string>()
    let done = 0
    for await (const event of segmentImages({
      ...this.imageOptions(flags, bad),
      images,
      model: flags.model,
      head: flags.head,
      size,
      rows: kept
    })) {
      if (event.kind === 'started') continue
      const {id} = event.ref
      if (flags.output !== undefined) assertDistinctMask(seen, maskPath(flags.output, id), id)
      const row = event.kind === 'earlier' ? event.row : await segmentRow(event, {folder: flags.output, force: flags.force || resume})
      await kept?.addOf(event.ref, row)
      output.stream.write(JSON.stringify(row) + '\n')
      bad.accept()
      progress.update(++done)
    }
    progress.stop()
    if (this.signal.aborted) {
      await kept?.close()
      this.noteInterrupted(kept, done)
      return {images: done, finished: false}
    }
    await this.finishRows(kept, bad)
    await output.commit()
    this.note(`${counted(done, 'image')}${flags.output === undefined ? '' : `, masks in ${flags.output}`}`)
    return {images: done, ...(flags.output === undefined ? {} : {masks: flags.output})}
  }
}
