/**
 * Self-attention over packed sequences (docs/spec.md §3, "sequence packing").
 *
 * All sequences of a pass lie behind each other in one matrix of T rows. `groups` says how: first `count` sequences of
 * `length` rows, then the next group. No row sees another sequence, nothing is padded. H heads of width K, C = H·K;
 * qkv holds queries, keys and values side by side, each head by head, as in the released checkpoints.
 */
import {concat, customGrad, matMul, mul, reshape, slice, softmax, sub, sum, tidy, transpose} from '../tf.js'
import type {Tensor, Tensor2D, Tensor4D} from '../tf.js'
import {callKernel} from './kernel.js'

/** `count` sequences of `length` rows each, one behind the other. */
export type SequenceGroup = {readonly count: number; readonly length: number}

/** Rows that groups cover. */
export const totalRows = (groups: readonly SequenceGroup[]): number => groups.reduce((sum, {count, length}) => sum + count * length, 0)

/** Softmax(Q·Kᵀ/√K)·V within each sequence; qkv [T, 3C] → [T, C]. */
export function attentionForward(qkv: Tensor2D, groups: readonly SequenceGroup[], heads: number): Tensor2D {
  return (callKernel('Dinov2Attention', {qkv}, {groups, heads})?.[0] ?? attentionReference(qkv, groups, heads)) as Tensor2D
}

/** What a pass with a gradient gives: the result, and what the engine wants back for it, if anything. */
export type AttentionPass = {readonly out: Tensor2D; readonly kept?: Tensor[] | undefined}

/** `attentionForward` with what `attentionBackward` takes to spare itself a second pass. */
export function attentionTraining(qkv: Tensor2D, groups: readonly SequenceGroup[], heads: number): AttentionPass {
  const [out, ...kept] = (callKernel('Dinov2AttentionTraining', {qkv}, {groups, heads}) ?? [attentionForward(qkv, groups, heads)]) as [
    Tensor2D,
    ...Tensor[]
  ]
  return {out, kept: kept.length > 0 ? kept : undefined}
}

/** The reference implementation of `attentionForward`. */
export const attentionReference = (qkv: Tensor2D, groups: readonly SequenceGroup[], heads: number): Tensor2D =>
  tidy(() => {
    const parts = groupRows(qkv, groups).map((part, i) => {
      const {q, k, v} = splitHeads(part, groups[i]!, heads) //                 [B, H, N, K] each
      return mergeHeads(matMul(attentionWeights(q, k), v), groups[i]!) //                [B·N, C]
    })
    return parts.length === 1 ? parts[0]! : concat(parts, 0)
  })

/**
 * Gradient for dy [T, C] → [T, 3C]. The attention weights are computed anew: keeping them costs more than they do.
 * `pass` is what `attentionTraining` gave for the same qkv.
 */
export function attentionBackward(
  dy: Tensor2D,
  qkv: Tensor2D,
  groups: readonly SequenceGroup[],
  heads: number,
  pass?: AttentionPass
): Tensor2D {
  const own = Object.fromEntries((pass?.kept ?? []).map((x, i) => [`kept${i}`, x]))
  const fused = callKernel('Dinov2AttentionGrad', {dy, qkv, out: pass?.kept && pass.out, ...own}, {groups, heads})
  if (fused) return fused[0] as Tensor2D
  return tidy(() => {
    const grads = groupRows(dy, groups)
    const parts = groupRows(qkv, groups).map((part, i) => {
      const {count: B, length: N} = groups[i]!
      const {q, k, v} = splitHeads(part, groups[i]!, heads)
      const K = q.shape[3]
      const p = attentionWeights(q, k) //                                          [B, H, N, N]
      const dout = transpose(reshape(grads[i]!, [B, N, heads, K]), [0, 2, 1, 3]) // [B, H, N, K]
      const dv = matMul(p, dout, true, false)
      const dp = matMul(dout, v, false, true) //                          [B, H, N, N]
      const ds = mul(mul(p, sub(dp, sum(mul(p, dp), 3, true))), K ** -0.5)
      const three = [matMul(ds, k), matMul(ds, q, true, false), dv].map(t =>
        transpose(t, [0, 2, 1, 3]).reshape<Tensor2D>([B * N, heads * K])
      )
      return concat(three, 1) //                                          [B·N, 3C]
    })
    return parts.length === 1 ? parts[0]! : concat(parts, 0)
  })
}

/** `attentionForward` with its gradient on the tape. */
export function attention(qkv: Tensor2D, groups: readonly SequenceGroup[], heads: number): Tensor2D {
  const layer = customGrad((...args: unknown[]) => {
    const [x, save] = args as [Tensor2D, (tensors: Tensor[]) => void]
    save([x])
    return {
      value: attentionForward(x, groups, heads),
      gradFunc: (dy: Tensor2D, saved: Tensor[]) => attentionBackward(dy, saved[0] as Tensor2D, groups, heads)
    }
  })
  return layer(qkv) as Tensor2D
}

/** The weights each row gives to the rows of its sequence: q, k [B, H, N, K] → [B, H, N, N]. */
export const attentionWeights = (q: Tensor4D, k: Tensor4D): Tensor4D =>
  softmax(matMul<Tensor4D>(mul(q, q.shape[3] ** -0.5), k, false, true))

/** One group's rows of qkv as queries, keys and values, [B, H, N, K] each. */
export function splitHeads(qkv: Tensor2D, {count: B, length: N}: SequenceGroup, heads: number): {q: Tensor4D; k: Tensor4D; v: Tensor4D} {
  const C = qkv.shape[1] / 3
  const pick = (i: number): Tensor4D => transpose(reshape(slice(qkv, [0, i * C], [-1, C]), [B, N, heads, C / heads]), [0, 2, 1, 3])
  return {q: pick(0), k: pick(1), v: pick(2)}
}

const mergeHeads = (x: Tensor, {count: B, length: N}: SequenceGroup): Tensor2D =>
  reshape(transpose(x, [0, 2, 1, 3]), [B * N, x.shape[1]! * x.shape[3]!])

/** The rows of each group. */
function groupRows(x: Tensor2D, groups: readonly SequenceGroup[]): Tensor2D[] {
  if (groups.length === 1) return [x]
  let start = 0
  return groups.map(({count, length}) => {
    const part = slice(x, [start, 0], [count * length, x.shape[1]])
    start += count * length
    return part
  })
}
