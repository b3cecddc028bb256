/**
 * `dinov2 completion`: a script that teaches the shell to complete commands, flags, options, recipes, settings and
 * file names.
 */
import {Args} from '../src/cli/oclif.js'
import {Command, reportFlags} from '../src/cli/command.js'

export default class Completion extends Command {
  static override group = 'Shell'
  static override dataToStdout = false
  static override summary = 'Write a completion script for bash, zsh or fish.'
  static override description =
    'Put the line of the example into ~/.bashrc (or ~/.zshrc with zsh); for fish, write the script to ~/.config/fish/completions/dinov2.fish. The script is written from the commands as they are, so that it never lags behind them.'
  static override examples = [
    'source <(<%= config.bin %> completion bash)',
    '<%= config.bin %> completion fish > ~/.config/fish/completions/dinov2.fish'
  ]
  static override args = {
    shell: Args.string({options: ['bash', 'zsh', 'fish'], required: true, ignoreStdin: true, description: 'Whose completion.'})
  }
  static override flags = {json: reportFlags.json}

  async run(): Promise<unknown> {
    const {args} = await this.parse(Completion)
    const shell = args.shell as 'bash' | 'zsh' | 'fish'
    const {recipeNames} = await import('../src/config/recipes.js')
    const {settingRows} = await import('../src/config/table.js')
    const values = {config: recipeNames(), set: [...settingRows()].map(([path]) => `${path}=`)}
    const commands = this.config.commands.filter(command => !command.hidden)
    const script =
      shell === 'fish'
        ? (await import('../src/cli/fish-completion.js')).fishCompletion(this.config.bin, commands, values)
        : (await import('../src/cli/completion.js')).completionScript(shell, this.config.bin, commands, values)
    this.print(script)
    return {shell, commands: commands.length, script}
  }
}
