/** `dinov2 engine verify`: agreement with recorded tensors of the reference implementation. */
import {Flags} from '../../src/cli/oclif.js'
import {Command, engineFlags, reportFlags} from '../../src/cli/command.js'

type Check = import('../../src/tasks/verify/verify.js').Check

export default class EngineVerify extends Command {
  static override group = 'Engine'
  static override dataToStdout = false
  static override summary = 'Prove that an engine computes what the reference implementation computed.'
  static override description = `Takes weights and inputs from a folder of recorded tensors, computes features, gradients, losses, parameter groups, schedules and whole optimization steps anew, and compares each with what is recorded. Prints one line for each part of the recording, with its largest error beside the limit, and a line for each comparison that fails; -v prints all comparisons. In fp32, features and losses have to agree within 1e-5 of the largest entry, gradients within 1e-4, updates of parameters over the recorded steps within 3e-3 in relative L2 norm. bf16 is judged by cosines. --precision auto checks every precision that the engine has.`
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
      if (flags.verbose || !step.value.pass) this.print(line(step.value))
    }
    const judged = checks.filter(({limit}) => limit !== null).length
    const failed = checks.filter(({pass}) => !pass).length
    if (!flags.verbose && !flags.quiet) for (const summary of summaries(checks)) this.print(summary)
    const {engine: name, version} = step.value
    this.print(`${name} ${version} on ${step.value.device}: ${judged - failed} of ${judged} agree with ${golden}`)
    if (failed > 0) process.exitCode = 1
    return {...step.value, golden, passed: judged - failed, failed, checks}
  }
}

/** One line for each part of the recording and measure: how many comparisons agree, and the nearest to its limit. */
function summaries(checks: readonly Check[]): string[] {
  const groups = new Map<string, Check[]>()
  for (const check of checks) {
    if (check.limit === null) continue
    const key = `${check.part.padEnd(22)}  ${check.measure}`
    groups.set(key, [...(groups.get(key) ?? []), check])
  }
  return [...groups].map(([, group]) => {
    const {part, measure} = group[0]!
    const worst = group.reduce((a, b) => (closeness(b) > closeness(a) ? b : a))
    const agreeing = group.filter(({pass}) => pass).length
    const verdict = agreeing === group.length ? 'pass' : 'FAIL'
    return `${verdict}  ${part.padEnd(22)}  ${measure.padEnd(6)}  ${`${agreeing} of ${group.length}`.padStart(12)}  worst ${figure(worst)}, ${bound(worst)}`
  })
}

/** How near an error comes to its limit: above 1 it fails. */
function closeness({measure, error, limit}: Check): number {
  if (Number.isNaN(error)) return Infinity
  if (measure === 'cosine') return (1 - error) / (1 - limit!)
  return limit === 0 ? (error === 0 ? 0 : Infinity) : error / limit!
}

const figure = ({measure, error}: Check): string =>
  measure === 'cosine' ? error.toFixed(6) : measure === 'count' ? String(error) : error.toExponential(1)

const bound = ({measure, limit}: Check): string =>
  limit === null
    ? 'not judged'
    : `${measure === 'cosine' ? 'at least' : 'at most'} ${measure === 'cosine' ? limit : limit === 0 ? 0 : limit.toExponential(0)}`

/** `pass  vit plain  full.x_prenorm  max 1.1e-6  at most 1e-5`; a number without a limit is shown, not judged. */
function line(check: Check): string {
  const verdict = check.limit === null ? '    ' : check.pass ? 'pass' : 'FAIL'
  return `${verdict}  ${check.part.padEnd(22)}  ${check.name.padEnd(52)}  ${check.measure.padEnd(6)}  ${figure(check).padStart(9)}  ${bound(check)}`
}
