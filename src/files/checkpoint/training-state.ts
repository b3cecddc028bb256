/**
 * The checkpoint of a training run: one safetensors file with student, teacher, moments and centres, and in its
 * metadata the step and what made it.
 *
 * It holds all that the next step depends on: crops, masks, order of images and stochastic depth are pure functions of
 * seed and step. Files appear whole under `checkpoints/step-0000250.safetensors`; numbers are float32 and independent
 * of machine and engine.
 *
 * Writing goes on beside the training. Tensors are copied one by one at the step's end and handed to the system; while
 * more than 64 MiB are on their way the copying waits, so that a checkpoint costs memory for that much and one tensor
 * more, however large the state. Syncing to the disk and renaming, which take longest, never hold the training up.
 */
import {readdir, rm} from 'node:fs/promises'
import {basename, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {writeError} from '../../system/write-error.js'
import {createSafetensors, openSafetensors} from './safetensors.js'
import {float32Bytes, elements} from './tensor-entry.js'
import {makeFolders} from '../../system/make-folders.js'

/** One tensor of a state: its name (`student.backbone.norm.weight`), shape and float32 values when asked. */
export type StateTensor = {readonly name: string; readonly shape: readonly number[]; read(): Promise<Float32Array>}

/** Bytes that may be on their way to the disk while the next tensor is copied. */
const MAX_BYTES_IN_FLIGHT = 64 * 2 ** 20

const folder = (run: string): string => join(run, 'checkpoints')
/** The checkpoint of this file name in a run folder. */
export const checkpointPath = (run: string, name: string): string => join(folder(run), name)
const nameOf = (step: number): string => `step-${String(step).padStart(7, '0')}.safetensors`
const pattern = /^step-(\d+)\.safetensors$/
const halfWritten = /^\.step-\d+\.safetensors\.tmp-\d+-\d+$/

/** The checkpoints of a run, by step, oldest first; none where the folder is missing. */
export async function listStates(run: string): Promise<{step: number; path: string}[]> {
  const names = await readdir(folder(run)).catch(() => [])
  return names
    .flatMap(name => {
      const found = pattern.exec(name)
      return found ? [{step: Number(found[1]), path: join(folder(run), name)}] : []
    })
    .sort((a, b) => a.step - b.step)
}

export type StateWriting = {
  /** Settles when the tensors may change again; never rejects. */
  readonly copied: Promise<void>
  /**
   * The path, once the file is on the disk under its name; rejects with a `UserError` where it cannot be written, and
   * then leaves nothing behind.
   */
  readonly written: Promise<string>
}

/** Writes one checkpoint whole or not at all. `first` is waited for before the file gets its name. */
export function writeState(
  run: string,
  step: number,
  tensors: Iterable<StateTensor>,
  metadata: Readonly<Record<string, string>>,
  first: () => Promise<void> = async () => undefined
): StateWriting {
  const path = join(folder(run), nameOf(step))
  let release!: () => void
  const copied = new Promise<void>(resolve => (release = resolve))
  const write = async (): Promise<string> => {
    const all = [...tensors]
    await makeFolders(folder(run))
    const specs = all.map(({name, shape}) => ({name, shape, dtype: 'F32' as const}))
    const writer = await createSafetensors(path, specs, {...metadata, step: String(step)}, {force: true})
    try {
      const pieces = new Set<Promise<void>>()
      let bytes = 0
      let failure: {error: unknown} | undefined
      for (const {name, shape, read} of all) {
        while (bytes > MAX_BYTES_IN_FLIGHT && !failure) await Promise.race(pieces)
        if (failure) break
        const size = 4 * elements(shape)
        bytes += size
        const piece: Promise<void> = writer
          .write(name, float32Bytes(await read()))
          .catch((error: unknown) => void (failure ??= {error}))
          .then(() => {
            bytes -= size
            pieces.delete(piece)
          })
        pieces.add(piece)
      }
      release()
      await Promise.all(pieces)
      if (failure) throw (failure as {error: unknown}).error
      await first()
      await writer.commit()
    } catch (error) {
      await writer.abort()
      throw error
    }
    return path
  }
  const written = write()
    .catch((error: unknown) => {
      const said = writeError(path, error)
      if (said instanceof UserError) throw said
      const code = (error as NodeJS.ErrnoException).code
      throw code === undefined ? error : new UserError(`${path} cannot be written (${code}).`, {code: 'WRITE', cause: error})
    })
    .finally(release)
  written.catch(() => undefined) // whoever waits for it hears of it
  return {copied, written}
}

/**
 * Removes old checkpoints: the newest `keep` stay, and every one whose step is a multiple of `every` (0: none for
 * that).
 */
export async function pruneStates(run: string, keep: number, every: number): Promise<void> {
  const states = await listStates(run)
  for (const {step, path} of states.slice(0, Math.max(0, states.length - keep)))
    if (every === 0 || step % every !== 0) await rm(path, {force: true})
}

/** Removes what processes that were killed had begun to write. Only for whoever holds the run's lock. */
export async function removeTemporaryStates(run: string): Promise<void> {
  for (const name of await readdir(folder(run)).catch(() => []))
    if (halfWritten.test(name)) await rm(join(folder(run), name), {force: true})
}

/** Removes all checkpoints of a run, and their folder where nothing else is in it. */
export async function removeStates(run: string): Promise<void> {
  await removeTemporaryStates(run)
  for (const {path} of await listStates(run)) await rm(path, {force: true})
}

/** What a checkpoint says of itself, without its numbers. Throws as `readState`. */
export async function stateMetadata(path: string): Promise<Readonly<Record<string, string>>> {
  const file = await openSafetensors(path)
  await file.close()
  assertOwnName(path, file.metadata)
  return file.metadata
}

/**
 * Holds the name of a checkpoint, by which the newest one is found and old ones are removed, against the step that it
 * records. Throws `UserError` where they differ; a file of another name may hold any step.
 */
export function assertOwnName(path: string, metadata: Readonly<Record<string, string>>): void {
  const named = pattern.exec(basename(path))
  const step = Number(metadata['step'])
  if (!named || !Number.isInteger(step) || Number(named[1]) === step) return
  throw new UserError(`${path} is the checkpoint of step ${step} by what it records, but of step ${Number(named[1])} by its name.`, {
    exit: 2,
    code: 'OTHER_STEP',
    hint: `Rename it to ${nameOf(step)}, or take it out of the folder of checkpoints.`
  })
}

/**
 * Reads a checkpoint tensor by tensor, after `check` has seen its metadata and not thrown. Throws a `UserError` where
 * the file is damaged or is no checkpoint of a run.
 */
export async function readState(
  path: string,
  check: (metadata: Readonly<Record<string, string>>) => void,
  take: (name: string, shape: readonly number[], values: Float32Array) => void
): Promise<{step: number; metadata: Readonly<Record<string, string>>}> {
  const file = await openSafetensors(path)
  try {
    const step = Number(file.metadata['step'])
    if (!Number.isInteger(step))
      throw new UserError(`${path} is no checkpoint of a training run: its metadata names no step.`, {code: 'BAD_CHECKPOINT'})
    assertOwnName(path, file.metadata)
    check(file.metadata)
    for (const [name, entry] of file.tensors) take(name, entry.shape, await entry.readFloat32())
    return {step, metadata: file.metadata}
  } finally {
    await file.close()
  }
}
