/** `dinov2 curate sample`: images are drawn evenly from clusters. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateSample extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Draw a number of images evenly from clusters.'
  static override description =
    'Hierarchical balanced sampling (Vo et al. 2024): from the top level down, clusters get as equal shares as their sizes allow, and the target is hit exactly. Rows that carry the field cluster (from curate cluster) are drawn from as they are, without any features; others are clustered first.'
  static override examples = [
    '<%= config.bin %> curate sample clustered.jsonl --target 10000 -o train.jsonl',
    '<%= config.bin %> curate sample photos.parquet --only unique.jsonl --target 10000 --seed 1 -o train.jsonl',
    '<%= config.bin %> curate cluster photos.parquet | <%= config.bin %> curate sample - --target 500 --materialize links --to train'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.sample, ...stageFlags.cluster, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateSample)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(
      task,
      args.images,
      flags,
      [planStage('sample', flags, {...task, cluster: flags})],
      () => import('../../src/tasks/plan.js')
    )
  }
}
