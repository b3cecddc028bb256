/**
 * Convolution, pooling, normalization over batches, and resizing. TensorFlow.js hands images as [B, Y, X, C]; libtorch
 * wants [B, C, Y, X].
 */
import {backend_util} from '../../../tensor/tf.js'
import type {TensorInfo} from '../../../tensor/tf.js'
import {op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {deviceName} from './device.js'
import {asFloat, define, fromFloats, handleOf, castTo} from './define.js'
import {activate} from './matrix.js'

const channelsFirst = (x: Handle): Handle => op('permute', x, [0, 3, 1, 2])
const channelsLast = (x: Handle): Handle => op('contiguous', op('permute', x, [0, 2, 3, 1]))
type Attributes = Record<string, unknown>
type Info = ReturnType<typeof backend_util.computeConv2DInfo>

/** Padding before the image; what is asymmetric is padded apart. */
function padded(x: Handle, info: Info, value = 0): Handle {
  const {top, bottom, left, right} = info.padInfo
  return top || bottom || left || right ? op('constant_pad_nd', x, [left, right, top, bottom], value) : x
}
/** Cuts the padding off again. */
function unpadded(x: Handle, info: Info): Handle {
  const {top, left} = info.padInfo
  const rows = op('slice.Tensor', x, 2, top, top + info.inHeight, 1)
  return op('slice.Tensor', rows, 3, left, left + info.inWidth, 1)
}

function convInfo(
  xShape: number[],
  filterShape: number[],
  {strides, pad, dilations, dataFormat, dimRoundingMode}: Attributes,
  depthwise = false
): Info {
  return backend_util.computeConv2DInfo(
    xShape as [number, number, number, number],
    filterShape as [number, number, number, number],
    strides as number,
    (dilations as number | undefined) ?? 1,
    pad as 'same',
    dimRoundingMode as 'floor',
    depthwise,
    backend_util.convertConv2DDataFormat((dataFormat as 'NHWC' | undefined) ?? 'NHWC')
  )
}
const isFirst = (attrs: Attributes): boolean => attrs['dataFormat'] === 'NCHW'
const enter = (x: Handle, attrs: Attributes): Handle => (isFirst(attrs) ? x : channelsFirst(x))
const leave = (x: Handle, attrs: Attributes): Handle => (isFirst(attrs) ? op('contiguous', x) : channelsLast(x))

/** Filters [Y, X, in, out] → [out, in, Y, X]. */
const filterIn = (w: Handle): Handle => op('permute', w, [3, 2, 0, 1])
/** Depthwise filters [Y, X, in, multiplier] → [in·multiplier, 1, Y, X]. */
const depthwiseIn = (w: Handle, info: Info): Handle =>
  op('reshape', op('permute', w, [2, 3, 0, 1]), [info.outChannels, 1, info.filterHeight, info.filterWidth])

/** libtorch's convolution of an input that is padded here, since paddings may differ by side. */
const convolution = (x: TensorInfo, w: Handle, info: Info, groups: number, attrs: Attributes, bias?: TensorInfo): Handle =>
  op(
    'convolution',
    padded(enter(asFloat(x), attrs), info),
    w,
    bias ? op('reshape', handleOf(bias), [-1]) : null,
    [info.strideHeight, info.strideWidth],
    [0, 0],
    [info.dilationHeight, info.dilationWidth],
    false,
    [0, 0],
    groups
  )

function convolve(x: TensorInfo, filter: TensorInfo, attrs: Attributes, bias?: TensorInfo): Handle {
  const info = convInfo(x.shape, filter.shape, attrs)
  return convolution(x, filterIn(handleOf(filter)), info, info.inChannels / filter.shape[2]!, attrs, bias)
}
function convolveDepthwise(x: TensorInfo, filter: TensorInfo, attrs: Attributes, bias?: TensorInfo): Handle {
  const info = convInfo(x.shape, filter.shape, attrs, true)
  return convolution(x, depthwiseIn(handleOf(filter), info), info, info.inChannels, attrs, bias)
}
define('Conv2D', ({x, filter}, attrs) => [leave(convolve(x!, filter!, attrs), attrs), 'float32'])
define('DepthwiseConv2dNative', ({x, filter}, attrs) => [leave(convolveDepthwise(x!, filter!, attrs), attrs), 'float32'])
for (const [kernel, conv] of [
  ['FusedConv2D', convolve],
  ['FusedDepthwiseConv2D', convolveDepthwise]
] as const)
  define(kernel, ({x, filter, bias, preluActivationWeights}, attrs) => {
    // A bias of one number a channel is libtorch's own; any other shape is added with broadcasting.
    const channels = kernel === 'FusedConv2D' ? filter!.shape[3]! : filter!.shape[2]! * filter!.shape[3]!
    const own = bias?.shape.length === 1 && bias.shape[0] === channels
    let value = leave(conv(x!, filter!, attrs, own ? bias : undefined), attrs)
    if (bias && !own) value = op('add.Tensor', value, handleOf(bias))
    let prelu = preluActivationWeights && handleOf(preluActivationWeights)
    if (prelu && isFirst(attrs) && preluActivationWeights!.shape.length === 1) prelu = op('reshape', prelu, [-1, 1, 1])
    return [activate(value, attrs['activation'], prelu, attrs['leakyreluAlpha']), 'float32']
  })

/** Gradients of a convolution by libtorch; `which` picks [input, filter]. */
function convolveBack(dy: Handle, x: Handle, w: Handle, info: Info, groups: number, which: [boolean, boolean]): Handle[] {
  return ops(
    'convolution_backward',
    dy,
    x,
    w,
    null,
    [info.strideHeight, info.strideWidth],
    [0, 0],
    [info.dilationHeight, info.dilationWidth],
    false,
    [0, 0],
    groups,
    [...which, false]
  )
}
const like = (shape: number[], as: Handle): Handle => op('new_empty', as, shape)
const paddedShape = (info: Info): number[] => [
  info.batchSize,
  info.inChannels,
  info.inHeight + info.padInfo.top + info.padInfo.bottom,
  info.inWidth + info.padInfo.left + info.padInfo.right
]

define('Conv2DBackpropInput', ({dy, filter}, attrs) => {
  const info = convInfo(attrs['inputShape'] as number[], filter!.shape, {...attrs, dilations: 1})
  const grad = enter(handleOf(dy!), attrs)
  const [dx] = convolveBack(grad, like(paddedShape(info), grad), filterIn(handleOf(filter!)), info, info.inChannels / filter!.shape[2]!, [
    true,
    false
  ])
  return [leave(unpadded(dx!, info), attrs), 'float32']
})
define('Conv2DBackpropFilter', ({x, dy}, attrs) => {
  const shape = attrs['filterShape'] as number[]
  const info = convInfo(x!.shape, shape, {...attrs, dilations: 1})
  const input = padded(enter(asFloat(x!), attrs), info)
  const [, dw] = convolveBack(
    enter(handleOf(dy!), attrs),
    input,
    like([shape[3]!, shape[2]!, shape[0]!, shape[1]!], input),
    info,
    info.inChannels / shape[2]!,
    [false, true]
  )
  return [op('contiguous', op('permute', dw!, [2, 3, 1, 0])), 'float32']
})
define('DepthwiseConv2dNativeBackpropInput', ({dy, filter}, attrs) => {
  const info = convInfo(attrs['inputShape'] as number[], filter!.shape, attrs, true)
  const grad = enter(handleOf(dy!), attrs)
  const [dx] = convolveBack(grad, like(paddedShape(info), grad), depthwiseIn(handleOf(filter!), info), info, info.inChannels, [true, false])
  return [leave(unpadded(dx!, info), attrs), 'float32']
})
define('DepthwiseConv2dNativeBackpropFilter', ({x, dy}, attrs) => {
  const shape = attrs['filterShape'] as number[]
  const info = convInfo(x!.shape, shape, attrs, true)
  const input = padded(enter(asFloat(x!), attrs), info)
  const [, dw] = convolveBack(
    enter(handleOf(dy!), attrs),
    input,
    like([info.outChannels, 1, shape[0]!, shape[1]!], input),
    info,
    info.inChannels,
    [false, true]
  )
  return [op('contiguous', op('permute', op('reshape', dw!, [shape[2]!, shape[3]!, shape[0]!, shape[1]!]), [2, 3, 0, 1])), 'float32']
})

// --------------------------------------------------------------------------------------------------------------
// pooling

const poolInfo = (shape: number[], {filterSize, strides, pad, dimRoundingMode}: Attributes): Info =>
  backend_util.computePool2DInfo(
    shape as [number, number, number, number],
    filterSize as number,
    strides as number,
    1,
    pad as 'same',
    dimRoundingMode as 'floor'
  )
/**
 * The image with its padding, and as much more on the far sides as `dimRoundingMode` ceil or round asks for; libtorch
 * itself rounds down.
 */
function framed(x: Handle, info: Info, value: number): Handle {
  const short = (out: number, stride: number, filter: number, n: number): number => Math.max(0, (out - 1) * stride + filter - n)
  const {top, bottom, left, right} = info.padInfo
  const below = short(info.outHeight, info.strideHeight, info.effectiveFilterHeight, info.inHeight + top + bottom)
  const beside = short(info.outWidth, info.strideWidth, info.effectiveFilterWidth, info.inWidth + left + right)
  const pads = [left, right + beside, top, bottom + below]
  return pads.some(pad => pad !== 0) ? op('constant_pad_nd', x, pads, value) : x
}
const window = (info: Info): [number[], number[]] => [
  [info.effectiveFilterHeight, info.effectiveFilterWidth],
  [info.strideHeight, info.strideWidth]
]
/** How many real pixels each window of an average pool covers. */
function covered(info: Info, as: Handle): Handle {
  const [size, stride] = window(info)
  const ones = op('new_ones', as, [1, 1, info.inHeight, info.inWidth])
  return op('avg_pool2d', framed(ones, info, 0), size, stride, [0, 0], false, true, null)
}
/** In a maximum TensorFlow.js passes NaN over; libtorch would hand it on. */
const passOverNan = (x: Handle): Handle => op('nan_to_num', x, -Infinity, Infinity, -Infinity)
define('MaxPool', ({x}, attrs) => {
  const info = poolInfo(x!.shape, attrs)
  const [size, stride] = window(info)
  return channelsLast(
    op('max_pool2d', framed(passOverNan(channelsFirst(asFloat(x!))), info, -Infinity), size, stride, [0, 0], [1, 1], false)
  )
})
define('MaxPoolGrad', ({dy, input}, attrs) => {
  const info = poolInfo(input!.shape, attrs)
  const [size, stride] = window(info)
  const x = framed(passOverNan(channelsFirst(handleOf(input!))), info, -Infinity)
  const [, where] = ops('max_pool2d_with_indices', x, size, stride, [0, 0], [1, 1], false)
  const dx = op('max_pool2d_with_indices_backward', channelsFirst(handleOf(dy!)), x, size, stride, [0, 0], [1, 1], false, where!)
  return [channelsLast(unpadded(dx, info)), 'float32']
})
define('AvgPool', ({x}, attrs) => {
  const info = poolInfo(x!.shape, attrs)
  const [size, stride] = window(info)
  const value = channelsFirst(asFloat(x!))
  return [
    channelsLast(op('div.Tensor', op('avg_pool2d', framed(value, info, 0), size, stride, [0, 0], false, true, null), covered(info, value))),
    'float32'
  ]
})
define('AvgPoolGrad', ({dy, input}, attrs) => {
  const info = poolInfo(input!.shape, attrs)
  const [size, stride] = window(info)
  const x = channelsFirst(handleOf(input!))
  const share = op('div.Tensor', channelsFirst(handleOf(dy!)), covered(info, x))
  const dx = op('avg_pool2d_backward', share, framed(x, info, 0), size, stride, [0, 0], false, true, null)
  return [channelsLast(unpadded(dx, info)), 'float32']
})

define('FusedBatchNorm', ({x, scale, offset, mean, variance}, {varianceEpsilon}) => {
  const eps = (varianceEpsilon as number | null | undefined) ?? 0.001
  let y = op('mul.Tensor', op('sub.Tensor', asFloat(x!), handleOf(mean!)), op('rsqrt', op('add.Scalar', handleOf(variance!), eps)))
  if (scale) y = op('mul.Tensor', y, handleOf(scale))
  if (offset) y = op('add.Tensor', y, handleOf(offset))
  return [y, 'float32']
})

// ---------------------------------------------------------------------------------------------------------------
// resizing

/** Where each target pixel looks in the source along one axis, by TensorFlow's rules. */
function sources(from: number, until: number, alignCorners: unknown, halfPixel: unknown): Float64Array {
  const scale = alignCorners && until > 1 ? (from - 1) / (until - 1) : from / until
  return Float64Array.from({length: until}, (_, i) => (halfPixel ? (i + 0.5) * scale - 0.5 : i * scale))
}
/** A resize as two small matrices: rows [Y', Y] and columns [X', X]. Gradients use their transposes. */
function resizer(from: number, until: number, attrs: Attributes, nearest: boolean): Float32Array {
  const weights = new Float32Array(until * from)
  sources(from, until, attrs['alignCorners'], attrs['halfPixelCenters']).forEach((at, i) => {
    if (nearest) {
      const position = attrs['halfPixelCenters'] ? at + 0.5 : at
      const j = attrs['alignCorners'] ? Math.round(position) : Math.floor(position)
      weights[i * from + Math.min(from - 1, Math.max(0, j))]! += 1
    } else {
      const low = Math.max(0, Math.floor(at))
      const high = Math.min(from - 1, Math.ceil(at))
      const part = at - Math.floor(at)
      weights[i * from + Math.min(low, from - 1)]! += 1 - part
      weights[i * from + Math.max(high, 0)]! += part
    }
  })
  return weights
}
const matrix = (values: Float32Array, rows: number, columns: number): Handle => fromFloats(values, [rows, columns])

function resize(images: TensorInfo, size: [number, number], attrs: Attributes, nearest: boolean): Handle {
  const [, y, x] = images.shape as [number, number, number, number]
  const rows = matrix(resizer(y, size[0], attrs, nearest), size[0], y)
  const columns = matrix(resizer(x, size[1], attrs, nearest), size[1], x)
  return op('contiguous', op('einsum', 'ij,bjkc,lk->bilc', [rows, asFloat(images), columns]))
}
function resizeBack(dy: TensorInfo, images: TensorInfo, attrs: Attributes, nearest: boolean): Handle {
  const [, y, x] = images.shape as [number, number, number, number]
  const [, y2, x2] = dy.shape as [number, number, number, number]
  const rows = matrix(resizer(y, y2, attrs, nearest), y2, y)
  const columns = matrix(resizer(x, x2, attrs, nearest), x2, x)
  return op('contiguous', op('einsum', 'ij,bilc,lk->bjkc', [rows, handleOf(dy), columns]))
}
for (const [name, nearest] of [
  ['ResizeBilinear', false],
  ['ResizeNearestNeighbor', true]
] as const) {
  define(name, ({images}, attrs) => [
    resize(images!, attrs['size'] as [number, number], attrs, nearest),
    nearest ? images!.dtype : 'float32'
  ])
  define(`${name}Grad`, ({dy, images}, attrs) => [resizeBack(dy!, images!, attrs, nearest), 'float32'])
}
define('FlipLeftRight', ({image}) => op('flip', handleOf(image!), [2]))

/**
 * Pieces of images brought to one size (tfjs `image.cropAndResize`): boxes [n, 4] hold y1, x1, y2, x2 as shares of the
 * sides, boxInd [n] the image of each. What lies outside the image is `extrapolationValue`.
 */
define('CropAndResize', ({image, boxes, boxInd}, {cropSize, method, extrapolationValue}) => {
  const [, height, width, channels] = image!.shape as [number, number, number, number]
  const [rows, columns] = cropSize as [number, number]
  const count = boxes!.shape[0]!
  const flatImage = op('reshape', asFloat(image!), [-1, channels])
  const first = op('mul.Scalar', op('reshape', castTo(handleOf(boxInd!), scalarType.int64), [count, 1, 1]), height * width)
  /** Where the crop looks along one axis, [n, length]. */
  const places = (axis: 0 | 1, side: number, length: number): Handle => {
    const [low, high] = [
      op('slice.Tensor', handleOf(boxes!), 1, axis, axis + 1, 1),
      op('slice.Tensor', handleOf(boxes!), 1, axis + 2, axis + 3, 1)
    ]
    if (length === 1) return op('mul.Scalar', op('add.Tensor', low, high), 0.5 * (side - 1))
    const step = op('mul.Scalar', op('sub.Tensor', high, low), (side - 1) / (length - 1))
    const index = fromFloats(
      Float32Array.from({length}, (_, i) => i),
      [1, length]
    )
    return op('add.Tensor', op('mul.Scalar', low, side - 1), op('mul.Tensor', step, index))
  }
  const y = op('unsqueeze', places(0, height, rows), 2) //             [n, rows, 1]
  const x = op('unsqueeze', places(1, width, columns), 1) //           [n, 1, columns]
  const within = (at: Handle, side: number): Handle => op('logical_and', op('ge.Scalar', at, 0), op('le.Scalar', at, side - 1))
  const inside = op('unsqueeze', op('logical_and', within(y, height), within(x, width)), 3)
  /**
   * Pixels at whole places, [n, rows, columns, C]; places outside are drawn to the edge and overwritten at the end.
   */
  const pixels = (row: Handle, column: Handle): Handle => {
    const [r, c] = [castTo(op('clamp', row, 0, height - 1), scalarType.int64), castTo(op('clamp', column, 0, width - 1), scalarType.int64)]
    const index = op('add.Tensor', op('add.Tensor', first, op('mul.Scalar', r, width)), c)
    return op('reshape', op('index_select', flatImage, 0, op('reshape', index, [-1])), [count, rows, columns, channels])
  }
  let value: Handle
  if (method === 'nearest') value = pixels(op('floor', op('add.Scalar', y, 0.5)), op('floor', op('add.Scalar', x, 0.5)))
  else {
    const mix = (a: Handle, b: Handle, part: Handle): Handle =>
      op('add.Tensor', a, op('mul.Tensor', op('sub.Tensor', b, a), op('unsqueeze', part, 3)))
    const [top, bottom, left, right] = [op('floor', y), op('ceil', y), op('floor', x), op('ceil', x)]
    const across = op('sub.Tensor', x, left)
    value = mix(
      mix(pixels(top, left), pixels(top, right), across),
      mix(pixels(bottom, left), pixels(bottom, right), across),
      op('sub.Tensor', y, top)
    )
  }
  return [op('where.self', inside, value, op('full', [], extrapolationValue as number, scalarType.float32, null, deviceName())), 'float32']
})

/** Channels spread over blocks of pixels. */
define('DepthToSpace', ({x}, {blockSize, dataFormat}) => {
  const side = blockSize as number
  const last = dataFormat !== 'NCHW'
  const value = last ? handleOf(x!) : op('permute', handleOf(x!), [0, 2, 3, 1])
  const [batch, height, width, channels] = torch().shape(value) as [number, number, number, number]
  const depth = channels / (side * side)
  const split = op('reshape', value, [batch, height, width, side, side, depth])
  const spread = op('reshape', op('permute', split, [0, 1, 3, 2, 4, 5]), [batch, height * side, width * side, depth])
  return last ? spread : op('contiguous', op('permute', spread, [0, 3, 1, 2]))
})
