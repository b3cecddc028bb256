/**
 * Settings and values that have another name now. Old names are still taken, from files, `--set` and the records of
 * old runs; where a user gives them, they are reported as deprecated.
 */

/** The present path of a setting by its old one. */
export const renamedSettings: Readonly<Record<string, string>> = {'train.accumulate': 'train.grad_accumulation'}

/** The present value by its old one, by the present path of the setting. */
const renamedValues: Readonly<Record<string, Readonly<Record<string, string>>>> = {'train.decode': {shrunk: 'scaled'}}

/** The value as it is called now. */
export function currentValue(path: string, value: unknown): unknown {
  const renamed = renamedValues[path] ?? {}
  return typeof value === 'string' && Object.hasOwn(renamed, value) ? renamed[value] : value
}

type Sections = Readonly<Record<string, Readonly<Record<string, unknown>>>>

/** Settings as a run recorded them, under their present names. Names are foreign: none of them means a prototype. */
export function currentSettings(recorded: Readonly<Record<string, unknown>>): Sections {
  const sections = new Map<string, Map<string, unknown>>()
  for (const [section, values] of Object.entries(recorded))
    for (const [key, value] of Object.entries(typeof values === 'object' && values !== null ? values : {}) as [string, unknown][]) {
      const path = renamedSettings[`${section}.${key}`] ?? `${section}.${key}`
      const [present, name] = path.split('.') as [string, string]
      if (!sections.has(present)) sections.set(present, new Map())
      sections.get(present)!.set(name, currentValue(path, value))
    }
  return Object.fromEntries([...sections].map(([section, values]) => [section, Object.fromEntries(values)]))
}
