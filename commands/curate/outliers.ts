/** `dinov2 curate outliers`: how far each image is from its neighbours. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateOutliers extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Score how unlike its nearest neighbours each image is, and leave out the most unlike on request.'
  static override description =
    'Each row gets outlier_score: one minus the mean similarity to its nearest neighbours in the pool. Rows come in the order of the pool, all of them unless --max-score or --leave-out is given: sort by the score to see the oddest first. Up to 100,000 rows are compared with all others, more by a graph (HNSW), which misses a few neighbours.'
  static override examples = [
    '<%= config.bin %> curate outliers photos --model starter -o scored.jsonl',
    '<%= config.bin %> embed photos --model vits14.pth | <%= config.bin %> curate outliers - --leave-out 1% -o train.jsonl --rejected odd.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.outliers, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateOutliers)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('outliers', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
