/** `dinov2 curate filter`: what is no picture to learn from goes out. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateFilter extends CurateCommand {
  static override group = 'Data'
  static override summary =
    'Leave out images that are too small, too long, flat, blurred, dark, overexposed, grey or noise, or far from some seeds.'
  static override description =
    'Each row that is kept carries what was measured (width, height, contrast, entropy, sharpness, noise, brightness, overexposed, colorfulness, hash), so limits can be chosen by looking: dinov2 curate filter photos | jq .sharpness. Rules may stand in a file: --config rules.yaml with lines such as min-side: 64.'
  static override examples = [
    '<%= config.bin %> curate filter photos --min-side 64 -o good.jsonl --rejected bad.jsonl',
    '<%= config.bin %> curate filter photos --config rules.yaml -o good.jsonl',
    '<%= config.bin %> curate filter photos --seeds birds=seeds --min-similarity 0.3 --model vits14.pth -o birds.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.filter, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateFilter)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('filter', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
