/** `dinov2 schema`: JSON Schemas of what commands report and write, of settings files and of lists. */
import {Args, Flags} from '../src/cli/oclif.js'
import {Command, reportFlags} from '../src/cli/command.js'
import {UserError} from '../src/config/errors.js'

export default class Schema extends Command {
  static override group = 'Shell'
  static override dataToStdout = false
  static override strict = false
  static override summary = 'Print the JSON Schema of a report, of rows, of settings files, of lists or of errors.'
  static override description =
    'Without a name, the names that there are, one a line. A command gives the schema of its report under --json, with --rows that of its JSON Lines; settings that of recipes and files for --config, which editors complete by; list that of the lines of an image list; error that of a failure under --json.'
  static override examples = [
    '<%= config.bin %> schema settings > settings.schema.json',
    '<%= config.bin %> schema knn-eval',
    '<%= config.bin %> schema search --rows'
  ]
  static override args = {name: Args.string({ignoreStdin: true, multiple: true, description: 'A command, or settings, list or error.'})}
  static override flags = {
    rows: Flags.boolean({summary: 'The schema of the rows that the command writes, instead of its report.'}),
    json: reportFlags.json
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Schema)
    const {schemaNames, outputSchema} = await import('../src/cli/report-schemas.js')
    const {DRAFT, settingsSchema} = await import('../src/config/json-schema.js')
    const kind = flags.rows ? 'rows' : 'report'
    const ids = this.config.commands.filter(({hidden}) => !hidden).map(({id}) => id.replaceAll(':', ' '))
    const names = [...schemaNames, ...ids.filter(id => outputSchema(id, kind) !== undefined).sort()]
    const name = ([args.name ?? []].flat() as string[]).join(' ')
    if (name === '') {
      this.print(names.join('\n'))
      return names
    }
    const found = name === 'settings' ? settingsSchema() : names.includes(name) ? outputSchema(name, kind) : undefined
    if (!found)
      throw new UserError(`There is no schema of the ${kind === 'rows' ? 'rows' : 'report'} of ${name}.`, {
        exit: 2,
        code: 'USAGE',
        hint: `Expected one of ${names.join(', ')}.`
      })
    const schema = {$schema: DRAFT, title: `dinov2 ${name}`, ...found}
    this.print(JSON.stringify(schema, null, 2))
    return schema
  }
}
