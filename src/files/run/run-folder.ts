/**
 * The folder of a training run: made, begun anew, and read back (`config.yaml`, `metrics.jsonl`, and results of
 * evaluations as JSON beside them).
 *
 * Beginning anew removes what a run wrote, by name, and nothing else: files that somebody put beside it stay, and a
 * folder that holds other things than a run is refused.
 */
import {readdir, rm, rmdir, stat} from 'node:fs/promises'
import {basename, join, resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import {parseJson} from '../../system/json.js'
import {readText, refuseLinksBelow} from '../../system/plain-file.js'
import {lockName} from '../../system/lock.js'
import {missingPathHint} from '../../config/missing-path.js'
import {listStates, removeStates, removeTemporaryStates} from '../checkpoint/training-state.js'
import {makeFolders} from '../../system/make-folders.js'

/** What a run writes into its folder, beside checkpoints. */
export const runNames = {
  config: 'config.yaml',
  metrics: 'metrics.jsonl',
  /** Speed and memory by step, which differ from process to process. */
  timings: 'timings.jsonl',
  events: 'tensorboard',
  final: 'final',
  notFinite: 'not-finite.json',
  /** What a frozen teacher scored, beside which its student's scores stand. */
  teacher: 'teacher.json'
} as const

const finalFiles = ['backbone.safetensors', 'heads.safetensors', 'huggingface'] // huggingface: a folder that is replaced as a whole
const ours = new Set<string>([...Object.values(runNames), 'checkpoints', lockName])
const isOurs = (name: string): boolean => ours.has(name) || name.startsWith(`${lockName}.`) || /^\.config\.yaml\.tmp-\d+-\d+$/.test(name)

/**
 * Makes the folder of a run, or finds it; with `make` false it only looks whether it could. Nothing in it is changed
 * yet.
 *
 * Throws `UserError`: it is a file, or a link stands where a run writes, or it holds something and neither `force` nor
 * `resume` is given, or, with `force`, holds something that is no run (exit 2); `resume`, and there is no run to go on
 * with (exit 3); it cannot be made (exit 1).
 */
export async function openRun(
  run: string,
  {force = false, resume = false, make = true}: {force?: boolean; resume?: boolean; make?: boolean} = {}
): Promise<void> {
  const names = await readdir(run).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    if (error.code === 'ENOTDIR')
      throw new UserError(`${run} is a file, but a folder is wanted for the output.`, {exit: 2, code: 'NOT_A_FOLDER'})
    throw new UserError(`${run} cannot be read (${error.code}).`, {code: 'READ', cause: error})
  })
  if (names) await refuseLinks(run, names)
  if (resume) {
    if (!names?.includes(runNames.config) && (await listStates(run)).length === 0)
      throw new UserError(
        names ? `${run} has no checkpoint to go on from.` : `There is no run folder ${run}: it has no checkpoint to go on from.`,
        {
          exit: 3,
          code: 'NO_INPUT',
          hint: 'Begin without --resume.'
        }
      )
    return
  }
  if (names === undefined) {
    if (!make) return
    await makeFolders(run).catch((error: NodeJS.ErrnoException) => {
      throw new UserError(`${run} cannot be made (${error.code}).`, {code: 'WRITE', hint: 'Check the rights of its folder.', cause: error})
    })
    return
  }
  if (names.length === 0) return
  if (!force)
    throw new UserError(`${run} exists and is not empty.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Give --resume to go on with it, --force to start anew in it, or name another folder.'
    })
  const isRun = names.includes(runNames.config) && names.includes(runNames.metrics)
  const foreign = names.filter(name => !isOurs(name))
  if (!isRun && foreign.length > 0)
    throw new UserError(
      `${run} holds something else than a run (${foreign.slice(0, 3).join(', ')}${foreign.length > 3 ? ', …' : ''}); --force replaces runs only.`,
      {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Name another folder.'}
    )
}

/**
 * Refuses a run folder in which a link stands where a run writes: a folder made by others could lead its files
 * elsewhere. A link to the whole folder is followed. Throws `UserError` (exit 2).
 */
async function refuseLinks(run: string, names: readonly string[]): Promise<void> {
  for (const name of names.filter(isOurs)) await refuseLinksBelow(run, join(run, name))
  for (const name of finalFiles) await refuseLinksBelow(run, join(run, runNames.final, name))
  for (const {path} of await listStates(run)) await refuseLinksBelow(run, path)
}

/** Removes what processes that were killed had begun to write. Only for whoever holds the lock. */
export async function removeTemporaries(run: string): Promise<void> {
  await removeTemporaryStates(run)
  for (const [folder, begun] of [
    [run, /^\.config\.yaml\.tmp-\d+-\d+$|^run\.lock\.\d+(\.old)?$/],
    [join(run, runNames.final), /^\.(backbone\.safetensors|heads\.safetensors|huggingface)\.tmp-\d+-\d+$/]
  ] as const)
    for (const name of await readdir(folder).catch(() => []))
      if (begun.test(name)) await rm(join(folder, name), {recursive: true, force: true})
}

/** Removes what an earlier run wrote, and leaves what it did not. Only for whoever holds the lock. */
export async function clearRun(run: string): Promise<void> {
  await removeStates(run)
  for (const name of finalFiles) await rm(join(run, runNames.final, name), {recursive: true, force: true})
  const events = join(run, runNames.events)
  for (const name of await readdir(events).catch(() => []))
    if (name.startsWith('events.out.tfevents.')) await rm(join(events, name), {force: true})
  for (const name of [runNames.notFinite, runNames.teacher, runNames.metrics, runNames.timings]) await rm(join(run, name), {force: true})
  for (const folder of ['checkpoints', runNames.final, runNames.events]) await rmdir(join(run, folder)).catch(() => undefined) // not empty: somebody's files
}

/** What metrics and timings have of a step, nested objects flattened: `{losses: {ibot: 1}}` is `losses.ibot`. */
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
  /** What stopped it, where that was a step that was not finite. */
  readonly notFinite: unknown
  /** Results of evaluations: files `*.json` of the folder, and what they hold. */
  readonly results: readonly {readonly file: string; readonly value: unknown}[]
}

/**
 * Numbers of a nested object under dotted names. `null`, which stands for what JSON cannot say (NaN, infinity),
 * becomes NaN.
 */
function flatten(value: unknown, path: string, into: Map<string, number>): void {
  if (typeof value === 'number') into.set(path, value)
  else if (value === null || value === 'NaN' || value === 'Infinity' || value === '-Infinity') into.set(path, NaN)
  else if (typeof value === 'object' && !Array.isArray(value))
    for (const [key, child] of Object.entries(value)) flatten(child, path ? `${path}.${key}` : key, into)
}

/** Reads the text of a `metrics.jsonl`, and of a `timings.jsonl` behind it. */
export function readMetrics(text: string): Pick<RunFolder, 'lines' | 'broken'> {
  const byStep = new Map<number, MetricLine>()
  let broken = 0
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue
    const values = new Map<string, number>()
    try {
      flatten(parseJson(line.replace(/:\s*(-?Infinity|NaN)\b/g, ':null')), '', values)
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

/** What a text says; undefined for a file of another kind, or one that is still being written. */
function asJson(text: string | undefined): unknown {
  try {
    return parseJson(text ?? '')
  } catch {
    return undefined
  }
}

/** Reads a run folder. Throws a `UserError` when it is no folder or holds no `metrics.jsonl` (exit 3). */
export async function readRun(path: string): Promise<RunFolder> {
  const found = await stat(path).catch(() => undefined)
  if (found && !found.isDirectory())
    throw new UserError(`${path} is a file, but a run is a folder, as pretrain and distill write it.`, {
      exit: 2,
      code: 'NOT_A_RUN',
      hint: 'Name the folder. The report of an evaluation has a page of its own: dinov2 knn-eval --html FILE.'
    })
  if (!found)
    throw new UserError(`There is no run folder ${path}.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: missingPathHint(path, {otherwise: 'Name the folder that pretrain or distill wrote (-o).'})
    })
  const read = (name: string): Promise<string | undefined> =>
    readText(join(path, name)).catch((error: unknown) => {
      if (error instanceof UserError) throw error
      return undefined
    })
  const metrics = await read(runNames.metrics)
  if (metrics === undefined)
    throw new UserError(`${path} holds no metrics.jsonl, so it is not a run folder.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Name the folder that pretrain or distill wrote (-o).'
    })
  const results: {file: string; value: unknown}[] = []
  for (const file of (await readdir(path)).filter(name => name.endsWith('.json') && name !== runNames.notFinite).sort()) {
    const value = asJson(await read(file))
    if (value !== undefined) results.push({file, value})
  }
  return {
    path,
    name: basename(resolve(path)),
    config: await read(runNames.config),
    ...readMetrics(`${metrics}\n${(await read(runNames.timings)) ?? ''}`), // older runs have both in one file
    notFinite: asJson(await read(runNames.notFinite)),
    results
  }
}
