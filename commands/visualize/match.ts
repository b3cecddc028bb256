/** `dinov2 visualize match`: lines between patches of two images. */
import {counted} from '../../src/config/counted.js'
import {Args, Flags} from '../../src/cli/oclif.js'
import {layers, modelFlag} from '../../src/cli/feature-flags.js'
import {real} from '../../src/cli/real-flag.js'
import {patchSizeFlag, visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

const LINES = 60

export default class VisualizeMatch extends VisualizeCommand {
  static override summary = 'Show which patches of two images belong together.'
  static override description =
    'Patches that are each other’s nearest by the cosine of their features, as lines between the two images side by side. With an output that ends in .jsonl, one row a match: the centres of both patches in pixels of the files (x_a, y_a, x_b, y_b) and their similarity, the most similar first.'
  static override examples = [
    '<%= config.bin %> visualize match a.jpg b.jpg --model vits14.pth -o match.png',
    '<%= config.bin %> visualize match a.jpg b.jpg --model run/final --min-similarity 0.6 -o match.jsonl'
  ]
  static override args = {
    a: Args.string({required: true, ignoreStdin: true, description: 'The first image.'}),
    b: Args.string({required: true, ignoreStdin: true, description: 'The second image.'})
  }
  static override flags = {
    model: modelFlag,
    size: patchSizeFlag,
    layers: layers({helpValue: 'N|LIST', summary: 'Join the last N blocks, or the listed ones, counted from 0; the last one by default.'}),
    'min-similarity': real(
      -1,
      1
    )({default: async () => 0, defaultHelp: async () => '0', helpValue: 'X', summary: 'Least cosine of a match.'}),
    ...visualizeFlags(LINES),
    output: Flags.string({
      char: 'o',
      required: true,
      helpValue: 'FILE',
      summary: 'Where the matches go: a picture as .png, a page as .html, rows as .jsonl.'
    }),
    limit: Flags.integer({
      min: 1,
      helpValue: 'N',
      summary: `Matches at most, the most similar ones; ${LINES} in pictures and all in rows by default.`
    })
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeMatch)
    const {model, size, limit} = flags
    const images = [args.a, args.b]
    if (flags['dry-run']) return this.reportImagePlan(import('../../src/tasks/plan.js'), {...flags, limit: undefined}, images, 'matches')
    const {visualizeMatch} = await import('../../src/tasks/visualize/match.js')
    const isRows = flags.output.toLowerCase().endsWith('.jsonl')
    const most = limit ?? (isRows ? undefined : LINES)
    return this.draw(
      {...flags, limit: 2},
      options =>
        visualizeMatch({
          ...options,
          images,
          model,
          size,
          layers: flags.layers,
          minSimilarity: flags['min-similarity'],
          limit: most,
          format: isRows ? 'jsonl' : options.format
        }),
      ({matches, mutual}) => [`${matches} of ${counted(mutual, 'pair')} of patches that are each other's nearest`],
      {endings: ['.jsonl']}
    )
  }
}
