/** Kernels that reduce axes, count, sort or search. */
import {util} from '../../../tensor/tf.js'
import type {TensorInfo} from '../../../tensor/tf.js'
import {storedAs} from '../backend.js'
import {op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {deviceName} from './device.js'
import {asFloat, define, defineMany, handleOf, isIntegral, castTo} from './define.js'

const axesOf = (x: TensorInfo, axis: unknown): number[] => util.parseAxisParam(axis as number | number[], x.shape)

// Sums of bfloat16 are taken, and kept, in float32.
define('Sum', ({x}, {axis, keepDims}) => {
  const axes = axesOf(x!, axis)
  const keep = Boolean(keepDims)
  if (isIntegral(x!))
    return [
      axes.length ? op('sum.dim_IntList', handleOf(x!), axes, keep, scalarType.int32) : castTo(handleOf(x!), scalarType.int32),
      'int32'
    ]
  return axes.length ? op('sum.dim_IntList', handleOf(x!), axes, keep, scalarType.float32) : op('alias', handleOf(x!))
})
define('Mean', ({x}, {axis, keepDims}) => {
  const axes = axesOf(x!, axis)
  return [axes.length ? op('mean.dim', asFloat(x!), axes, Boolean(keepDims), scalarType.float32) : asFloat(x!), 'float32']
})
define('Prod', ({x}, {axis, keepDims}) => {
  const type = isIntegral(x!) ? scalarType.int32 : scalarType.float32
  let value = castTo(handleOf(x!), type)
  for (const dim of axesOf(x!, axis).sort((a, b) => b - a)) value = op('prod.dim_int', value, dim, Boolean(keepDims), type)
  return [value === handleOf(x!) ? op('alias', value) : value, isIntegral(x!) ? 'int32' : 'float32']
})
for (const [kernel, name, limit] of [
  ['Max', 'amax', -Infinity],
  ['Min', 'amin', Infinity]
] as const)
  define(kernel, ({x}, {reductionIndices, axis, keepDims}) => {
    const axes = axesOf(x!, reductionIndices ?? axis)
    if (axes.length === 0) return op('alias', handleOf(x!))
    // The greatest of nothing is below everything; libtorch refuses to say so.
    if (axes.some(dim => x!.shape[dim] === 0)) {
      const shape = keepDims ? x!.shape.map((n, dim) => (axes.includes(dim) ? 1 : n)) : x!.shape.filter((_, dim) => !axes.includes(dim))
      const bound = isIntegral(x!) ? (limit < 0 ? -(2 ** 31) : 2 ** 31 - 1) : limit
      return op('full', shape, bound, storedAs(x!.dtype), null, deviceName())
    }
    return op(name, handleOf(x!), axes, Boolean(keepDims))
  })
for (const [kernel, name] of Object.entries({All: 'all.dim', Any: 'any.dim'}))
  define(kernel, ({x}, {axis, keepDims}) => {
    let value = handleOf(x!)
    for (const dim of axesOf(x!, axis).sort((a, b) => b - a)) value = op(name, value, dim, Boolean(keepDims))
    return [value === handleOf(x!) ? op('alias', value) : value, 'bool']
  })
for (const [kernel, name, worst] of [
  ['ArgMax', 'argmax', -Infinity],
  ['ArgMin', 'argmin', Infinity]
] as const)
  define(kernel, ({x}, {axis}) => {
    const dim = axesOf(x!, axis)[0] ?? 0
    // TensorFlow.js passes NaN over, libtorch would choose it.
    const value =
      x!.dtype === 'bool'
        ? castTo(handleOf(x!), scalarType.int32)
        : isIntegral(x!)
          ? handleOf(x!)
          : op('nan_to_num', handleOf(x!), worst, Infinity, -Infinity)
    return [castTo(op(name, value, x!.shape.length ? dim : null, false), scalarType.int32), 'int32']
  })

/** Cumulative sum or product, exclusive and reversed as TensorFlow has them. */
function cumulative(name: 'cumsum' | 'cumprod', neutral: number) {
  return ({x}: Record<string, TensorInfo>, {axis, exclusive, reverse}: Record<string, unknown>): [Handle, 'int32' | 'float32'] => {
    const whole = isIntegral(x!)
    const type = whole ? scalarType.int32 : scalarType.float32
    if (x!.shape.length === 0) return [op('alias', castTo(handleOf(x!), type)), whole ? 'int32' : 'float32']
    const dim = axesOf(x!, axis)[0] ?? 0
    let value = castTo(handleOf(x!), type)
    if (reverse) value = op('flip', value, [dim])
    if (exclusive) {
      const shape = [...x!.shape]
      shape[dim] = 1
      const edge = op('full', shape, neutral, type, null, deviceName())
      value = op('cat', [edge, op('slice.Tensor', value, dim, 0, -1, 1)], dim)
    }
    value = op(name, value, dim, type)
    return [reverse ? op('flip', value, [dim]) : value, whole ? 'int32' : 'float32']
  }
}
define('Cumsum', cumulative('cumsum', 0))
define('Cumprod', cumulative('cumprod', 1))

define('Softmax', ({logits}, {dim}) => [op('softmax.int', asFloat(logits!), dim as number, scalarType.float32), 'float32'])
define('LogSoftmax', ({logits}, {axis}) => [op('log_softmax.int', asFloat(logits!), axis as number, scalarType.float32), 'float32'])

// Of equal values TensorFlow.js takes the lower index first, whatever `sorted` says; libtorch promises no order. Where
// the quick answer holds equal values, or leaves some out, a stable sort gives the promised one.
defineMany('TopK', ({x}, {k}) => {
  const [count, n] = [k as number, x!.shape[x!.shape.length - 1]!]
  let [values, indices] = ops('topk', handleOf(x!), count, -1, true, true) as [Handle, Handle]
  const last = (from: number, until: number): Handle => op('slice.Tensor', values, -1, from, until, 1)
  const ties = (): boolean => {
    if (count === 0 || n === 0) return false
    const within = op('any', op('eq.Tensor', last(0, count - 1), last(1, count)))
    const beyond = op(
      'gt.Scalar',
      op('sum', op('ge.Tensor', handleOf(x!), last(count - 1, count)), null),
      torch()
        .shape(values)
        .reduce((a, b) => a * b, 1)
    )
    return new Uint8Array(torch().toBytes(op('logical_or', within, beyond), scalarType.uint8))[0] === 1
  }
  if (ties()) {
    const [sorted, order] = ops('sort.stable', handleOf(x!), true, -1, true) as [Handle, Handle]
    values = op('contiguous', op('slice.Tensor', sorted, -1, 0, count, 1))
    indices = op('slice.Tensor', order, -1, 0, count, 1)
  }
  return [values, [castTo(indices, scalarType.int32), 'int32']]
})

/** Counts, or sums of weights, per value. */
const bincount = (x: Handle, size: number, weights: TensorInfo): Handle => {
  const wide = castTo(x, scalarType.int64)
  const inside = op('logical_and', op('ge.Scalar', wide, 0), op('lt.Scalar', wide, size))
  const weight =
    weights.shape.reduce((a, b) => a * b, 1) > 0
      ? castTo(op('reshape', handleOf(weights), [-1]), scalarType.float32)
      : op('ones_like', wide, scalarType.float32)
  const kept = op('masked_fill.Scalar', weight, op('logical_not', inside), 0)
  const counts = op('zeros', [size], scalarType.float32, null, deviceName())
  return op('index_add', counts, 0, op('clamp', wide, 0, size - 1), kept)
}
define('Bincount', ({x, weights}, {size}) => [
  castTo(
    bincount(op('reshape', handleOf(x!), [-1]), size as number, weights!),
    isIntegral(weights!) ? scalarType.int32 : scalarType.float32
  ),
  weights!.dtype
])
define('DenseBincount', ({x, weights}, {size, binaryOutput}) => {
  const type = isIntegral(weights!) ? scalarType.int32 : scalarType.float32
  const rows = x!.shape.length === 2 ? x!.shape[0]! : 1
  const columns = x!.shape.length === 2 ? x!.shape[1]! : x!.shape[0]!
  const values = op('reshape', handleOf(x!), [rows, columns])
  const weighted = weights!.shape.reduce((a, b) => a * b, 1) > 0
  const parts: Handle[] = []
  for (let row = 0; row < rows; row++) {
    const line = op('select.int', values, 0, row)
    const wide = castTo(line, scalarType.int64)
    const weight = weighted
      ? castTo(op('select.int', op('reshape', handleOf(weights!), [rows, columns]), 0, row), scalarType.float32)
      : op('ones_like', wide, scalarType.float32)
    const inside = op('lt.Scalar', wide, size as number)
    const counts = op(
      'index_add',
      op('zeros', [size as number], scalarType.float32, null, deviceName()),
      0,
      op('clamp', wide, 0, (size as number) - 1),
      op('masked_fill.Scalar', weight, op('logical_not', inside), 0)
    )
    parts.push(binaryOutput ? castTo(op('gt.Scalar', counts, 0), scalarType.float32) : counts)
  }
  const all = op('stack', parts, 0)
  return [castTo(x!.shape.length === 2 ? all : op('select.int', all, 0, 0), type), weights!.dtype]
})

define('SearchSorted', ({sortedSequence, values}, {side}) => [
  castTo(op('searchsorted.Tensor', handleOf(sortedSequence!), handleOf(values!), false, side === 'right', null, null), scalarType.int32),
  'int32'
])
