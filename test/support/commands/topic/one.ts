/** A command within a topic, with one required argument and others after it. */
import {Args} from '../../../../src/cli/oclif.js'
import {Command, imagesArg, reportFlags} from '../../../../src/cli/command.js'

export default class One extends Command {
  static override summary = 'First of the topic.'
  static override group = 'Engine'
  static override examples = ['<%= config.bin %> <%= command.id %> an.index photos']
  static override args = {index: Args.string({required: true, description: 'An index.'}), ...imagesArg}
  static override flags = {...reportFlags, 'dry-run': reportFlags['dry-run']}

  async run(): Promise<unknown> {
    const {args} = await this.parse(One)
    return {index: args.index, images: args.images ?? []}
  }
}
