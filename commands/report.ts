/** `dinov2 report`: run folders as one page. */
import {Args, Flags} from '../src/cli/oclif.js'
import {Command, outputFlags, reportFlags} from '../src/cli/command.js'

export default class Report extends Command {
  static override group = 'Results'
  static override summary = 'Make one page of run folders: curves, health in words, evaluations, settings.'
  static override description =
    'Reads config.yaml, metrics.jsonl and the results (*.json) of each run, and writes one HTML page that carries everything in itself: loss curves and schedules as pictures, what is well and what is not in words, evaluations as tables, and the settings, with those in which runs differ. Runs are drawn over each other.'
  static override examples = [
    '<%= config.bin %> report run -o run.html',
    '<%= config.bin %> report runs/* -o compare.html --title "Which learning rate"'
  ]
  static override args = {runs: Args.string({multiple: true, ignoreStdin: true, description: 'Folders that pretrain or distill wrote.'})}
  static override flags = {
    output: {...outputFlags.output, helpValue: 'FILE'},
    force: outputFlags.force,
    title: Flags.string({helpValue: 'TEXT', summary: 'Heading of the page.'}),
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Report)
    const runs = this.inputs(args.runs, 'run folders')
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {},
        files: runs,
        computes: 'charts and findings of each run',
        writes: [flags.output ?? '-']
      })
    const {readLayers} = await import('../src/config/read-layers.js')
    const {reportRuns} = await import('../src/tasks/report.js')
    const output = await this.output(flags.output ?? '-')
    const readSettings = (path: string): Map<string, unknown> =>
      new Map(readLayers([path], [], {flags: [], settings: true}).settings.map(({path: name, value}) => [name, value]))
    const {page, runs: reports} = await reportRuns({runs, title: flags.title, readSettings})
    output.stream.write(page)
    await output.commit()
    for (const {run, health} of reports) for (const {good, text} of health) if (!good) this.note(`${run}: ${text}`)
    return {output: flags.output, runs: reports}
  }
}
