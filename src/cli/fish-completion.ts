/** Completion for fish: a `complete` line for each word, flag and option, under a condition that names the command. */
import type {Completed, CompletionValues} from './completion.js'

const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

/** A script that completes `bin` in fish, written from the declarations of the commands. */
export function fishCompletion(bin: string, commands: readonly Completed[], values: CompletionValues = {}): string {
  const ids = commands.map(({id}) => id.replaceAll(':', ' '))
  const next = new Map<string, Set<string>>() // what may follow each beginning of a command
  for (const id of ids)
    for (const [i, word] of id.split(' ').entries()) {
      const head = id.split(' ').slice(0, i).join(' ')
      next.set(head, (next.get(head) ?? new Set()).add(word))
    }
  next.get('')?.add('help')
  const known = [...new Set([...ids, ...[...next.keys()].filter(head => head !== '')])].sort()
  const at = (id: string): string => `complete -c ${bin} -n ${quote(`__${bin}_at ${quote(id)}`)}`
  const lines = [...next].map(([head, words]) => `${at(head)} ${head === '' ? '-f ' : ''}-a ${quote([...words].sort().join(' '))}`)
  for (const {id, flags} of commands) {
    const condition = at(id.replaceAll(':', ' '))
    lines.push(`${condition} -l help -d 'Show help'`)
    for (const [name, {type, options, char, allowNo, hidden, summary}] of Object.entries(flags)) {
      if (hidden) continue
      const about = summary === undefined ? '' : ` -d ${quote(summary.split('\n')[0]!)}`
      const after = [...(options ?? []), ...(values[name] ?? [])]
      const takes = type === 'boolean' ? '' : after.length > 0 ? ` -x -a ${quote(after.join(' '))}` : ' -r'
      lines.push(`${condition} -l ${name}${char ? ` -s ${char}` : ''}${takes}${about}`)
      if (type === 'boolean' && allowNo) lines.push(`${condition} -l no-${name}`)
    }
  }
  return `# Completion of ${bin} for fish: ${bin} completion fish > ~/.config/fish/completions/${bin}.fish
function __${bin}_command --description 'The command of the line so far'
    set -l known ${known.map(quote).join(' ')}
    set -l words (commandline -opc)
    set -l found
    for word in $words[2..-1]
        set -l longer (string join ' ' $found $word)
        contains -- $longer $known; or break
        set found $found $word
    end
    string join ' ' $found
end
function __${bin}_at --description 'Whether the line is at this command'
    set -l here (__${bin}_command)
    test "$here" = "$argv[1]"
end
${lines.join('\n')}
`
}
