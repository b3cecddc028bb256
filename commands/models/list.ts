/** `dinov2 models list`: the released checkpoints. */
import {Flags} from '../../src/cli/oclif.js'
import {Command, reportFlags} from '../../src/cli/command.js'

export default class ModelsList extends Command {
  static override group = 'Data'
  static override dataToStdout = false
  static override summary = 'List the released models: names, sizes, what they are.'
  static override description =
    'Backbones without and with registers, and the heads trained on them, as Meta released them under Apache-2.0. Lengths are given where they are known beforehand. With --json also file, address, licence, checksum, and where a pulled one lies. Nothing is fetched. Two small models come with the program and need no fetching: --model starter, and --model starter-wide, somewhat better at half the speed or less; the released ones are far better.'
  static override examples = [
    '<%= config.bin %> models list',
    '<%= config.bin %> models list --kind backbone',
    "<%= config.bin %> models list --json | jq -r '.[].url'"
  ]
  static override flags = {
    kind: Flags.option({options: ['backbone', 'classifier', 'depth', 'segmentation'] as const})({summary: 'Only models of this kind.'}),
    'base-url': Flags.string({helpValue: 'URL', summary: 'A mirror of the host; addresses are given below it.'}),
    json: reportFlags.json
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(ModelsList)
    const {listModels, modelLines} = await import('../../src/tasks/models.js')
    const models = await listModels({kind: flags.kind, baseUrl: flags['base-url']})
    this.print(modelLines(models).join('\n'))
    return models
  }
}
