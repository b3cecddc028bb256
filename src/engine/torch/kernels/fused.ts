/**
 * Kernels of this project's own fused operations (`src/tensor/ops`), as compositions of libtorch operators.
 *
 * Which operator is taken is decided by what was measured: on a CPU, oneDNN's linear with its epilogues beats the
 * default float32 product, and two batched products with a softmax between them beat the tiled attention kernel at the
 * lengths of image crops. On a GPU the flash kernels are taken. Where the addon has a loop of its own
 * (`hasNativeKernel`), it goes once over memory in place of several operators. Reductions, statistics and gradients of
 * weights are float32 whatever the inputs are.
 */
import {inPlace, op, ops, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {hasNativeKernel, onCpu, onednnTakes} from './device.js'
import {define, defineMany, handleOf, track, castTo} from './define.js'

const {bfloat16, float32} = scalarType
const typeOf = (x: Handle): number => torch().type(x)

define('Dinov2Cast', ({x}, {precision}) => copyAs(handleOf(x!), precision === 'bf16' ? bfloat16 : float32))
define('Dinov2CastLike', ({x, like}) => copyAs(handleOf(x!), typeOf(handleOf(like!))))
const copyAs = (x: Handle, type: number): Handle => (typeOf(x) === type ? op('alias', x) : castTo(x, type))

define('Dinov2Pixels', ({centre, scale}, {pixels, shape}) => {
  const y = castTo(track(torch().fromBytes(pixels as Uint8Array, scalarType.uint8, shape as number[])), float32)
  inPlace('sub_.Tensor', y, handleOf(centre!))
  inPlace('mul_.Tensor', y, handleOf(scale!))
  return [y, 'float32']
})

// ----------------------------------------------------------------------------------------------------------------
// linear

/**
 * x·Wᵀ + b, exact GELU where asked. On a CPU oneDNN's linear is the quickest for this product; for gradients `mm` is
 * as quick as anything that could be put together (bf16, one thread, 5027 × 384 → 1536: forward 12.8 ms; dx 13.1, as
 * linear with weights turned round 12.5 and 1 for the turning; dW 14.4 by mm of the transposed view, 17.0 with a copy,
 * 17.9 as linear of two copies).
 */
function linearOp(x: Handle, weight: Handle, bias: Handle | null, gelu: boolean): Handle {
  if (onednnTakes(typeOf(weight))) return op('mkldnn::_linear_pointwise', x, weight, bias, gelu ? 'gelu' : 'none', [], gelu ? 'none' : '')
  const y = op('linear', x, weight, bias)
  return gelu ? op('gelu', y, 'none') : y
}

define('Dinov2Linear', ({x, weight, bias, residual}, {activation}) => {
  const w = handleOf(weight!)
  const input = castTo(handleOf(x!), typeOf(w))
  const b = bias ? castTo(handleOf(bias), typeOf(w)) : null
  if (!residual) return linearOp(input, w, b, activation === 'gelu')
  const stream = handleOf(residual)
  if (onednnTakes(typeOf(w)) && activation !== 'gelu' && typeOf(stream) === typeOf(w))
    return op('mkldnn::_linear_pointwise.binary', input, stream, w, b, 'add')
  return op('add.Tensor', stream, linearOp(input, w, b, activation === 'gelu'))
})

defineMany('Dinov2LinearGrad', ({dy, x, weight}) => {
  const w = handleOf(weight!)
  const type = typeOf(w)
  const grad = castTo(handleOf(dy!), type)
  const dw = op('mm', op('t', grad), castTo(handleOf(x!), type))
  return [op('mm', grad, w), castTo(dw, float32), columnSums(grad)]
})

/** Σ over rows, float32. */
const columnSums = (x: Handle): Handle =>
  hasNativeKernel('sums') ? op('dinov2::column_sums', op('contiguous', x)) : op('sum.dim_IntList', x, [0], false, float32)

defineMany('Dinov2ScaleRows', ({weight, bias, gamma}) => {
  const w = handleOf(weight!)
  const g = handleOf(gamma!)
  return [castTo(op('mul.Tensor', w, op('unsqueeze', g, 1)), typeOf(w)), castTo(op('mul.Tensor', handleOf(bias!), g), typeOf(w))]
})

defineMany('Dinov2ScaledGrad', ({weight, bias, gamma, gradWeight, gradBias}) => {
  const [g, gw, gb] = [handleOf(gamma!), handleOf(gradWeight!), handleOf(gradBias!)]
  if (hasNativeKernel('sums')) return ops('dinov2::scaled_grad', handleOf(weight!), handleOf(bias!), g, op('contiguous', gw), gb)
  const dgamma = op(
    'add.Tensor',
    op('sum.dim_IntList', op('mul.Tensor', gw, handleOf(weight!)), [1], false, float32),
    op('mul.Tensor', handleOf(bias!), gb)
  )
  return [op('mul.Tensor', gw, op('unsqueeze', g, 1)), op('mul.Tensor', gb, g), dgamma]
})

// ------------------------------------------------------------------------------------------------------------
// activation

define('Dinov2Gelu', ({x}) => op('gelu', handleOf(x!), 'none'))
// The own loop is for bfloat16 alone: its polynomial is good to 2e-6. At 5027 × 1536 it takes 2.7 ms of one thread
// where libtorch's takes 5.0.
define('Dinov2GeluGrad', ({dy, x}) => {
  const grad = castTo(handleOf(dy!), typeOf(handleOf(x!)))
  if (typeOf(handleOf(x!)) === bfloat16 && hasNativeKernel('gelu'))
    return op('dinov2::gelu_grad', op('contiguous', grad), op('contiguous', handleOf(x!)))
  return op('gelu_backward', grad, handleOf(x!), 'none')
})

define('Dinov2SwiGlu', ({ab}) => {
  const [a, b] = ops('chunk', handleOf(ab!), 2, 1)
  return op('mul.Tensor', op('silu', a!), b!)
})
define('Dinov2SwiGluGrad', ({dy, ab}) => {
  const [a, b] = ops('chunk', handleOf(ab!), 2, 1)
  const grad = castTo(handleOf(dy!), typeOf(a!))
  return op('cat', [op('silu_backward', op('mul.Tensor', grad, b!), a!), op('mul.Tensor', grad, op('silu', a!))], 1)
})

// -------------------------------------------------------------------------------------------------------------------
// norm

const usesNativeNorm = (x: Handle, weight: Handle): boolean =>
  typeOf(weight) === float32 && typeOf(x) !== scalarType.float16 && hasNativeKernel('norm')

defineMany('Dinov2LayerNorm', ({x, weight, bias, like}, {eps}) => {
  const input = handleOf(x!)
  const type = typeOf(handleOf(like ?? x!))
  if (usesNativeNorm(input, handleOf(weight!))) {
    const [y, mean, rstd] = ops(
      'dinov2::layer_norm',
      op('contiguous', input),
      handleOf(weight!),
      handleOf(bias!),
      eps as number,
      type === bfloat16
    )
    return [y!, mean!, rstd!]
  }
  const [y, mean, rstd] = ops('native_layer_norm', input, [x!.shape[1]!], handleOf(weight!), handleOf(bias!), eps as number)
  return [castTo(y!, type), mean!, rstd!]
})

defineMany('Dinov2LayerNormGrad', ({dy, x, mean, rstd, weight, bias, onto, rows}) => {
  const input = handleOf(x!)
  const base = onto ? handleOf(onto) : null
  if (usesNativeNorm(input, handleOf(weight!)) && (base === null || typeOf(base) === float32))
    return ops(
      'dinov2::layer_norm_grad',
      op('contiguous', handleOf(dy!)),
      op('contiguous', input),
      handleOf(mean!),
      handleOf(rstd!),
      handleOf(weight!),
      base === null ? null : op('contiguous', base),
      rows ? handleOf(rows) : null
    )
  const [dx, dw, db] = ops(
    'native_layer_norm_backward',
    castTo(handleOf(dy!), typeOf(input)),
    input,
    [x!.shape[1]!],
    handleOf(mean!),
    handleOf(rstd!),
    handleOf(weight!),
    handleOf(bias!),
    [true, true, true]
  )
  const sums = [castTo(dw!, float32), castTo(db!, float32)]
  if (rows) return [op('index_add', base!, 0, handleOf(rows), castTo(dx!, typeOf(base!)), 1), ...sums]
  if (base !== null) inPlace('add_.Tensor', dx!, base)
  return [dx!, ...sums]
})

// --------------------------------------------------------------------------------------------------------------
// attention

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

define('Dinov2Attention', ({qkv}, {groups, heads}) => {
  const H = heads as number
  const [T, C3] = qkv!.shape as [number, number]
  const [C, K] = [C3 / 3, C3 / 3 / H]
  const x = handleOf(qkv!)
  if (typeOf(x) === bfloat16 && hasNativeKernel('attention', K)) {
    const all = groups as Groups
    return op(
      'dinov2::attention',
      op('contiguous', x),
      all.map(({count}) => count),
      all.map(({length}) => length),
      H
    )
  }
  const out = op('new_empty', x, [T, C])
  let start = 0
  for (const group of onCpu() ? chunkGroups(groups as Groups, H) : (groups as Groups)) {
    const {count, length} = group
    const [q, k, v] = split(x, start, group, H, K)
    const y = onCpu() ? attendInPieces(q, k, v, [count, H, length, K]) : op('scaled_dot_product_attention', q, k, v, null, 0, false)
    const target = op('slice.Tensor', out, 0, start, start + count * length, 1)
    inPlace('copy_', op('reshape', target, [count, length, H, K]), op('transpose.int', y, 1, 2), false)
    start += count * length
  }
  return out
})

define('Dinov2AttentionGrad', ({dy, qkv}, {groups, heads}) => {
  const H = heads as number
  const [T, C3] = qkv!.shape as [number, number]
  const K = C3 / 3 / H
  const x = handleOf(qkv!)
  const grad = castTo(handleOf(dy!), typeOf(x))
  if (typeOf(x) === bfloat16 && hasNativeKernel('attention', K)) {
    const all = groups as Groups
    const [counts, lengths] = [all.map(({count}) => count), all.map(({length}) => length)]
    return op('dinov2::attention_grad', op('contiguous', grad), op('contiguous', x), counts, lengths, H)
  }
  const dx = op('new_empty', x, [T, C3])
  let start = 0
  for (const group of chunkGroups(groups as Groups, H)) {
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
})

// -------------------------------------------------------------------------------------------------------------------
// rows

define('Dinov2TakeRows', ({x, rows, factors, like}, {factor}) => {
  const type = typeOf(handleOf(like ?? x!))
  if (hasNativeKernel('rows'))
    return op(
      'dinov2::take_rows',
      op('contiguous', handleOf(x!)),
      handleOf(rows!),
      factors ? handleOf(factors) : null,
      factor as number,
      type === bfloat16
    )
  const taken = op('index_select', handleOf(x!), 0, handleOf(rows!))
  if (factors) return castTo(op('mul.Tensor', taken, handleOf(factors)), type)
  return castTo(factor === 1 ? taken : op('mul.Scalar', taken, factor as number), type)
})

define('Dinov2AddRows', ({x, rows, y, factors}, {factor}) => {
  const base = handleOf(x!)
  if (typeOf(base) === float32 && hasNativeKernel('rows'))
    return op(
      'dinov2::add_rows',
      op('contiguous', base),
      handleOf(rows!),
      op('contiguous', handleOf(y!)),
      factors ? handleOf(factors) : null,
      factor as number
    )
  const scaled = factors ? op('mul.Tensor', handleOf(y!), handleOf(factors)) : handleOf(y!)
  return op('index_add', base, 0, handleOf(rows!), castTo(scaled, typeOf(base)), factor as number)
})

// -------------------------------------------------------------------------------------------------------------------
// maps

/**
 * [B, H, W, C] as libtorch sees it, [B, C, H, W], without moving a number: its kernels know channels that lie last.
 */
const channelsFirst = (x: Handle): Handle => op('permute', x, [0, 3, 1, 2])
const channelsLast = (x: Handle): Handle => op('contiguous', op('permute', x, [0, 2, 3, 1]))

define('Dinov2Resize', ({x}, {size, alignCorners}) =>
  channelsLast(op('upsample_bilinear2d', channelsFirst(handleOf(x!)), size as number[], alignCorners as boolean, null, null))
)

define('Dinov2ResizeGrad', ({dy}, {from, alignCorners}) => {
  const [B, Y, X, C] = dy!.shape as [number, number, number, number]
  const [H, W] = from as [number, number]
  return channelsLast(
    op('upsample_bilinear2d_backward', channelsFirst(handleOf(dy!)), [Y, X], [B, C, H, W], alignCorners as boolean, null, null)
  )
})

/** Cross-entropy of rows with class numbers, summed, and its gradient. */
defineMany('Dinov2PixelLoss', ({scores, labels}, {ignore}) => {
  const logs = op('_log_softmax', handleOf(scores!), 1, false)
  const target = castTo(handleOf(labels!), scalarType.int64)
  const sumUp = 2 // reduction
  const [loss, weight] = ops('nll_loss_forward', logs, target, null, sumUp, ignore as number)
  const one = op('ones_like', loss!)
  const slope = op('nll_loss_backward', one, logs, target, null, sumUp, ignore as number, weight!)
  return [loss!, op('_log_softmax_backward_data', slope, logs, 1, float32)]
})
