/** `dinov2 samples pull`: a small public photo set, from the host that publishes it. */
import {counted} from '../../src/config/counted.js'
import {Args, Flags} from '../../src/cli/oclif.js'
import {Command, outputFlags, reportFlags} from '../../src/cli/command.js'

export default class SamplesPull extends Command {
  static override group = 'Data'
  static override dataToStdout = false
  static override summary = 'Fetch a small public photo set from its own host.'
  static override description =
    'Without NAME, lists the sets with size, host and licence and fetches nothing. With NAME, says the licence, downloads with resume, checks length and SHA-256, and writes DIR/{train,val}/<class>/. The sets are no part of this program: who runs the command accepts their terms.'
  static override examples = ['<%= config.bin %> samples pull', '<%= config.bin %> samples pull flowers -o flowers']
  static override args = {name: Args.string({ignoreStdin: true, description: 'The set: flowers, imagenette or pets.'})}
  static override flags = {
    output: Flags.string({char: 'o', helpValue: 'DIR', summary: 'The folder to make; by default the name of the set.'}),
    force: outputFlags.force,
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(SamplesPull)
    const {PHOTO_SETS, photoSet, pullSamples} = await import('../../src/tasks/samples.js')
    const describe = (set: (typeof PHOTO_SETS)[number]): string[] => {
      const bytes = set.archives.reduce((sum, archive) => sum + archive.bytes, 0)
      return [
        `${set.name}: ${set.about}`,
        `  licence: ${set.licence}`,
        `  from ${new URL(set.archives[0].url).host}, ${Math.round(bytes / 1e6)} MB; about it: ${set.home}`
      ]
    }
    if (args.name === undefined) {
      this.print(PHOTO_SETS.flatMap(describe).join('\n'))
      return PHOTO_SETS.map(({name, about, licence, home, archives}) => ({name, about, licence, home, archives}))
    }
    const set = photoSet(args.name)
    const output = flags.output ?? set.name
    for (const line of describe(set)) this.note(line)
    if (flags['dry-run']) return {set: set.name, output, bytes: set.archives.reduce((sum, archive) => sum + archive.bytes, 0)}
    const bar = this.progress({unit: 'MB', label: 'download'})
    let unpacking: ReturnType<typeof this.progress> | undefined
    const report = await pullSamples({
      set,
      output,
      force: flags.force,
      signal: this.signal,
      onRedirect: host => this.note(`the download is redirected to ${host}`),
      onBytes: (done, total) => {
        bar.total = Math.round(total / 1e6)
        bar.update(Math.round(done / 1e6))
      },
      onPhoto: done => (unpacking ??= this.progress({unit: 'photos', label: 'unpack'})).update(done)
    })
    this.note(`${report.train} + ${counted(report.val, 'photo')} of ${counted(report.classes, 'class', 'classes')} in ${output}`)
    return report
  }
}
