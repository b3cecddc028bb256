/**
 * One transformer block: x += γ₁ ⊙ Attn(LN₁ x); x += γ₂ ⊙ FFN(LN₂ x) (spec §1.2), as an explicit forward and backward half.
 *
 * The trainer runs blocks in order and frees each one's saved tensors as soon as its backward half is done; TensorFlow.js's tape would
 * hold them all to the end. What is saved: the block's input, the sum between the branches, packed qkv, attention output and the
 * pre-activation of the feed-forward layer; normalised rows and activations are computed anew.
 *
 * T rows of all packed sequences, C width, F hidden width of the feed-forward layer.
 */
import {div, exp, expandDims, max, mul, reshape, slice, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {attentionBackward, attentionForward} from '../tensor/ops/attention.js'
import type {Group} from '../tensor/ops/attention.js'
import {geluBackward, geluForward, swigluBackward, swigluForward} from '../tensor/ops/gelu.js'
import {layerNormBackward, layerNormForward} from '../tensor/ops/layer-norm.js'
import type {Norm, NormStats} from '../tensor/ops/layer-norm.js'
import {linearBackward, linearForward, scaleRows, scaledBackward, scaledResidual} from '../tensor/ops/linear.js'
import type {Linear} from '../tensor/ops/linear.js'
import {cast, castLike} from '../tensor/ops/precision.js'
import {addRows, takeRows} from '../tensor/ops/rows.js'

export type Mlp = {fc1: Linear; fc2: Linear}
export type SwiGlu = {w12: Linear; w3: Linear}
export type Block = {
  norm1: Norm
  attn: {qkv: Linear; proj: Linear}
  ls1?: {gamma: Tensor1D}
  norm2: Norm
  mlp: Mlp | SwiGlu
  ls2?: {gamma: Tensor1D}
}

/** The sequences that a residual branch is computed for (stochastic depth); the others pass it by. */
export type Kept = {
  /** Rows of the kept sequences, int32 [n]. */
  readonly rows: Tensor1D
  readonly groups: readonly Group[]
  /** Sequences / kept sequences, by row [n, 1], or one number where it is the same for all. */
  readonly factor: Tensor2D | number
}

export type BlockOptions = {readonly heads: number; readonly attn?: Kept; readonly mlp?: Kept}

type Branch = {x?: Tensor2D; stats: NormStats}
/** Tensors that the backward half needs; `free` them when it is done. */
export type BlockSaved = {
  x: Tensor2D
  middle: Tensor2D
  attn: Branch & {qkv: Tensor2D; out: Tensor2D}
  mlp: Branch & {pre: Tensor2D}
}

/** What a branch ends with: γ ⊙ (a·Wᵀ + b) added to all rows, or to the kept ones with its factor. */
function end(x: Tensor2D, a: Tensor2D, p: Linear, gamma: Tensor1D | undefined, kept: Kept | undefined): Tensor2D {
  if (!kept) return scaledResidual(x, a, p, gamma)
  return addRows(x, kept.rows, linearForward(a, gamma ? scaleRows(p, gamma) : p), kept.factor)
}

const isGated = (mlp: Mlp | SwiGlu): mlp is SwiGlu => 'w12' in mlp

/** x [T, C] → y [T, C] and what the backward half needs. Both are the caller's. */
export function blockForward(x: Tensor2D, p: Block, groups: readonly Group[], options: BlockOptions): {y: Tensor2D; saved: BlockSaved} {
  return tidy(() => {
    const {heads} = options
    const xa = options.attn ? takeRows(x, options.attn.rows) : x
    const n1 = layerNormForward(xa, p.norm1, p.attn.qkv.weight)
    const qkv = linearForward(n1.y, p.attn.qkv) //                                          [T, 3C]
    const out = attentionForward(qkv, options.attn?.groups ?? groups, heads) //             [T, C]
    const middle = end(x, out, p.attn.proj, p.ls1?.gamma, options.attn)

    const xm = options.mlp ? takeRows(middle, options.mlp.rows) : middle
    const first = isGated(p.mlp) ? p.mlp.w12 : p.mlp.fc1
    const n2 = layerNormForward(xm, p.norm2, first.weight)
    const pre = linearForward(n2.y, first) //                                               [T, F] or [T, 2F]
    const hidden = isGated(p.mlp) ? swigluForward(pre) : geluForward(pre)
    const y = end(middle, hidden, isGated(p.mlp) ? p.mlp.w3 : p.mlp.fc2, p.ls2?.gamma, options.mlp)
    const saved: BlockSaved = {
      x: x.clone(),
      middle: middle.clone(),
      attn: {...(options.attn ? {x: xa} : {}), stats: {mean: n1.mean, rstd: n1.rstd}, qkv, out},
      mlp: {...(options.mlp ? {x: xm} : {}), stats: {mean: n2.mean, rstd: n2.rstd}, pre}
    }
    return {y, saved}
  })
}

/** x [T, C] → y [T, C], saving nothing; GELU is fused into the first linear layer. */
export function blockInference(x: Tensor2D, p: Block, groups: readonly Group[], heads: number): Tensor2D {
  return tidy(() => {
    const qkv = linearForward(layerNormForward(x, p.norm1, p.attn.qkv.weight).y, p.attn.qkv)
    const middle = scaledResidual(x, attentionForward(qkv, groups, heads), p.attn.proj, p.ls1?.gamma)
    return feedForward(middle, p)
  })
}

/** The second half of a block without training: middle + γ₂ ⊙ FFN(LN₂ middle); [T, C] → [T, C]. */
function feedForward(middle: Tensor2D, p: Block): Tensor2D {
  return tidy(() => {
    const gated = isGated(p.mlp)
    const first = gated ? (p.mlp as SwiGlu).w12 : (p.mlp as Mlp).fc1
    const n2 = layerNormForward(middle, p.norm2, first.weight).y
    const hidden = gated ? swigluForward(linearForward(n2, first)) : linearForward(n2, first, {activation: 'gelu'})
    return scaledResidual(middle, hidden, gated ? (p.mlp as SwiGlu).w3 : (p.mlp as Mlp).fc2, p.ls2?.gamma)
  })
}

/**
 * As `blockInference`, for the first row of each sequence alone: x [B·N, C] → [B, C]. Of all other rows only keys and values are needed, so a last block whose
 * cls token is all that is asked for costs a fifth. Scores and sums are float32.
 */
export function blockFirstRows(x: Tensor2D, p: Block, {count: B, length: N}: Group, heads: number): Tensor2D {
  return tidy(() => {
    const C = x.shape[1]
    const K = C / heads
    const first = (rows: Tensor2D): Tensor2D => reshape(slice(reshape(rows, [B, N, C]), [0, 0, 0], [B, 1, C]), [B, C])
    const {weight, bias} = p.attn.qkv
    const n1 = layerNormForward(x, p.norm1, weight).y
    const q = linearForward(first(n1), {weight: slice(weight, [0, 0], [C, C]), bias: slice(bias, [0], [C])}) //      [B, C]
    const kv = linearForward(n1, {weight: slice(weight, [C, 0], [2 * C, C]), bias: slice(bias, [C], [2 * C])}) //    [B·N, 2C]
    const both = reshape(cast(kv, 'fp32'), [B, N, 2, heads, K])
    const part = (i: number): Tensor => reshape(slice(both, [0, 0, i, 0, 0], [B, N, 1, heads, K]), [B, N, heads, K])
    const query = reshape(mul(cast(q, 'fp32'), K ** -0.5), [B, 1, heads, K])
    const scores = sum(mul(part(0), query), 3) //                                                                    [B, N, H]
    const shifted = exp(sub(scores, max(scores, 1, true)))
    const weights = div(shifted, sum(shifted, 1, true)) //                                                           [B, N, H]
    const out = reshape(sum(mul(part(1), expandDims(weights, 3)), 1), [B, C]) as Tensor2D //                         [B, C]
    const middle = scaledResidual(first(x), castLike(out, p.attn.proj.weight), p.attn.proj, p.ls1?.gamma)
    return feedForward(middle, p)
  })
}

/** dy [T, C] → gradient of the block's input [T, C] and of its parameters (a tree like `p`, float32). */
export function blockBackward(
  dy: Tensor2D,
  saved: BlockSaved,
  p: Block,
  groups: readonly Group[],
  options: BlockOptions
): {dx: Tensor2D; grads: Block} {
  return tidy(() => {
    const {heads} = options
    const {mlp, attn} = saved

    // Feed-forward branch.
    const gated = isGated(p.mlp)
    const [first, last] = gated ? [(p.mlp as SwiGlu).w12, (p.mlp as SwiGlu).w3] : [(p.mlp as Mlp).fc1, (p.mlp as Mlp).fc2]
    const xm = mlp.x ?? saved.middle
    const dm = taken(dy, options.mlp)
    const hidden = gated ? swigluForward(mlp.pre) : geluForward(mlp.pre)
    const g2 = scaledBackward(dm, hidden, last, p.ls2?.gamma)
    const dpre = gated ? swigluBackward(g2.a, mlp.pre) : geluBackward(g2.a, mlp.pre)
    const n2 = layerNormForward(xm, p.norm2, first.weight).y
    const g1 = linearBackward(dpre, n2, first.weight)
    const norm2 = layerNormBackward(g1.x, xm, mlp.stats, p.norm2, options.mlp ? undefined : dy)
    const dmiddle = options.mlp ? addRows(dy, options.mlp.rows, norm2.x) : norm2.x

    // Attention branch.
    const xa = attn.x ?? saved.x
    const da = taken(dmiddle, options.attn)
    const gp = scaledBackward(da, attn.out, p.attn.proj, p.ls1?.gamma)
    const dqkv = attentionBackward(gp.a, attn.qkv, options.attn?.groups ?? groups, heads)
    const n1 = layerNormForward(xa, p.norm1, p.attn.qkv.weight).y
    const gq = linearBackward(dqkv, n1, p.attn.qkv.weight)
    const norm1 = layerNormBackward(gq.x, xa, attn.stats, p.norm1, options.attn ? undefined : dmiddle)
    const dx = options.attn ? addRows(dmiddle, options.attn.rows, norm1.x) : norm1.x

    const outer: Linear = {weight: g2.weight, bias: g2.bias}
    const inner: Linear = {weight: g1.weight, bias: g1.bias}
    const grads: Block = {
      norm1: {weight: norm1.weight, bias: norm1.bias},
      attn: {qkv: {weight: gq.weight, bias: gq.bias}, proj: {weight: gp.weight, bias: gp.bias}},
      ...(gp.gamma ? {ls1: {gamma: gp.gamma}} : {}),
      norm2: {weight: norm2.weight, bias: norm2.bias},
      mlp: gated ? {w12: inner, w3: outer} : {fc1: inner, fc2: outer},
      ...(g2.gamma ? {ls2: {gamma: g2.gamma}} : {})
    }
    return {dx, grads}
  })
}

/** The gradient that reaches a branch: of the kept rows, with their factor. */
function taken(dy: Tensor2D, kept: Kept | undefined): Tensor2D {
  if (!kept) return dy
  return mul(takeRows(dy, kept.rows), kept.factor)
}
