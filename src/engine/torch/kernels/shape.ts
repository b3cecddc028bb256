/** Kernels that make, move, join, cut and pick elements. */
import {backend_util, slice_util, util} from '../../../tensor/tf.js'
import type {DataType, Tensor, TensorInfo} from '../../../tensor/tf.js'
import {storedAs} from '../backend.js'
import {op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {deviceName} from './device.js'
import {define, defineMany, fromIndices, handleOf, castTo} from './define.js'

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

// ------------------------------------------------------------------------------------------------------------------
// make

define('Fill', (_inputs, {shape, value, dtype}) => {
  const type = (dtype as DataType | undefined) ?? (typeof value === 'boolean' ? 'bool' : 'float32')
  return [op('full', shape as number[], value as number, storedAs(type), null, deviceName()), type]
})
define('Range', (_inputs, {start, stop, step, dtype}) => {
  const [from, until, by] = [start as number, stop as number, step as number]
  // A range that runs down with the default step of 1 steps by -1, as TensorFlow.js has it.
  const pace = until < from && by === 1 ? -1 : by
  const empty = from === until || (from < until && pace < 0) || (until < from && pace > 1)
  const type = (dtype as DataType | undefined) ?? 'float32'
  return [
    empty
      ? op('zeros', [0], storedAs(type), null, deviceName())
      : op('arange.start_step', from, until, pace, storedAs(type), null, deviceName()),
    type
  ]
})
define('LinSpace', (_inputs, {start, stop, num}) => [
  op('linspace', start as number, stop as number, num as number, scalarType.float32, null, deviceName()),
  'float32'
])
define('OneHot', ({indices}, {depth, onValue, offValue, dtype}) => {
  const count = depth as number
  const type = (dtype as DataType | undefined) ?? 'int32'
  const steps = op('arange', count, scalarType.int32, null, deviceName())
  const hit = op('eq.Tensor', op('unsqueeze', handleOf(indices!), -1), steps)
  const value = (x: unknown): Handle => op('full', [], x as number, storedAs(type), null, deviceName())
  return [op('where.self', hit, value(onValue), value(offValue)), type]
})
define('Diag', ({x}) => op('reshape', op('diag_embed', op('reshape', handleOf(x!), [-1])), [...x!.shape, ...x!.shape]))
define('Multinomial', ({logits}, {numSamples, seed, normalized}) => {
  torch().seed(seed as number)
  const chances = normalized ? handleOf(logits!) : op('softmax.int', handleOf(logits!), -1)
  return [castTo(op('multinomial', chances, numSamples as number, true), scalarType.int32), 'int32']
})

// ------------------------------------------------------------------------------------------------------------------
// view

define('Reshape', ({x}, {shape}) => op('reshape', handleOf(x!), util.inferFromImplicitShape(shape as number[], size(x!.shape))))
define('ExpandDims', ({input}, {dim}) => op('unsqueeze', handleOf(input!), dim as number))
define('Transpose', ({x}, {perm}) => op('contiguous', op('permute', handleOf(x!), perm as number[])))
define('Reverse', ({x}, {dims}) => {
  const axes = util.parseAxisParam(dims as number[], x!.shape)
  return op('flip', handleOf(x!), axes)
})
define('Slice', ({x}, {begin, size: extent}) => {
  const [from, lengths] = slice_util.parseSliceParams(x!, begin as number[], extent as number[]) as [number[], number[]]
  slice_util.assertParamsValid(x!, from, lengths)
  let value = handleOf(x!)
  from.forEach((start, dim) => {
    if (start !== 0 || lengths[dim] !== x!.shape[dim]) value = op('slice.Tensor', value, dim, start, start + lengths[dim]!, 1)
  })
  // A small piece must not keep a large tensor alive.
  return value === handleOf(x!) ? op('alias', value) : size(lengths) * 2 < size(x!.shape) ? op('clone', value) : op('contiguous', value)
})
define('StridedSlice', ({x}, {begin, end, strides, beginMask, endMask, ellipsisMask, newAxisMask, shrinkAxisMask}) => {
  const info = slice_util.sliceInfo(
    x!.shape,
    begin as number[],
    end as number[],
    strides as number[],
    beginMask as number,
    endMask as number,
    ellipsisMask as number,
    newAxisMask as number,
    shrinkAxisMask as number
  )
  if (size(info.finalShape) === 0) return op('zeros', info.finalShape, storedAs(x!.dtype), null, deviceName())
  let value = handleOf(x!)
  info.begin.forEach((start, dim) => {
    const step = info.strides[dim]!
    if (step > 0) {
      value = op('slice.Tensor', value, dim, start, Math.max(info.end[dim]!, start), step)
    } else {
      const picked: number[] = []
      for (let i = start; i > info.end[dim]!; i += step) picked.push(i)
      value = op('index_select', value, dim, fromIndices(picked))
    }
  })
  return op('clone', op('reshape', value, info.finalShape))
})

// ----------------------------------------------------------------------------------------------------------- join and
// cut

define('Concat', (inputs, {axis}) => {
  const all = Object.values(inputs) as TensorInfo[]
  const dim = util.parseAxisParam(axis as number, all[0]!.shape)[0]!
  backend_util.assertParamsConsistent(
    all.map(x => x.shape),
    dim
  )
  const filled = all.filter(x => size(x.shape) > 0)
  return filled.length === 0 ? op('cat', all.map(handleOf), dim) : op('cat', filled.map(handleOf), dim)
})
define('Pack', (inputs, {axis}) => {
  const all = Object.values(inputs) as TensorInfo[]
  for (const {shape, dtype} of all) {
    util.assertShapesMatch(all[0]!.shape, shape, 'All tensors passed to stack must have matching shapes')
    util.assert(dtype === all[0]!.dtype, () => 'All tensors passed to stack must have matching dtypes')
  }
  return op('stack', all.map(handleOf), axis as number)
})
defineMany('Unpack', ({value}, {axis}) => {
  const dim = (axis as number) < 0 ? (axis as number) + value!.shape.length : (axis as number)
  return Array.from({length: value!.shape[dim]!}, (_, i) => op('clone', op('select.int', handleOf(value!), dim, i)))
})
defineMany('SplitV', ({x}, {numOrSizeSplits, axis}) => {
  const dim = util.parseAxisParam(axis as number, x!.shape)[0]!
  const sizes = backend_util.prepareSplitSize(x as Tensor, numOrSizeSplits as number | number[], dim)
  let start = 0
  return sizes.map(length => {
    const part = op('clone', op('slice.Tensor', handleOf(x!), dim, start, start + length, 1))
    start += length
    return part
  })
})
define('PadV2', ({x}, {paddings, constantValue}) => {
  const pads = [...(paddings as [number, number][])].reverse().flat()
  return op('constant_pad_nd', handleOf(x!), pads, constantValue as number)
})
define('MirrorPad', ({x}, {paddings, mode}) => {
  // One axis at a time by index, so that any rank works and both kinds of mirror are exact.
  let value = handleOf(x!)
  ;(paddings as [number, number][]).forEach(([before, after], dim) => {
    if (before === 0 && after === 0) return
    const n = x!.shape[dim]!
    const edge = mode === 'reflect' ? 1 : 0
    const picked: number[] = []
    for (let i = before - 1; i >= 0; i--) picked.push(i + edge)
    for (let i = 0; i < n; i++) picked.push(i)
    for (let i = 0; i < after; i++) picked.push(n - 1 - edge - i)
    value = op('index_select', value, dim, fromIndices(picked))
  })
  return value === handleOf(x!) ? op('clone', value) : value
})
define('Tile', ({x}, {reps}) => op('tile', handleOf(x!), reps as number[]))
// Arguments and result are shapes, as int32 vectors.
define('BroadcastArgs', ({s0, s1}) => {
  const read = (x: TensorInfo): number[] => [...new Int32Array(torch().toBytes(handleOf(x), scalarType.int32))]
  return [op('clone', castTo(fromIndices(backend_util.assertAndGetBroadcastShape(read(s0!), read(s1!))), scalarType.int32)), 'int32']
})
define('BroadcastTo', ({x}, {shape}) => op('contiguous', op('broadcast_to', handleOf(x!), shape as number[])))

define('SpaceToBatchND', ({x}, {blockShape, paddings}) => {
  const blocks = blockShape as number[]
  const rank = x!.shape.length
  const all: [number, number][] = [[0, 0], ...(paddings as [number, number][])]
  while (all.length < rank) all.push([0, 0])
  const padded = op('constant_pad_nd', handleOf(x!), [...all].reverse().flat(), 0)
  const shape = x!.shape.map((n, i) => n + all[i]![0] + all[i]![1])
  const split = [shape[0]!, ...blocks.flatMap((b, i) => [shape[i + 1]! / b, b]), ...shape.slice(1 + blocks.length)]
  const order = [
    ...blocks.map((_, i) => 2 + 2 * i),
    0,
    ...blocks.map((_, i) => 1 + 2 * i),
    ...shape.slice(1 + blocks.length).map((_, i) => 1 + 2 * blocks.length + i)
  ]
  const final = [shape[0]! * size(blocks), ...blocks.map((b, i) => shape[i + 1]! / b), ...shape.slice(1 + blocks.length)]
  return op('reshape', op('permute', op('reshape', padded, split), order), final)
})
define('BatchToSpaceND', ({x}, {blockShape, crops}) => {
  const blocks = blockShape as number[]
  const shape = x!.shape
  const batch = shape[0]! / size(blocks)
  const rest = shape.slice(1 + blocks.length)
  const split = [...blocks, batch, ...shape.slice(1)]
  const n = blocks.length
  const order = [n, ...blocks.flatMap((_, i) => [n + 1 + i, i]), ...rest.map((_, i) => 2 * n + 1 + i)]
  const joined = [batch, ...blocks.map((b, i) => shape[i + 1]! * b), ...rest]
  let value = op('reshape', op('permute', op('reshape', handleOf(x!), split), order), joined)
  ;(crops as [number, number][]).forEach(([before, after], i) => {
    if (before || after) value = op('slice.Tensor', value, i + 1, before, joined[i + 1]! - after, 1)
  })
  return op('contiguous', value)
})

// ------------------------------------------------------------------------------------------------------- gather and
// scatter

define('GatherV2', ({x, indices}, {axis, batchDims}) => {
  const batch = (batchDims as number | undefined) ?? 0
  backend_util.segment_util.collectGatherOpShapeInfo(
    x as Tensor,
    indices as Tensor,
    util.parseAxisParam(axis as number, x!.shape)[0]!,
    batch
  )
  const dim = util.parseAxisParam(axis as number, x!.shape)[0]!
  const outer = x!.shape.slice(0, batch)
  if (batch === 0) {
    const picked = op('index_select', handleOf(x!), dim, op('reshape', handleOf(indices!), [-1]))
    return op('reshape', picked, [...x!.shape.slice(0, dim), ...indices!.shape, ...x!.shape.slice(dim + 1)])
  }
  const b = size(outer)
  const before = size(x!.shape.slice(batch, dim))
  const n = x!.shape[dim]!
  const after = size(x!.shape.slice(dim + 1))
  const perBatch = size(indices!.shape.slice(batch))
  const values = op('reshape', handleOf(x!), [b, before, n, after])
  const where = castTo(
    op('expand', op('reshape', handleOf(indices!), [b, 1, perBatch, 1]), [b, before, perBatch, after], false),
    scalarType.int64
  )
  const picked = op('gather', values, 2, where, false)
  return op('reshape', picked, [...x!.shape.slice(0, dim), ...indices!.shape.slice(batch), ...x!.shape.slice(dim + 1)])
})

/**
 * Row numbers in a tensor whose first axes are indexed by the last axis of `indices`; → [count], and the size of a
 * row.
 */
function flatIndex(indices: TensorInfo, shape: readonly number[]): {rows: Handle; count: number; slice: number; total: number} {
  const depth = indices.shape.length > 1 || indices.shape.length === 1 ? indices.shape[indices.shape.length - 1]! : 1
  const count = size(indices.shape.slice(0, -1))
  const table = castTo(op('reshape', handleOf(indices), [count, depth]), scalarType.int64)
  const outer = shape.slice(0, depth)
  let rows = op('zeros', [count], scalarType.int64, null, deviceName())
  outer.forEach((_, i) => {
    rows = op('add.Tensor', rows, op('mul.Scalar', op('select.int', table, 1, i), size(outer.slice(i + 1))))
  })
  return {rows, count, slice: size(shape.slice(depth)), total: size(outer)}
}
define('GatherNd', ({params, indices}) => {
  backend_util.prepareAndValidate(params as Tensor, indices as Tensor)
  const depth = indices!.shape[indices!.shape.length - 1]!
  const {rows, slice, total} = flatIndex(indices!, params!.shape)
  const picked = op('index_select', op('reshape', handleOf(params!), [total, slice]), 0, rows)
  return [op('reshape', picked, [...indices!.shape.slice(0, -1), ...params!.shape.slice(depth)]), params!.dtype]
})
define('ScatterNd', ({indices, updates}, {shape}) => {
  const target = shape as number[]
  // Indices of rank 1 are rows of one number each, as TensorFlow.js reads them.
  const table = indices!.shape.length === 1 ? {...indices!, shape: [indices!.shape[0]!, 1]} : indices!
  const {rows, count, slice, total} = flatIndex(table, target)
  const type = torch().type(handleOf(updates!))
  const empty = op('zeros', [total, slice], type === scalarType.bool ? scalarType.int32 : type, null, deviceName())
  const values = op('reshape', handleOf(updates!), [count, slice])
  const summed = op('index_add', empty, 0, rows, type === scalarType.bool ? castTo(values, scalarType.int32) : values)
  return [op('reshape', type === scalarType.bool ? castTo(summed, scalarType.bool) : summed, target), updates!.dtype]
})
define('TensorScatterUpdate', ({tensor, indices, updates}) => {
  const {rows, count, slice, total} = flatIndex(indices!, tensor!.shape)
  const values = op('reshape', handleOf(updates!), [count, slice])
  return op('reshape', op('index_copy', op('reshape', handleOf(tensor!), [total, slice]), 0, rows, values), tensor!.shape)
})
define('SparseToDense', ({sparseIndices, sparseValues, defaultValue}, {outputShape}) => {
  const target = outputShape as number[]
  const total = size(target)
  const count = sparseIndices!.shape.length === 0 ? 1 : sparseIndices!.shape[0]!
  const depth = sparseIndices!.shape.length < 2 ? 1 : sparseIndices!.shape[1]!
  const table = castTo(op('reshape', handleOf(sparseIndices!), [count, depth]), scalarType.int64)
  let rows = op('zeros', [count], scalarType.int64, null, deviceName())
  target.forEach((_, i) => {
    rows = op('add.Tensor', rows, op('mul.Scalar', op('select.int', table, 1, i), size(target.slice(i + 1))))
  })
  const start = op('contiguous', op('expand', op('reshape', handleOf(defaultValue!), [1]), [total], false))
  const values = op('contiguous', op('expand', op('reshape', handleOf(sparseValues!), [-1]), [count], false))
  return [op('reshape', op('index_copy', op('clone', start), 0, rows, values), target), sparseValues!.dtype]
})
define('UnsortedSegmentSum', ({x, segmentIds}, {numSegments}) => {
  const axes = segmentIds!.shape.length
  const slice = x!.shape.slice(axes)
  const ids = castTo(op('reshape', handleOf(segmentIds!), [-1]), scalarType.int64)
  const kept = op('ge.Scalar', ids, 0)
  const values = op('reshape', handleOf(x!), [size(segmentIds!.shape), size(slice)])
  const masked = op('mul.Tensor', values, castTo(op('unsqueeze', kept, 1), torch().type(handleOf(x!))))
  const empty = op('zeros', [numSegments as number, size(slice)], torch().type(handleOf(x!)), null, deviceName())
  return op('reshape', op('index_add', empty, 0, op('clamp', ids, 0), masked), [numSegments as number, ...slice])
})
define('Where', ({condition}) => [castTo(op('nonzero', handleOf(condition!)), scalarType.int32), 'int32'])
defineMany('Unique', ({x}, {axis}) => {
  // First occurrences in order, as TensorFlow has them; libtorch sorts, so the order is rebuilt.
  const dim = util.parseAxisParam(axis as number, x!.shape)[0]!
  const [values, inverse] = ops('unique_dim', handleOf(x!), dim, true, true, false)
  const found = torch().shape(values!)[dim]!
  const n = x!.shape[dim]!
  const positions = op('arange', n, scalarType.int64, null, deviceName())
  const first = op('scatter_reduce.two', op('full', [found], n, scalarType.int64, null, deviceName()), 0, inverse!, positions, 'amin', true)
  const order = op('argsort', first, 0, false)
  const place = op('argsort', order, 0, false)
  return [op('index_select', values!, dim, order), [castTo(op('index_select', place, 0, inverse!), scalarType.int32), 'int32']]
})
