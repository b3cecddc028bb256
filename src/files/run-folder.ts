/** What a training run leaves behind, read back: `config.yaml`, `metrics.jsonl`, and results of evaluations as JSON beside them. */
import {readdir, readFile, stat} from 'node:fs/promises'
import {basename, join, resolve} from 'node:path'
import {UserError} from '../config/errors.js'

/** One line of `metrics.jsonl`, nested objects flattened: `{losses: {ibot: 1}}` is `losses.ibot`. */
export type MetricLine = {readonly step: number; readonly values: ReadonlyMap<string, number>}

export type RunFolder = {
  readonly path: string
  readonly name: string
  /** Text of `config.yaml`, where there is one. */
  readonly config: string | undefined
  /** By rising step; where a resumed run wrote a step again, the later line counts. */
  readonly lines: readonly MetricLine[]
  /** Lines that could not be read, e.g. one cut short by a kill. */
  readonly broken: number
  /** Results of evaluations: files `*.json` of the folder, and what they hold. */
  readonly results: readonly {readonly file: string; readonly value: unknown}[]
}

/** Numbers of a nested object under dotted names. `null`, which stands for what JSON cannot say (NaN, infinity), becomes NaN. */
function flatten(value: unknown, path: string, into: Map<string, number>): void {
  if (typeof value === 'number') into.set(path, value)
  else if (value === null || value === 'NaN' || value === 'Infinity' || value === '-Infinity') into.set(path, NaN)
  else if (typeof value === 'object' && !Array.isArray(value))
    for (const [key, child] of Object.entries(value)) flatten(child, path ? `${path}.${key}` : key, into)
}

/** Reads the text of a `metrics.jsonl`. */
export function readMetrics(text: string): Pick<RunFolder, 'lines' | 'broken'> {
  const byStep = new Map<number, MetricLine>()
  let broken = 0
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue
    const values = new Map<string, number>()
    try {
      flatten(JSON.parse(line.replace(/:\s*(-?Infinity|NaN)\b/g, ':null')), '', values)
    } catch {
      broken++
      continue
    }
    const step = values.get('step')
    values.delete('step')
    if (step === undefined || !Number.isFinite(step)) broken++
    else byStep.set(step, {step, values: new Map([...(byStep.get(step)?.values ?? []), ...values])})
  }
  return {lines: [...byStep.values()].sort((a, b) => a.step - b.step), broken}
}

/** Reads a run folder. Throws a `UserError` when it is no folder or holds no `metrics.jsonl` (exit 3). */
export async function readRun(path: string): Promise<RunFolder> {
  if (!(await stat(path).catch(() => undefined))?.isDirectory())
    throw new UserError(`There is no run folder ${path}.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Name the folder that pretrain or distill wrote (-o).'
    })
  const read = (name: string): Promise<string | undefined> => readFile(join(path, name), 'utf8').catch(() => undefined)
  const metrics = await read('metrics.jsonl')
  if (metrics === undefined)
    throw new UserError(`${path} holds no metrics.jsonl, so it is not a run folder.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Name the folder that pretrain or distill wrote (-o).'
    })
  const results: {file: string; value: unknown}[] = []
  for (const file of (await readdir(path)).filter(name => name.endsWith('.json')).sort()) {
    const text = await read(file)
    try {
      results.push({file, value: JSON.parse(text ?? '')})
    } catch {
      // A file of another kind, or one that is still being written: nothing to show.
    }
  }
  return {path, name: basename(resolve(path)), config: await read('config.yaml'), ...readMetrics(metrics), results}
}
