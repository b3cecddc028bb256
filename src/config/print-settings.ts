/** Settings as YAML: `config.yaml` of a run, `configs/default.yaml`, and what `--print-config` shows. */
import {stringify} from 'yaml'
import {describeExpected} from './expected.js'
import {settingAt, type ResolvedSettings} from './settings.js'
import {settingRows, type Setting, type Settings} from './table.js'

const yamlValue = (value: unknown): string =>
  stringify(value, {collectionStyle: 'flow', lineWidth: 0, flowCollectionPadding: false}).trimEnd()

/** The settings as YAML that reads back to the same, e.g. for `config.yaml` of a run. */
export function settingsYaml(settings: Settings): string {
  return sections((path): string => `${path.split('.')[1]}: ${yamlValue(settingAt(settings, path))}`)
}

/** `configs/default.yaml`: every setting with its default, its range and its sentence. */
export function defaultYaml(): string {
  const head =
    '# yaml-language-server: $schema=settings.schema.json\n# Every setting of training with its default. Written from the settings table (src/config/table.ts), which is where to change it.\n# Recipes beside this file say only what differs: dinov2 pretrain photos --config small -o run\n\n'
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
      (path): string => `${path.split('.')[1]}: ${yamlValue(settingAt(resolved.settings, path))}\u0000${resolved.sources.get(path)}`
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
  for (const [path, setting] of settingRows()) {
    const section = path.split('.')[0]!
    if (section !== present) out += `${section}:\n`
    present = section
    out += `  ${line(path, setting)}\n`
  }
  return out
}
