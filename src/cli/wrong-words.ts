/** Hints for words that are right elsewhere: flags of other commands, and verbs behind a command that has none. */
import {existsSync} from 'node:fs'
import {UserError} from '../config/errors.js'

/** As much of oclif's configuration as the hints need. */
type Commands = {
  readonly bin: string
  readonly commands: readonly {
    readonly id: string
    readonly hidden?: boolean | undefined
    readonly flags: Readonly<Record<string, {readonly hidden?: boolean | undefined}>>
  }[]
}

/** What to do where a flag to go on with a run is missing. */
function withoutResume(command: string, bin: string, shapes: Readonly<Record<string, unknown>>): string {
  const add = 'add' in shapes ? `, or give --add to put more into what is there` : ''
  return `${bin} ${command} has no interrupted state to go on from: run it anew${add}.`
}

/** Says which commands have a flag that `command` lacks; undefined where none has. */
export function unknownFlagHint(
  flag: string,
  shapes: Readonly<Record<string, unknown>>,
  command: string,
  {bin, commands}: Commands
): string | undefined {
  const name = flag.replace(/^--(no-)?/, '')
  if (name === 'resume') return withoutResume(command, bin, shapes)
  const having = commands.filter(({hidden, flags}) => !hidden && flags[name] && !flags[name].hidden).map(({id}) => id.replaceAll(':', ' '))
  if (having.length === 0) return undefined
  const first = having.slice(0, 4).join(', ')
  return `${flag} is a flag of ${first}${having.length > 4 ? ' and other commands' : ''}.`
}

const verbs = new Set(['run', 'start', 'build', 'make', 'create', 'new', 'exec'])

/**
 * Refuses a verb behind a command that is called without one (`curate run POOL`). Throws `UserError` (exit 2). A file
 * or folder of that name is taken as such.
 */
export function assertNoVerb(id: string, [verb, next]: readonly string[], bin: string): void {
  if (verb === undefined || !verbs.has(verb) || existsSync(verb)) return
  const input = next === undefined || next.startsWith('-') ? 'photos' : next
  const command = id.replaceAll(':', ' ')
  throw new UserError(`There is no command ${command} ${verb}, and no file or folder ${verb}.`, {
    exit: 2,
    code: 'USAGE',
    hint: `Leave out ${verb}: ${bin} ${command} ${input}. See ${bin} ${command} --help.`
  })
}
