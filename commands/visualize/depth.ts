/** `dinov2 visualize depth`: predicted depth in colours. */
import {counted} from '../../src/config/counted.js'
import {imagesArg} from '../../src/cli/command.js'
import {depthFlags, depthHeadFlag, depthViewFlags} from '../../src/cli/depth-flags.js'
import {modelFlag} from '../../src/cli/feature-flags.js'
import {visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

export default class VisualizeDepth extends VisualizeCommand {
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
    model: modelFlag,
    head: depthHeadFlag,
    ...visualizeFlags(12),
    ...depthFlags,
    ...depthViewFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeDepth)
    const {model, head, size, flip, depths, 'min-depth': min, 'max-depth': max, 'depth-scale': scale} = flags
    const images = this.inputs(args.images)
    if (flags['dry-run']) return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'a depth map of each image')
    const {visualizeDepth} = await import('../../src/tasks/visualize/depth.js')
    return this.draw(
      flags,
      options => visualizeDepth({...options, images, model, head, size, flip, depths, min, max, scale}),
      report => [counted(report.images, 'image')]
    )
  }
}
