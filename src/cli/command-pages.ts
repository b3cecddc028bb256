/** A Markdown page for each command, from the declarations that `--help` shows and a guide where there is one. */
import {exitStatuses, flagGroupOrder, groupOrder, type Shown} from './help.js'

type FlagDeclaration = {
  readonly char?: string
  readonly type: 'boolean' | 'option'
  readonly summary?: string
  readonly description?: string
  readonly helpValue?: string | readonly string[]
  readonly helpGroup?: string
  readonly options?: readonly string[]
  readonly allowNo?: boolean
  readonly default?: unknown
  readonly required?: boolean
  readonly multiple?: boolean
  readonly hidden?: boolean
}
type ArgDeclaration = Pick<FlagDeclaration, 'description' | 'options' | 'required' | 'multiple' | 'hidden'>

const commandName = (id: string): string => id.replaceAll(':', ' ')
const fileOf = (id: string): string => `${id.replaceAll(':', '-')}.md`
/** A text in a cell of a table. */
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replace(/\s+/g, ' ').trim()
const defaultOf = (value: unknown): string =>
  ['string', 'number', 'boolean'].includes(typeof value) && value !== false && value !== '' ? ` Default: \`${String(value)}\`.` : ''

function flagRow(name: string, flag: FlagDeclaration): string {
  const value = flag.helpValue === undefined ? (flag.options ? '' : 'VALUE') : [flag.helpValue].flat().join(' ')
  const chosen = (flag.options ? flag.options.join('|') : value).replaceAll('|', '\\|')
  const shown = flag.type === 'boolean' ? `--${flag.allowNo ? '[no-]' : ''}${name}` : `--${name} ${chosen}`
  const words = [flag.summary, flag.description].filter(Boolean).join(' ')
  const several = flag.multiple && !words.includes('Repeatable') ? ' May be given several times.' : ''
  const marks = `${flag.required ? ' Required.' : ''}${several}${defaultOf(flag.default)}`
  return `| ${flag.char ? `\`-${flag.char}\`, ` : ''}\`${shown}\` | ${cell(words)}${marks} |`
}

function flagTables(flags: Readonly<Record<string, FlagDeclaration>>): string {
  const groups = new Map<string, string[]>()
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.hidden) continue
    const group = flag.helpGroup ?? ''
    groups.set(group, [...(groups.get(group) ?? []), flagRow(name, flag)])
  }
  const place = (group: string): number => flagGroupOrder.indexOf(group) + (group === '' ? -1 : 0)
  return [...groups]
    .sort(([a], [b]) => place(a) - place(b))
    .map(
      ([group, rows]) =>
        `## ${group === '' ? 'Flags' : `${group[0]}${group.slice(1).toLowerCase()} flags`}\n\n| flag | |\n| --- | --- |\n${rows.join('\n')}\n`
    )
    .join('\n')
}

function page(command: Shown, bin: string, guide: string | undefined): string {
  const named = Object.entries((command.args ?? {}) as Readonly<Record<string, ArgDeclaration>>).filter(([, arg]) => !arg.hidden)
  const spoken = named.map(([name, {required, multiple}]) => {
    const word = `${name.toUpperCase()}${multiple ? '…' : ''}`
    return required ? word : `[${word}]`
  })
  const filled = (text: string): string =>
    text.replaceAll('<%= config.bin %>', bin).replaceAll('<%= command.id %>', commandName(command.id))
  const examples = ([command.examples ?? []].flat() as string[]).map(filled)
  const rows = named.map(
    ([name, {description, options}]) =>
      `| \`${name.toUpperCase()}\` | ${options ? `One of ${options.join(', ')}. ` : ''}${cell(description ?? '')} |`
  )
  const flags = {...((command.baseFlags ?? {}) as object), ...((command.flags ?? {}) as object)} as Readonly<
    Record<string, FlagDeclaration>
  >
  return [
    `# ${bin} ${commandName(command.id)}\n`,
    `<!-- Written by \`npm run command-pages\` from the declaration of the command${guide === undefined ? '' : ` and docs/guides/${fileOf(command.id)}`}. -->\n`,
    `${filled(command.summary ?? '')}\n`,
    `\`\`\`sh\n${[bin, commandName(command.id), ...spoken, '[FLAGS]'].join(' ')}\n\`\`\`\n`,
    ...(command.description ? [`${filled(command.description).replaceAll('<', '&lt;')}\n`] : []),
    ...(examples.length > 0 ? [`## Examples\n\n\`\`\`sh\n${examples.join('\n')}\n\`\`\`\n`] : []),
    ...(rows.length > 0 ? [`## Arguments\n\n| argument | |\n| --- | --- |\n${rows.join('\n')}\n`] : []),
    flagTables(flags),
    `## Exit status\n\n| status | |\n| --- | --- |\n${exitStatuses(command)
      .map(([status, meaning]) => `| ${status} | ${cell(meaning)} |`)
      .join('\n')}\n`,
    ...(guide === undefined ? [] : [`## Guide\n\n${guide.trim()}\n`]),
    `\`${bin} schema ${commandName(command.id)}\` prints the JSON Schema of the report; [all commands](README.md).\n`
  ].join('\n')
}

/**
 * The pages by file name, with a table of them all in `README.md`. `guides` are texts by the same file names, which
 * stand at the end of their pages.
 */
export function commandPages(commands: readonly Shown[], bin: string, guides: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const shown = commands.filter(({hidden}) => !hidden).sort((a, b) => (a.id < b.id ? -1 : 1))
  const rank = (group: string): number => (groupOrder.includes(group) ? groupOrder.indexOf(group) : groupOrder.length)
  const groups = [...new Set(shown.map(({group = 'Other'}) => group))].sort((a, b) => rank(a) - rank(b))
  const tables = groups.map(group => {
    const rows = shown
      .filter(command => (command.group ?? 'Other') === group)
      .map(({id, summary}) => `| [\`${commandName(id)}\`](${fileOf(id)}) | ${cell((summary ?? '').replaceAll('<%= config.bin %>', bin))} |`)
    return `## ${group}\n\n| command | |\n| --- | --- |\n${rows.join('\n')}\n`
  })
  const head = `# Commands\n\n<!-- Written by \`npm run command-pages\` from the declarations of the commands. -->\n\nWhat all of them promise stands in [contract.md](../contract.md).\n`
  return new Map([
    ['README.md', [head, ...tables].join('\n')],
    ...shown.map((command): [string, string] => [fileOf(command.id), page(command, bin, guides.get(fileOf(command.id)))])
  ])
}
