/** Settings in force: given values over the defaults, each checked against the table, with where each came from. */
import {UserError} from './errors.js'
import {describeExpected, fits} from './expected.js'
import {currentSettings} from './renamed.js'
import {settingRows, type Setting, type Settings} from './table.js'

export type {Settings} from './table.js'

/** Settings in force with the place each came from: `default`, `run.yaml:12`, `--set`, a variable, `command line`. */
export type ResolvedSettings = {readonly settings: Settings; readonly sources: ReadonlyMap<string, string>}

/** One value that somebody gave; a later one stands above an earlier one. */
export type SettingValue = {readonly path: string; readonly value: unknown; readonly source: string}

/** Every setting by its path. */
export const settingsByPath: ReadonlyMap<string, Setting> = new Map(settingRows())

/** The error of settings that a user can mend. */
export const settingsError = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'SETTINGS', hint})

/** More problems than these are counted, not listed. */
export const MANY_PROBLEMS = 50
/** Problems one a line, the first of many. */
export const listProblems = (problems: readonly string[]): string =>
  [
    ...problems.slice(0, MANY_PROBLEMS),
    ...(problems.length > MANY_PROBLEMS ? [`… and ${problems.length - MANY_PROBLEMS} more.`] : [])
  ].join('\n')

/** A value in a sentence. */
const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
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
  if (problems.length > 0) throw settingsError(listProblems(problems))
  return {settings: assemble(values), sources}
}

/** What `above` has from somewhere else than the defaults, above `base`. */
export function overlaySettings(base: ResolvedSettings, above: ResolvedSettings): ResolvedSettings {
  let next = base
  for (const [path, source] of above.sources)
    if (source !== 'default') next = withSetting(next, path, settingAt(above.settings, path), source)
  return next
}

/** Settings as a run recorded them, over the defaults; what the table no longer has is left out. */
export function resolveRecorded(recorded: Readonly<Record<string, Readonly<Record<string, unknown>>>>, source: string): ResolvedSettings {
  const given = Object.entries(currentSettings(recorded)).flatMap(([section, values]) =>
    Object.entries(values).map(([key, value]) => ({path: `${section}.${key}`, value, source}))
  )
  return resolveSettings(given.filter(({path}) => settingsByPath.has(path)))
}

/** The same with one more value above all others. */
export function withSetting({settings, sources}: ResolvedSettings, path: string, value: unknown, source: string): ResolvedSettings {
  const setting = settingsByPath.get(path)
  if (!setting) throw new Error(`There is no setting ${path}.`)
  if (!fits(setting, value))
    throw settingsError(`${source}: expected ${describeExpected(setting)} for ${path}, but received ${shown(value)}.`)
  const values = new Map<string, unknown>([...settingsByPath.keys()].map(key => [key, settingAt(settings, key)]))
  values.set(path, value)
  return {settings: assemble(values), sources: new Map([...sources, [path, source]])}
}

/** The value of a setting by its path. */
export const settingAt = (settings: Settings, path: string): unknown => {
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
