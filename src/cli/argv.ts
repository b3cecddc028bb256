/**
 * Cuts a command line into flags and positionals before oclif's parser sees it.
 *
 * oclif's own parser searches the whole command line for every positional, which takes minutes for the twenty thousand
 * file names that a shell glob gives; lets a repeatable flag swallow the positionals behind it; and never looks at the
 * environment for repeatable flags. So the flags are found here, in one pass and in one canonical form
 * (`--name value`), and oclif only checks and converts them.
 */

/** As much of an oclif flag as the cut needs. */
export type FlagShape = {
  readonly type: 'boolean' | 'option'
  readonly char?: string
  /** Old names, which still work and are reported as deprecated. */
  readonly aliases?: string[]
  readonly charAliases?: readonly string[]
  readonly allowNo?: boolean
  readonly multiple?: boolean
  readonly delimiter?: string
  readonly options?: readonly string[]
}

export type CutLine = {
  /**
   * Flags that were given, by name, in order; booleans carry `true` or `false`, a flag without its value `undefined`.
   */
  readonly flags: readonly (readonly [name: string, value: string | boolean | undefined])[]
  readonly positionals: readonly string[]
  /** What looks like a flag and is none. */
  readonly unknown: readonly string[]
  /** Old names of flags that were used, with the present ones. */
  readonly deprecated: readonly (readonly [old: string, name: string])[]
}

/**
 * Cuts `argv`; `--` ends the flags, a lone `-` is a positional, `-abc` is a cluster, `-oFILE` and `--output=FILE`
 * carry their value.
 */
export function cut(argv: readonly string[], shapes: Readonly<Record<string, FlagShape>>): CutLine {
  const long = new Map<string, readonly [string, boolean]>()
  const short = new Map<string, string>()
  for (const [name, shape] of Object.entries(shapes)) {
    for (const alias of [name, ...(shape.aliases ?? [])]) {
      if (alias.length === 1) short.set(alias, name)
      long.set(alias, [name, true])
      if (shape.type === 'boolean' && shape.allowNo) long.set(`no-${alias}`, [name, false])
    }
    for (const char of [shape.char, ...(shape.charAliases ?? [])]) if (char) short.set(char, name)
  }
  const flags: [string, string | boolean | undefined][] = []
  const positionals: string[] = []
  const unknown: string[] = []
  const deprecated: [string, string][] = []
  let i = 0
  /** The word after a flag as its value, unless it is itself a flag of the command: `--seed --json` lacks a seed. */
  const value = (): string | undefined => {
    const next = argv[i + 1]
    if (next === undefined || next === '--') return undefined
    if (next.startsWith('--') && long.has(next.slice(2).split('=')[0]!)) return undefined
    i++
    return next
  }
  for (; i < argv.length; i++) {
    const word = argv[i]!
    if (word === '--') {
      for (let j = i + 1; j < argv.length; j++) positionals.push(argv[j]!)
      break
    }
    if (!word.startsWith('-') || word === '-') {
      positionals.push(word)
      continue
    }
    if (word.startsWith('--')) {
      const equals = word.indexOf('=')
      const spoken = word.slice(2, equals < 0 ? undefined : equals)
      const found = long.get(spoken)
      if (found && shapes[found[0]]!.aliases?.includes(spoken.replace(/^no-/, ''))) deprecated.push([spoken, found[0]])
      if (!found) unknown.push(equals < 0 ? word : word.slice(0, equals))
      else if (shapes[found[0]]!.type === 'option') flags.push([found[0], equals < 0 ? value() : word.slice(equals + 1)])
      else if (equals < 0) flags.push([found[0], found[1]])
      else unknown.push(`${word} (--${found[0]} takes no value)`)
      continue
    }
    for (let j = 1; j < word.length; j++) {
      const name = short.get(word[j]!)
      if (name === undefined) {
        unknown.push(j === 1 ? word : `-${word[j]} (in ${word})`)
        break
      }
      if (shapes[name]!.type === 'boolean') {
        flags.push([name, true])
        continue
      }
      const rest = word.slice(j + 1)
      flags.push([name, rest === '' ? value() : rest.replace(/^=/, '')])
      break
    }
  }
  return {flags, positionals, unknown, deprecated}
}

const yes = new Set(['1', 'true', 'yes', 'y', 'on'])
const no = new Set(['0', 'false', 'no', 'n', 'off'])

/** Reads a switch from the environment or a settings file; undefined when it is neither a yes nor a no. */
export const truth = (text: string): boolean | undefined =>
  yes.has(text.toLowerCase()) ? true : no.has(text.toLowerCase()) ? false : undefined

/**
 * Cuts the value of a repeatable flag from the environment: at white space, for KEY=VALUE only where the next key
 * begins.
 */
export const several = (text: string): string[] => {
  const words = text.trim()
  return /^[\w.-]+=/.test(words) ? words.split(/(?<!\s)\s+(?=[\w.-]+=)/) : words.split(/\s+/)
}

/**
 * Which positional words are which arguments: at most one argument is a list and takes all words between those of the
 * arguments before and after it. `rest` are the words of the single ones, in order.
 */
export function placeArguments(
  words: readonly string[],
  args: Readonly<Record<string, {readonly multiple?: boolean}>>
): {
  readonly single: readonly string[]
  readonly rest: readonly string[]
  readonly list?: {readonly name: string; readonly values: readonly string[]}
} {
  const names = Object.keys(args)
  const at = names.findIndex(name => args[name]!.multiple)
  if (at < 0) return {single: names, rest: words}
  const begin = Math.min(at, words.length)
  const end = Math.max(begin, words.length - (names.length - 1 - at))
  return {
    single: names.filter((_, i) => i !== at),
    rest: [...words.slice(0, begin), ...words.slice(end)],
    list: {name: names[at]!, values: words.slice(begin, end)}
  }
}
