/**
 * The base of every command: what docs/contract.md promises to a shell, kept in one place.
 *
 * A command declares flags and arguments, calls `this.parse`, loads its step by `await import()` inside `run`, and
 * returns its report. The base class reads the environment and `--config` files, keeps stdout for results, turns
 * errors into sentences and exit statuses (with and without `--json` the same), and ends cleanly at a signal or a
 * closed pipe.
 *
 * Sources of a flag, first wins: command line, `DINOV2_…` in the environment, `--set`, `--config` files (the last one
 * first), default.
 */
import {stat} from 'node:fs/promises'
import {Command as OclifCommand, type Interfaces} from './oclif.js'
import {UserError} from '../config/errors.js'
import {meantName} from '../config/nearest.js'
import type {SourceNote} from '../data/sources/image-ref.js'
import type {PlanOptions, WorkPlan} from '../tasks/plan.js'
import type {ResolvedSettings, Settings} from '../config/settings.js'
import {cut, several, truth, type FlagShape, placeArguments} from './argv.js'
import {BadImages} from './rejected-inputs.js'
import {unknownFlagHint} from './wrong-words.js'
import {visible} from './visible-text.js'
import {assertComplete} from './required.js'
import {report, type Report} from './errors.js'
import {environmentName, writingFlags, type EngineChoice, type MaxBad, type PrecisionChoice} from './flags.js'
import {flush, installSignalHandlers, reportDefectsWith, signalExitCode, stopSignal, whileStoppable} from './shutdown.js'
import {assertFolderOf, refuseExisting} from '../system/atomic.js'
import {openOutput, type Output} from '../system/output.js'
import {permitDownloads, PlannedDownload, plannedSentence, type PermittedDownloads} from '../system/permitted-downloads.js'
import {Progress, type ProgressOptions} from './progress.js'

export {BadImages} from './rejected-inputs.js'
export * from './flags.js'
export {refuseExisting} from '../system/atomic.js'
export {openOutput, refuseFilled, type Output} from '../system/output.js'
export {Progress} from './progress.js'

/** Where the value of a flag came from, e.g. `command line`, `DINOV2_BATCH`, `run.yaml`, `default`. */
export type Sources = Readonly<Record<string, string>>

/** What the engine flags say, with somewhere to say what was chosen. */
export type EngineAsked = {
  readonly engine: EngineChoice
  readonly device: string
  readonly precision: PrecisionChoice
  readonly threads?: number
  readonly note: (sentence: string) => void
}

/** Thrown to leave early with status 0, e.g. after `--print-config`. */
class Leave extends Error {}

// oclif's own type of parsed values, which it does not export by name.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type FlagOutput = {[name: string]: any}

type Flag = FlagShape & {default?: unknown; env?: string; helpValue?: string | string[]}

export abstract class Command extends OclifCommand {
  /**
   * Under which heading `dinov2 --help` lists the command: Data, Training, Features, Evaluation, Results or Engine.
   */
  static group = 'Other'
  /**
   * Whether the command reads the settings table (`this.settings`): then `--config`, `--set` and `--print-config`
   * speak of settings too.
   */
  static usesSettings = false
  /** Exit statuses worth naming in help beyond those of all commands. */
  static statuses: Readonly<Record<number, string>> = {}
  /**
   * Whether stdout carries data rows when `--output` is `-`; then `--json` reports as the last line of stderr. False
   * where the report is the result; `always` where rows go to stdout whatever `--output` names.
   */
  static dataToStdout: boolean | 'always' = true
  /** The flag that says where rows go. */
  static dataFlag = 'output'

  #flags: Record<string, unknown> = {}
  #sources: Sources = {}
  #settings: ResolvedSettings | undefined
  #progress: Progress | undefined
  /** Places in shards whose folders were said to be labels. */
  readonly #labelPlaces = new Set<string>()
  #outputs: Output[] = []

  /**
   * Aborts at the first SIGINT or SIGTERM. A command that hands it on promises that its step ends soon after; one that
   * never asks for it is ended at once.
   */
  get signal(): AbortSignal {
    return stopSignal()
  }

  /** The settings in force; only where `static usesSettings = true`, after `parse`. */
  get settings(): Settings {
    return this.resolved.settings
  }

  /** The settings in force together with where each came from. */
  get resolved(): ResolvedSettings {
    if (!this.#settings)
      throw new Error('This command reads settings, but does not say `static usesSettings = true`, or did not parse first.')
    return this.#settings
  }

  /** Where each flag's value came from. */
  get sources(): Sources {
    return this.#sources
  }

  /**
   * The number of this process where another one speaks for all: it then writes nothing to stdout, and to stderr
   * warnings and errors alone, with its number.
   */
  protected get silentProcess(): number | undefined {
    return undefined
  }

  get #isQuiet(): boolean {
    return this.#isOn('quiet') || this.silentProcess !== undefined
  }

  /** Says one line on stderr unless `--quiet`: what was chosen, what was counted. */
  note(message: string): void {
    if (this.#isQuiet) return
    this.#say(message)
  }

  /** Says one line on stderr under `--verbose` only. */
  detail(message: string): void {
    if (this.#isOn('verbose') && this.silentProcess === undefined) this.#say(message)
  }

  /** Says which folders inside shards are labels, each place once; under `--verbose` also what was passed over. */
  sourceNote({kind, path, reason}: SourceNote): void {
    if (kind !== 'labels') this.detail(JSON.stringify({kind, path, reason}))
    else if (!this.#labelPlaces.has(reason)) this.note(`${path}: ${reason}`)
    this.#labelPlaces.add(reason)
  }

  /** Warns on stderr, also under `--json` and `--quiet`. */
  override warn(input: Error | string): Error | string {
    this.#say(`warning: ${input instanceof Error ? input.message : input}`)
    return input
  }

  /** Prints text that is the result itself on stdout; under `--json` the report takes its place. */
  print(text: string): void {
    if (!this.jsonEnabled() && this.silentProcess === undefined) process.stdout.write(text.endsWith('\n') ? text : text + '\n')
  }

  /** The bar or the plain lines of this command. At most one at a time; the base class takes it away at the end. */
  progress(options: Omit<ProgressOptions, 'quiet'> = {}): Progress {
    this.#progress?.stop()
    return (this.#progress = new Progress({...options, quiet: this.#isQuiet}))
  }

  /**
   * Opens the output; what is not committed when the command ends is removed. Throws a `UserError` when it exists and
   * `--force` is not set.
   */
  async output(target: string, {force = this.#isOn('force')}: {force?: boolean} = {}): Promise<Output> {
    const output = await openOutput(target, {force, stdout: process.stdout})
    this.#outputs.push(output)
    return output
  }

  /**
   * Counts rejected inputs, by `--max-bad` and `--bad`. Throws a `UserError` (exit 2) where the folder of `--bad` does
   * not exist: better before the work than after it.
   */
  badImages(flags: {'max-bad': MaxBad; bad?: string | undefined}): BadImages {
    if (flags.bad !== undefined) assertFolderOf(flags.bad)
    return new BadImages({max: flags['max-bad'], file: flags.bad, say: line => this.#say(line)})
  }

  /**
   * Reports under `--dry-run` what the command would do, which becomes its result. A command imports `planning`
   * (`tasks/plan.ts`), because cli takes only types of tasks. Throws a `UserError` (exit 2) where an output exists and
   * `--force` is not set, as the command itself would, and what `planWork` throws.
   */
  protected async reportPlan(
    planning: Promise<Pick<typeof import('../tasks/plan.js'), 'planLines' | 'planWork'>>,
    work: PlanOptions
  ): Promise<WorkPlan> {
    const {planLines, planWork} = await planning
    const plan = await planWork(work)
    const changed = new Set(plan.files.map(({file}) => file)) // an index that is changed is read and replaced
    for (const name of plan.writes)
      if (name !== '-' && !changed.has(name) && !(await isFolder(name))) await refuseExisting(name, {force: this.#isOn('force')})
    for (const line of planLines(plan)) this.note(line)
    return plan
  }

  /**
   * The inputs that were named. Throws a `UserError` with status 3 when there are none, and 2 when stdin is named
   * twice, be it among the `others` that the command reads. stdin is read only where `-` says so: a command never
   * waits for a pipe that nobody mentioned.
   */
  inputs(named: readonly string[] | string | undefined, what = 'images', others: readonly string[] = []): string[] {
    const inputs = named === undefined ? [] : typeof named === 'string' ? [named] : [...named]
    if (inputs.length === 0) {
      throw new UserError(`No ${what} were named.`, {
        exit: 3,
        code: 'NO_INPUT',
        hint: `Name folders, files or lists, or - to read a list from stdin; see ${this.config.bin} ${this.#spokenId()} --help.`
      })
    }
    const fromStdin = [...inputs, ...others].filter(input => input === '-').length
    if (fromStdin > 1) throw new UserError('stdin (-) is named twice; it can be read once.', {exit: 2, code: 'USAGE'})
    if (fromStdin === 1 && process.stdin.isTTY) this.note('reading a list from the terminal; Ctrl-D ends it')
    return inputs
  }

  /** The engine that the engine flags ask for, as a step wants to hear it. */
  engineRequest(flags: {engine: EngineChoice; device: string; precision: PrecisionChoice; threads?: number | undefined}): EngineAsked {
    const {engine, device, precision, threads} = flags
    return {engine, device, precision, ...(threads ? {threads} : {}), note: sentence => this.note(sentence)}
  }

  /** Whether `--json` was asked for, known also when parsing failed. */
  override jsonEnabled(): boolean {
    if (this.ctor.flags?.['json'] === undefined) return false
    return this.#isOn('json') || this.#early('json') === true
  }

  /**
   * Checks the command line, fills in environment and `--config`, and prints what is in force under `--print-config`.
   */
  protected override async parse<F extends FlagOutput, B extends FlagOutput, A extends FlagOutput>(
    options?: Interfaces.Input<F, B, A>,
    argv: string[] = this.argv
  ): Promise<Interfaces.ParserOutput<F, B, A>> {
    const own = options ?? (this.ctor as unknown as Interfaces.Input<F, B, A>)
    const shapes = (own.flags ?? {}) as unknown as Record<string, Flag>
    const line = cut(argv, shapes)
    for (const [old, name] of line.deprecated) this.#deprecated(`--${old}`, name)
    if (line.unknown.length > 0) throw this.#unknownFlag(line.unknown, shapes)

    const given = new Set(line.flags.map(([name]) => name))
    const sources: Record<string, string> = Object.fromEntries(
      Object.keys(shapes).map(name => [name, given.has(name) ? 'command line' : 'default'])
    )
    const words: string[] = []
    const push = (name: string, value: string | boolean | undefined): void => {
      if (value === true) words.push(`--${name}`)
      else if (value === false) {
        if (shapes[name]!.allowNo) words.push(`--no-${name}`)
      } else if (value === undefined) words.push(`--${name}`)
      else words.push(`--${name}=${value}`)
    }
    // The last of several wins for a flag that takes one value, as an alias with defaults in a shell expects.
    const last = new Map(line.flags.map(([name], i) => [name, i]))
    for (const [i, [name, value]] of line.flags.entries()) if (shapes[name]!.multiple || last.get(name) === i) push(name, value)

    for (const [name, shape] of Object.entries(shapes)) {
      const variables = [shape.env ?? environmentName(name), ...(shape.aliases ?? []).map(environmentName)]
      const variable = variables.find(one => (process.env[one] ?? '') !== '') ?? variables[0]!
      const text = process.env[variable]
      if (given.has(name) || text === undefined || text === '') continue
      if (variable !== variables[0]) this.#deprecated(variable, name)
      given.add(name)
      sources[name] = variable
      for (const value of fromText(name, shape, text, variable)) push(name, value)
    }

    const kept = await this.#settingsAndFlags(line.flags, given, shapes)
    for (const [name, {values, source}] of kept) {
      sources[name] = source
      for (const value of values) push(name, value)
    }

    const args = (own.args ?? {}) as Record<string, {multiple?: boolean; required?: boolean}>
    const {single, rest, list} = placeArguments(line.positionals, args)
    const strict = own.strict !== false
    if (strict && rest.length > single.length) {
      throw new UserError(
        `Unexpected argument${rest.length - single.length > 1 ? 's' : ''}: ${rest.slice(single.length).join(' ')}`,
        this.#usage()
      )
    }

    const named = single.map(name => [name, args[name]!] as const)
    const asks = given.has('help') || given.has('print-config')
    if (!asks) assertComplete(shapes, new Set([...given, ...kept.keys()]), named, rest.length, this.#usage().hint)
    let parsed: Interfaces.ParserOutput<F, B, A>
    try {
      const quietArgs = Object.fromEntries(single.map(name => [name, {...args[name]!, ignoreStdin: true, ...(asks && {required: false})}]))
      const flags = asks ? Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, {...shape, required: false}])) : shapes
      parsed = await super.parse(
        {...own, args: quietArgs as unknown as Interfaces.ArgInput<A>, flags: flags as unknown as Interfaces.FlagInput<F>, strict: false},
        [...words, '--', ...rest.slice(0, single.length)]
      )
    } catch (error) {
      throw this.#parseError(error, sources)
    }
    if (list) {
      if (list.values.length > 0) (parsed.args as Record<string, unknown>)[list.name] = list.values
      else if (args[list.name]!.required && !asks)
        throw new UserError(`Expected ${list.name.toUpperCase()}, but none was given.`, this.#usage())
    }
    parsed.argv = [...line.positionals]
    this.#flags = parsed.flags as Record<string, unknown>
    this.#sources = sources
    this.#permitDownloads()
    await this.#resolve(own)
    return parsed
  }

  /** Settings that follow from others and from flags; what a command does here is shown by `--print-config` too. */
  protected async refine(resolved: ResolvedSettings, _flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    return resolved
  }

  protected override async init(): Promise<void> {
    installSignalHandlers(signal =>
      this.note(`${signal}: finishing this step; ${signal === 'SIGINT' ? 'Ctrl-C again' : 'a second signal'} stops now`)
    )
  }

  /**
   * Runs, reports, and sets the exit status. oclif's own way loses the status under `--json` and mixes the report into
   * the data; nothing here rethrows.
   */
  protected override async _run<T>(): Promise<T> {
    let result: unknown
    reportDefectsWith(error => this.catch(error))
    try {
      await this.init()
      result = await this.run()
      await this.#end()
      if (this.jsonEnabled()) this.#json(result ?? {})
      process.exitCode = signalExitCode() ?? process.exitCode ?? 0
    } catch (error) {
      await this.catch(error as Error)
    }
    await flush()
    return result as T
  }

  protected override async catch(error: Error): Promise<void> {
    await this.#end()
    if (error instanceof Leave) {
      process.exitCode = 0
      return
    }
    if (error instanceof PlannedDownload) return this.#reportDownload(error)
    const stopped = signalExitCode()
    const said: Report = report(error, {
      stopped,
      bin: this.config.bin,
      version: this.config.version,
      flags: Object.keys(this.ctor.flags ?? {})
    })
    process.exitCode = said.exit
    if (said.exit === 0) return
    for (const line of said.lines) process.stderr.write(this.#signed(visible(line)) + '\n')
    if (this.jsonEnabled()) this.#json({error: said.error})
  }

  /** Under `--dry-run`, what would be downloaded is the plan; more is known when it is here. */
  #reportDownload({download}: PlannedDownload): void {
    this.note(plannedSentence(download))
    this.note(`the rest of the plan needs it: dinov2 models pull ${download.model}`)
    process.exitCode = 0
    if (this.jsonEnabled()) this.#json({download})
  }

  /** Lets a model that is named and not on this machine be downloaded; under `--dry-run` that is planned. */
  #permitDownloads(): void {
    const show = (label: string): ReturnType<PermittedDownloads['show']> => {
      const bar = this.progress({unit: 'MB', label})
      return {update: (bytes, total) => bar.showBytes(bytes, total), stop: () => bar.stop()}
    }
    const note = (sentence: string): void => this.#say(sentence) // also under --quiet: nothing is downloaded in silence
    const isForbidden = this.silentProcess !== undefined || this.#isOn('print-config')
    permitDownloads(isForbidden ? undefined : {note, show, whileStoppable, dryRun: this.#isOn('dry-run')})
  }

  get #class(): typeof Command {
    return this.ctor as unknown as typeof Command
  }

  #spokenId(): string {
    return (this.id ?? '').replaceAll(':', ' ')
  }

  #usage(): {exit: number; code: string; hint: string} {
    return {exit: 2, code: 'USAGE', hint: `See ${this.config.bin} ${this.#spokenId()} --help.`}
  }

  /** A line with the number of this process in front, where another one speaks for all. */
  #signed(line: string): string {
    return this.silentProcess === undefined ? line : `process ${this.silentProcess}: ${line}`
  }

  #say(message: string): void {
    const text = this.#signed(visible(message))
    if (this.#progress) this.#progress.write(text)
    else process.stderr.write(text + '\n')
  }

  /** Reports the use of an old name of a flag. */
  #deprecated(old: string, name: string): void {
    this.warn(`${old} is deprecated and will be removed; the flag is called --${name} now`)
  }

  #isOn(flag: string): boolean {
    return this.#flags[flag] === true
  }

  /**
   * A flag's value as far as the command line and the environment tell, for what must be known before parsing is done.
   */
  #early(flag: string): string | boolean | undefined {
    const shapes = (this.ctor.flags ?? {}) as unknown as Record<string, Flag>
    const given = cut(this.argv, shapes).flags.findLast(([name]) => name === flag)
    if (given) return given[1]
    const text = process.env[environmentName(flag)]
    if (text === undefined || text === '') return undefined
    return shapes[flag]?.type === 'boolean' ? truth(text) : text
  }

  #json(value: unknown): void {
    if (this.silentProcess !== undefined) return
    const {dataToStdout, dataFlag} = this.#class
    const output = this.#flags[dataFlag] ?? this.#early(dataFlag) ?? (this.ctor.flags?.[dataFlag] as Flag | undefined)?.default
    const taken = dataToStdout === 'always' || (output === '-' && dataToStdout)
    const stream = taken ? process.stderr : process.stdout
    stream.write(JSON.stringify(value) + '\n')
  }

  async #end(): Promise<void> {
    this.#progress?.stop()
    this.#progress = undefined
    for (const output of this.#outputs.splice(0)) await output.discard()
  }

  #unknownFlag(unknown: readonly string[], shapes: Record<string, Flag>): UserError {
    const first = unknown[0]!
    const known = [...Object.keys(shapes), 'help'].map(name => `--${name}`)
    const guess = first.startsWith('--') ? meantName(first, known) : undefined
    const more = guess ? `Did you mean ${guess}?` : unknownFlagHint(first, shapes, this.#spokenId(), this.config)
    const hint = more ? `${more} ${this.#usage().hint}` : this.#usage().hint
    return new UserError(`Unknown flag${unknown.length > 1 ? 's' : ''}: ${unknown.join(', ')}`, {exit: 2, code: 'USAGE', hint})
  }

  #parseError(error: unknown, sources: Record<string, string>): unknown {
    if (!(error instanceof Error) || error instanceof UserError) return error
    if ((error as {code?: string}).code === 'EEXIT') return error
    const message = error.message
      .replace(/\n?See more help with --help/g, '')
      .replace(/^Parsing --(\S+)\s+/, (_, name: string) => `--${name}: `)
      .trim()
    const flag = /--([a-z][\w-]*)/.exec(message)?.[1]
    const source = flag === undefined ? undefined : sources[flag]
    const from = source === undefined || source === 'command line' || source === 'default' ? '' : ` (from ${source})`
    return new UserError(message + from, {...this.#usage(), cause: error})
  }

  /** Reads `--config` and `--set`: settings are resolved, and flags found there are returned with where they stood. */
  async #settingsAndFlags(
    line: readonly (readonly [string, string | boolean | undefined])[],
    given: ReadonlySet<string>,
    shapes: Record<string, Flag>
  ): Promise<Map<string, {values: (string | boolean)[]; source: string}>> {
    const found = new Map<string, {values: (string | boolean)[]; source: string}>()
    const values = (name: string): string[] => {
      if (!shapes[name]) return []
      const onLine = line.flatMap(([flag, value]) => (flag === name && typeof value === 'string' ? [value] : []))
      if (onLine.length > 0) return onLine
      const text = process.env[environmentName(name)]
      return text ? several(text) : []
    }
    const files = values('config')
    const sets = values('set')
    const {usesSettings} = this.#class
    if (files.length === 0 && sets.length === 0 && !usesSettings) return found
    const {readLayers} = await import('../config/read-layers.js')
    const notFlags = new Set(['config', 'set', 'print-config', 'help'])
    const present = new Map(Object.entries(shapes).flatMap(([name, {aliases = []}]) => aliases.map(old => [old, name] as const)))
    const flagNames = [...Object.keys(shapes), ...present.keys()].filter(name => !notFlags.has(name))
    const layers = readLayers(files, sets, {flags: flagNames, settings: usesSettings})
    for (const {name: spoken, value, written, source} of layers.flags) {
      const name = present.get(spoken) ?? spoken
      if (writingFlags.has(name) && source !== '--set' && value !== false && value !== '-')
        throw new UserError(`${source}: ${spoken} decides what is written or replaced, so a file of settings may not set it.`, {
          exit: 2,
          code: 'SETTINGS',
          hint: `Give it on the command line: --${name}.`
        })
      if (given.has(name)) continue
      if (name !== spoken) this.#deprecated(`${spoken} in ${source}`, name)
      found.set(name, {values: fromYaml(name, shapes[name]!, namesThings(shapes[name]!) ? written : value, source), source})
    }
    for (const sentence of layers.deprecated) this.warn(sentence)
    if (usesSettings) this.#settings = (await import('../config/settings.js')).resolveSettings(layers.settings)
    return found
  }

  /** Lets `--seed` stand above the settings, and answers `--print-config`. */
  async #resolve(own: {flags?: unknown}): Promise<void> {
    const {usesSettings} = this.#class
    if (usesSettings && this.#settings && this.#flags['seed'] !== undefined) {
      const {withSetting} = await import('../config/settings.js')
      this.#settings = withSetting(this.#settings, 'train.seed', this.#flags['seed'], this.#sources['seed'] ?? 'command line')
    }
    if (usesSettings && this.#settings) this.#settings = await this.refine(this.#settings, this.#flags)
    if (!this.#isOn('print-config')) return
    const {printSettings} = await import('../config/print-settings.js')
    const shown = Object.keys((own.flags ?? {}) as object).filter(name => !['config', 'set', 'print-config', 'json'].includes(name))
    const flags = shown.map(name => ({name, value: plain(this.#flags[name]), source: this.#sources[name] ?? 'default'}))
    process.stdout.write(printSettings(flags, this.#settings))
    throw new Leave()
  }
}

/** Folders are written into; commands judge by what they hold. */
const isFolder = async (name: string): Promise<boolean> =>
  stat(name).then(
    found => found.isDirectory(),
    () => false
  )

/** A parsed flag as it would be written in a file. */
const plain = (value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'kind' in value && 'value' in value
    ? (value as MaxBad).kind === 'percent'
      ? `${(value as MaxBad).value}%`
      : (value as MaxBad).value
    : value

function fromText(name: string, shape: Flag, text: string, source: string): (string | boolean)[] {
  if (shape.type === 'boolean') {
    const value = truth(text)
    if (value === undefined) throw new UserError(`${source}=${text}: expected 1 or 0 for --${name}.`, {exit: 2, code: 'USAGE'})
    return [value]
  }
  return shape.multiple && !shape.delimiter ? several(text) : [text]
}

/** Whether a flag takes names or texts: what looks like a number is one as it is written there. */
const namesThings = ({helpValue}: Flag): boolean =>
  /FILE|DIR|SET|TEXT|MODEL|FOLDER|URL|PATH|NAME|INPUT|HEAD|EMBEDDINGS|\b(RE|IDS?|LIST)\b/.test(String(helpValue))

function fromYaml(name: string, shape: Flag, value: unknown, source: string): (string | boolean)[] {
  const wrong = (wanted: string): UserError =>
    new UserError(`${source}: expected ${wanted} for ${name}, but received ${JSON.stringify(value)}.`, {exit: 2, code: 'SETTINGS'})
  if (shape.type === 'boolean') {
    if (typeof value !== 'boolean') throw wrong('true or false')
    return [value]
  }
  const one = (item: unknown): string => {
    if (typeof item !== 'string' && typeof item !== 'number') throw wrong('a word or a number')
    return String(item)
  }
  if (!Array.isArray(value)) return [one(value)]
  if (!shape.multiple) throw wrong('one value')
  return shape.delimiter ? [value.map(one).join(shape.delimiter)] : value.map(one)
}
