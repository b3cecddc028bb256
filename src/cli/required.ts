/** What a command line lacks, in a sentence that says what each missing flag or argument is for. */
import {UserError} from '../config/errors.js'

type RequiredFlag = {
  readonly required?: boolean | undefined
  readonly default?: unknown
  readonly char?: string | undefined
  readonly helpValue?: string | readonly string[] | undefined
  readonly summary?: string | undefined
  readonly options?: readonly string[] | undefined
}
type RequiredArgument = {readonly required?: boolean | undefined; readonly description?: string | undefined}

const valueOf = ({helpValue, options}: RequiredFlag): string =>
  typeof helpValue === 'string' ? ` ${helpValue}` : options ? ` ${options.join('|')}` : ''

/**
 * Throws a `UserError` (exit 2) that names all required flags that are not in `given` and all required arguments
 * beyond the first `words`, with what each is for; `help` is where to read on.
 */
export function assertComplete(
  flags: Readonly<Record<string, RequiredFlag>>,
  given: ReadonlySet<string>,
  args: readonly (readonly [name: string, argument: RequiredArgument])[],
  words: number,
  help: string
): void {
  const missing: {readonly name: string; readonly about: string}[] = []
  for (const [name, argument] of args.slice(words))
    if (argument.required) missing.push({name: name.toUpperCase(), about: argument.description ?? ''})
  for (const [name, flag] of Object.entries(flags))
    if (flag.required && flag.default === undefined && !given.has(name))
      missing.push({name: name === 'output' ? `-o${valueOf(flag)}` : `--${name}${valueOf(flag)}`, about: flag.summary ?? ''})
  if (missing.length === 0) return
  const names = missing.map(({name}) => name)
  const [last, rest] = [names.at(-1)!, names.slice(0, -1)]
  throw new UserError(`Give ${rest.length > 0 ? `${rest.join(', ')} and ` : ''}${last}.`, {
    exit: 2,
    code: 'USAGE',
    hint: [...missing.map(({name, about}) => `${name}: ${about}`), help].join('\n')
  })
}
