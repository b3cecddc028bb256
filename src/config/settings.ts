/**
 * Reads settings: files over defaults, `--set` over files, each value checked against the table, the whole frozen, and
 * for each value where it came from.
 *
 * A file may also hold flags of the command under their long names, beside the sections of settings. All that is wrong
 * is said in one message.
 */
import {existsSync, readdirSync} from 'node:fs'
import {fileURLToPath} from 'node:url'
import {stringify} from 'yaml'
import {UserError} from './errors.js'
import {nearestName} from './nearest.js'
import {readSettingsFile} from './settings-file.js'
import {aliases, foreignKeys, settingRows, table, type Setting, type Settings} from './table.js'

export {table, type Settings} from './table.js'

/** Settings in force with the place each came from: `default`, `run.yaml:12`, `--set`, a variable, `command line`. */
export type ResolvedSettings = {readonly settings: Settings; readonly sources: ReadonlyMap<string, string>}

/** One value that somebody gave; a later one stands above an earlier one. */
export type SettingValue = {readonly path: string; readonly value: unknown; readonly source: string}

export type Layers = {
  readonly settings: readonly SettingValue[]
  /** Flags found under their long names, at most one each: the last that was given. */
  readonly flags: readonly {readonly name: string; readonly value: unknown; readonly source: string}[]
}

const settingsByPath: ReadonlyMap<string, Setting> = new Map(settingRows())

/** The folder of recipes that comes with the program. */
export const recipeFolder = fileURLToPath(new URL('../../../configs/', import.meta.url))

const refuse = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'SETTINGS', hint})

/** An entry of a table, but nothing that every object has. */
const own = <T>(table: Readonly<Record<string, T>>, key: string): T | undefined => (Object.hasOwn(table, key) ? table[key] : undefined)

/** More problems than these are counted, not listed. */
const MANY = 50
const some = (problems: readonly string[]): string =>
  [...problems.slice(0, MANY), ...(problems.length > MANY ? [`… and ${problems.length - MANY} more.`] : [])].join('\n')

/** A value in a sentence. */
const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
}

/**
 * Reads `files` (paths, or names of recipes such as `small`) and `sets` (`key=value`). `flags` are the names that may
 * stand at the top of a file; `settings` says whether this command reads settings. Throws a `UserError` with status 2
 * that names everything that is wrong.
 */
export function readLayers(
  files: readonly string[],
  sets: readonly string[],
  {flags, settings}: {readonly flags: readonly string[]; readonly settings: boolean}
): Layers {
  const given: SettingValue[] = []
  const flagValues = new Map<string, {name: string; value: unknown; source: string}>()
  const problems: string[] = []
  const said = new Set<string>()
  const known = [...flags, ...(settings ? settingsByPath.keys() : [])]

  const take = (path: string, value: unknown, source: string): void => {
    // Flags may stand together under their first word: `dedup: {threshold: 0.9}` is --dedup-threshold; words may be
    // joined as in Meta's files.
    const flag = [path, path.replace('.', '-'), path.replace('.', '-').replaceAll('_', '-')].find(name => flags.includes(name))
    if (flag !== undefined && !settingsByPath.has(path)) {
      flagValues.delete(flag)
      flagValues.set(flag, {name: flag, value, source})
      return
    }
    const all = `${path.split('.')[0]}.*`
    const other = own(foreignKeys, path) ?? own(foreignKeys, all)
    const spoken = own(foreignKeys, path) ? path : all
    if (settings) {
      const name = own(aliases, path) ?? path
      if (settingsByPath.has(name)) return void given.push({path: name, value, source})
      if (other?.same?.(value)) return
      if (other && said.has(spoken)) return // one sentence for a whole section of theirs
      if (other) return void (said.add(spoken), problems.push(`${source}: ${path} has no place here: ${other.instead}.`))
    } else if (settingsByPath.has(path) || own(aliases, path) || other) {
      return void problems.push(`${source}: ${path} is a setting of training, which this command does not read.`)
    }
    const guess = problems.length < MANY ? (nearestName(path, known) ?? nearestEnd(path, known)) : undefined
    problems.push(`${source}: there is no setting ${path}.${guess ? ` Did you mean ${guess}?` : ''}`)
  }

  const sections = new Set(Object.keys(table))
  for (const file of files)
    for (const {path, value, source} of readSettingsFile(find(file), {shown: file, sections, problems})) take(path, value, source)
  for (const text of sets) {
    const equals = text.indexOf('=')
    if (equals < 1) problems.push(`--set ${text}: expected KEY=VALUE, e.g. optim.epochs=20.`)
    else {
      const path = text.slice(0, equals).trim()
      const setting = settingsByPath.get(own(aliases, path) ?? path)
      take(path, fromText(text.slice(equals + 1), setting), '--set')
    }
  }
  if (problems.length > 0) throw refuse(some(problems))
  return {settings: given, flags: [...flagValues.values()]}
}

/** Where only the last word of a path was given or is right, the path that ends in it. */
function nearestEnd(path: string, known: readonly string[]): string | undefined {
  const end = path.split('.').at(-1)!
  const ends = new Map(known.map(name => [name.split('.').at(-1)!, name]))
  const guess = nearestName(end, ends.keys())
  return guess === undefined ? undefined : ends.get(guess)
}

/** The recipes that come with the program, by name. */
export const recipeNames = (): string[] =>
  existsSync(recipeFolder)
    ? readdirSync(recipeFolder)
        .flatMap(name => (name.endsWith('.yaml') ? [name.slice(0, -5)] : []))
        .sort()
    : []

/** The path of a settings file: the path itself, or that of the recipe of this name. */
function find(file: string): string {
  if (existsSync(file)) return file
  const recipes = recipeNames()
  if (recipes.includes(file)) return `${recipeFolder}${file}.yaml`
  const guess = /[/.]/.test(file) ? undefined : nearestName(file, recipes)
  throw refuse(
    `There is no settings file ${file}.`,
    guess ? `Did you mean the recipe ${guess}?` : `Recipes that come with the program: ${recipes.join(', ')}.`
  )
}

/**
 * A value of `--set`, typed by the setting it is for; where it does not fit, the text itself, which the check then
 * refuses.
 */
function fromText(text: string, setting: Setting | undefined): unknown {
  const bare = text.trim()
  if (!setting) return bare === 'true' ? true : bare === 'false' ? false : text
  switch (setting.kind) {
    case 'number':
    case 'integer':
      return bare === '' || Number.isNaN(Number(bare)) ? text : Number(bare)
    case 'integer or null':
      return bare === 'null' || bare === '' ? null : Number.isNaN(Number(bare)) ? text : Number(bare)
    case 'switch':
      return bare === 'true' ? true : bare === 'false' ? false : text
    case 'range': {
      const ends = bare.replace(/^\[|\]$/g, '').split(',')
      return ends.length === 2 && ends.every(end => end.trim() !== '' && !Number.isNaN(Number(end))) ? ends.map(Number) : text
    }
    case 'choice':
    case 'text':
      return text
  }
}

/** What the setting wants, in words: `a whole number from 1 to 1024`. */
export function describeExpected(setting: Setting): string {
  const span = (min: number, max: number, above = false): string =>
    max === Infinity || max >= 2 ** 31 - 1
      ? `${above ? 'above' : 'of at least'} ${min}`
      : `${above ? 'above' : 'from'} ${min}${above ? ' up' : ''} to ${max}`
  switch (setting.kind) {
    case 'number':
      return `a number ${span(setting.min, setting.max, setting.above)}`
    case 'integer':
      return `a whole number ${span(setting.min, setting.max)}`
    case 'integer or null':
      return `a whole number ${span(setting.min, setting.max)}, or null`
    case 'switch':
      return 'true or false'
    case 'text':
      return 'a text'
    case 'choice':
      return `one of ${setting.options.join(', ')}`
    case 'range':
      return `two numbers from ${setting.min} to ${setting.max}, the smaller first`
  }
}

/** Whether `value` is what the setting wants. */
export function fits(setting: Setting, value: unknown): boolean {
  const within = (n: unknown, min: number, max: number): n is number => typeof n === 'number' && Number.isFinite(n) && n >= min && n <= max
  switch (setting.kind) {
    case 'number':
      return within(value, setting.min, setting.max) && !(setting.above && value === setting.min)
    case 'integer':
      return within(value, setting.min, setting.max) && Number.isInteger(value)
    case 'integer or null':
      return value === null || (within(value, setting.min, setting.max) && Number.isInteger(value))
    case 'switch':
      return typeof value === 'boolean'
    case 'text':
      return typeof value === 'string'
    case 'choice':
      return typeof value === 'string' && setting.options.includes(value)
    case 'range':
      return (
        Array.isArray(value) &&
        value.length === 2 &&
        value.every((end: unknown) => within(end, setting.min, setting.max)) &&
        (value as [number, number])[0] <= (value as [number, number])[1]
      )
  }
}

/**
 * Lays `given` over the defaults. Throws a `UserError` with status 2 that names every value which does not fit, with
 * its range.
 */
export function resolveSettings(given: readonly SettingValue[] = []): ResolvedSettings {
  const values = new Map<string, unknown>()
  const sources = new Map<string, string>()
  for (const [path, setting] of settingsByPath) {
    values.set(path, setting.default)
    sources.set(path, 'default')
  }
  const problems: string[] = []
  for (const {path, value, source} of given) {
    const setting = settingsByPath.get(path)
    if (!setting) problems.push(`${source}: there is no setting ${path}.`)
    else if (!fits(setting, value))
      problems.push(`${source}: expected ${describeExpected(setting)} for ${path}, but received ${shown(value)}.`)
    else {
      values.set(path, value)
      sources.set(path, source)
    }
  }
  if (problems.length > 0) throw refuse(some(problems))
  return {settings: assemble(values), sources}
}

/** The settings that one file gives, over the defaults. Throws as `readLayers` and `resolveSettings`. */
export const settingsOfFile = (file: string): Settings =>
  resolveSettings(readLayers([file], [], {flags: [], settings: true}).settings).settings

/** The same with one more value above all others. */
export function withSetting({settings, sources}: ResolvedSettings, path: string, value: unknown, source: string): ResolvedSettings {
  const setting = settingsByPath.get(path)
  if (!setting) throw new Error(`There is no setting ${path}.`)
  if (!fits(setting, value)) throw refuse(`${source}: expected ${describeExpected(setting)} for ${path}, but received ${shown(value)}.`)
  const values = new Map<string, unknown>([...settingsByPath.keys()].map(key => [key, read(settings, key)]))
  values.set(path, value)
  return {settings: assemble(values), sources: new Map([...sources, [path, source]])}
}

const read = (settings: Settings, path: string): unknown => {
  const [section, key] = path.split('.') as [keyof Settings, string]
  return (settings[section] as Record<string, unknown>)[key]
}

function assemble(values: ReadonlyMap<string, unknown>): Settings {
  const settings: Record<string, Record<string, unknown>> = {}
  for (const [path, value] of values) {
    const [section, key] = path.split('.') as [string, string]
    ;(settings[section] ??= {})[key] = Array.isArray(value) ? Object.freeze([...(value as unknown[])]) : value
  }
  for (const section of Object.values(settings)) Object.freeze(section)
  return Object.freeze(settings) as Settings
}

const yamlValue = (value: unknown): string =>
  stringify(value, {collectionStyle: 'flow', lineWidth: 0, flowCollectionPadding: false}).trimEnd()

/** The settings as YAML that reads back to the same, e.g. for `config.yaml` of a run. */
export function settingsYaml(settings: Settings): string {
  return sections((path): string => `${path.split('.')[1]}: ${yamlValue(read(settings, path))}`)
}

/** `configs/default.yaml`: every setting with its default, its range and its sentence. */
export function defaultYaml(): string {
  const head =
    '# Every setting of training with its default. Written from the settings table (src/config/table.ts), which is where to change it.\n# Recipes beside this file say only what differs: dinov2 pretrain photos --config small -o run\n\n'
  return (
    head +
    sections(
      (path, setting) =>
        `# ${setting.description} Expects ${describeExpected(setting)}.\n  ${path.split('.')[1]}: ${yamlValue(setting.default)}`
    )
  )
}

/** What `--print-config` shows: a settings file that would give the same, each line with where its value came from. */
export function printSettings(
  flags: readonly {readonly name: string; readonly value: unknown; readonly source: string}[],
  resolved: ResolvedSettings | undefined
): string {
  const lines: [string, string][] = flags.map(({name, value, source}) => [
    value === undefined ? `# ${name}: not set` : `${name}: ${yamlValue(value)}`,
    value === undefined ? '' : source
  ])
  if (resolved) {
    for (const line of sections(
      (path): string => `${path.split('.')[1]}: ${yamlValue(read(resolved.settings, path))}\u0000${resolved.sources.get(path)}`
    ).split('\n')) {
      const [said, source = ''] = line.split('\u0000') as [string, string?]
      lines.push([said, source])
    }
  }
  const width = Math.min(48, Math.max(0, ...lines.map(([said, source]) => (source ? said.length : 0))))
  const text = lines.map(([said, source]) => (source ? `${said.padEnd(width)} # ${source}` : said)).join('\n')
  return text.trimEnd() + '\n'
}

function sections(line: (path: string, setting: Setting) => string): string {
  let out = ''
  let present = ''
  for (const [path, setting] of settingsByPath) {
    const section = path.split('.')[0]!
    if (section !== present) out += `${section}:\n`
    present = section
    out += `  ${line(path, setting)}\n`
  }
  return out
}
