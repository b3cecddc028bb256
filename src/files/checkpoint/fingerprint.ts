/** The fingerprint of a backbone, by which heads, indexes and embeddings name it. */
import {createHash} from 'node:crypto'
import {unusualParts} from './architecture.js'
import {readBackbone, type NamedTensor} from './backbone.js'
import type {Checkpoint} from './checkpoint.js'
import type {VitConfig} from '../../model/config.js'
import {defaultPreprocessing, isImageNet, type Preprocessing} from './preprocessing.js'
import {float32Bytes} from './tensor-entry.js'

/** A fingerprint that grows with the tensors of a backbone, in the order of `expectedShapes`. */
export type FingerprintHash = {
  add(tensor: NamedTensor): void
  digest(): string
}

/**
 * SHA-256 over names, shapes and float32 values, and over what else changes the features of the same weights, where it
 * is not as in the released models: mean and deviation, number of heads, how positions are resampled. The same model
 * in another file format has the same fingerprint.
 */
export function fingerprintHash(config: VitConfig, preprocessing: Preprocessing = defaultPreprocessing): FingerprintHash {
  const hash = createHash('sha256')
  if (!isImageNet(preprocessing)) hash.update(`images ${preprocessing.mean.join()} ${preprocessing.std.join()}`)
  for (const [name, value] of unusualParts(config)) hash.update(`${name} ${value}`)
  return {
    add: ({name, shape, data}) => void hash.update(`${name}[${shape.join()}]`).update(float32Bytes(data)),
    digest: () => hash.digest('hex')
  }
}

/** The fingerprint of a backbone that is not loaded otherwise. */
export async function fingerprintOf(
  config: VitConfig,
  checkpoint: Pick<Checkpoint, 'tensors' | 'preprocessing' | 'path'>
): Promise<string> {
  const hash = fingerprintHash(config, checkpoint.preprocessing)
  for await (const tensor of readBackbone(config, checkpoint)) hash.add(tensor)
  return hash.digest()
}
