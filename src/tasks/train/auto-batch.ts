/**
 * The largest batch that fits: the memory of a step grows in a line with its images, so two small steps on noise say
 * what every other takes.
 *
 * On a CPU what counts is the whole process, images under way and their cache included; on a GPU its own memory.
 */
import {derive} from '../../config/derived.js'
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import {freeMemory} from '../../engine/machine.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {memory} from '../../tensor/tf.js'
import {noiseBatches} from './cost-probe.js'
import {gib} from './memory-fit.js'
import {cropSettings, initState} from './pretrain-state.js'
import {pretrainTrainer} from './pretrain-trainer.js'
import {maskSettingsOf} from './training-batches.js'
import type {Trainer} from './run-types.js'

export type AutoBatch = {
  readonly batch: number
  /** Bytes that a step of that batch is expected to need: tensors, and on a CPU the rest of the process. */
  readonly expected: number
  /** Bytes that may be used, the margin taken off. */
  readonly limit: number
  /** Tensors of any step, and of each image more. */
  readonly fixed: number
  readonly perImage: number
}

/** Share of what is free that is left to others: other programs grow, and images are not all alike. */
const MARGIN = 0.1
/** Batches of pixels that wait before the engine, beside the one it works at. */
const AHEAD = 5

/** Makes what would learn with these settings, at its first step. */
export type InitTrainer = (settings: Settings, plan: Derived, precision: Precision) => Promise<Trainer<unknown>>
const fresh: InitTrainer = async (settings, plan, precision) =>
  pretrainTrainer(await initState(settings, plan), {settings, plan, precision})

/** The line through two points; the least that a further image can cost is nothing. */
export function memoryLine(a: {images: number; bytes: number}, b: {images: number; bytes: number}): {fixed: number; perImage: number} {
  const perImage = Math.max(0, (b.bytes - a.bytes) / (b.images - a.images))
  return {perImage, fixed: a.bytes - perImage * a.images}
}

/** Bytes that may be used where `free` are: what this process holds already is its own. */
const usable = (free: number, onCpu: boolean): number => Math.floor((free + (onCpu ? process.memoryUsage.rss() : 0)) * (1 - MARGIN))

/** Bytes that may be used on a device; undefined where it does not tell. */
export async function usableMemory(device: string): Promise<number | undefined> {
  const free = await freeMemory(device)
  return free === undefined ? undefined : usable(free, device === 'cpu')
}

/**
 * Finds the batch for settings whose own train.batch_size_per_gpu does not count. `images` bounds it: a batch has no
 * image twice. Throws a `UserError` where not even the smallest fits (status 5), or where the engine does not tell
 * what it holds.
 */
export async function autoBatch(
  settings: Settings,
  {precision, device, images, learn = fresh}: {precision: Precision; device: string; images: number; learn?: InitTrainer}
): Promise<AutoBatch> {
  const onCpu = device === 'cpu'
  const free = await freeMemory(device)
  if (free === undefined || (memory() as {peak?: number}).peak === undefined)
    throw new UserError(`--batch auto cannot tell how much memory ${free === undefined ? device : 'this engine'} has in use.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give the number of images, or use --engine torch.'
    })
  const crops = cropSettings(settings)
  const pixels = 3 * (2 * crops.globalSize ** 2 + crops.localCount * crops.localSize ** 2) // bytes of an image's crops
  const cache = onCpu ? settings.train.cache_mb * 2 ** 20 : 0
  const limit = usable(free, onCpu)
  const base = onCpu ? process.memoryUsage.rss() + cache : 0
  const of = (batch: number): Settings => ({...settings, train: {...settings.train, batch_size_per_gpu: batch}})
  const most = Math.max(1, images)
  const least = Math.min(most, Math.max(2, settings.train.grad_accumulation))
  /** Bytes of tensors at the highest point of a step of so many images, and those held after it. */
  const probe = async (batch: number): Promise<{peak: number; held: number}> => {
    const own = of(batch)
    const plan: Derived = derive(own)
    const learner = await learn(own, plan, precision)
    try {
      for await (const made of noiseBatches(own, batch, maskSettingsOf(own, plan))) {
        learner.step(made)
        break
      }
      return memory() as unknown as {peak: number; held: number}
    } finally {
      learner.dispose()
    }
  }
  const room = limit - base
  const {peak, held} = await probe(least)
  if (peak > room) throw tooLarge(peak + base, limit, device)
  // A second point far enough from the first for the rounding of stochastic depth, as far as there is room.
  const dearest = (peak - held) / least
  const next = [5 * least, 2 * least].find(batch => batch <= most && held + batch * dearest < room)
  const {fixed, perImage} = next
    ? memoryLine({images: least, bytes: peak}, {images: next, bytes: (await probe(next)).peak})
    : {fixed: held, perImage: dearest}
  const each = perImage + (onCpu ? AHEAD * pixels : 0)
  const fits = Math.min(most, Math.floor((room - fixed) / Math.max(1, each)))
  const batch = Math.max(least, fits >= 16 ? 8 * Math.floor(fits / 8) : fits)
  return {batch, expected: base + fixed + each * batch, limit, fixed, perImage: each}
}

/** The batch of `--batch auto`, in words; a number is that of a run that goes on. */
export const describeAutoBatch = (found: AutoBatch | number): string =>
  typeof found === 'number'
    ? `--batch auto: ${found} images a step, as the run began`
    : `--batch auto: ${found.batch} images a step, for which ${gib(found.expected)} of ${gib(found.limit)} are expected to be needed`

const tooLarge = (needed: number, limit: number, device: string): UserError =>
  new UserError(
    `Not even the smallest batch fits: a step needs ${gib(needed)} and ${gib(limit)} of ${device === 'cpu' ? 'memory' : device} may be used.`,
    {exit: 5, code: 'OUT_OF_MEMORY', hint: 'Try --set train.memory=small, a smaller student.arch, or fewer prototypes.'}
  )
