/** `dinov2 visualize attention`: what the class token looks at. */
import {counted} from '../../src/config/counted.js'
import {Flags} from '../../src/cli/oclif.js'
import {imagesArg} from '../../src/cli/command.js'
import {modelFlag} from '../../src/cli/feature-flags.js'
import {patchSizeFlag, smoothFlag, visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

export default class VisualizeAttention extends VisualizeCommand {
  static override summary = 'Show what the class token attends to, over the images.'
  static override description =
    'The attention of the class token of one block to all patches: first the mean over heads, then every head apart. Each map has a scale of its own. Where the model has registers, --registers adds a row for each. The probabilities are those that the block computes with; they are worked out by the plain path, which keeps them.'
  static override examples = [
    '<%= config.bin %> visualize attention a.jpg b.jpg --model vits14.pth -o attention.png',
    '<%= config.bin %> visualize attention photos --limit 4 --model run/final --block -2 --registers -o attention.html'
  ]
  static override args = {...imagesArg}
  static override flags = {
    model: modelFlag,
    size: patchSizeFlag,
    block: Flags.integer({helpValue: 'N', summary: 'Block, counted from 0, or from the end where below 0; the last one by default.'}),
    heads: Flags.boolean({default: true, allowNo: true, summary: 'Show every head beside the mean.'}),
    registers: Flags.boolean({summary: 'Show what the registers attend to, too.'}),
    smooth: smoothFlag,
    ...visualizeFlags(6)
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeAttention)
    const {model, size, block, heads, registers, smooth} = flags
    const images = this.inputs(args.images)
    if (flags['dry-run']) return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'maps of attention')
    const {visualizeAttention} = await import('../../src/tasks/visualize/attention.js')
    return this.draw(
      flags,
      options => visualizeAttention({...options, images, model, size, block, heads, registers, smooth}),
      report => {
        if (registers && report.registers === 0) this.note('the model has no registers')
        return [`${counted(report.images, 'image')}, block ${report.block} of ${counted(report.heads, 'head')}`]
      }
    )
  }
}
