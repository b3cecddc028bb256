/**
 * What a run will need, before it is begun: its first steps are taken on its own images, by the same code, timed and
 * measured. Nothing of it stays on disk.
 *
 * The first batches were made before anyone waited for them, so they are left out of the time; what decoded images
 * will yet fill of the cache is added to the memory, and checkpoints are counted at the speed at which a file is
 * written here.
 */
import {mkdtemp, open, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {decodeRgb} from '../../data/image/decode.js'
import {collateMasks} from '../../data/augment/block-masks.js'
import type {MaskSettings} from '../../data/augment/block-masks.js'
import type {ImageList} from '../../data/sources/image-table.js'
import {rng} from '../../tensor/random.js'
import type {MemoryParts} from './memory-usage.js'
import {cropSettings, initState} from './pretrain-state.js'
import {pretrainTrainer} from './pretrain-trainer.js'
import type {PretrainOptions} from './pretrain.js'
import {maskSettingsOf, trainingBatches} from './training-batches.js'
import type {Trainer} from './run-types.js'

export type MeasuredCost = {
  readonly images: number
  readonly steps: number
  readonly parameters: number
  /** Mean, waiting for images included, checkpoints not. */
  readonly secondsPerStep: number
  /** Share of that time lost waiting for images. */
  readonly dataWait: number
  /** Of one checkpoint. */
  readonly checkpointSeconds: number
  readonly checkpointBytes: number
  /** Of the whole run. */
  readonly seconds: number
  /** Bytes of tensors at the highest point of a step; undefined where the engine does not tell. */
  readonly peakBytes: number | undefined
  /** Bytes of the process at its highest point; undefined where the system does not tell. */
  readonly processBytes: number | undefined
  /** What the probe's own peak was made of. */
  readonly parts: MemoryParts
}

export type CostProbeOptions = Pick<PretrainOptions, 'settings' | 'plan' | 'precision'> & {
  /** What would learn, at its first step; given up to the forecast. Pretraining from random weights where absent. */
  readonly learner?: Trainer<unknown>
  /** The images, or how many there would be: then noise is drawn in their place. */
  readonly images: ImageList | number
  /** A folder on the disk that checkpoints would go to; the system's temporary one if absent. */
  readonly folder?: string
  /**
   * Steps that are taken: `warm` unmeasured ones, then at least `least`, and more until `seconds` are over, `most` at
   * most. Where steps are slow, two are enough.
   */
  readonly probe?: {readonly warm: number; readonly least: number; readonly most: number; readonly seconds: number}
}

/**
 * A batch ahead of each worker is made before the first step; three more wait in the queue (see
 * `data/loader/crop-batches.ts`).
 */
const PROBE = {warm: 4, least: 4, most: 40, seconds: 20}

/**
 * Takes the first steps of a run and says from them what all of it will need. Throws what reading its images throws.
 */
export async function probeCost({
  images,
  settings,
  plan,
  precision,
  folder,
  probe = PROBE,
  ...given
}: CostProbeOptions): Promise<MeasuredCost> {
  const {train} = settings
  const allLearns = {...plan, headWarmup: 0} // most steps are such, and they are the dearer ones
  const learner = given.learner ?? pretrainTrainer(await initState(settings, plan), {settings, plan: allLearns, precision})
  let [parameters, bytes] = [0, 0]
  for (const [name, {get}] of learner.stateDict()) {
    const {size} = get()
    bytes += 4 * size
    if (name.startsWith('student.')) parameters += size
  }
  const count = typeof images === 'number' ? images : images.length
  const batches =
    typeof images === 'number'
      ? noiseBatches(settings, plan.batch, maskSettingsOf(settings, plan))
      : trainingBatches({images, settings, plan, crops: cropSettings(settings)}, 0)
  const warm = Math.min(probe.warm, Math.max(1, plan.steps - 1))
  let [taken, measured, seconds, waited] = [0, 0, 0, 0]
  const started = performance.now()
  try {
    for await (const made of batches) {
      const begun = performance.now()
      learner.step(made)
      taken++
      const slow = performance.now() - started > 1500 * probe.seconds // and not waited for
      if (taken > warm || plan.steps === 1 || (slow && taken > 1)) {
        seconds += (performance.now() - begun) / 1000 + made.waitSeconds
        waited += made.waitSeconds
        measured++
      }
      const least = slow ? Math.min(2, probe.least) : probe.least
      if (measured >= probe.most || (measured >= least && seconds >= probe.seconds)) break
    }
    const parts = learner.memory!() as MemoryParts
    const secondsPerByte = await secondsPerByteWritten(folder, Math.min(bytes, 2 ** 26))
    const checkpoints = Math.ceil(plan.steps / train.checkpoint_every)
    const secondsPerStep = seconds / Math.max(1, measured)
    const teacher = bytes / 4 // written once more at the end, its backbone twice
    const cache = typeof images === 'number' ? 0 : await unfilledCacheBytes(images, taken * plan.batch, train.cache_mb * 2 ** 20)
    return {
      images: count,
      steps: plan.steps,
      parameters,
      secondsPerStep,
      dataWait: seconds > 0 ? waited / seconds : 0,
      checkpointSeconds: bytes * secondsPerByte,
      checkpointBytes: bytes,
      seconds: secondsPerStep * plan.steps + (checkpoints * bytes + 2 * teacher) * secondsPerByte,
      peakBytes: parts.tensors,
      processBytes: parts.process === undefined ? undefined : parts.process + cache,
      parts
    }
  } finally {
    await batches.return(undefined)
    learner.dispose()
  }
}

/** Batches of drawn noise, without end. */
export async function* noiseBatches(
  settings: PretrainOptions['settings'],
  batch: number,
  masks: MaskSettings
): AsyncGenerator<CropBatch, void, undefined> {
  const {globalSize, localSize, localCount} = cropSettings(settings)
  const random = rng(settings.train.seed, 'forecast')
  const pixels = (bytes: number): Uint8Array => Uint8Array.from({length: bytes}, () => random.int(256))
  const globals = pixels(2 * batch * globalSize ** 2 * 3)
  const locals = pixels(localCount * batch * localSize ** 2 * 3)
  for (let step = 0; ; step++) {
    yield await Promise.resolve({step, ids: [], waitSeconds: 0, globals, locals, ...collateMasks(random, 2 * batch, masks)})
  }
}

/** Bytes of decoded images that the cache will yet take after `seen` of them were met, from the sizes of a few. */
async function unfilledCacheBytes(images: ImageList, seen: number, most: number): Promise<number> {
  const few = Math.min(16, images.length)
  let [bytes, read] = [0, 0]
  for (let i = 0; i < few && most > 0; i++) {
    try {
      const {data} = await decodeRgb(images.at(Math.floor((i * images.length) / few))!)
      bytes += data.length
      read++
    } catch {
      // the run itself will name it
    }
  }
  if (read === 0) return 0
  const filled = (count: number): number => Math.min(most, (bytes / read) * count)
  return filled(images.length) - filled(Math.min(seen, images.length))
}

/** Seconds a byte of a file takes to reach a disk. */
export async function secondsPerByteWritten(folder = tmpdir(), bytes: number): Promise<number> {
  const own = await mkdtemp(join(folder, 'dinov2-forecast-'))
  try {
    const begun = performance.now()
    const file = await open(join(own, 'probe'), 'w')
    await file.writeFile(new Uint8Array(bytes).fill(1))
    await file.sync()
    await file.close()
    return (performance.now() - begun) / 1000 / bytes
  } finally {
    await rm(own, {recursive: true, force: true})
  }
}
