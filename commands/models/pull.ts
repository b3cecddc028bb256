/** `dinov2 models pull`: fetch released checkpoints. */
import {Args, Flags} from '../../src/cli/oclif.js'
import {Command, outputFlags, reportFlags} from '../../src/cli/command.js'
import {UserError} from '../../src/config/errors.js'
import {nearestName} from '../../src/config/nearest.js'

export default class ModelsPull extends Command {
  static override group = 'Data'
  static override dataToStdout = false
  static override summary = 'Fetch released models.'
  static override description =
    'Downloads with resume: what an interrupted call left (.part) is gone on with. Length and, where it is known, SHA-256 are checked before the file gets its name. Without -o, files go to $XDG_CACHE_HOME/dinov2/models, where --model finds them by name, and what is there already is not fetched again. The weights are under Apache-2.0. Prints the path of each file.\n\nAn id of the Hugging Face hub (owner/name, with @revision) is fetched into the cache of its tools (HF_HUB_CACHE, HF_HOME), where --model and transformers find it; lengths and checksums are those that the hub states. HF_ENDPOINT names a mirror, and HF_HUB_OFFLINE=1 refuses. Models that need an account are not fetched.'
  static override examples = [
    '<%= config.bin %> models pull dinov2_vits14',
    '<%= config.bin %> models pull facebook/dinov2-small',
    '<%= config.bin %> models pull dinov2_vitb14_reg -o vitb14_reg.pth',
    '<%= config.bin %> models pull dinov2_vits14 dinov2_vits14_nyu_linear -o weights/'
  ]
  static override args = {
    names: Args.string({
      multiple: true,
      required: true,
      ignoreStdin: true,
      description: 'Names as models list gives them, or ids of the Hugging Face hub.'
    })
  }
  static override flags = {
    output: Flags.string({char: 'o', helpValue: 'PATH', summary: 'A file, or a folder that exists.'}),
    force: outputFlags.force,
    'base-url': Flags.string({helpValue: 'URL', summary: 'A mirror of the host, with the same paths below it.'}),
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(ModelsPull)
    const {findReleased, pullModel, released, size, toFolder} = await import('../../src/tasks/models.js')
    const {isHubId, pullHubModel} = await import('../../src/tasks/hub-models.js')
    const isOnHub = (name: string): boolean => isHubId(name) && !findReleased(name)
    const names = args.names as unknown as string[]
    for (const name of names)
      if (!isOnHub(name) && !findReleased(name)) {
        const guess = nearestName(
          name,
          released.map(entry => entry.name)
        )
        throw new UserError(`${name} is no released model.`, {
          exit: 2,
          code: 'NO_MODEL',
          hint: guess ? `Did you mean ${guess}? All names: ${this.config.bin} models list` : `All names: ${this.config.bin} models list`
        })
      }
    if (flags.output !== undefined && names.some(isOnHub))
      throw new UserError('Models of the Hugging Face hub go to its cache, not to --output.', {
        exit: 2,
        code: 'USAGE',
        hint: 'HF_HUB_CACHE or HF_HOME name another cache.'
      })
    if (names.length > 1) await toFolder(flags.output)
    const reports = []
    for (const name of names) {
      const bar = flags['dry-run'] ? undefined : this.progress({unit: 'MB', label: name})
      const shared = {
        force: flags.force,
        dryRun: flags['dry-run'],
        signal: this.signal,
        onRedirect: (host: string) => this.note(`${name} is redirected to ${host}`),
        onWait: (sentence: string) => this.note(sentence),
        onProgress: ({bytes, total}: {bytes: number; total: number | undefined}) => bar?.showBytes(bytes, total)
      }
      const report = isOnHub(name)
        ? await pullHubModel({...shared, id: name, endpoint: flags['base-url']})
        : await pullModel({...shared, name, output: flags.output, baseUrl: flags['base-url']})
      bar?.stop()
      const length = report.bytes === undefined ? 'length unknown' : size(report.bytes)
      if (flags['dry-run']) this.note(`would fetch ${report.url} (${length}, ${report.licence})`)
      else this.note(report.fetched ? `${report.name}: ${length}, ${report.licence}` : `${report.name} is here already`)
      if (report.recorded)
        this.note(
          `its SHA-256 was not known beforehand; ${report.sha256} is written down in ${report.path}.sha256 (sha256sum -c checks it)`
        )
      this.print(report.path)
      reports.push(report)
    }
    return reports
  }
}
