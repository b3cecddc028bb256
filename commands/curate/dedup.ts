/** `dinov2 curate dedup`: near-duplicates go out, one of each set stays. */
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {stageFlags} from '../../src/cli/curate-stage-flags.js'

export default class CurateDedup extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Keep one of each set of near-duplicates.'
  static override description =
    'Images that are more alike than the threshold are joined into groups, and one image of each group is kept: the one with most pixels, then with most bytes, then the sharpest. Without a model, perceptual features are compared, which find re-encoded, resized, blurred and recoloured copies, but no crops. A rejected row names the kept image (similar_to) and the similarity of the two. With --calibrate the threshold is found on copies made of the images themselves.'
  static override examples = [
    '<%= config.bin %> curate dedup photos -o unique.jsonl --rejected copies.jsonl',
    '<%= config.bin %> embed photos --model vits14.pth | <%= config.bin %> curate dedup - --threshold 0.97 -o unique.jsonl',
    '<%= config.bin %> curate dedup photos --model vits14.pth --calibrate --wanted-precision 0.999 -o unique.jsonl',
    '<%= config.bin %> curate dedup photos --since unique.jsonl --cache features -o more.jsonl'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {...stageFlags.dedup, ...curateFlags}

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(CurateDedup)
    const task = await import('../../src/tasks/curate/run.js')
    return this.curated(task, args.images, flags, [planStage('dedup', flags, task)], () => import('../../src/tasks/plan.js'))
  }
}
