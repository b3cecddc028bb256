/** `dinov2 curate decontaminate`: benchmark images are kept out of a pool. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateDecontaminate extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Keep benchmark images out of a pool.'
  static override description =
    'Whatever is near a benchmark image, and whatever hangs together with it, goes out. The threshold is stricter than that of dedup: better lose some than train on what is evaluated.'
  static override examples = [
    '<%= config.bin %> curate decontaminate photos --against benchmark/val --against benchmark/test -o clean.jsonl',
    '<%= config.bin %> curate decontaminate photos.parquet --against benchmark.parquet --threshold 0.8 -o clean.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.decontaminate, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateDecontaminate)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('decontaminate', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
