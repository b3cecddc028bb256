/** `dinov2 engine verify`: agreement with recorded tensors of the reference implementation. */
import {Flags} from '@oclif/core'
import {Command, engineFlags, reportFlags} from '../../src/cli/command.js'

type Check = import('../../src/tasks/verify/verify.js').Check

export default class EngineVerify extends Command {
  static override group = 'Engine'
  static override dataToStdout = false
  static override summary = 'Prove that an engine computes what the reference implementation computed.'
  static override description = `Takes weights and inputs from a folder of recorded tensors, computes features, gradients, losses, parameter groups, schedules and whole optimisation steps anew, and prints for each the error by which it is judged, its limit, and pass or FAIL. In fp32, features and losses have to agree within 1e-5 of the largest entry, gradients within 1e-4, updates of parameters over the recorded steps within 3e-3 in relative L2 norm. bf16 is judged by cosines. --precision auto checks every precision that the engine has.`
  static override statuses = {1: 'something does not agree'}
  static override examples = [
    '<%= config.bin %> engine verify',
    '<%= config.bin %> engine verify --engine tensorflow --golden recordings/seed12',
    '<%= config.bin %> engine verify --json | jq .failed'
  ]
  static override flags = {
    golden: Flags.string({helpValue: 'DIR', summary: 'Folder of the recording; by default the one that comes with the source.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    verbose: reportFlags.verbose
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(EngineVerify)
    const {defaultGolden, verify} = await import('../../src/tasks/verify/verify.js')
    const golden = flags.golden ?? defaultGolden()
    const {engine, device, precision, threads} = flags
    const checks: Check[] = []
    const run = verify({golden, engine, device, precision, note: line => this.note(line), threads})
    let step = await run.next()
    for (; !step.done; step = await run.next()) {
      checks.push(step.value)
      if (!flags.quiet || !step.value.pass) this.print(line(step.value))
    }
    const judged = checks.filter(({limit}) => limit !== null).length
    const failed = checks.filter(({pass}) => !pass).length
    const {engine: name, version} = step.value
    this.print(`${name} ${version} on ${step.value.device}: ${judged - failed} of ${judged} agree with ${golden}`)
    if (failed > 0) process.exitCode = 1
    return {...step.value, golden, passed: judged - failed, failed, checks}
  }
}

/** `pass  vit plain  full.x_prenorm  max 1.1e-6  limit 1e-5`; a number without a limit is told, not judged. */
function line({part, name, measure, error, limit, pass}: Check): string {
  const verdict = limit === null ? '    ' : pass ? 'pass' : 'FAIL'
  const number = measure === 'cosine' ? error.toFixed(6) : measure === 'count' ? String(error) : error.toExponential(1)
  const against =
    limit === null
      ? 'not judged'
      : `${measure === 'cosine' ? 'at least' : 'at most'} ${measure === 'cosine' ? limit : limit === 0 ? 0 : limit.toExponential(0)}`
  return `${verdict}  ${part.padEnd(22)}  ${name.padEnd(52)}  ${measure.padEnd(6)}  ${number.padStart(9)}  ${against}`
}
