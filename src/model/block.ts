/**
 * One transformer block: x += γ₁ ⊙ Attn(LN₁ x); x += γ₂ ⊙ FFN(LN₂ x) (docs/spec.md §1.2), as an explicit forward and
 * backward half.
 *
 * The trainer runs blocks in order and frees each one's saved tensors as soon as its backward half is done;
 * TensorFlow.js's tape would hold them all to the end. What is saved is a choice (`MemoryLevel`); what is not saved is
 * computed anew by the same operations on the same numbers, so that the gradients are those of the quickest level, bit
 * for bit.
 *
 * T rows of all packed sequences, C width, F hidden width of the feed-forward layer.
 */
import {div, exp, expandDims, max, mul, reshape, slice, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {attentionBackward, attentionForward, attentionTraining} from '../tensor/ops/attention.js'
import type {SequenceGroup} from '../tensor/ops/attention.js'
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
export type DropPathSample = {
  /** Rows of the kept sequences, int32 [n]. */
  readonly rows: Tensor1D
  readonly groups: readonly SequenceGroup[]
  /** Sequences / kept sequences, by row [n, 1], or one number where it is the same for all. */
  readonly factor: Tensor2D | number
}

export type BlockOptions = {readonly heads: number; readonly attn?: DropPathSample; readonly mlp?: DropPathSample}

/**
 * What the forward half keeps for the backward half, by row of the branches and in order of memory:
 * `fast` the inputs of both branches, packed qkv, attention output and pre-activation of the feed-forward layer, so
 * that only normalized rows and activations are computed anew; `balanced` the block's input, packed qkv and attention
 * output; `small` the block's input alone.
 */
export type MemoryLevel = 'fast' | 'balanced' | 'small'

/** The attention branch up to its last layer; x are the rows that the branch is computed for. */
type AttentionActivations = {
  x: Tensor2D
  stats: NormStats
  qkv: Tensor2D /* [T, 3C] */
  out: Tensor2D /* [T, C] */
  /** What the engine's attention wants back. */
  kept?: Tensor[] | undefined
}
/** The feed-forward branch up to its activation. */
type MlpActivations = {x: Tensor2D; stats: NormStats; pre: Tensor2D /* [T, F] or [T, 2F] */}

/** Tensors that the backward half needs; `disposeTree` them when it is done. Which are there depends on the level. */
export type BlockSaved = {
  /** The block's input, where a branch is to be computed anew. */
  x?: Tensor2D
  attn?: Partial<AttentionActivations>
  mlp?: MlpActivations
}

/** What a branch ends with: γ ⊙ (a·Wᵀ + b) added to all rows, or to the kept ones with its factor. */
function addResidual(x: Tensor2D, a: Tensor2D, p: Linear, gamma: Tensor1D | undefined, kept: DropPathSample | undefined): Tensor2D {
  if (!kept) return scaledResidual(x, a, p, gamma)
  return addRows(x, kept.rows, linearForward(a, gamma ? scaleRows(p, gamma) : p), kept.factor)
}

const isGated = (mlp: Mlp | SwiGlu): mlp is SwiGlu => 'w12' in mlp

/** The attention branch up to its last layer. */
function attentionBranch(x: Tensor2D, p: Block, groups: readonly SequenceGroup[], {heads, attn}: BlockOptions): AttentionActivations {
  return tidy(() => {
    const xa = attn ? takeRows(x, attn.rows) : x.clone()
    const {y, mean, rstd} = layerNormForward(xa, p.norm1, p.attn.qkv.weight)
    const qkv = linearForward(y, p.attn.qkv)
    return {x: xa, stats: {mean, rstd}, qkv, ...attentionTraining(qkv, attn?.groups ?? groups, heads)}
  })
}

/** The feed-forward branch up to its activation. */
function mlpBranch(middle: Tensor2D, p: Block, {mlp}: BlockOptions): MlpActivations {
  return tidy(() => {
    const x = mlp ? takeRows(middle, mlp.rows) : middle.clone()
    const first = firstOf(p)
    const {y, mean, rstd} = layerNormForward(x, p.norm2, first.weight)
    return {x, stats: {mean, rstd}, pre: linearForward(y, first)}
  })
}

const firstOf = ({mlp}: Block): Linear => (isGated(mlp) ? mlp.w12 : mlp.fc1)
const lastOf = ({mlp}: Block): Linear => (isGated(mlp) ? mlp.w3 : mlp.fc2)
const activate = ({mlp}: Block, pre: Tensor2D): Tensor2D => (isGated(mlp) ? swigluForward(pre) : geluForward(pre))

/** x [T, C] → y [T, C] and what the backward half needs. Both are the caller's. */
export function blockForward(
  x: Tensor2D,
  p: Block,
  groups: readonly SequenceGroup[],
  options: BlockOptions,
  level: MemoryLevel = 'fast'
): {y: Tensor2D; saved: BlockSaved} {
  return tidy(() => {
    const {middle, attn} = tidy(() => {
      const all = attentionBranch(x, p, groups, options)
      const sum = addResidual(x, all.out, p.attn.proj, p.ls1?.gamma, options.attn)
      return {middle: sum, attn: level === 'fast' ? all : level === 'balanced' ? {qkv: all.qkv, out: all.out, kept: all.kept} : {}}
    })
    const mlp = mlpBranch(middle, p, options)
    const y = tidy(() => addResidual(middle, activate(p, mlp.pre), lastOf(p), p.ls2?.gamma, options.mlp))
    if (level === 'fast') return {y, saved: {attn, mlp}}
    return {y, saved: {x: x.clone(), ...(level === 'balanced' ? {attn} : {})}}
  })
}

/**
 * What a level left out, computed as the forward half did. The tensors are the caller's, those that were saved
 * excepted.
 */
function recomputed(
  saved: BlockSaved,
  p: Block,
  groups: readonly SequenceGroup[],
  options: BlockOptions
): {attn: AttentionActivations; mlp: MlpActivations} {
  const {x, attn, mlp} = saved
  if (attn?.x && mlp) return {attn: attn as AttentionActivations, mlp}
  return tidy(() => {
    const all =
      attn?.qkv && attn.out
        ? normed(x!, p, options, {qkv: attn.qkv, out: attn.out, kept: attn.kept})
        : attentionBranch(x!, p, groups, options)
    const middle = addResidual(x!, all.out, p.attn.proj, p.ls1?.gamma, options.attn)
    return {attn: all, mlp: mlpBranch(middle, p, options)}
  })
}

/** The attention branch from its saved qkv and output. */
function normed(
  x: Tensor2D,
  p: Block,
  {attn}: BlockOptions,
  {qkv, out, kept}: Pick<AttentionActivations, 'qkv' | 'out' | 'kept'>
): AttentionActivations {
  return tidy(() => {
    const xa = attn ? takeRows(x, attn.rows) : x.clone()
    const {mean, rstd} = layerNormForward(xa, p.norm1, p.attn.qkv.weight)
    return {x: xa, stats: {mean, rstd}, qkv: qkv.clone(), out: out.clone(), kept: kept?.map(leaf => leaf.clone())}
  })
}

/** x [T, C] → y [T, C], saving nothing; GELU is fused into the first linear layer. */
export function blockInference(x: Tensor2D, p: Block, groups: readonly SequenceGroup[], heads: number): Tensor2D {
  return tidy(() => {
    const qkv = linearForward(layerNormForward(x, p.norm1, p.attn.qkv.weight).y, p.attn.qkv)
    const middle = scaledResidual(x, attentionForward(qkv, groups, heads), p.attn.proj, p.ls1?.gamma)
    return feedForward(middle, p)
  })
}

/** The second half of a block without training: middle + γ₂ ⊙ FFN(LN₂ middle); [T, C] → [T, C]. */
function feedForward(middle: Tensor2D, p: Block): Tensor2D {
  return tidy(() => {
    const first = firstOf(p)
    const n2 = layerNormForward(middle, p.norm2, first.weight).y
    const hidden = isGated(p.mlp) ? swigluForward(linearForward(n2, first)) : linearForward(n2, first, {activation: 'gelu'})
    return scaledResidual(middle, hidden, lastOf(p), p.ls2?.gamma)
  })
}

/**
 * As `blockInference`, for the first row of each sequence alone: x [B·N, C] → [B, C]. Of all other rows only keys and
 * values are needed, so a last block whose cls token is all that is asked for costs a fifth. Scores and sums are
 * float32.
 */
export function blockFirstRows(x: Tensor2D, p: Block, {count: B, length: N}: SequenceGroup, heads: number): Tensor2D {
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

/**
 * dy [T, C] → gradient of the block's input [T, C] and of its parameters (a tree like `p`, float32). `saved` stays the
 * caller's.
 */
export function blockBackward(
  dy: Tensor2D,
  saved: BlockSaved,
  p: Block,
  groups: readonly SequenceGroup[],
  options: BlockOptions
): {dx: Tensor2D; grads: Block} {
  return tidy(() => {
    const {attn, mlp} = recomputed(saved, p, groups, options)
    const mlpGrads = mlpBackward(dy, mlp, p, options.mlp)
    const attnGrads = attentionBranchBackward(mlpGrads.dx, attn, p, groups, options)
    const grads: Block = {
      norm1: attnGrads.norm,
      attn: {qkv: attnGrads.qkv, proj: attnGrads.proj},
      ...(attnGrads.gamma ? {ls1: {gamma: attnGrads.gamma}} : {}),
      norm2: mlpGrads.norm,
      mlp: isGated(p.mlp) ? {w12: mlpGrads.first, w3: mlpGrads.last} : {fc1: mlpGrads.first, fc2: mlpGrads.last},
      ...(mlpGrads.gamma ? {ls2: {gamma: mlpGrads.gamma}} : {})
    }
    return {dx: attnGrads.dx, grads}
  })
}

/**
 * The backward half of what both branches begin with, a norm and a linear layer: dout [n, O] is the gradient of the
 * layer's output, dy [T, C] what passes the branch by.
 */
function branchInputBackward(
  dout: Tensor2D,
  dy: Tensor2D,
  {x, stats}: {readonly x: Tensor2D; readonly stats: NormStats},
  {norm, weight}: {readonly norm: Norm; readonly weight: Tensor2D},
  kept: DropPathSample | undefined
) {
  const g = tidy(() => linearBackward(dout, layerNormForward(x, norm, weight).y, weight))
  const grads = layerNormBackward(g.x, x, stats, norm, dy, kept?.rows)
  return {dx: grads.x, linear: {weight: g.weight, bias: g.bias}, norm: {weight: grads.weight, bias: grads.bias}}
}

/** Backward half of the feed-forward branch; large tensors are freed as soon as they have served. */
function mlpBackward(dy: Tensor2D, {x, stats, pre}: MlpActivations, p: Block, kept: DropPathSample | undefined) {
  return tidy(() => {
    const {dpre, last, gamma} = tidy(() => {
      const g = scaledBackward(gatherKept(dy, kept, lastOf(p).weight), activate(p, pre), lastOf(p), p.ls2?.gamma)
      const dpre = isGated(p.mlp) ? swigluBackward(g.a, pre) : geluBackward(g.a, pre) // [n, F] or [n, 2F]
      return {dpre, last: {weight: g.weight, bias: g.bias}, gamma: g.gamma}
    })
    const {dx, linear, norm} = branchInputBackward(dpre, dy, {x, stats}, {norm: p.norm2, weight: firstOf(p).weight}, kept)
    return {dx, first: linear, last, norm, gamma}
  })
}

/** Backward half of the attention branch. */
function attentionBranchBackward(
  dy: Tensor2D,
  {x, stats, qkv, out, kept}: AttentionActivations,
  p: Block,
  groups: readonly SequenceGroup[],
  {heads, attn}: BlockOptions
) {
  return tidy(() => {
    const {dqkv, proj, gamma} = tidy(() => {
      const g = scaledBackward(gatherKept(dy, attn, p.attn.proj.weight), out, p.attn.proj, p.ls1?.gamma)
      const dqkv = attentionBackward(g.a, qkv, attn?.groups ?? groups, heads, {out, kept}) // [n, 3C]
      return {dqkv, proj: {weight: g.weight, bias: g.bias}, gamma: g.gamma}
    })
    const {dx, linear, norm} = branchInputBackward(dqkv, dy, {x, stats}, {norm: p.norm1, weight: p.attn.qkv.weight}, attn)
    return {dx, qkv: linear, proj, norm, gamma}
  })
}

/** The gradient that reaches a branch: of the kept rows, with their factor, held as the branch's weights are. */
function gatherKept(dy: Tensor2D, kept: DropPathSample | undefined, like: Tensor2D): Tensor2D {
  return kept ? takeRows(dy, kept.rows, kept.factor, like) : castLike(dy, like)
}
