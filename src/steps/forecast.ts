/** What a run will need, before it is begun: a few steps on drawn noise of the right sizes, timed and measured. Nothing is written. */
import type {CropBatch} from '../data/batches.js'
import {collateMasks, maskSettings} from '../data/masks.js'
import {rng} from '../tensor/random.js'
import {memory} from '../tensor/tf.js'
import {cropSettings, freeBatch, freeState, freshState, ratesAt, stepBatch, stepSettings} from './pretrain.js'
import type {PretrainOptions} from './pretrain.js'
import {trainStep} from './train-step.js'

export type Forecast = {
  readonly images: number
  readonly steps: number
  readonly parameters: number
  readonly secondsPerStep: number
  readonly seconds: number
  /** Bytes of tensors at the highest point of a step; undefined where the engine does not tell. */
  readonly peakBytes: number | undefined
}

/** Takes three steps on drawn noise of the right sizes and says from them what the run will need. Nothing is written. */
export async function forecast({
  images,
  settings,
  plan,
  precision
}: Pick<PretrainOptions, 'settings' | 'plan' | 'precision'> & {images: number}): Promise<Forecast> {
  const fixed = stepSettings(settings, plan, precision)
  const crops = cropSettings(settings)
  const random = rng(settings.train.seed, 'forecast')
  let state = await freshState(settings, plan)
  let parameters = 0
  for (const leaf of state.student.values()) parameters += leaf.size
  const B = plan.batch
  const noise = (bytes: number): Uint8Array => Uint8Array.from({length: bytes}, () => random.int(256))
  const times: number[] = []
  for (let i = 0; i < 3; i++) {
    const masks = collateMasks(
      random,
      2 * B,
      maskSettings(crops.globalSize, plan.vit.patch, settings.ibot.mask_sample_probability, settings.ibot.mask_ratio_min_max)
    )
    const made: CropBatch = {
      step: i,
      ids: [],
      waitSeconds: 0,
      globals: noise(2 * B * crops.globalSize ** 2 * 3),
      locals: noise(crops.localCount * B * crops.localSize ** 2 * 3),
      ...masks
    }
    const begun = performance.now()
    const batch = stepBatch(made, B, crops, plan.vit.patch)
    state = trainStep(state, batch, ratesAt(plan, i), fixed, rng(settings.train.seed, 'drop path', i)).state
    freeBatch(batch)
    times.push((performance.now() - begun) / 1000)
  }
  freeState(state)
  const secondsPerStep = Math.min(...times.slice(1))
  const {peak} = memory() as {peak?: number}
  return {images, steps: plan.steps, parameters, secondsPerStep, seconds: secondsPerStep * plan.steps, peakBytes: peak}
}
