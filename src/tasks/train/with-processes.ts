/** Several processes around a training command: they meet before its work, and end together. */
import {availableParallelism} from 'node:os'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import type {ImageList} from '../../data/sources/image-table.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'
import type {Note} from '../../system/compile.js'
import {launchOf} from '../../system/launch.js'
import {TrainingProcesses} from './processes.js'
import {imageSet} from './resume.js'

/**
 * Does the work of a run with the other processes that a launcher started, or alone. What is thrown in one process
 * ends them all; the error of the others names that process and its reason.
 */
export async function withProcesses<T>(
  {settings, note}: {readonly settings: Settings; readonly note: Note},
  work: (processes: TrainingProcesses | undefined) => Promise<T>
): Promise<T> {
  const {parallel, process_timeout: timeout} = settings.train
  const launch = parallel === 'none' ? undefined : launchOf()
  if (!launch) return work(undefined)
  const processes = await TrainingProcesses.meet(launch, {timeout, note})
  try {
    const result = await work(processes)
    processes.close()
    return result
  } catch (error) {
    if (!isVerdict(error)) throw await processes.ending(error)
    processes.close()
    throw error
  }
}

/** Whether an error is what a run that all processes have finished is found to be worth: none of them has failed. */
const isVerdict = (error: unknown): boolean => error instanceof UserError && error.code === 'UNHEALTHY'

/** Whether another process writes the files of the run. */
export const isFollower = ({processes}: {readonly processes?: TrainingProcesses | undefined}): boolean => (processes?.rank ?? 0) > 0

/**
 * An engine request for one of several processes of a machine: its own GPU, or its share of the processors, where
 * neither was asked for. torchrun says one thread where nobody said a number, which is taken for none said.
 */
export function withShareOfThreads(request: EngineRequest): EngineRequest {
  const launch = launchOf()
  if (!launch) return request
  const {device, threads} = request
  const said = Number(process.env['OMP_NUM_THREADS'] ?? 1)
  return {
    ...request,
    device: device === 'cuda' ? `cuda:${launch.deviceNumber}` : device,
    threads: threads ?? (said > 1 ? said : Math.max(1, Math.floor(availableParallelism() / launch.localSize)))
  }
}

/** What all processes of a run must have in common. */
export type CommonGround = {
  readonly version: string
  readonly settings: readonly Settings[]
  readonly images: ImageList
  readonly engine: EngineInfo
  readonly precision: string
  /** Images that are evaluated while training, if any, and how often. */
  readonly evaluation?: {readonly images?: readonly string[]; readonly val?: readonly string[]; readonly every?: number} | undefined
  /** Fingerprint of a frozen teacher. */
  readonly teacher?: string
}

/**
 * Connects the processes of a run. Throws `UserError`: as `TrainingProcesses.join`, and where the engine is not torch
 * (exit 5).
 */
export async function joinProcesses(
  processes: TrainingProcesses,
  {version, settings, images, engine, precision, evaluation, teacher}: CommonGround
): Promise<void> {
  if (engine.engine !== 'torch')
    throw new UserError(`Several processes train on the torch engine, not on ${engine.engine}.`, {
      exit: 5,
      code: 'NO_ENGINE',
      hint: 'Leave --engine away; `dinov2 engine install torch` where it is missing.'
    })
  const set = imageSet(images)
  await processes.join(engine.device, {
    'the version of dinov2': version,
    ...(settings.length === 1 ? {settings: settings[0]} : Object.fromEntries(settings.map((own, i) => [`student ${i + 1}`, own]))),
    images: set.images,
    'the list of images': set.fingerprint,
    device: engine.device.replace(/:\d+$/, ''),
    precision,
    ...(evaluation?.images
      ? {'--eval-images': evaluation.images.length, '--eval-val': evaluation.val?.length, '--eval-every': evaluation.every}
      : {}),
    teacher
  })
}
