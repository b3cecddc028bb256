/**
 * Kernels of attention over packed sequences (`tensor/ops/attention.ts`).
 *
 * On a CPU: the addon's own loop in bfloat16, elsewhere two batched products with a softmax between them, which beat
 * the tiled kernel at the lengths of image crops. On other devices: libtorch's kernels over sequences of unequal
 * lengths, FlashAttention in half precision and the memory-efficient one elsewhere, each once it has agreed with the
 * plain form here (`fused-form.ts`); then the plain form.
 *
 * T rows, H heads of width K, C = H·K.
 */
import type {TensorInfo} from '../../../tensor/tf.js'
import {inPlace, op, ops, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import type {Result} from './define.js'
import {castTo, define, defineMany, handleOf} from './define.js'
import {constantHandle} from './constants.js'
import {hasNativeKernel, onCpu} from './device.js'
import {fusedForm, productLimits, wavesOf} from './fused-form.js'
import type {ListedForm} from './fused-form.js'

const {bfloat16, float16} = scalarType
const typeOf = (x: Handle): number => torch().type(x)

type Groups = readonly {count: number; length: number}[]

/** One group's queries, keys and values as views, [B, H, N, K] each. */
function split(qkv: Handle, start: number, {count, length}: Groups[number], heads: number, width: number): [Handle, Handle, Handle] {
  const rows = op('slice.Tensor', qkv, 0, start, start + count * length, 1)
  const five = op('permute', op('reshape', rows, [count, length, 3, heads, width]), [2, 0, 3, 1, 4])
  return [op('select.int', five, 0, 0), op('select.int', five, 0, 1), op('select.int', five, 0, 2)]
}

/**
 * Attention weights that may exist at once where an operator makes them whole: 64 MiB of float32 on a CPU, whose
 * caches larger ones pass by, 1 GiB elsewhere.
 */
const maxWeights = (): number => (onCpu() ? 2 ** 24 : 2 ** 28)

/**
 * The groups in pieces of so few sequences that their weights keep to that; every sequence attends to itself alone, so
 * nothing else changes.
 */
const chunkGroups = (groups: Groups, heads: number): Groups =>
  groups.flatMap(({count, length}) => {
    const most = Math.max(1, Math.floor(maxWeights() / (heads * length * length)))
    return Array.from({length: Math.ceil(count / most)}, (_, i) => ({count: Math.min(most, count - i * most), length}))
  })

/** The attention weights of one group, [B, H, N, N], and scaled queries. */
function attentionWeights(q: Handle, k: Handle, width: number): {p: Handle; scaled: Handle} {
  const scaled = op('mul.Scalar', q, width ** -0.5)
  return {p: op('softmax.int', op('matmul', scaled, op('transpose.int', k, -1, -2)), -1), scaled}
}

/**
 * Attention of queries [B, H, N, K] in pieces of so few queries that their weights keep to `maxWeights`: each row of
 * weights is a softmax of its own, so a sequence of any length takes memory in proportion to its length.
 */
function attendInPieces(q: Handle, k: Handle, v: Handle, [B, H, N, K]: readonly [number, number, number, number]): Handle {
  const most = Math.max(1, Math.floor(maxWeights() / (B * H * N)))
  const attend = (part: Handle): Handle => op('matmul', attentionWeights(part, k, K).p, v)
  if (most >= N) return scoped(() => attend(q))
  const starts = Array.from({length: Math.ceil(N / most)}, (_, i) => i * most)
  return op(
    'cat',
    starts.map(at => scoped(() => attend(op('slice.Tensor', q, 2, at, Math.min(N, at + most), 1)))),
    2
  )
}

/** Attention as products and a softmax, group by group; x [T, 3C] → [T, C]. */
function plainForward(x: Handle, groups: Groups, H: number): Handle {
  const [T, C3] = torch().shape(x) as [number, number]
  const [C, K] = [C3 / 3, C3 / 3 / H]
  const out = op('new_empty', x, [T, C])
  let start = 0
  for (const group of chunkGroups(groups, H)) {
    const {count, length} = group
    const [q, k, v] = split(x, start, group, H, K)
    const y = attendInPieces(q, k, v, [count, H, length, K])
    const target = op('slice.Tensor', out, 0, start, start + count * length, 1)
    inPlace('copy_', op('reshape', target, [count, length, H, K]), op('transpose.int', y, 1, 2), false)
    start += count * length
  }
  return out
}

/** The gradient [T, 3C] of `plainForward` for grad [T, C]. */
function plainBackward(grad: Handle, x: Handle, groups: Groups, H: number): Handle {
  const [T, C3] = torch().shape(x) as [number, number]
  const K = C3 / 3 / H
  const dx = op('new_empty', x, [T, C3])
  let start = 0
  for (const group of chunkGroups(groups, H)) {
    const {count, length} = group
    const end = start + count * length
    const [q, k, v] = split(x, start, group, H, K)
    const {p, scaled} = attentionWeights(q, k, K)
    const dout = op('transpose.int', op('reshape', op('slice.Tensor', grad, 0, start, end, 1), [count, length, H, K]), 1, 2)
    const dv = op('matmul', op('transpose.int', p, -1, -2), dout)
    const dp = op('matmul', dout, op('transpose.int', v, -1, -2))
    const ds = op('_softmax_backward_data', dp, p, -1, typeOf(p))
    const dq = op('mul.Scalar', op('matmul', ds, k), K ** -0.5)
    const dk = op('matmul', op('transpose.int', ds, -1, -2), scaled)
    const target = op('permute', op('reshape', op('slice.Tensor', dx, 0, start, end, 1), [count, length, 3, H, K]), [2, 0, 3, 1, 4])
    inPlace('copy_', op('select.int', target, 0, 0), dq, false)
    inPlace('copy_', op('select.int', target, 0, 1), dk, false)
    inPlace('copy_', op('select.int', target, 0, 2), dv, false)
    start = end
  }
  return dx
}

// ------------------------------------------------------------------------------------------------ sequences at once

/** A kernel of libtorch over packed sequences. What it gives beside the result goes into the backward half. */
type PackedKernel = {
  readonly name: string
  readonly takes: (type: number) => boolean
  readonly forward: (qkv: Handle, groups: Groups, heads: number) => [out: Handle, ...kept: Handle[]]
  readonly backward: (grad: Handle, qkv: Handle, pass: readonly Handle[], groups: Groups, heads: number) => Handle
}

const longest = (groups: Groups): number => Math.max(...groups.map(({length}) => length))

/** Where each sequence begins, and the end of the last: int32 [sequences + 1]. */
function starts(groups: Groups): Handle {
  const at = [0]
  for (const {count, length} of groups) for (let i = 0; i < count; i++) at.push(at[at.length - 1]! + length)
  return constantHandle(Int32Array.from(at), [at.length])
}

/** Queries, keys and values of packed rows as views, [T, H, K] each. */
function threeOf(qkv: Handle, heads: number): [Handle, Handle, Handle] {
  const [T, C3] = torch().shape(qkv) as [number, number]
  const x = op('view', op('contiguous', qkv), [T, 3, heads, C3 / 3 / heads])
  return [op('select.int', x, 1, 0), op('select.int', x, 1, 1), op('select.int', x, 1, 2)]
}

const rowsOf = (x: Handle, T: number, C: number): Handle => op('reshape', x, [T, C])

/** FlashAttention (Dao 2023): half precision, widths of heads up to 256. */
const flash: PackedKernel = {
  name: 'flash attention',
  takes: type => type === bfloat16 || type === float16,
  forward(qkv, groups, heads) {
    const [T, C3] = torch().shape(qkv) as [number, number]
    const [at, most] = [starts(groups), longest(groups)]
    const [out, lse, rng, unused] = ops('_flash_attention_forward', ...threeOf(qkv, heads), at, at, most, most, 0, false, false)
    return [rowsOf(out!, T, C3 / 3), lse!, rng!, unused!]
  },
  backward(grad, qkv, [out, lse, rng, unused], groups, heads) {
    const [T, C3] = torch().shape(qkv) as [number, number]
    const [at, most] = [starts(groups), longest(groups)]
    const shape = [T, heads, C3 / 3 / heads]
    const [dout, y] = [op('view', op('contiguous', grad), shape), op('view', out!, shape)]
    const three = ops('_flash_attention_backward', ...[dout, ...threeOf(qkv, heads), y, lse!, at, at, most, most, 0, false, rng!, unused!])
    return rowsOf(op('stack', three, 1), T, C3)
  }
}

/** Memory-efficient attention (Rabe and Staats 2021; xFormers): all number formats. */
const efficient: PackedKernel = {
  name: 'memory-efficient attention',
  takes: () => true,
  forward(qkv, groups, heads) {
    const [T, C3] = torch().shape(qkv) as [number, number]
    const [at, most] = [starts(groups), longest(groups)]
    const three = threeOf(qkv, heads).map(x => op('unsqueeze', x, 0))
    const [out, lse, seed, offset] = ops('_efficient_attention_forward', ...three, null, at, at, most, most, 0, 0, true)
    return [rowsOf(out!, T, C3 / 3), lse!, seed!, offset!]
  },
  backward(grad, qkv, [out, lse, seed, offset], groups, heads) {
    const [T, C3] = torch().shape(qkv) as [number, number]
    const [at, most] = [starts(groups), longest(groups)]
    const shape = [1, T, heads, C3 / 3 / heads]
    const three = threeOf(qkv, heads).map(x => op('unsqueeze', x, 0))
    const [dout, y] = [op('view', op('contiguous', grad), shape), op('view', out!, shape)]
    const grads = ops(
      '_efficient_attention_backward',
      ...[dout, ...three, null, y, at, at, most, most, lse!, 0, seed!, offset!, 0, false]
    ).slice(0, 3)
    return rowsOf(
      op(
        'stack',
        grads.map(x => op('squeeze.dim', x, 0)),
        1
      ),
      T,
      C3
    )
  }
}

/** Unequal lengths, so that a kernel which mixes sequences up is found out. */
const CHECKED: Groups = [
  {count: 2, length: 9},
  {count: 3, length: 5}
]
/** A kernel on small sequences, forward and backward, beside the plain form. */
const formOf = ({name, takes, forward, backward}: PackedKernel, operators: readonly string[]): ListedForm =>
  fusedForm<readonly [qkv: Handle, grad: Handle], number>({
    name,
    operators,
    limits: new Map([...productLimits].filter(([type]) => takes(type))),
    trials: (type, K) => {
      const T = CHECKED.reduce((sum, {count, length}) => sum + count * length, 0)
      return [[[wavesOf(type, [T, 6 * K], 0.7311), wavesOf(type, [T, 2 * K], 1.1173)], 2]]
    },
    fused: ([qkv, grad], heads) => {
      const pass = forward(qkv, CHECKED, heads)
      return [pass[0], backward(grad, qkv, pass, CHECKED, heads)]
    },
    reference: ([qkv, grad], heads) => [plainForward(qkv, CHECKED, heads), plainBackward(grad, qkv, CHECKED, heads)]
  })

/** The kernels for packed sequences, the quickest first. */
const packedKernels = [
  {kernel: flash, form: formOf(flash, ['_flash_attention_forward', '_flash_attention_backward'])},
  {kernel: efficient, form: formOf(efficient, ['_efficient_attention_forward', '_efficient_attention_backward'])}
]
export const attentionForms = packedKernels.map(({form}) => form)

/** The kernel that serves for heads of width K; undefined where none does, as on a CPU. */
const packedKernel = (type: number, K: number): PackedKernel | undefined =>
  onCpu() ? undefined : packedKernels.find(({kernel, form}) => kernel.takes(type) && form.serves(type, K))?.kernel

/** Forward, with what the backward half wants of it where `training`. */
function attend({qkv}: Record<string, TensorInfo>, attrs: Record<string, unknown>, training: boolean): Handle[] {
  const {groups, heads: H} = attrs as unknown as {groups: Groups; heads: number}
  const K = qkv!.shape[1]! / 3 / H
  const x = handleOf(qkv!)
  if (typeOf(x) === bfloat16 && hasNativeKernel('attention', K)) {
    const [counts, lengths] = [groups.map(({count}) => count), groups.map(({length}) => length)]
    return [op('dinov2::attention', op('contiguous', x), counts, lengths, H)]
  }
  const packed = packedKernel(typeOf(x), K)
  if (!packed) return [plainForward(x, groups, H)]
  const pass = packed.forward(x, groups, H)
  return training ? pass : pass.slice(0, 1)
}

define('Dinov2Attention', (inputs, attrs) => attend(inputs, attrs, false)[0]!)
defineMany('Dinov2AttentionTraining', (inputs, attrs) => attend(inputs, attrs, true).map((x): Result => [x, 'float32']))

define('Dinov2AttentionGrad', ({dy, qkv, out, ...kept}, attrs) => {
  const {groups, heads: H} = attrs as unknown as {groups: Groups; heads: number}
  const K = qkv!.shape[1]! / 3 / H
  const x = handleOf(qkv!)
  const grad = castTo(handleOf(dy!), typeOf(x))
  if (typeOf(x) === bfloat16 && hasNativeKernel('attention', K)) {
    const [counts, lengths] = [groups.map(({count}) => count), groups.map(({length}) => length)]
    return op('dinov2::attention_grad', op('contiguous', grad), op('contiguous', x), counts, lengths, H)
  }
  const packed = packedKernel(typeOf(x), K)
  if (!packed) return plainBackward(grad, x, groups, H)
  const pass = out ? [handleOf(out), ...Object.values(kept).map(handleOf)] : packed.forward(x, groups, H)
  return packed.backward(grad, x, pass, groups, H)
})
