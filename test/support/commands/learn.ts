/** A command that reads settings, to see how they are merged and printed. */
import {Command, configFlags, imagesArg, outputFlags, reportFlags, seedFlag} from '../../../src/cli/command.js'

export default class Learn extends Command {
  static override summary = 'Show the settings.'
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override examples = ['<%= config.bin %> <%= command.id %> photos -o run']
  static override args = {...imagesArg}
  static override flags = {...outputFlags, ...configFlags, ...seedFlag, ...reportFlags, 'dry-run': reportFlags['dry-run']}

  async run(): Promise<unknown> {
    await this.parse(Learn)
    const {optim, train} = this.settings
    return {epochs: optim.epochs, seed: train.seed, batch: train.batch_size_per_gpu, from: this.resolved.sources.get('optim.epochs')}
  }
}
