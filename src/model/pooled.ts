/**
 * From the outputs of the chosen blocks to one vector an image.
 *
 * In shape comments: B images, H × W pixels, N patches, C width, n chosen blocks, D numbers a vector.
 */
import type {Precision} from '../tensor/ops/precision.js'
import {concat, mean, reshape, tidy, type Tensor, type Tensor2D, type Tensor3D, type Tensor4D} from '../tensor/tf.js'
import type {VitConfig} from './config.js'
import {clsTokens, forward, intermediateLayers, type Vit} from './vit.js'

/** Which of the outputs a vector is: docs/spec.md §5.2. */
export type PooledOutput = 'cls' | 'mean' | 'cls+mean' | 'patch'

/** Joins what the blocks gave; → [B, D]. */
export function pooled(outputs: readonly {readonly cls: Tensor2D; readonly patches: Tensor3D}[], pool: PooledOutput): Tensor {
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

/**
 * The vectors of normalized images [B, H, W, 3]: outputs of `blocks` (counted from 0), pooled; → [B, D], the caller's.
 */
export function imageVectors(
  params: Vit,
  images: Tensor4D,
  config: VitConfig,
  {pool, blocks, stream}: {readonly pool: PooledOutput; readonly blocks: readonly number[]; readonly stream?: Precision}
): Tensor {
  const lastOnly = blocks.length === 1 && blocks[0] === config.depth - 1
  if (lastOnly && pool === 'cls') return clsTokens(params, images, config, stream) //                        [B, C]
  return tidy(() => {
    const outputs = lastOnly ? [forward(params, images, config, {stream})] : intermediateLayers(params, images, config, {n: blocks, stream}) //                     n of {cls [B, C], patches [B, N, C]}
    return pooled(outputs, pool) //                                                            [B, D]
  })
}
