/**
 * A whole backbone in and out of files: opened with its architecture, saved as safetensors. `hugging-face-folder.ts`
 * and `timm-folder.ts` write the folders of other tools.
 *
 * Tensors pass through one at a time, in any order; since the architecture tells every name and shape beforehand,
 * their places in the file are known before the first one comes.
 */
import type {VitConfig} from '../../model/config.js'
import {checkFit, configMetadata, expectedShapes, inferConfig} from './architecture.js'
import type {AtomicOptions} from '../../system/atomic.js'
import {openCheckpoint, type Checkpoint, type CheckpointOptions} from './checkpoint.js'
import {createSafetensors, type TensorSpec} from './safetensors.js'
import {float32Bytes, readFinite} from './tensor-entry.js'

/** One tensor on its way to a file: Meta's name, row-major float32. */
export type NamedTensor = {readonly name: string; readonly shape: readonly number[]; readonly data: Float32Array}
export type TensorStream = Iterable<NamedTensor> | AsyncIterable<NamedTensor>

/**
 * Opens a checkpoint, infers its architecture and checks that it is complete. Throws as `openCheckpoint`,
 * `inferConfig` and `checkFit`.
 */
export async function openBackbone(
  path: string,
  {overrides, ...options}: CheckpointOptions & {readonly overrides?: Partial<VitConfig>} = {}
): Promise<{config: VitConfig; checkpoint: Checkpoint}> {
  const checkpoint = await openCheckpoint(path, options)
  try {
    const shapes = new Map([...checkpoint.tensors].map(([name, {shape}]) => [name, shape]))
    const config = inferConfig(shapes, checkpoint.metadata, overrides, path)
    checkFit(expectedShapes(config), shapes, path)
    return {config, checkpoint}
  } catch (error) {
    await checkpoint.close()
    throw error
  }
}

/** The backbone's tensors one after another as float32, in Meta's order. */
export async function* readBackbone(config: VitConfig, {tensors, path}: Pick<Checkpoint, 'tensors' | 'path'>): AsyncGenerator<NamedTensor> {
  for (const [name, shape] of expectedShapes(config)) yield {name, shape, data: await readFinite(tensors.get(name)!, name, path)}
}

/**
 * Writes a backbone as one safetensors file under Meta's names; its architecture goes into the metadata, so that
 * `openBackbone` gives back the same.
 *
 * Throws `UserError` when the output exists without `force`; an `Error` when tensors are missing or of another shape,
 * which is a defect of the caller.
 */
export async function saveBackbone(
  path: string,
  config: VitConfig,
  tensors: TensorStream,
  metadata: Readonly<Record<string, string>> = {},
  options: AtomicOptions = {}
): Promise<void> {
  const shapes = expectedShapes(config)
  await writeStream(path, {shapes, tensors, rename: name => [name]}, {metadata: {...metadata, ...configMetadata(config)}, options})
}

/**
 * Writes tensors as they come to the places that `rename` gives them; several names share the rows of one tensor
 * evenly.
 */
export async function writeStream(
  path: string,
  {
    shapes,
    tensors,
    rename
  }: {
    readonly shapes: ReadonlyMap<string, readonly number[]>
    readonly tensors: TensorStream
    readonly rename: (name: string) => readonly string[]
  },
  {
    metadata,
    options = {},
    added = []
  }: {readonly metadata: Readonly<Record<string, string>>; readonly options?: AtomicOptions; readonly added?: readonly NamedTensor[]}
): Promise<void> {
  const specs: TensorSpec[] = []
  for (const [name, [rows, ...rest]] of shapes) {
    const names = rename(name)
    for (const part of names) specs.push({name: part, dtype: 'F32', shape: [rows! / names.length, ...rest]})
  }
  for (const {name, shape} of added) specs.push({name, dtype: 'F32', shape})
  const writer = await createSafetensors(path, specs, metadata, options)
  try {
    for (const {name, data} of added) await writer.write(name, float32Bytes(data))
    for await (const {name, shape, data} of tensors) {
      const expected = shapes.get(name)
      if (!expected || expected.join() !== shape.join())
        throw new Error(`Expected ${expected ? `[${expected.join(', ')}]` : 'no tensor'} for ${name} but received [${shape.join(', ')}]`)
      const names = rename(name)
      const length = data.length / names.length
      for (const [i, part] of names.entries()) await writer.write(part, float32Bytes(data.subarray(i * length, (i + 1) * length)))
    }
    await writer.commit()
  } catch (error) {
    await writer.abort()
    throw error
  }
}
