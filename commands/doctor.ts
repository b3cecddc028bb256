/** `dinov2 doctor`: what is on this machine, how fast it is, and what would make it faster. */
import {Flags} from '../src/cli/oclif.js'
import {Command, engineFlags, reportFlags} from '../src/cli/command.js'

export default class Doctor extends Command {
  static override group = 'Engine'
  static override dataToStdout = false
  static override summary = 'Say what is on this machine, how fast it is, and what would make it faster.'
  static override description =
    'Looks at Node, the processor and its instructions, memory, GPUs and their driver, engines (and why others are not here), compiler, Python, and the sizes of the folders that this program keeps. Then it measures how many images a second an untrained ViT-S/14 turns into features, without reading and decoding them, and names the commands that would help. Nothing is installed.'
  static override examples = ['<%= config.bin %> doctor', '<%= config.bin %> doctor --json | jq .speed.imagesPerSecond']
  static override flags = {
    seconds: Flags.integer({min: 0, max: 600, default: 5, helpValue: 'N', summary: 'How long to measure; 0 measures nothing.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(Doctor)
    const {doctorLines, examine} = await import('../src/tasks/doctor/doctor.js')
    const {seconds, engine, device, precision, threads} = flags
    const facts = await examine({engine, device, precision, threads, note: sentence => this.note(sentence)}, seconds)
    this.print(doctorLines(facts).join('\n'))
    return facts
  }
}
