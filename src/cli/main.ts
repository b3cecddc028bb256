/**
 * The front door: hands the command line to oclif and sees to what lies outside any command: `help`, `--version`,
 * `--no-color`, and names that do not exist.
 *
 * Nothing heavy is imported here, nor by any command at its head, so that help comes at once.
 */
import {Config, settings} from './oclif.js'
import {fileURLToPath} from 'node:url'
import {UserError} from '../config/errors.js'
import {meantName} from '../config/nearest.js'
import {assertRoomToRun} from '../system/free-memory.js'
import {leaveAtOnce} from '../system/leave.js'
import {report} from './errors.js'
import {visible} from './visible-text.js'
import {assertSurroundings} from './surroundings.js'
import {assertNoVerb} from './wrong-words.js'
import {defectReporter, flush, installSignalHandlers, signalExitCode} from './shutdown.js'

/**
 * Runs the command line `argv` for the package that holds `from` (the URL of a file beside its package.json) and ends
 * the process with the status of docs/contract.md#exit-status. The process is ended rather than left to drain, so that
 * a pipe on stdin which nobody finished reading cannot keep it.
 */
export async function main(from: string, argv: readonly string[] = process.argv.slice(2)): Promise<void> {
  installSignalHandlers(() => {})
  settings.enableAutoTranspile = false // NODE_ENV=test must not make oclif look for TypeScript sources
  let bin = 'dinov2'
  let version = ''
  const fail = (error: unknown): void => {
    const said = report(error, {stopped: signalExitCode(), bin, version})
    process.exitCode = said.exit
    for (const line of said.lines) process.stderr.write(visible(line) + '\n')
    if (said.exit !== 0 && beforeDashes(argv).includes('--json')) process.stdout.write(JSON.stringify({error: said.error}) + '\n')
  }
  let leaving: Promise<never> | undefined
  process.on('uncaughtException', error => {
    if (leaving) return // the report itself meets the same full disk
    const reporter = defectReporter()
    if (!reporter) {
      fail(error)
      process.exit()
    }
    leaving = reporter(error)
      .catch(fail)
      .then(() => process.exit())
  })
  try {
    // No plugins of a user: none exist, and a home that is no folder would be reported in words of Node.js.
    const config = await Config.load({root: fileURLToPath(from), userPlugins: false})
    ;({bin, version} = config)
    const words = withoutColour(argv)
    const [first] = words
    if (first === '--version' || first === '-V') process.stdout.write(`${bin} ${version}\n`)
    else if (first === undefined || first === 'help' || beforeDashes(words).some(word => word === '--help' || word === '-h')) {
      const named = beforeDashes(words).filter(word => word !== '--help' && word !== '-h' && word !== 'help')
      const found = findName(config, named, {orTopic: true})
      const {GroupedHelp} = await import('./help.js')
      await new GroupedHelp(config).showHelp(found ? [found.id] : [])
    } else {
      const {id, rest} = findName(config, words, {orTopic: false})!
      assertNoVerb(id, rest, bin)
      assertSurroundings(argv)
      assertRoomToRun()
      await config.runCommand(id, [...rest])
    }
  } catch (error) {
    fail(error)
  }
  await flush()
  await leaving // the report of an error that came with the last write
  leaveAtOnce()
  process.exit()
}

const beforeDashes = (argv: readonly string[]): readonly string[] => (argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv)

/** Takes `--no-color` off the line, wherever it stands, and makes it known to all who look at NO_COLOR. */
function withoutColour(argv: readonly string[]): string[] {
  const head = beforeDashes(argv)
  if (!head.includes('--no-color')) return [...argv]
  process.env['NO_COLOR'] = '1'
  delete process.env['FORCE_COLOR']
  return argv.filter((word, i) => i >= head.length || word !== '--no-color')
}

/**
 * Finds the command (or topic) that the leading words name: the longest name wins, but a command that takes arguments
 * of its own keeps what follows it unless that completes a longer command. Throws a usage error naming the nearest
 * command; it never runs a guess. Undefined when no word names anything and help for all was asked.
 */
function findName(
  config: Config,
  words: readonly string[],
  {orTopic}: {orTopic: boolean}
): {id: string; rest: readonly string[]} | undefined {
  const head = words.findIndex(word => word.startsWith('-'))
  const names = head < 0 ? words : words.slice(0, head)
  for (let n = Math.min(3, names.length); n > 0; n--) {
    const id = names.slice(0, n).join(':')
    if (config.findCommand(id) || (orTopic && n === names.length && config.findTopic(id))) return {id, rest: words.slice(n)}
  }
  if (names.length === 0) {
    if (orTopic) return undefined
    throw new UserError(`Expected a command before ${words[0]}.`, {exit: 2, code: 'USAGE', hint: `See ${config.bin} --help.`})
  }
  const first = names[0]!
  const ids = config.commands.filter(command => !command.hidden).map(command => command.id.replaceAll(':', ' '))
  if (config.findTopic(first)) {
    const inside = ids.filter(id => id.startsWith(`${first} `))
    const help = `See ${config.bin} ${first} --help.`
    if (names[1] === undefined) {
      throw new UserError(`${first} wants one of: ${inside.map(id => id.slice(first.length + 1)).join(', ')}.`, {
        exit: 2,
        code: 'USAGE',
        hint: help
      })
    }
    const guess = meantName(`${first} ${names[1]}`, inside)
    const hint = (guess ? `Did you mean ${config.bin} ${guess}? ` : '') + help
    throw new UserError(`There is no command ${first} ${names[1]}.`, {exit: 2, code: 'USAGE', hint})
  }
  const guess = meantName(first, [...ids, ...config.topics.map(topic => topic.name)])
  const hint = (guess ? `Did you mean ${config.bin} ${guess}? ` : '') + `See ${config.bin} --help.`
  throw new UserError(`There is no command ${first}.`, {exit: 2, code: 'USAGE', hint})
}
