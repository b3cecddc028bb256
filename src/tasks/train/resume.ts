/**
 * Going on with a run: what a checkpoint records of it, and which differences it bears.
 *
 * The rule. How a run is carried out (threads that decode, memory, how often something is written) may change: what is
 * computed stays the same. Engine, device, precision and threads may change too, but then the last digits may differ
 * from those of the unbroken run, and it is said. All else (any other setting, the images) is refused, unless the
 * caller accepts changes; the run then goes on from the same weights on another course, which its checkpoints record.
 * What the weights themselves do not fit is always refused.
 */
import {counted} from '../../config/counted.js'
import {createHash} from 'node:crypto'
import {UserError} from '../../config/errors.js'
import {isObject, type JsonObject, jsonObjectOr, valueText} from '../../system/json.js'
import {shortSideFor, type Derived} from '../../config/derived.js'
import {currentSettings} from '../../config/renamed.js'
import type {Settings} from '../../config/table.js'
import type {ImageList} from '../../data/sources/image-table.js'
import {configMetadata} from '../../files/checkpoint/architecture.js'
import {compareShares} from './resume-shares.js'
import {listStates, readState, stateMetadata} from '../../files/checkpoint/training-state.js'
import {tensor} from '../../tensor/tf.js'
import {isLossScale} from './loss-scale.js'
import type {LossScale} from './loss-scale.js'
import type {StateDict} from './state-dict.js'

/**
 * Fills the places from a checkpoint file. `check` sees the file's metadata first.
 * Throws what `check` throws, and a `UserError` where names or shapes differ, with all differences.
 */
export async function loadStateDict(
  path: string,
  all: StateDict,
  check: (metadata: Readonly<Record<string, string>>) => void = () => undefined
): Promise<{step: number; metadata: Readonly<Record<string, string>>}> {
  const places = new Map(all)
  const wrong: string[] = []
  const {step, metadata} = await readState(path, check, (name, shape, values) => {
    const place = places.get(name)
    const here = place?.shape ?? place?.get().shape
    if (!place || here!.join() !== shape.join()) {
      wrong.push(place ? `${name} is [${shape.join(', ')}] there and [${here!.join(', ')}] here` : `${name} has no place here`)
      return
    }
    places.delete(name)
    place.put(tensor(values, shape as number[]))
  })
  for (const name of places.keys()) if (!wrong.some(line => line.startsWith(`${name} `))) wrong.push(`${name} is missing there`)
  if (wrong.length > 0) {
    wrong.sort((a, b) => Number(!a.startsWith('student')) - Number(!b.startsWith('student'))) // the rest differs as the student does
    throw new UserError(
      `The checkpoint ${path} does not fit the settings: ${wrong.slice(0, 12).join('; ')}${wrong.length > 12 ? `; and ${wrong.length - 12} more` : ''}.`,
      {exit: 2, code: 'SETTINGS', hint: 'Resume with the settings of the run (its config.yaml).'}
    )
  }
  return {step, metadata}
}

/** Settings that say how a run is carried out, not what it computes. */
const RESUMABLE = new Set([
  'train.workers',
  'train.cache_mb',
  'train.memory', // every level computes the same numbers
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.keep_every',
  'train.parallel',
  'train.process_timeout',
  'distill.teacher' // wherever it lies, its weights tell whether it is the same
])

/** Images a step of the run in a folder, as its newest checkpoint records it; undefined where there is none. */
export async function batchOfRun(run: string): Promise<number | undefined> {
  const newest = (await listStates(run)).at(-1)
  const settings = newest && (await stateMetadata(newest.path).catch(() => undefined))?.['settings']
  const train = jsonObjectOr(settings)?.['train']
  return isObject(train) && typeof train['batch_size_per_gpu'] === 'number' ? train['batch_size_per_gpu'] : undefined
}

/** Settings as weights record them, under their present names. Throws `UserError` where they are none. */
export function recordedSettings(text: string, path: string): ReturnType<typeof currentSettings> {
  const found = jsonObjectOr(text)
  if (found && Object.values(found).every(isObject)) return currentSettings(found)
  throw damagedRecord(path, 'settings')
}

const damagedRecord = (path: string, what: string): UserError =>
  new UserError(`${path} is damaged: its ${what} are not readable.`, {
    code: 'BAD_CHECKPOINT',
    hint: 'Remove it; the run goes on from the checkpoint before it.'
  })

/** What a checkpoint keeps beside tensors: the averages of the line that was begun, and how the run was changed. */
export function carriedOver(
  metadata: Readonly<Record<string, string>>,
  path: string
): {window: JsonObject | undefined; history: Change[]; lossScale: unknown} {
  const lossScale = jsonObjectOr(metadata['loss_scale'])
  if (metadata['loss_scale'] !== undefined && !isLossScale(lossScale)) throw damagedRecord(path, 'the loss scale')
  const window = jsonObjectOr(metadata['window'])
  const history = jsonObjectOr(`{"all":${metadata['history'] ?? '[]'}}`)?.['all']
  const isChange = (change: unknown): boolean =>
    isObject(change) &&
    Number.isInteger(change['step']) &&
    Array.isArray(change['changes']) &&
    change['changes'].every(text => typeof text === 'string')
  const counted = window === undefined || (isObject(window['sums']) && typeof window['count'] === 'number')
  const said = metadata['window'] === undefined || metadata['window'] === 'null' || window !== undefined
  if (!counted || !said || !Array.isArray(history) || !history.every(isChange)) throw damagedRecord(path, 'averages and changes')
  return {window, history: history as Change[], lossScale}
}

/**
 * The settings of the run in a folder, as its newest checkpoint that can be opened records them; undefined where there
 * is none.
 */
export async function settingsOfRun(run: string): Promise<Settings | undefined> {
  for (const {path} of (await listStates(run)).reverse()) {
    const settings = (await stateMetadata(path).catch(() => undefined))?.['settings']
    if (settings) return recordedSettings(settings, path) as Settings
  }
  return undefined
}

/** What computes, as far as the last digits depend on it. */
export type Computing = {
  readonly precision: string
  /** `torch 2.13.0`. */
  readonly engine?: string
  readonly device?: string
  readonly threads?: number
  /** How many processes train together; absent for one. */
  readonly processes?: number
}

/** The set that a run learns from. */
export type ImageSet = {readonly images: number; readonly fingerprint: string}

/**
 * Tells sets of images apart by number, names and order, not by where their common folder lies: the same photos on
 * another machine are the same set. Reads the names twice and holds none.
 */
export function imageSet(images: ImageList): ImageSet {
  let common: string | undefined
  for (let i = 0; i < images.length; i++) {
    const {id} = images.at(i)!
    if (common === undefined) common = id.slice(0, id.lastIndexOf('/') + 1)
    while (common !== '' && !id.startsWith(common)) common = common.slice(0, common.lastIndexOf('/', common.length - 2) + 1)
    if (common === '') break
  }
  const cut = common?.length ?? 0
  const hash = createHash('sha256')
  let some = ''
  for (let i = 0; i < images.length; i++) {
    some += images.at(i)!.id.slice(cut) + '\n'
    if (some.length > 1 << 16) {
      hash.update(some)
      some = ''
    }
  }
  return {images: images.length, fingerprint: hash.update(some).digest('hex').slice(0, 32)}
}

export type RecordedSetup = {
  readonly version: string
  readonly settings: Settings
  readonly plan: Derived
  readonly computing: Computing
  readonly set: ImageSet
  /** Steps taken. */
  readonly step: number
  /** Sums of the measurements since the last line of metrics. */
  readonly window: unknown
  /** Number and checksum of the lines of metrics so far. */
  readonly metrics: string
  /** Changes of course that were accepted so far. */
  readonly history: readonly Change[]
  /** How losses are scaled, where they are. */
  readonly lossScale?: ReturnType<LossScale['kept']> | undefined
  /** Fingerprint of a frozen teacher that the run learns from. */
  readonly teacherFingerprint?: string | undefined
}

/** From which step on a run went on otherwise than it began. */
export type Change = {readonly step: number; readonly changes: readonly string[]}

/**
 * Metadata of a checkpoint: what made it, all that going on needs beside the tensors, and what lets other commands
 * open it as a model.
 */
export const stateRecord = ({
  version,
  settings,
  plan,
  computing,
  set,
  step,
  window,
  metrics,
  history,
  lossScale,
  teacherFingerprint
}: RecordedSetup): Record<string, string> => ({
  ...configMetadata(plan.vit),
  ...cropMetadata(settings),
  tool: `dinov2 ${version}`,
  settings: JSON.stringify(settings),
  seed: String(settings.train.seed),
  images: String(set.images),
  images_fingerprint: set.fingerprint,
  position: String(step * plan.batch), // of the order of images: the next batch begins here
  window: JSON.stringify(window),
  metrics,
  computing: JSON.stringify(computing),
  ...(lossScale === undefined ? {} : {loss_scale: JSON.stringify(lossScale)}),
  ...(teacherFingerprint === undefined ? {} : {taught_by: teacherFingerprint}),
  ...(history.length > 0 ? {history: JSON.stringify(history)} : {})
})

/** How images are made ready for a model that was trained with these crops. */
export function cropMetadata({crops}: Settings): {resize: string; crop: string} {
  const crop = crops.global_crops_size
  return {resize: String(shortSideFor(crop)), crop: String(crop)}
}

export type Comparison = {
  /** Differences that change the course of the run. */
  readonly course: readonly string[]
  /** Differences that change nothing but how it is carried out. */
  readonly carried: readonly string[]
  /** Differences in what computes: the last digits. */
  readonly digits: readonly string[]
}

/** Holds what a checkpoint records against what a run is to go on with. */
export function compareSetups(
  metadata: Readonly<Record<string, string>>,
  {settings, computing, set, teacherFingerprint}: Pick<RecordedSetup, 'settings' | 'computing' | 'set' | 'teacherFingerprint'>
): Comparison {
  const [course, carried, digits]: [string[], string[], string[]] = [[], [], []]
  const shown = (value: unknown): string => JSON.stringify(value) ?? 'not recorded'
  if (metadata['settings']) {
    const known = currentSettings(jsonObjectOr(metadata['settings']) ?? {})
    for (const [section, values] of Object.entries(settings))
      for (const [key, value] of Object.entries(values)) {
        const before = known[section]
        const old = isObject(before) ? before[key] : undefined
        const name = `${section}.${key}`
        if (name === 'train.batch_size_per_gpu') continue // images a step are compared below, over all processes
        if (old === undefined || shown(old) === shown(value)) continue // a setting that did not exist yet had its present default
        ;(RESUMABLE.has(name) ? carried : course).push(`${name} was ${shown(old)} and is ${shown(value)}`)
      }
  }
  if (metadata['images'] && metadata['images'] !== String(set.images))
    course.push(`the list had ${counted(Number(metadata['images']), 'image')} and has ${set.images}`)
  else if (metadata['images_fingerprint'] && metadata['images_fingerprint'] !== set.fingerprint)
    course.push(`there are as many images (${set.images}), but others or in another order`)
  if (metadata['taught_by'] !== teacherFingerprint && metadata['settings'])
    course.push(
      metadata['taught_by'] === undefined
        ? 'there was no frozen teacher and there is one'
        : teacherFingerprint === undefined
          ? 'there was a frozen teacher and there is none'
          : 'the teacher has other weights than the one so far'
    )
  const before = jsonObjectOr(metadata['computing']) ?? {}
  const shares = compareShares(
    metadata,
    settings,
    typeof before['processes'] === 'number' ? before['processes'] : 1,
    computing.processes ?? 1
  )
  course.push(...shares.course)
  digits.push(...shares.digits)
  for (const [name, value] of Object.entries(computing))
    if (name !== 'processes' && before[name] !== undefined && before[name] !== value)
      digits.push(`${name} was ${valueText(before[name])} and is ${String(value)}`)
  return {course, carried, digits}
}

/** Throws a `UserError` of status 2 where the course of a run would change and nobody accepted that. */
export function assertSameCourse(path: string, {course}: Comparison, accept: boolean): void {
  if (course.length === 0 || accept) return
  throw new UserError(`The run of ${path} cannot go on as it began: ${course.join('; ')}.`, {
    exit: 2,
    code: 'SETTINGS',
    hint: 'Without --config a run goes on with its own config.yaml: leave away what differs and give the same images; or give --accept-changes to go on from its weights on another course.'
  })
}
