/**
 * What the class token and the registers of a block look at: attention probabilities by the written-out path, since
 * the fused kernels never hold them.
 *
 * B images, S = 1 + R + N tokens, H heads of width K, C = H·K.
 */
import {layerNormForward} from '../tensor/ops/layer-norm.js'
import {linearForward} from '../tensor/ops/linear.js'
import {attentionWeights, splitHeads, type SequenceGroup} from '../tensor/ops/attention.js'
import {cast, type Precision} from '../tensor/ops/precision.js'
import {reshape, slice, tidy} from '../tensor/tf.js'
import type {Tensor2D, Tensor3D, Tensor4D} from '../tensor/tf.js'
import {blockInference, type Block} from './block.js'
import type {VitConfig} from './config.js'
import {forward, type Vit} from './vit.js'

/**
 * Attention of the first 1 + R tokens in block `block` (counted from 0) of normalized images [B, H, W, 3] to all
 * tokens: [B, heads, 1 + R, S] float32, rows sum to 1. The caller owns it. Throws a RangeError for a block that the
 * model does not have, and for sides that are no multiples of the patch.
 */
export function attentionMaps(params: Vit, images: Tensor4D, config: VitConfig, block: number, stream: Precision = 'fp32'): Tensor4D {
  if (!Number.isInteger(block) || block < 0 || block >= config.depth)
    throw new RangeError(`expected a block between 0 and ${config.depth - 1} but received ${block}`)
  const {width} = config
  return tidy(() => {
    // What enters the block is what the model would give out if it ended before it.
    const {prenorm} = forward({...params, blocks: params.blocks.slice(0, block)}, images, config, {stream})
    const [B, S] = prenorm.shape
    const x = cast(reshape(prenorm, [B * S, width]) as Tensor2D, stream)
    return attentionOf(x, params.blocks[block]!, {count: B, length: S}, config)
  })
}

/**
 * Attention of the first 1 + R rows of each sequence to all rows, as `block` computes it: [B·S, C] → [B, H, 1 + R, S].
 */
function attentionOf(x: Tensor2D, {norm1, attn}: Block, group: SequenceGroup, {heads, registers, width}: VitConfig): Tensor4D {
  const qkv = cast(linearForward(layerNormForward(x, norm1, attn.qkv.weight).y, attn.qkv), 'fp32') // [B·S, 3C]
  const {q, k} = splitHeads(qkv, group, heads) //                                                  [B, H, S, K] each
  return attentionWeights(slice(q, [0, 0, 0, 0], [group.count, heads, 1 + registers, width / heads]), k) // [B, H, 1 + R, S]
}

/**
 * Patches and what the class token attends to, of one pass: the normed patch features that `forward` gives, [B, N, C],
 * and the attention of the class token in the last block to the patches, [B, heads, N]. The caller owns both.
 */
export function patchesWithAttention(params: Vit, images: Tensor4D, config: VitConfig): {patches: Tensor3D; attention: Tensor3D} {
  const {heads, registers, width} = config
  return tidy(() => {
    const last = params.blocks.at(-1)!
    const {prenorm} = forward({...params, blocks: params.blocks.slice(0, -1)}, images, config)
    const [B, S] = prenorm.shape
    const group = {count: B, length: S}
    const x = reshape(prenorm, [B * S, width]) as Tensor2D
    const seen = attentionOf(x, last, group, config) //                                            [B, H, 1 + R, S]
    const first = 1 + registers
    const y = layerNormForward(blockInference(x, last, [group], heads), params.norm).y
    return {
      patches: slice(reshape(y, [B, S, width]) as Tensor3D, [0, first, 0], [B, S - first, width]), // [B, N, C]
      attention: reshape(slice(seen, [0, 0, 0, first], [B, heads, 1, S - first]), [B, heads, S - first]) // [B, H, N]
    }
  })
}
