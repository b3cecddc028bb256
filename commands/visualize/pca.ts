/** `dinov2 visualize pca`: patch features as colours. */
import {counted} from '../../src/config/counted.js'
import {Flags} from '../../src/cli/oclif.js'
import {imagesArg} from '../../src/cli/command.js'
import {modelFlag} from '../../src/cli/feature-flags.js'
import {patchSizeFlag, smoothFlag, visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

export default class VisualizePca extends VisualizeCommand {
  static override summary = 'Show patch features as colours, beside the images.'
  static override description =
    'The first principal component of the patches of all images parts what stands in front from what lies behind; the first three components of what stands in front become red, green and blue, on one scale for all images, so that like parts of different images have like colours. The sign of the first component, which is arbitrary, is chosen so that it grows towards the middle of the images.'
  static override examples = [
    '<%= config.bin %> visualize pca a.jpg b.jpg c.jpg --model starter -o parts.png',
    '<%= config.bin %> visualize pca a.jpg b.jpg c.jpg --model vits14.pth -o parts.png',
    '<%= config.bin %> visualize pca photos --limit 8 --model run/final -o parts.html --no-foreground'
  ]
  static override args = {...imagesArg}
  static override flags = {
    model: modelFlag,
    size: patchSizeFlag,
    foreground: Flags.boolean({default: true, allowNo: true, summary: 'Colour only what stands in front.'}),
    smooth: smoothFlag,
    ...visualizeFlags(12)
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizePca)
    const {model, size, foreground, smooth} = flags
    const images = this.inputs(args.images)
    if (flags['dry-run'])
      return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'principal components of patch features')
    const {visualizePca} = await import('../../src/tasks/visualize/pca.js')
    return this.draw(
      flags,
      options => visualizePca({...options, images, model, size, foreground, smooth}),
      report => {
        for (const note of report.notes) this.note(note)
        return [`${counted(report.images, 'image')}, ${counted(report.patches, 'patch', 'patches')}`]
      }
    )
  }
}
