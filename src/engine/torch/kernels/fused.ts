/**
 * Kernels of this project's own fused operations (`src/tensor/ops`), as compositions of libtorch operators.
 *
 * Which operator is taken is decided by what was measured: on a CPU, oneDNN's linear with its epilogues beats the
 * default float32 product, and two batched products with a softmax between them beat the tiled attention kernel at the
 * lengths of image crops. On a GPU the flash kernels are taken. Where the addon has a loop of its own
 * (`hasNativeKernel`), it goes once over memory in place of several operators. Reductions, statistics and gradients of
 * weights are float32 whatever the inputs are.
 */
import {inPlace, op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {backend} from '../backend.js'
import {define, defineMany, handleOf, track, castTo, typeOfPrecision} from './define.js'
import {hasNativeKernel, onCpu, onednnTakes} from './device.js'
import {geluForm, geluGradForm, indexAddForm, layerNormForm, layerNormGradForm, linearGeluForm, swiGluGradForm} from './fused-forms.js'
import {pixelLossForm, resizeForm, resizeGradForm} from './map-forms.js'

const {bfloat16, float32} = scalarType
const typeOf = (x: Handle): number => torch().type(x)

define('Dinov2Cast', ({x}, {precision}) => copyAs(handleOf(x!), typeOfPrecision(precision)))
define('Dinov2CastLike', ({x, like}) => copyAs(handleOf(x!), typeOf(handleOf(like!))))
const copyAs = (x: Handle, type: number): Handle => (typeOf(x) === type ? op('alias', x) : castTo(x, type))

const normalized = (bytes: Handle, centre: Handle, scale: Handle): Handle => {
  const y = castTo(bytes, float32)
  inPlace('sub_.Tensor', y, centre)
  inPlace('mul_.Tensor', y, scale)
  return y
}

/** Several arrays of bytes, to the device in one copy beside what it computes; [B, H, W, 3] each. */
defineMany('Dinov2Pixels', ({centre, scale}, {images}) => {
  const all = images as readonly {readonly pixels: Uint8Array; readonly shape: readonly number[]}[]
  const bytes = onCpu()
    ? all.map(({pixels, shape}) => track(torch().fromBytes(pixels, scalarType.uint8, shape)))
    : backend()
        .upload(
          all.map(({pixels}) => pixels),
          {beside: true}
        ) // centre and scale, which wait, go along
        .map((view, i) => op('view', track(view), all[i]!.shape))
  return bytes.map(x => [normalized(x, handleOf(centre!), handleOf(scale!)), 'float32'] as const)
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
  if (gelu && bias !== null && !onCpu()) return linearGeluForm.run(typeOf(x), [x, weight, bias], undefined)[0]!
  const y = op('linear', x, weight, bias)
  return gelu ? geluOf(y) : y
}

const geluOf = (x: Handle): Handle => geluForm.run(typeOf(x), [x], undefined)[0]!

/** x·Wᵀ + b, GELU where asked, and the residual where there is one. */
function linearInto(x: Handle, w: Handle, bias: Handle | null, gelu: boolean, residual?: Handle): Handle {
  const input = castTo(x, typeOf(w))
  const b = bias === null ? null : castTo(bias, typeOf(w))
  if (residual === undefined) return linearOp(input, w, b, gelu)
  if (onednnTakes(typeOf(w)) && !gelu && typeOf(residual) === typeOf(w))
    return op('mkldnn::_linear_pointwise.binary', input, residual, w, b, 'add')
  return op('add.Tensor', residual, linearOp(input, w, b, gelu))
}

define('Dinov2Linear', ({x, weight, bias, residual}, {activation}) =>
  linearInto(handleOf(x!), handleOf(weight!), bias ? handleOf(bias) : null, activation === 'gelu', residual && handleOf(residual))
)

/** dy·W, dyᵀ·x as float32, and Σ dy. */
function linearGrad(dy: Handle, x: Handle, w: Handle): [dx: Handle, dw: Handle, db: Handle] {
  const type = typeOf(w)
  const grad = castTo(dy, type)
  const dw = op('mm', op('t', grad), castTo(x, type))
  return [op('mm', grad, w), castTo(dw, float32), columnSums(grad)]
}

defineMany('Dinov2LinearGrad', ({dy, x, weight}) => linearGrad(handleOf(dy!), handleOf(x!), handleOf(weight!)))

/** Σ over rows, float32. */
const columnSums = (x: Handle): Handle =>
  hasNativeKernel('sums') ? op('dinov2::column_sums', op('contiguous', x)) : op('sum.dim_IntList', x, [0], false, float32)

const scaledWeight = (w: Handle, g: Handle): Handle => castTo(op('mul.Tensor', w, op('unsqueeze', g, 1)), typeOf(w))
const scaledBias = (b: Handle, g: Handle, w: Handle): Handle => castTo(op('mul.Tensor', b, g), typeOf(w))

defineMany('Dinov2ScaleRows', ({weight, bias, gamma}) => {
  const [w, g] = [handleOf(weight!), handleOf(gamma!)]
  return [scaledWeight(w, g), scaledBias(handleOf(bias!), g, w)]
})

/**
 * x + γ ⊙ (a·Wᵀ + b). On a CPU γ goes into the weights, whose product ends with the sum; elsewhere into the sum, which
 * spares two launches.
 */
define('Dinov2ScaledResidual', ({x, a, weight, bias, gamma}) => {
  const [stream, w, b, g] = [x!, weight!, bias!, gamma!].map(handleOf) as [Handle, Handle, Handle, Handle]
  if (onCpu()) return linearInto(handleOf(a!), scaledWeight(w, g), scaledBias(b, g, w), false, stream)
  return castTo(op('addcmul', stream, linearInto(handleOf(a!), w, b, false), g, 1), typeOf(stream))
})

/** Gradients of γ ⊙ (a·Wᵀ + b) by a, W, b and γ; see `scaledBackward`. */
defineMany('Dinov2ScaledLinearGrad', ({dy, a, weight, bias, gamma}) => {
  const [w, b, g] = [weight!, bias!, gamma!].map(handleOf) as [Handle, Handle, Handle]
  if (onCpu()) {
    const [dx, gw, gb] = linearGrad(handleOf(dy!), handleOf(a!), scaledWeight(w, g))
    const found = hasNativeKernel('sums') ? ops('dinov2::scaled_grad', w, b, g, op('contiguous', gw), gb) : scaledGrads(gw, gb, w, b, g)
    return [dx, ...found]
  }
  const grad = castTo(handleOf(dy!), typeOf(w))
  const dw = castTo(op('mm', op('t', grad), castTo(handleOf(a!), typeOf(w))), float32)
  return [op('mm', castTo(op('mul.Tensor', grad, g), typeOf(w)), w), ...scaledGrads(dw, columnSums(grad), w, b, g)]
})

/** From gradients without γ: those of W, b and γ. */
function scaledGrads(gw: Handle, gb: Handle, w: Handle, b: Handle, g: Handle): [Handle, Handle, Handle] {
  const along = op('linalg_vecdot', castTo(w, float32), gw, -1)
  return [op('mul.Tensor', gw, op('unsqueeze', g, 1)), op('mul.Tensor', gb, g), op('addcmul', along, castTo(b, float32), gb, 1)]
}

// ------------------------------------------------------------------------------------------------------------
// activation

define('Dinov2Gelu', ({x}) => geluOf(handleOf(x!)))
// The own loop is for bfloat16 alone: its polynomial is good to 2e-6. At 5027 × 1536 it takes 2.7 ms of one thread
// where libtorch's takes 5.0.
define('Dinov2GeluGrad', ({dy, x}) => {
  const grad = castTo(handleOf(dy!), typeOf(handleOf(x!)))
  if (typeOf(handleOf(x!)) === bfloat16 && hasNativeKernel('gelu'))
    return op('dinov2::gelu_grad', op('contiguous', grad), op('contiguous', handleOf(x!)))
  return geluGradForm.run(typeOf(grad), [grad, handleOf(x!)], undefined)[0]!
})

define('Dinov2SwiGlu', ({ab}) => {
  const [a, b] = ops('chunk', handleOf(ab!), 2, 1)
  return op('mul.Tensor', op('silu', a!), b!)
})
define('Dinov2SwiGluGrad', ({dy, ab}) => {
  const [a, b] = ops('chunk', handleOf(ab!), 2, 1)
  const grad = castTo(handleOf(dy!), typeOf(a!))
  return op('cat', swiGluGradForm.run(typeOf(grad), [grad, a!, b!], undefined), 1)
})

// -------------------------------------------------------------------------------------------------------------------
// norm

const usesNativeNorm = (x: Handle, weight: Handle): boolean =>
  typeOf(weight) === float32 && typeOf(x) !== scalarType.float16 && hasNativeKernel('norm')

/**
 * Rows and parameters in one format, for GPUs refuse to normalize rows of one by parameters of another. A CPU takes
 * them as they are.
 */
const inOneFormat = (x: Handle, weight: Handle, bias: Handle): [Handle, Handle, Handle] =>
  onCpu() || typeOf(x) === typeOf(weight) ? [x, weight, bias] : ([x, weight, bias].map(y => castTo(y, float32)) as [Handle, Handle, Handle])

/** base with factor·y added to its rows. */
const addedRows = (base: Handle, rows: Handle, y: Handle, factor = 1): Handle =>
  indexAddForm.run(typeOf(base), [base, rows, castTo(y, typeOf(base))], factor)[0]!

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
  const [rows, w, b] = inOneFormat(input, handleOf(weight!), handleOf(bias!))
  const [y, mean, rstd] = layerNormForm.run(typeOf(rows), [rows, w, b], eps as number)
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
  const [like, w, b] = inOneFormat(input, handleOf(weight!), handleOf(bias!))
  const tensors = [castTo(handleOf(dy!), typeOf(like)), like, handleOf(mean!), handleOf(rstd!), w, b] as const
  const [dx, dw, db] = layerNormGradForm.run(typeOf(like), tensors, undefined)
  const sums = [castTo(dw!, float32), castTo(db!, float32)]
  if (rows) return [addedRows(base!, handleOf(rows), dx!), ...sums]
  const grad = castTo(dx!, typeOf(input))
  if (base !== null) inPlace('add_.Tensor', grad, base)
  return [grad, ...sums]
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
  return addedRows(base, handleOf(rows!), scaled, factor as number)
})

// -------------------------------------------------------------------------------------------------------------------
// maps

/**
 * [B, H, W, C] as libtorch sees it, [B, C, H, W], without moving a number: its kernels know channels that lie last.
 */
const channelsFirst = (x: Handle): Handle => op('permute', x, [0, 3, 1, 2])
const channelsLast = (x: Handle): Handle => op('contiguous', op('permute', x, [0, 2, 3, 1]))

define('Dinov2Resize', ({x}, {size, alignCorners}) => {
  const [, H, W] = x!.shape as [number, number, number]
  const shape = {from: [H, W], size: size as [number, number], aligned: alignCorners as boolean} as const
  return channelsLast(resizeForm.run(typeOf(handleOf(x!)), [channelsFirst(handleOf(x!))], shape)[0]!)
})

define('Dinov2ResizeGrad', ({dy}, {from, alignCorners}) => {
  const [, Y, X] = dy!.shape as [number, number, number]
  const shape = {from: from as [number, number], size: [Y, X], aligned: alignCorners as boolean} as const
  return channelsLast(resizeGradForm.run(typeOf(handleOf(dy!)), [channelsFirst(handleOf(dy!))], shape)[0]!)
})

/** Cross-entropy of rows with class numbers, summed, and its gradient. */
defineMany('Dinov2PixelLoss', ({scores, labels}, {ignore}) => {
  const [loss, gradient] = pixelLossForm.run(float32, [castTo(handleOf(scores!), float32), handleOf(labels!)], ignore as number)
  return [loss!, gradient!]
})
