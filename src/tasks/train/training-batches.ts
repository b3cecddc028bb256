/** The batches of a run: which images, crops and masks come at a step follows from seed and step. */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {maskSettings} from '../../data/augment/block-masks.js'
import type {MaskSettings} from '../../data/augment/block-masks.js'
import {cropBatches} from '../../data/loader/crop-batches.js'
import type {Batches} from '../../data/loader/load-stats.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {shuffledSampler} from '../../data/loader/sampler.js'
import type {RunOptions} from './run-types.js'

/** How many patches of which crops are masked. */
export const maskSettingsOf = ({ibot, crops}: Settings, {vit}: Derived): MaskSettings =>
  maskSettings(crops.global_crops_size, vit.patch, ibot.mask_sample_probability, ibot.mask_ratio_min_max)

/**
 * The batches of a run from step `start` on: which images, crops and masks come at a step follows from seed and step.
 */
export const trainingBatches = (
  {
    images,
    settings,
    plan,
    crops,
    processes,
    onRejected
  }: Pick<RunOptions, 'images' | 'settings' | 'plan' | 'crops' | 'processes' | 'onRejected'>,
  start: number
): Batches<CropBatch> =>
  cropBatches({
    refs: images,
    sampler: shuffledSampler(images.length, settings.train.seed),
    batch: settings.train.batch_size_per_gpu,
    share: processes,
    crops,
    masks: maskSettingsOf(settings, plan),
    seed: settings.train.seed,
    start,
    end: plan.steps,
    cacheBytes: settings.train.cache_mb * 2 ** 20,
    ...(settings.train.workers > 0 ? {workers: settings.train.workers} : {}),
    ...(onRejected ? {onRejected} : {})
  })
