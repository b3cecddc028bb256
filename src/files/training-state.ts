/**
 * The checkpoint of a training run: one safetensors file with student, teacher, moments and centres, and in its metadata the step and what made it.
 *
 * It holds all that the next step depends on: crops, masks, order of images and stochastic depth are pure functions of seed and step. Files appear
 * whole under `checkpoints/step-0000250.safetensors`; numbers are float32 and independent of machine and engine.
 */
import {mkdir, readdir, rm} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../config/errors.js'
import {openSafetensors, writeSafetensors} from './safetensors.js'
import {bytesOf} from './tensor-entry.js'

/** One tensor of a state: its name (`student.backbone.norm.weight`), shape and float32 values when asked. */
export type StateTensor = {readonly name: string; readonly shape: readonly number[]; read(): Promise<Float32Array>}

const folder = (run: string): string => join(run, 'checkpoints')
const nameOf = (step: number): string => `step-${String(step).padStart(7, '0')}.safetensors`
const pattern = /^step-(\d+)\.safetensors$/

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

/** Writes one checkpoint whole or not at all and returns its path. Throws what the disk throws, as a sentence. */
export async function writeState(
  run: string,
  step: number,
  tensors: Iterable<StateTensor>,
  metadata: Readonly<Record<string, string>>
): Promise<string> {
  await mkdir(folder(run), {recursive: true})
  const path = join(folder(run), nameOf(step))
  const sources = [...tensors].map(({name, shape, read}) => ({name, shape, dtype: 'F32' as const, read: async () => bytesOf(await read())}))
  await writeSafetensors(path, sources, {...metadata, step: String(step)}, {force: true})
  return path
}

/** Removes old checkpoints: the newest `keep` stay, and every one whose step is a multiple of `every` (0: none for that). */
export async function pruneStates(run: string, keep: number, every: number): Promise<void> {
  const states = await listStates(run)
  for (const {step, path} of states.slice(0, Math.max(0, states.length - keep)))
    if (every === 0 || step % every !== 0) await rm(path, {force: true})
}

/** Reads a checkpoint tensor by tensor, after `check` has seen its metadata and not thrown. Throws a `UserError` where the file is damaged or is no checkpoint of a run. */
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
    check(file.metadata)
    for (const [name, entry] of file.tensors) take(name, entry.shape, await entry.readFloat32())
    return {step, metadata: file.metadata}
  } finally {
    await file.close()
  }
}
