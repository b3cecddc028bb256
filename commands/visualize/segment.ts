/** `dinov2 visualize segment`: classes over images, by a trained head. */
import {counted} from '../../src/config/counted.js'
import {engineFlags, imagesArg} from '../../src/cli/command.js'
import {segmentationHeadFlags} from '../../src/cli/segmentation-flags.js'
import {visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

export default class VisualizeSegment extends VisualizeCommand {
  static override summary = 'Show the classes that a trained head finds, over the images.'
  static override description =
    'Each image beside itself with the colours of its classes over it. The head is one of seg-eval --head-out, or a published one; a page (.html) has a legend too. For masks as files see predict segment.'
  static override examples = [
    '<%= config.bin %> visualize segment photos --head seg.safetensors --model run/final -o classes.html',
    '<%= config.bin %> visualize segment a.jpg b.jpg --head seg.safetensors --model run/final -o classes.png'
  ]
  static override args = {...imagesArg}
  static override flags = {
    ...segmentationHeadFlags,
    batch: engineFlags.batch,
    ...visualizeFlags(12)
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeSegment)
    const {model, head, size} = flags
    const images = this.inputs(args.images)
    if (flags['dry-run']) return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'a mask of each image')
    const {visualizeSegment} = await import('../../src/tasks/visualize/segmentation.js')
    return this.draw(
      flags,
      options => visualizeSegment({...options, images, model, head, size}),
      ({images: shown, classes}) => [`${counted(shown, 'image')}, ${counted(classes.length, 'class', 'classes')}`]
    )
  }
}
