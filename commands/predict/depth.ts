/** `dinov2 predict depth`: depth maps of images. */
import {counted} from '../../src/config/counted.js'
import {join} from 'node:path'
import {Flags} from '../../src/cli/oclif.js'
import {badFlags, engineFlags, imagesArg, inputFlags, outputFlags, refuseFilled, reportFlags} from '../../src/cli/command.js'
import {depthFlags, depthHeadFlag, depthViewFlags, positive} from '../../src/cli/depth-flags.js'
import {ImageCommand, KEPT_ROWS} from '../../src/cli/image-command.js'
import {modelFlag} from '../../src/cli/feature-flags.js'

export default class PredictDepth extends ImageCommand {
  static override dataToStdout = 'always' as const
  static override summary = 'Write a depth map for each image.'
  static override description =
    'Each map is a grey PNG of 16 bits of the size of its image, under the same relative path in the output folder: depth-eval and visualize depth read it with --depths. stdout gets a JSON line for each image: id, path, predicted (the map), width, height, scale (metres a unit: 0.001, or 1/256 where the head tells depths above 65 m), min, median and max in metres; the fields of a list ride along.\n\nHeads are those of depth-eval --head-out, or published ones, linear and DPT.'
  static override examples = [
    '<%= config.bin %> predict depth photos --model run --head depth.safetensors -o depth',
    '<%= config.bin %> predict depth photos --model dinov2_vits14 --head dinov2_vits14_nyu_dpt -o depth --colour | jq -r .colour',
    'find photos -name "*.jpg" | <%= config.bin %> predict depth - --model run --head depth.safetensors -o depth > depth.jsonl'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...inputFlags,
    model: modelFlag,
    head: depthHeadFlag,
    output: Flags.string({char: 'o', required: true, helpValue: 'FOLDER', summary: 'Folder for the maps; made where it is not there.'}),
    force: outputFlags.force,
    resume: outputFlags.resume,
    colour: Flags.boolean({summary: 'Write a picture in colours beside each map, near light and far dark, each in its own range.'}),
    'depth-scale': positive({
      helpValue: 'METRES',
      summary: 'Metres that one unit of a map stands for; by default 0.001, or 1/256 for heads beyond 65 m.'
    }),
    'min-depth': depthFlags['min-depth'],
    'max-depth': depthFlags['max-depth'],
    ...depthViewFlags,
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...badFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(PredictDepth)
    const images = this.inputs(args.images)
    if (flags['dry-run'])
      return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'a depth map of each image', [flags.output, '-'])
    const {resume} = flags
    await refuseFilled(flags.output, {force: flags.force, resume})
    const bad = this.badImages(flags)
    const {predictDepths} = await import('../../src/tasks/eval/depth/predict.js')
    const {PredictedRows} = await import('../../src/tasks/eval/shared/predicted-rows.js')
    const options = {
      min: flags['min-depth'],
      max: flags['max-depth'],
      size: flags.size,
      flip: flags.flip,
      scale: flags['depth-scale'],
      colour: flags.colour
    }
    await using kept = await PredictedRows.open({
      path: join(flags.output, KEPT_ROWS),
      output: flags.output,
      head: flags.head,
      file: 'predicted',
      resume,
      options
    })
    const rows = predictDepths({
      ...this.imageOptions(flags, bad),
      ...options,
      images,
      model: flags.model,
      head: flags.head,
      output: flags.output,
      force: flags.force || resume, // the map that was being written when the run stopped
      rows: kept
    })
    const progress = this.progress()
    let step = await rows.next()
    for (let done = 1; !step.done; done++) {
      process.stdout.write(JSON.stringify(step.value) + '\n')
      bad.accept()
      progress.update(done)
      step = await rows.next()
    }
    progress.stop()
    await this.finishRows(kept, bad)
    const report = {output: flags.output, images: step.value.images}
    this.note(`${counted(report.images, 'map')} in ${flags.output}`)
    return report
  }
}
