/**
 * Reads what files and `--set` give, before it is laid over the defaults.
 *
 * A file may also hold flags of the command under their long names, beside the sections of settings. Everything that
 * is wrong is named in one message. Old names of settings are taken, and named as deprecated.
 */
import {statSync} from 'node:fs'
import {missingPathHint} from './missing-path.js'
import {nearestName} from './nearest.js'
import {recipeFolder, recipeNames} from './recipes.js'
import {currentValue, renamedSettings} from './renamed.js'
import {readSettingsFile} from './settings-file.js'
import {
  listProblems,
  MANY_PROBLEMS,
  resolveSettings,
  settingsByPath,
  settingsError,
  type ResolvedSettings,
  type SettingValue
} from './settings.js'
import {aliases, foreignKeys, settingsTable, type Setting, type Settings} from './table.js'

export type Layers = {
  readonly settings: readonly SettingValue[]
  /** Flags found under their long names, at most one each: the last that was given. */
  readonly flags: readonly {readonly name: string; readonly value: unknown; readonly written: unknown; readonly source: string}[]
  /** Old names and values that were given, as sentences. */
  readonly deprecated: readonly string[]
}

/** An entry of a table, but nothing that every object has. */
const own = <T>(entries: Readonly<Record<string, T>>, key: string): T | undefined =>
  Object.hasOwn(entries, key) ? entries[key] : undefined

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
  const flagValues = new Map<string, {name: string; value: unknown; written: unknown; source: string}>()
  const problems: string[] = []
  const deprecated: string[] = []
  const named = new Set<string>() // sections of Meta's that were refused already
  const known = [...flags, ...(settings ? settingsByPath.keys() : [])]

  const take = (path: string, value: unknown, source: string, written = value): void => {
    // Flags may stand together under their first word: `dedup: {threshold: 0.9}` is --dedup-threshold; words may be
    // joined as in Meta's files.
    const flag = [path, path.replace('.', '-'), path.replace('.', '-').replaceAll('_', '-')].find(name => flags.includes(name))
    if (flag !== undefined && !settingsByPath.has(path)) {
      flagValues.delete(flag)
      flagValues.set(flag, {name: flag, value, written, source})
      return
    }
    const all = `${path.split('.')[0]}.*`
    const other = own(foreignKeys, path) ?? own(foreignKeys, all)
    const spoken = own(foreignKeys, path) ? path : all
    if (settings) {
      const name = own(aliases, path) ?? own(renamedSettings, path) ?? path
      const current = currentValue(name, value)
      if (own(renamedSettings, path)) deprecated.push(`${source}: ${path} is deprecated; the setting is called ${name} now`)
      if (current !== value)
        deprecated.push(`${source}: ${name}=${String(value)} is deprecated; the value is called ${String(current)} now`)
      if (settingsByPath.has(name)) return void given.push({path: name, value: current, source})
      if (other?.same?.(value)) return
      if (other && named.has(spoken)) return // one sentence for a whole section
      if (other) return void (named.add(spoken), problems.push(`${source}: ${path} has no place here: ${other.instead}.`))
    } else if (settingsByPath.has(path) || own(aliases, path) || own(renamedSettings, path) || other) {
      return void problems.push(`${source}: ${path} is a setting of training, which this command does not read.`)
    }
    const guess = problems.length < MANY_PROBLEMS ? (nearestName(path, known) ?? nearestEnd(path, known)) : undefined
    problems.push(`${source}: there is no setting ${path}.${guess ? ` Did you mean ${guess}?` : ''}`)
  }

  const sections = new Set(Object.keys(settingsTable))
  for (const file of files)
    for (const {path, value, written, source} of readSettingsFile(find(file), {shown: file, sections, problems}))
      take(path, value, source, written)
  for (const text of sets) {
    const equals = text.indexOf('=')
    if (equals < 1) problems.push(`--set ${text}: expected KEY=VALUE, e.g. optim.epochs=20.`)
    else {
      const path = text.slice(0, equals).trim()
      const setting = settingsByPath.get(own(aliases, path) ?? own(renamedSettings, path) ?? path)
      take(path, fromText(text.slice(equals + 1), setting), '--set')
    }
  }
  if (problems.length > 0) throw settingsError(listProblems(problems))
  return {settings: given, flags: [...flagValues.values()], deprecated}
}

/** Where only the last word of a path was given or is right, the path that ends in it. */
function nearestEnd(path: string, known: readonly string[]): string | undefined {
  const end = path.split('.').at(-1)!
  const ends = new Map(known.map(name => [name.split('.').at(-1)!, name]))
  const guess = nearestName(end, ends.keys())
  return guess === undefined ? undefined : ends.get(guess)
}

/** Whether `file` names a recipe that comes with the program, and no file of the user's; a folder hides no recipe. */
export function isRecipe(file: string): boolean {
  const found = statSync(file, {throwIfNoEntry: false})
  return (!found || found.isDirectory()) && recipeNames().includes(file)
}

/** The path of a settings file: the path itself, or that of the recipe of this name. */
function find(file: string): string {
  if (isRecipe(file)) return `${recipeFolder}${file}.yaml`
  const found = statSync(file, {throwIfNoEntry: false})
  if (found && !found.isDirectory()) return file
  const recipes = recipeNames()
  if (found) return file // its reader says what a folder lacks
  const guess = /[/.]/.test(file) ? undefined : nearestName(file, recipes)
  throw settingsError(
    `There is no settings file ${file}.`,
    guess
      ? `Did you mean the recipe ${guess}?`
      : missingPathHint(file, {otherwise: `Recipes that come with the program: ${recipes.join(', ')}.`})
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

/** What one file gives, over the defaults. Throws as `readLayers` and `resolveSettings`. */
export const resolveFile = (file: string): ResolvedSettings => resolveSettings(readLayers([file], [], {flags: [], settings: true}).settings)

/** The settings of one file, over the defaults. */
export const settingsOfFile = (file: string): Settings => resolveFile(file).settings
