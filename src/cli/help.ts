/**
 * What `--help` shows: for the program its commands by purpose, for a command its examples first, then flags, and at
 * the end the exit statuses.
 *
 * oclif prepares the texts from the declarations of the commands; this only arranges them.
 */
import {CommandHelp, Help, type Command, type Interfaces} from './oclif.js'

/** The order in which `dinov2 --help` lists the groups; others follow by name. */
export const groupOrder = ['Data', 'Training', 'Features', 'Evaluation', 'Results', 'Engine', 'Shell']

const commonStatuses: readonly (readonly [number | string, string])[] = [
  [0, 'all well'],
  [1, 'the run failed'],
  [2, 'wrong usage or settings'],
  [3, 'no input'],
  [4, 'more bad inputs than --max-bad'],
  [5, 'engine, device or memory not there'],
  [6, 'training unhealthy: not finite, or collapsed'],
  [70, 'a defect of ours'],
  ['130, 143', 'stopped by a signal']
]

export type Shown = Command.Loadable & {readonly group?: string; readonly statuses?: Readonly<Record<number, string>>}

/** The exit statuses that a command may end with, and what each means. */
export function exitStatuses({statuses: own = {}, flags = {}, args = {}}: Shown): [status: string, meaning: string][] {
  const common = commonStatuses.filter(
    ([status]) =>
      (status !== 4 || 'max-bad' in flags) &&
      (status !== 3 || 'images' in args) &&
      (status !== 6 || 6 in own) &&
      (status !== 5 || 'engine' in flags || 5 in own)
  )
  return [...new Map([...common, ...Object.entries(own)].map(([status, meaning]) => [String(status), meaning]))]
}

/** The order of the groups of shared flags, after the command's own. */
export const flagGroupOrder = ['ENGINE', 'BAD INPUT', 'SETTINGS', 'REPORT']

/** Fills in a template only where there is one: oclif compiles each text anew, a third of the time of help. */
const onlyTemplates =
  (render: (text: string) => string) =>
  (text: string): string =>
    text.includes('<%') ? render(text) : text

class OneCommandHelp extends CommandHelp {
  constructor(...args: ConstructorParameters<typeof CommandHelp>) {
    super(...args)
    this.render = onlyTemplates(this.render)
  }

  protected override groupFlags(flags: Command.Flag.Any[]): ReturnType<CommandHelp['groupFlags']> {
    const {mainFlags, flagGroups} = super.groupFlags(flags)
    const place = (name: string): number => flagGroupOrder.indexOf(name)
    return {mainFlags, flagGroups: Object.fromEntries(Object.entries(flagGroups).sort(([a], [b]) => place(a) - place(b)))}
  }

  protected override defaultUsage(): string {
    const args = Object.values(this.command.args ?? {}).filter(arg => !arg.hidden)
    const spoken = args.map(
      arg => (arg.required ? '' : '[') + arg.name.toUpperCase() + (arg.multiple ? '…' : '') + (arg.required ? '' : ']')
    )
    return [this.command.id, ...spoken, '[FLAGS]'].join(' ')
  }

  /** oclif takes the indentation of the first line away: here it stays, so that all flags stand in one column. */
  override renderList(...[input, options]: Parameters<CommandHelp['renderList']>): string {
    const list = super.renderList(input, options)
    const indentation = options.multiline ? '' : (/^ */.exec(input[0]?.[0] ?? '')?.[0] ?? '')
    return list.startsWith(' ') ? list : indentation + list
  }

  /** Every example is a command line, also one that begins with another program: all get the same `$`. */
  protected override examples(examples: Parameters<CommandHelp['examples']>[0]): string | undefined {
    const list = typeof examples === 'string' ? [examples] : (examples ?? [])
    return super.examples(
      list.map(example => (typeof example === 'string' && !/^(<%= config\.bin %>|\$ )/.test(example) ? `$ ${example}` : example))
    )
  }

  protected override description(): string | undefined {
    return this.command.description && this.command.summary ? this.wrap(this.command.description) : undefined
  }

  protected override sections(): ReturnType<CommandHelp['sections']> {
    const made = new Map(super.sections().map(section => [section.header, section]))
    const arranged = ['USAGE', 'DESCRIPTION', 'EXAMPLES', 'ARGUMENTS', 'FLAGS', 'FLAG DESCRIPTIONS', 'ALIASES']
    const kept = arranged.flatMap(header => made.get(header) ?? [])
    return [
      ...kept,
      {
        header: 'EXIT STATUS',
        generate: (_, header) => ({header, body: exitStatuses(this.command as Shown)})
      },
      {
        header: 'ENVIRONMENT',
        generate: () =>
          this.wrap('Every flag can also be given by environment, e.g. --max-bad as DINOV2_MAX_BAD; what stands on the command line wins.')
      }
    ]
  }
}

/** Arranged help for the whole program and for one command. */
export class GroupedHelp extends Help {
  constructor(config: Interfaces.Config, options: Partial<Interfaces.HelpOptions> = {}) {
    super(config, {flagSortOrder: 'none', ...options})
    this.render = onlyTemplates(this.render)
  }

  protected override CommandHelpClass = OneCommandHelp

  protected override async showRootHelp(): Promise<void> {
    const {bin, version, pjson} = this.config
    const spoken = (id: string): string => id.replaceAll(':', ' ')
    const commands = (this.sortedCommands as Shown[]).filter(command => !command.hidden)
    const groups = new Map<string, Shown[]>()
    for (const command of commands) {
      const group = command.group ?? 'Other'
      groups.set(group, [...(groups.get(group) ?? []), command])
    }
    const rank = (group: string): number => (groupOrder.includes(group) ? groupOrder.indexOf(group) : groupOrder.length)
    const ordered = [...groups].sort(([a], [b]) => rank(a) - rank(b) || (a < b ? -1 : 1))
    const width = Math.max(...commands.map(command => spoken(command.id).length))
    this.log(`${pjson.description ?? bin}\n`)
    this.log(this.section('USAGE', `$ ${bin} COMMAND [INPUTS…] [FLAGS]`))
    for (const [group, members] of ordered) {
      const lines = members.map((command): [string, string] => [
        spoken(command.id).padEnd(width),
        (command.summary ?? command.description ?? '').split('\n')[0]!
      ])
      this.log('\n' + this.section(group.toUpperCase(), lines))
    }
    this.log('\n' + this.section('MORE', [`$ ${bin} COMMAND --help`, `$ ${bin} --version   ${version}`].join('\n')))
  }
}
