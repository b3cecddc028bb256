/** `dinov2 predict classify`: the likeliest classes of images. */
import {existsSync} from 'node:fs'
import {counted} from '../../src/config/counted.js'
import {UserError} from '../../src/config/errors.js'
import {Flags} from '../../src/cli/oclif.js'
import {classNames} from '../../src/cli/class-names.js'
import {badFlags, configFlags, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags} from '../../src/cli/command.js'
import {ImageCommand} from '../../src/cli/image-command.js'
import {endEarly} from '../../src/cli/shutdown.js'
import {borderFlags, modelFlag, pixelFlags, transformOf} from '../../src/cli/feature-flags.js'

export default class PredictClassify extends ImageCommand {
  static override summary = 'Tell the likeliest classes of each image.'
  static override description =
    'One line of JSON for each image, in order: id, the fields of the list, class (the likeliest), probability, and top (the first few classes with their probabilities, which are the softmax of the scores, not a promise of how often they are right). Rows come as soon as a batch is computed.\n\nHeads are those of linear-eval --head-out, which say how images are made ready and refuse another backbone, or published linear classifiers (.pth, or their names), whose 1,000 classes are numbers unless --classes names them.'
  static override examples = [
    '<%= config.bin %> predict classify photos --model run/final --head linear.safetensors -o classes.jsonl',
    "find photos -name '*.jpg' -print0 | <%= config.bin %> predict classify -0 - --model run/final --head linear.safetensors | jq -r '[.id, .class] | @tsv'",
    '<%= config.bin %> predict classify photos --model vits14.pth --head dinov2_vits14_linear --classes imagenet.txt --top 3'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
    head: Flags.string({
      required: true,
      helpValue: 'FILE',
      summary: 'A classifier of linear-eval --head-out, a published .pth, or the name of a released one.'
    }),
    output: outputFlags.output,
    force: outputFlags.force,
    resume: outputFlags.resume,
    classes: Flags.string({helpValue: 'FILE', summary: 'Names of the classes, one a line, in the order of the head.'}),
    top: Flags.integer({min: 1, max: 100_000, default: 5, helpValue: 'N', summary: 'Classes reported of each image.'}),
    ...pixelFlags,
    ...borderFlags,
    ...engineFlags,
    ...badFlags,
    ...configFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(PredictClassify)
    const images = this.inputs(args.images)
    if (flags['dry-run'])
      return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'the likeliest classes of each image')
    const {resume, top} = flags
    const keepsRows = this.hasPlaceBeside(flags.output)
    if (resume && !keepsRows) {
      const place = flags.output === '-' ? 'On stdout' : `Beside ${flags.output}`
      throw new UserError(`${place} no rows are kept that --resume could go on from.`, {exit: 2, code: 'USAGE', hint: 'Give -o FILE.'})
    }
    const path = `${flags.output}.partial`
    if (resume) this.refuseWhole(flags.output, path)
    else if (keepsRows && !flags.force && existsSync(path))
      throw new UserError(`${path} was left by an interrupted run.`, {
        exit: 2,
        code: 'PARTIAL_EXISTS',
        hint: 'Give --resume to go on with it, or --force to start anew.'
      })
    const bad = this.badImages(flags)
    const classes = flags.classes === undefined ? undefined : await classNames(flags.classes)
    // A head says how its images were made ready; flags stand above it.
    const given = [flags.size, flags.resize, flags.crop].some(value => value !== undefined) || flags['no-crop'] || flags['crop-borders']
    const {signal} = this
    const {PredictedRows} = await import('../../src/tasks/eval/shared/predicted-rows.js')
    const options = {classes, top, ...(given ? {transform: transformOf(flags)} : {})}
    // The lock on what is kept comes before the output: of two processes one is refused before it begins.
    await using kept = keepsRows ? await PredictedRows.open({path, output: flags.output, head: flags.head, resume, options}) : undefined
    const output = await this.output(flags.output, {force: flags.force || resume})
    const {classifyImages} = await import('../../src/tasks/eval/classification/predict.js')
    const rows = classifyImages({
      ...this.imageOptions(flags, bad),
      images,
      model: flags.model,
      head: flags.head,
      ...options,
      rows: kept
    })
    const progress = this.progress()
    let done = 0
    let step = await rows.next()
    for (; !step.done && !signal.aborted; step = await rows.next()) {
      if (!output.stream.write(JSON.stringify(step.value) + '\n')) await new Promise(resolve => output.stream.once('drain', resolve))
      bad.accept()
      progress.update(++done)
    }
    if (!step.done) await endEarly(rows)
    progress.stop()
    if (signal.aborted) {
      await kept?.close()
      this.noteInterrupted(kept, done)
      return {output: flags.output, images: done, finished: false}
    }
    await this.finishRows(kept, bad)
    await output.commit()
    await kept?.remove()
    this.note(`${counted(done, 'image')}${flags.output === '-' ? '' : `, in ${flags.output}`}`)
    return {output: flags.output, images: done, refused: bad.count, finished: true}
  }
}
