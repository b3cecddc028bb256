/**
 * What the class token and the registers of a block look at: attention probabilities by the written-out path, since
 * the fused kernels never hold them.
 *
 * B images, S = 1 + R + N tokens, H heads of width K, C = H·K.
 */
import {layerNormForward} from '../tensor/ops/layer-norm.js'
import {linearForward} from '../tensor/ops/linear.js'
import {attentionWeights, splitHeads} from '../tensor/ops/attention.js'
import {cast, type Precision} from '../tensor/ops/precision.js'
import {reshape, slice, tidy} from '../tensor/tf.js'
import type {Tensor2D, Tensor4D} from '../tensor/tf.js'
import type {VitConfig} from './config.js'
import {forward, type Vit} from './vit.js'

/**
 * Attention of the first 1 + R tokens in block `block` (counted from 0) of normalised images [B, H, W, 3] to all
 * tokens: [B, heads, 1 + R, S] float32, rows sum to 1. The caller owns it. Throws a RangeError for a block that the
 * model does not have, and for sides that are no multiples of the patch.
 */
export function attentionMaps(params: Vit, images: Tensor4D, config: VitConfig, block: number, stream: Precision = 'fp32'): Tensor4D {
  if (!Number.isInteger(block) || block < 0 || block >= config.depth)
    throw new RangeError(`expected a block between 0 and ${config.depth - 1} but received ${block}`)
  const {heads, registers, width} = config
  return tidy(() => {
    // What enters the block is what the model would give out if it ended before it.
    const {prenorm} = forward({...params, blocks: params.blocks.slice(0, block)}, images, config, {stream})
    const [B, S] = prenorm.shape
    const {norm1, attn} = params.blocks[block]!
    const x = cast(reshape(prenorm, [B * S, width]) as Tensor2D, stream)
    const qkv = cast(linearForward(layerNormForward(x, norm1, attn.qkv.weight).y, attn.qkv), 'fp32') // [B·S, 3C]
    const {q, k} = splitHeads(qkv, {count: B, length: S}, heads) //                                        [B, H, S, K] each
    return attentionWeights(slice(q, [0, 0, 0, 0], [B, heads, 1 + registers, width / heads]), k) //             [B, H, 1 + R, S]
  })
}
