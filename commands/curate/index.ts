/**
 * `dinov2 curate`: from a raw pool to a set worth training on, in one run. In a folder of its own, beside its stages.
 */
import {Flags} from '../../src/cli/oclif.js'
import {UserError} from '../../src/config/errors.js'
import {CurateCommand} from '../../src/cli/curate-command.js'
import {curateFlags, poolArg} from '../../src/cli/curate-flags.js'
import {planStage} from '../../src/cli/curate-plan.js'
import {prefixed, stageFlags, unprefixed, type StageFlagName} from '../../src/cli/curate-stage-flags.js'

const names = ['filter', 'dedup', 'decontaminate', 'outliers', 'mislabelled', 'retrieve', 'cluster', 'sample'] as const

export default class Curate extends CurateCommand {
  static override group = 'Data'
  static override summary = 'Make a set worth training on out of a raw pool.'
  static override description =
    'Runs the stages named by --stages (or in a file of settings), in that order, each on what the one before has left. Every stage is also a command (dinov2 curate dedup …), and its flags are here under its name. In a file of settings they may stand together:\n\n  stages: [filter, dedup, sample]\n  filter: {min-side: 64}\n  dedup: {threshold: 0.92}\n  sample: {target: 10000}\n\nWithout stages, images are filtered and near-duplicates removed; with a model and --sample-target, a balanced sample is drawn too; with --retrieve-seeds and --decontaminate-against, those stages run in their place. Near-duplicates and benchmark images are found by perceptual features, also where a model is named; --dedup-features model changes that.\n\nA folder of the name of a stage is written ./dedup.'
  static override examples = [
    '<%= config.bin %> curate photos -o train.jsonl --rejected rest.jsonl --html curation.html',
    '<%= config.bin %> curate photos --model vits14.pth --sample-target 10000 -o train.jsonl',
    '<%= config.bin %> curate photos --config curation.yaml --materialize tar --to shards -o train.jsonl',
    '<%= config.bin %> curate photos --stages filter,dedup,decontaminate --decontaminate-against benchmark -o train.jsonl && <%= config.bin %> pretrain train.jsonl --config small -o run'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...poolArg}
  static override flags = {
    stages: Flags.string({
      multiple: true,
      delimiter: ',',
      helpGroup: 'STAGES',
      helpValue: 'STAGE,…',
      summary: `Which stages run, in this order: ${names.join(', ')}.`
    }),
    ...curateFlags,
    ...prefixed('filter', stageFlags.filter),
    ...prefixed('dedup', stageFlags.dedup),
    ...prefixed('decontaminate', stageFlags.decontaminate),
    ...prefixed('outliers', stageFlags.outliers),
    ...prefixed('mislabelled', stageFlags.mislabelled),
    ...prefixed('retrieve', stageFlags.retrieve),
    ...prefixed('cluster', stageFlags.cluster),
    ...prefixed('sample', stageFlags.sample)
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Curate)
    const task = await import('../../src/tasks/curate/run.js')
    const planning = {...task, cluster: unprefixed('cluster', flags)}
    const plan = this.#stages(flags).map(stage => {
      const planned = planStage(stage, unprefixed(stage, flags), planning)
      const findsCopies = stage === 'dedup' || stage === 'decontaminate'
      return findsCopies && planned.features === 'auto' ? {...planned, features: 'perceptual' as const} : planned
    })
    return this.curated(task, args.images, flags, plan, () => import('../../src/tasks/plan.js'))
  }

  /**
   * The stages that were named, else those that the other flags call for. Throws a usage error for an unknown one or
   * one named twice.
   */
  #stages(values: Readonly<Record<string, unknown>>): StageFlagName[] {
    const named = (values['stages'] as readonly string[] | undefined)?.map(name => name.trim()).filter(name => name !== '')
    if (named) {
      const unknown = named.find(name => !names.includes(name as StageFlagName))
      const twice = named.find((name, i) => named.indexOf(name) !== i)
      if (unknown !== undefined || twice !== undefined || named.length === 0)
        throw new UserError(
          unknown !== undefined
            ? `There is no stage ${unknown}.`
            : twice !== undefined
              ? `The stage ${twice} is named twice; each runs once.`
              : 'No stage is named.',
          {exit: 2, code: 'USAGE', hint: `Stages are ${names.join(', ')}.`}
        )
      return named as StageFlagName[]
    }
    const given = (name: string): boolean => values[name] !== undefined
    return [
      'filter',
      'dedup',
      ...(given('decontaminate-against') ? (['decontaminate'] as const) : []),
      ...(given('retrieve-seeds') ? (['retrieve'] as const) : []),
      ...(given('sample-target') ? (['sample'] as const) : [])
    ]
  }
}
