/** `dinov2 curate cluster`: every image gets its place in a hierarchy of clusters. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateCluster extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Give every image its place in a hierarchy of clusters.'
  static override description =
    'Hierarchical k-means with resampling (Vo et al. 2024). Rows get the field cluster, from the top level down, such as 2/17/141, and their distance to the centre; curate sample draws evenly from them.'
  static override examples = [
    '<%= config.bin %> curate cluster photos.parquet --levels 1000,100,10 -o clustered.jsonl',
    '<%= config.bin %> curate cluster photos --model vits14.pth --html clusters.html -o clustered.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.cluster, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateCluster)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('cluster', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
