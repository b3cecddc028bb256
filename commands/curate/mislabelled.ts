/** `dinov2 curate mislabelled`: labels that neighbours contradict. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateMislabelled extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Score how far the nearest neighbours contradict each label, and leave out the worst on request.'
  static override description =
    'The nearest neighbours of each image vote for their labels, weighted by similarity as in kNN evaluation. Each row gets label_score, the share of votes for other labels (0 to 1), and suggested, the label with most votes. A label is the folder under the given root, or the label field of a list. Rows come in the order of the pool, all of them unless --max-score or --leave-out is given.'
  static override examples = [
    '<%= config.bin %> curate mislabelled photos --model vits14.pth -o scored.jsonl',
    '<%= config.bin %> curate mislabelled features.arrow --max-score 0.9 -o train.jsonl --rejected doubtful.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.mislabelled, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateMislabelled)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('mislabelled', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
