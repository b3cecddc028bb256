/** `dinov2 visualize similarity`: one patch against all patches. */
import {counted} from '../../src/config/counted.js'
import {Errors, Flags} from '../../src/cli/oclif.js'
import {imagesArg} from '../../src/cli/command.js'
import {layers, modelFlag} from '../../src/cli/feature-flags.js'
import {patchSizeFlag, smoothFlag, visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

/** `0.5,0.5` or `120,80`: a point, in shares of the sides or in pixels. */
const point = Flags.custom<readonly [x: number, y: number]>({
  parse: async input => {
    const [x, y, ...rest] = input.split(',').map(Number)
    if (rest.length > 0 || x === undefined || y === undefined || !(x >= 0) || !(y >= 0) || !Number.isFinite(x + y))
      throw new Errors.CLIError(`expected two numbers such as 0.5,0.5 or 120,80, but received ${input}`, {exit: 2})
    return [x, y]
  }
})

export default class VisualizeSimilarity extends VisualizeCommand {
  static override summary = 'Show which patches are like one patch of the first image.'
  static override description =
    'The cosine between the features of the patch at --at in the first image and those of every patch of all images, as heat over the images, on one scale. An .html page carries the features in one byte a number (up to --page-mb), and a click on any patch of any image then asks for that one, without a server.'
  static override examples = [
    '<%= config.bin %> visualize similarity query.jpg a.jpg b.jpg --at 0.4,0.6 --model vits14.pth -o similar.png',
    '<%= config.bin %> visualize similarity photos --limit 8 --at 120,80 --model run/final -o similar.html'
  ]
  static override args = {...imagesArg}
  static override flags = {
    model: modelFlag,
    size: patchSizeFlag,
    at: point({
      default: async () => [0.5, 0.5] as const,
      defaultHelp: async () => '0.5,0.5',
      helpValue: 'X,Y',
      summary: 'Point in the first image: shares of its sides, or pixels of the file where a number is above 1.'
    }),
    layers: layers({helpValue: 'N|LIST', summary: 'Join the last N blocks, or the listed ones, counted from 0; the last one by default.'}),
    smooth: smoothFlag,
    'page-mb': Flags.integer({
      min: 0,
      default: 24,
      helpValue: 'N',
      summary: 'Features that a page carries at most; 0 for a page that only shows.'
    }),
    ...visualizeFlags(8)
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeSimilarity)
    const {model, size, at, smooth} = flags
    const images = this.inputs(args.images)
    if (flags['dry-run']) return this.reportImagePlan(import('../../src/tasks/plan.js'), flags, images, 'similarities of patches')
    const {visualizeSimilarity} = await import('../../src/tasks/visualize/similarity.js')
    return this.draw(
      flags,
      options =>
        visualizeSimilarity({...options, images, model, size, at, smooth, layers: flags.layers, pageBytes: flags['page-mb'] * 2 ** 20}),
      ({patch: [column, row], images: shown}) => [`the patch in column ${column} of row ${row} against ${counted(shown, 'image')}`]
    )
  }
}
