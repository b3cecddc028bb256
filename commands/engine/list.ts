/** `dinov2 engine list`: what can compute here. */
import {Command, reportFlags} from '../../src/cli/command.js'

export default class EngineList extends Command {
  static override group = 'Engine'
  static override dataToStdout = false
  static override summary = 'Say what can compute on this machine, and why the rest cannot.'
  static override description =
    'Lists the engines, fastest first: version, devices with their memory and cores, whether a device multiplies bf16 natively and what --precision auto means there; for engines that are not here the reason, and the command that installs them. Nothing is loaded or compiled.'
  static override examples = ['<%= config.bin %> engine list', '<%= config.bin %> engine list --json | jq -r .auto']
  static override flags = {json: reportFlags.json}

  async run(): Promise<unknown> {
    await this.parse(EngineList)
    const {engineLines, listEngines} = await import('../../src/tasks/engine/list.js')
    const list = await listEngines()
    this.print(engineLines(list).join('\n'))
    return list
  }
}
