/** Kernels that reduce axes, count, sort or search. */
import {util} from '../../../tensor/tf.js'
import type {TensorInfo} from '../../../tensor/tf.js'
import {op, ops, scalarType} from '../binding.js'
import type {Handle} from '../binding.js'
import {deviceName} from './device.js'
import {asFloat, define, defineMany, h, isWhole, to} from './define.js'

const axesOf = (x: TensorInfo, axis: unknown): number[] => util.parseAxisParam(axis as number | number[], x.shape)

// Sums of bfloat16 are taken, and kept, in float32.
define('Sum', ({x}, {axis}) => {
  const axes = axesOf(x!, axis)
  if (isWhole(x!)) return [axes.length ? op('sum.dim_IntList', h(x!), axes, false, scalarType.int32) : to(h(x!), scalarType.int32), 'int32']
  return axes.length ? op('sum.dim_IntList', h(x!), axes, false, scalarType.float32) : op('alias', h(x!))
})
define('Mean', ({x}, {axis}) => {
  const axes = axesOf(x!, axis)
  return [axes.length ? op('mean.dim', h(x!), axes, false, scalarType.float32) : asFloat(x!), 'float32']
})
define('Prod', ({x}, {axis}) => {
  const type = isWhole(x!) ? scalarType.int32 : scalarType.float32
  let value = to(h(x!), type)
  for (const dim of axesOf(x!, axis).sort((a, b) => b - a)) value = op('prod.dim_int', value, dim, false, type)
  return [value, isWhole(x!) ? 'int32' : 'float32']
})
for (const [kernel, name] of Object.entries({Max: 'amax', Min: 'amin'}))
  define(kernel, ({x}, {reductionIndices, axis}) => {
    const axes = axesOf(x!, reductionIndices ?? axis)
    return axes.length ? op(name, h(x!), axes, false) : op('alias', h(x!))
  })
for (const [kernel, name] of Object.entries({All: 'all.dim', Any: 'any.dim'}))
  define(kernel, ({x}, {axis}) => {
    let value = h(x!)
    for (const dim of axesOf(x!, axis).sort((a, b) => b - a)) value = op(name, value, dim, false)
    return [value === h(x!) ? op('alias', value) : value, 'bool']
  })
for (const [kernel, name] of Object.entries({ArgMax: 'argmax', ArgMin: 'argmin'}))
  define(kernel, ({x}, {axis}) => {
    const dim = axesOf(x!, axis)[0] ?? 0
    const value = x!.dtype === 'bool' ? to(h(x!), scalarType.int32) : h(x!)
    return [to(op(name, value, x!.shape.length ? dim : null, false), scalarType.int32), 'int32']
  })

/** Cumulative sum or product, exclusive and reversed as TensorFlow has them. */
function cumulative(name: 'cumsum' | 'cumprod', neutral: number) {
  return ({x}: Record<string, TensorInfo>, {axis, exclusive, reverse}: Record<string, unknown>): [Handle, 'int32' | 'float32'] => {
    const whole = isWhole(x!)
    const type = whole ? scalarType.int32 : scalarType.float32
    if (x!.shape.length === 0) return [op('alias', to(h(x!), type)), whole ? 'int32' : 'float32']
    const dim = axesOf(x!, axis)[0] ?? 0
    let value = to(h(x!), type)
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

defineMany('TopK', ({x}, {k, sorted}) => {
  const [values, indices] = ops('topk', h(x!), k as number, -1, true, sorted as boolean)
  return [values!, [to(indices!, scalarType.int32), 'int32']]
})

/** Counts, or sums of weights, per value. */
const bincount = (x: Handle, size: number, weights: TensorInfo): Handle => {
  const wide = to(x, scalarType.int64)
  const inside = op('logical_and', op('ge.Scalar', wide, 0), op('lt.Scalar', wide, size))
  const weight =
    weights.shape.reduce((a, b) => a * b, 1) > 0
      ? to(op('reshape', h(weights), [-1]), scalarType.float32)
      : op('ones_like', wide, scalarType.float32)
  const kept = op('masked_fill.Scalar', weight, op('logical_not', inside), 0)
  const counts = op('zeros', [size], scalarType.float32, null, deviceName())
  return op('index_add', counts, 0, op('clamp', wide, 0, size - 1), kept)
}
define('Bincount', ({x, weights}, {size}) => [
  to(bincount(op('reshape', h(x!), [-1]), size as number, weights!), isWhole(weights!) ? scalarType.int32 : scalarType.float32),
  weights!.dtype
])
define('DenseBincount', ({x, weights}, {size, binaryOutput}) => {
  const type = isWhole(weights!) ? scalarType.int32 : scalarType.float32
  const rows = x!.shape.length === 2 ? x!.shape[0]! : 1
  const columns = x!.shape.length === 2 ? x!.shape[1]! : x!.shape[0]!
  const values = op('reshape', h(x!), [rows, columns])
  const weighted = weights!.shape.reduce((a, b) => a * b, 1) > 0
  const parts: Handle[] = []
  for (let row = 0; row < rows; row++) {
    const line = op('select.int', values, 0, row)
    const wide = to(line, scalarType.int64)
    const weight = weighted
      ? to(op('select.int', op('reshape', h(weights!), [rows, columns]), 0, row), scalarType.float32)
      : op('ones_like', wide, scalarType.float32)
    const inside = op('lt.Scalar', wide, size as number)
    const counts = op(
      'index_add',
      op('zeros', [size as number], scalarType.float32, null, deviceName()),
      0,
      op('clamp', wide, 0, (size as number) - 1),
      op('masked_fill.Scalar', weight, op('logical_not', inside), 0)
    )
    parts.push(binaryOutput ? to(op('gt.Scalar', counts, 0), scalarType.float32) : counts)
  }
  const all = op('stack', parts, 0)
  return [to(x!.shape.length === 2 ? all : op('select.int', all, 0, 0), type), weights!.dtype]
})

define('SearchSorted', ({sortedSequence, values}, {side}) => [
  to(op('searchsorted.Tensor', h(sortedSequence!), h(values!), false, side === 'right', null, null), scalarType.int32),
  'int32'
])
