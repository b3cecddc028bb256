/**
 * Reading a folder of recorded tensors: `golden.json`, and safetensors and .pth files beside it.
 *
 * The configurations in `golden.json` say what the files have to hold; sizes, seeds and values are the recording's
 * own.
 */
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {readText} from '../../system/plain-file.js'
import {openSafetensors} from '../../files/checkpoint/safetensors.js'
import {tensor} from '../../tensor/tf.js'
import type {Tensor} from '../../tensor/tf.js'
import {goldenKind, parseRecorded} from './recorded-kinds.js'

export type RecordedTensor = {readonly shape: readonly number[]; readonly data: Float32Array}

/** Constructor arguments of a recorded backbone; null or absent means the constructor's default. */
export type RecordedVit = {
  readonly num_heads?: number | null
  readonly interpolate_antialias?: boolean | null
  readonly interpolate_offset?: number | null
}

export type RecordedStep = Readonly<Record<string, number>>

/** A recorded training run of a few steps. */
export type RecordedTraining = {
  readonly config: {
    readonly batch: number
    readonly local_crops: number
    readonly student_temp: number
    readonly koleo_weight: number
    readonly dino_weight: number
    readonly ibot_weight: number
    readonly layerwise_decay: number
    readonly patch_embed_lr_mult: number
    readonly betas: readonly [number, number]
    readonly eps: number
    readonly clip_grad: number
    readonly lr: readonly number[]
    readonly wd: readonly number[]
    readonly momentum: readonly number[]
    readonly teacher_temp: readonly number[]
    readonly last_layer_lr: readonly number[]
  }
  readonly vit: RecordedVit
  readonly centering: 'sinkhorn_knopp' | 'centering'
  readonly separate_ibot_head: boolean
  readonly head: {
    readonly in_dim: number
    readonly out_dim: number
    readonly hidden_dim: number
    readonly bottleneck_dim: number
    readonly nlayers: number
  }
  readonly steps: readonly RecordedStep[]
}

export type RecordedGroup = {
  readonly name: string
  readonly lr_multiplier: number
  readonly wd_multiplier: number
  readonly is_last_layer: boolean
}

export type RecordedSchedule = {
  readonly config: {
    readonly base_lr: number
    readonly batch: number
    readonly epochs: number
    readonly epoch_length: number
    readonly warmup_epochs: number
    readonly min_lr: number
    readonly wd: readonly [number, number]
    readonly momentum: readonly [number, number]
    readonly teacher_temp: readonly [number, number]
    readonly warmup_teacher_temp_epochs: number
  }
  readonly values: Readonly<Record<'at' | 'lr' | 'wd' | 'momentum' | 'teacher_temp', readonly number[]>>
}

export type GoldenIndex = {
  readonly vit: Readonly<Record<string, RecordedVit>>
  readonly train: RecordedTraining
  readonly train_untied: RecordedTraining
  readonly param_groups: readonly RecordedGroup[]
  readonly param_groups_train_untied: readonly RecordedGroup[]
  readonly schedule: RecordedSchedule
}

export type Golden = {
  readonly folder: string
  readonly index: GoldenIndex
  /** The path of a file of the recording. */
  path(name: string): string
  /** All tensors of `<name>.safetensors`, widened to float32. */
  tensors(name: string): Promise<ReadonlyMap<string, RecordedTensor>>
}

/**
 * Opens a recording. Throws a `UserError` of status 3 where there is none, of status 1 where `golden.json` is not one.
 */
export async function openGolden(folder: string): Promise<Golden> {
  const file = join(folder, 'golden.json')
  let text: string
  try {
    text = await readText(file)
  } catch (cause) {
    throw new UserError(`${folder} holds no recording: ${file} cannot be read.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Name one with --golden.',
      cause
    })
  }
  const index = parseRecorded(text, file, goldenKind) as GoldenIndex
  return {
    folder,
    index,
    path: name => join(folder, name),
    async tensors(name) {
      const opened = await openSafetensors(join(folder, `${name}.safetensors`))
      try {
        const tensors = new Map<string, RecordedTensor>()
        for (const [key, entry] of opened.tensors) tensors.set(key, {shape: entry.shape, data: await entry.readFloat32()})
        return tensors
      } finally {
        await opened.close()
      }
    }
  }
}

/** A recorded tensor by name. Throws a `UserError` where the recording lacks it. */
export function need(tensors: ReadonlyMap<string, RecordedTensor>, name: string, file: string): RecordedTensor {
  const found = tensors.get(name)
  if (!found) throw new UserError(`The recording lacks ${name} in ${file}.safetensors.`, {code: 'BAD_RECORDING'})
  return found
}

/** A recorded tensor on the running engine; the caller's to dispose. */
export const engineTensor = <T extends Tensor>({data, shape}: RecordedTensor): T => tensor(data, [...shape]) as T
