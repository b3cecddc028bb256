/** `dinov2 curate retrieve`: what is like curated seeds is taken from a pool. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateRetrieve extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Grow curated seed images by what is like them in a pool.'
  static override description =
    'Each seed set is grown by itself, and an image stays when any set brings it. sample takes the nearest images of each seed, no image for two seeds; cluster clusters the pool and draws from the clusters that more than --more-than seeds fall into. Rows name their seed, its set and how like they are.'
  static override examples = [
    '<%= config.bin %> curate retrieve photos --model vits14.pth --seeds birds=seeds/birds --seeds trees:cluster=seeds/trees -o grown.jsonl',
    '<%= config.bin %> curate retrieve photos.parquet --seeds birds=birds.parquet --method sample --per-seed 4 -o grown.jsonl',
    '<%= config.bin %> curate retrieve photos.parquet --only unique.jsonl --seeds birds=birds.parquet -o grown.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.retrieve, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateRetrieve)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('retrieve', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
