/** The tensors of a training state by their names in a checkpoint. */
import {createHash} from 'node:crypto'
import {float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import type {StateTensor} from '../../files/checkpoint/training-state.js'
import {dispose} from '../../tensor/tf.js'
import type {Tensor} from '../../tensor/tf.js'

/** Where a tensor of a state lies; `put` lets the old one go and owns the new one. */
export type TensorSlot = {
  readonly get: () => Tensor
  readonly put: (value: Tensor) => void
  /** Shape and numbers of the whole tensor, where `get` has a piece of it. */
  readonly shape?: readonly number[]
  readonly read?: () => Float32Array
  /** Checksum of the whole tensor that this process began with, where `get` has a piece; undefined otherwise. */
  readonly checksum?: () => string | undefined
}

/** SHA-256 of the numbers of a tensor, which are waited for. */
export const checksumOf = (leaf: Tensor): string =>
  createHash('sha256')
    .update(float32Bytes(leaf.dataSync() as Float32Array))
    .digest('hex')

/** A tensor as far as files need it. */
export type HostTensor = {readonly shape: readonly number[]; readonly data: () => Promise<Float32Array>}

/** Every tensor of a state by its name in a checkpoint, e.g. `student.backbone.norm.weight`. */
export type StateDict = ReadonlyMap<string, TensorSlot>

/** The places of maps of tensors: `group.name`. */
export function stateDictOf(groups: Readonly<Record<string, Map<string, Tensor> | undefined>>): Map<string, TensorSlot> {
  const places = new Map<string, TensorSlot>()
  for (const [group, named] of Object.entries(groups))
    for (const name of named?.keys() ?? [])
      places.set(`${group}.${name}`, {
        get: () => named!.get(name)!,
        put: value => {
          dispose(named!.get(name)!)
          named!.set(name, value)
        }
      })
  return places
}

/** The tensors of a state as a checkpoint file takes them. */
export function* stateTensors(places: StateDict): Generator<StateTensor> {
  for (const [name, {get, shape = get().shape, read}] of places)
    yield {name, shape, read: async () => read?.() ?? ((await get().data()) as Float32Array)}
}
