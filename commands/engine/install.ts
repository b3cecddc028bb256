/** `dinov2 engine install`: bring an engine to this machine. */
import {createInterface} from 'node:readline/promises'
import {Args, Flags} from '../../src/cli/oclif.js'
import {Command, reportFlags} from '../../src/cli/command.js'
import type {InstallRequest} from '../../src/tasks/engine/install.js'

export default class EngineInstall extends Command {
  static override group = 'Engine'
  static override dataToStdout = false
  static override summary = 'Install an engine and prove that it computes.'
  static override description = `torch: takes the libtorch that is here (DINOV2_TORCH, or the torch that python3 imports), else puts PyTorch into a private Python environment under the XDG data folder; then compiles the addon with g++.
tensorflow: puts the npm package @tensorflow/tfjs-node-gpu (where it is not there) and TensorFlow's wheel into private folders and compiles the binding of the former against the latter.
The size of a download is said before it starts. Where all is there already, this only checks it. DINOV2_TORCH_INDEX names another package index for PyTorch.`
  static override examples = [
    '<%= config.bin %> engine install torch',
    '<%= config.bin %> engine install torch --cuda --yes',
    '<%= config.bin %> engine install tensorflow --dry-run'
  ]
  static override args = {
    engine: Args.string({required: true, ignoreStdin: true, options: ['torch', 'tensorflow'], description: 'Which engine.'})
  }
  static override flags = {
    cuda: Flags.boolean({summary: 'The build for NVIDIA GPUs, several gigabytes; otherwise the one for the CPU.'}),
    force: Flags.boolean({char: 'f', summary: 'Remove the private environment and start afresh.'}),
    yes: Flags.boolean({char: 'y', summary: 'Do not ask before a download. Nothing is asked where stdin is not a terminal.'}),
    'dry-run': reportFlags['dry-run'],
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(EngineInstall)
    const {installEngine, planInstallation} = await import('../../src/tasks/engine/install.js')
    const engine = args.engine as InstallRequest['engine']
    if (flags['dry-run']) {
      const plan = await planInstallation({engine, cuda: flags.cuda, force: flags.force})
      for (const sentence of plan) this.print(sentence)
      return {engine, plan}
    }
    const asks = process.stdin.isTTY && !flags.yes
    const report = await installEngine({
      engine,
      cuda: flags.cuda,
      force: flags.force,
      note: sentence => this.note(sentence),
      confirm: async question => {
        if (asks) return this.#ask(question)
        this.note(question.replace(/ Go on\?$/, ''))
        return true
      }
    })
    this.print(`${report.engine} ${report.version} computes on ${report.device} (${report.where})`)
    return report
  }

  async #ask(question: string): Promise<boolean> {
    const terminal = createInterface({input: process.stdin, output: process.stderr})
    const answer = await terminal.question(`${question} [Y/n] `)
    terminal.close()
    return /^(y(es)?)?$/i.test(answer.trim())
  }
}
