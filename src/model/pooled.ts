/**
 * From the outputs of the chosen blocks to one vector an image.
 *
 * In shape comments: B images, N patches, C width, n chosen blocks, D numbers a vector.
 */
import type {Pooling} from '../../files/embeddings/embeddings.js'
import {concat, mean, reshape, type Tensor, type Tensor2D, type Tensor3D} from '../../tensor/tf.js'

/** Joins what the blocks gave; → [B, D]. */
export function pooled(outputs: readonly {readonly cls: Tensor2D; readonly patches: Tensor3D}[], pool: Pooling): Tensor {
  const join = (parts: Tensor[]): Tensor => (parts.length === 1 ? parts[0]! : concat(parts, -1))
  const average = ({patches}: {readonly patches: Tensor3D}): Tensor => mean(patches, 1) //                    [B, C]
  const B = outputs[0]!.cls.shape[0]
  switch (pool) {
    case 'cls':
      return join(outputs.map(({cls}) => cls))
    case 'mean':
      return join(outputs.map(average))
    case 'cls+mean':
      return join([...outputs.map(({cls}) => cls), average(outputs.at(-1)!)])
    case 'patch':
      return reshape(join(outputs.map(({patches}) => patches)), [B, -1]) //                                   [B, N · n · C]
  }
}
