/**
 * Shell completion, written from the declarations of the commands: names, flags, the options of a flag, recipes after
 * `--config`, settings after `--set`, and file names everywhere else.
 *
 * oclif's completion plugin was tried and dropped: under bash it completes no file names, which is most of what is
 * typed here.
 */
import type {FlagShape} from './argv.js'

export type Completed = {
  readonly id: string
  readonly flags: Readonly<Record<string, FlagShape & {readonly hidden?: boolean; readonly summary?: string}>>
  readonly args?: object
}

/** Words that may follow a flag of a given name, beside its declared options. */
export type CompletionValues = Readonly<Record<string, readonly string[]>>

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

/** A bash function that completes `bin`; zsh runs the same through its bashcompinit. */
export function completionScript(
  shell: 'bash' | 'zsh',
  bin: string,
  commands: readonly Completed[],
  values: CompletionValues = {}
): string {
  const name = `_${bin}_complete`
  const ids = commands.map(({id}) => id.replaceAll(':', ' '))
  const heads = new Map<string, Set<string>>() // what may follow each beginning of a command
  for (const id of ids) {
    const words = id.split(' ')
    for (const [i, word] of words.entries()) {
      const head = words.slice(0, i).join(' ')
      heads.set(head, (heads.get(head) ?? new Set()).add(word))
    }
  }
  heads.get('')?.add('help')
  const known = new Set([...ids, ...[...heads.keys()].filter(head => head !== '')])
  const flagWords: string[] = []
  const byValues = new Map<string, string[]>()
  for (const {id, flags} of commands) {
    const spoken = id.replaceAll(':', ' ')
    const words = ['--help']
    for (const [flag, {type, options, char, allowNo, hidden}] of Object.entries(flags)) {
      if (hidden) continue
      words.push(`--${flag}`, ...(type === 'boolean' && allowNo ? [`--no-${flag}`] : []))
      if (type === 'boolean') continue
      const after = [...(options ?? []), ...(values[flag] ?? [])].join(' ')
      const keys = [`--${flag}`, ...(char ? [`-${char}`] : [])].map(key => quote(`${spoken}:${key}`))
      byValues.set(after, [...(byValues.get(after) ?? []), ...keys])
    }
    flagWords.push(`    ${quote(spoken)}) words=${quote(words.join(' '))} ;;`)
  }
  const valueCases = [...byValues].map(([after, keys]) => `    ${keys.join('|')}) words=${quote(after)}; value=1 ;;`)
  const headCases = [...heads].map(([head, next]) => `    ${quote(head)}) words=${quote([...next].sort().join(' '))} ;;`)
  const start = shell === 'zsh' ? 'autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n' : ''
  return `# Completion of ${bin} for ${shell}. Put this into your shell's start file: source <(${bin} completion ${shell})
${start}${name}() {
  local cur prev prefix cmd words value i next
  COMPREPLY=()
  cur=\${COMP_WORDS[COMP_CWORD]}
  prev=\${COMP_WORDS[COMP_CWORD-1]}
  prefix=
  if [[ $cur == --*=* ]]; then prefix=\${cur%%=*}=; prev=\${cur%%=*}; cur=\${cur#*=}
  elif [[ $cur == = ]]; then cur=
  elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  cmd=
  for ((i = 1; i < COMP_CWORD; i++)); do
    next=\${cmd:+$cmd }\${COMP_WORDS[i]}
    case $next in
      ${[...known].sort().map(quote).join('|')}) cmd=$next ;;
      help) ;;
      *) break ;;
    esac
  done
  words=
  value=
  case $cmd:$prev in
${valueCases.join('\n')}
  esac
  if [[ -z $value ]]; then
    if [[ $cur == -* ]]; then
      case $cmd in
${flagWords.map(line => `  ${line}`).join('\n')}
      *) words='--help --version' ;;
      esac
    elif [[ $i -eq $COMP_CWORD ]]; then
      case $cmd in
${headCases.map(line => `  ${line}`).join('\n')}
      esac
    fi
  fi
  COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F ${name} ${bin}
`
}
