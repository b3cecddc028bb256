/** Kernels that treat each element by itself. */
import {upcastType} from '../../../tensor/tf.js'
import type {DataType, TensorInfo} from '../../../tensor/tf.js'
import {op, scalarType} from '../binding.js'
import type {Handle} from '../binding.js'
import {asFloat, define, defineAlias, handleOf, isIntegral, castTo} from './define.js'
import {backend, storedAs} from '../backend.js'

// ------------------------------------------------------------------------------------------------ one input, floats
// only

const floats: Record<string, string> = {
  Acos: 'acos',
  Acosh: 'acosh',
  Asin: 'asin',
  Asinh: 'asinh',
  Atan: 'atan',
  Atanh: 'atanh',
  Cos: 'cos',
  Cosh: 'cosh',
  Erf: 'erf',
  Exp: 'exp',
  Expm1: 'expm1',
  Log: 'log',
  Log1p: 'log1p',
  Reciprocal: 'reciprocal',
  Rsqrt: 'rsqrt',
  Sigmoid: 'sigmoid',
  Sin: 'sin',
  Sinh: 'sinh',
  Sqrt: 'sqrt',
  Tan: 'tan',
  Tanh: 'tanh'
}
for (const [kernel, name] of Object.entries(floats)) define(kernel, ({x}) => [op(name, asFloat(x!)), 'float32'])

define('Softplus', ({x}) => [op('softplus', asFloat(x!), 1, 30), 'float32'])
define('Elu', ({x}) => [op('elu', asFloat(x!), 1, 1, 1), 'float32'])
define('EluGrad', ({dy, y}) => [op('elu_backward', handleOf(dy!), 1, 1, 1, true, handleOf(y!)), 'float32'])
define('Selu', ({x}) => [op('selu', asFloat(x!)), 'float32'])
define('LeakyRelu', ({x}, {alpha}) => [op('leaky_relu', asFloat(x!), alpha as number), 'float32'])
define('Prelu', ({x, alpha}) => {
  const value = asFloat(x!)
  return [op('where.self', op('ge.Scalar', value, 0), value, op('mul.Tensor', value, handleOf(alpha!))), 'float32']
})

// -------------------------------------------------------------------------------------------- one input, the type
// stays

/** Runs an operator that libtorch refuses for bool on 0 and 1 instead. */
const counted = (x: TensorInfo): Handle => (x.dtype === 'bool' ? castTo(handleOf(x), scalarType.int32) : handleOf(x))
const keepType: Record<string, string> = {
  Abs: 'abs',
  Neg: 'neg',
  Sign: 'sign',
  Square: 'square',
  Relu: 'relu',
  Ceil: 'ceil',
  Floor: 'floor',
  Round: 'round'
}
for (const [kernel, name] of Object.entries(keepType))
  define(kernel, ({x}) => {
    const value = counted(x!)
    const same = isIntegral(x!) && (name === 'ceil' || name === 'floor' || name === 'round')
    const result = same ? op('clone', value) : op(name, value)
    return x!.dtype === 'bool' ? [result, 'int32'] : result
  })
define('Relu6', ({x}) => {
  const result = op('clamp', counted(x!), 0, 6)
  return x!.dtype === 'bool' ? [result, 'int32'] : result
})
define('ClipByValue', ({x}, {clipValueMin, clipValueMax}) => op('clamp', counted(x!), clipValueMin as number, clipValueMax as number))
define('Step', ({x}, {alpha}) => {
  const value = asFloat(x!)
  const positive = castTo(op('gt.Scalar', value, 0), scalarType.float32)
  const stepped = op('add.Tensor', positive, op('mul.Scalar', op('rsub.Scalar', positive, 1), alpha as number))
  const result = op('where.self', op('isnan', value), value, stepped)
  return isIntegral(x!) ? [castTo(result, scalarType.int32), 'int32'] : result
})
define('OnesLike', ({x}) => op('ones_like', handleOf(x!)))
define('ZerosLike', ({x}) => op('zeros_like', handleOf(x!)))
defineAlias('Identity')

for (const [kernel, name] of Object.entries({IsFinite: 'isfinite', IsInf: 'isinf', IsNan: 'isnan'}))
  define(kernel, ({x}) => [op(name, handleOf(x!)), 'bool'])
define('LogicalNot', ({x}) => [op('logical_not', handleOf(x!)), 'bool'])

define('Cast', ({x}, {dtype}) => {
  const wanted = dtype as DataType
  const from = x!.dtype
  if (from === wanted) return [op('alias', handleOf(x!)), wanted]
  if (wanted === 'bool') return [op('ne.Scalar', handleOf(x!), 0), 'bool']
  return [castTo(handleOf(x!), storedAs(wanted)), wanted]
})

// ----------------------------------------------------------------------------------------------------------- two
// inputs

/** Both inputs in their common type; bool counts as 0 and 1 in arithmetic. */
function pair(a: TensorInfo, b: TensorInfo): {a: Handle; b: Handle; dtype: DataType} {
  const common = upcastType(a.dtype, b.dtype)
  const dtype = common === 'bool' ? 'int32' : common
  const fit = (x: TensorInfo): Handle => (dtype === 'float32' ? asFloat(x) : castTo(handleOf(x), scalarType.int32))
  return {a: fit(a), b: fit(b), dtype}
}

const arithmetic: Record<string, (a: Handle, b: Handle, dtype: DataType) => Handle> = {
  Add: (a, b) => op('add.Tensor', a, b),
  Sub: (a, b) => op('sub.Tensor', a, b),
  Multiply: (a, b) => op('mul.Tensor', a, b),
  Maximum: (a, b) => op('maximum', a, b),
  Minimum: (a, b) => op('minimum', a, b),
  Mod: (a, b) => op('remainder.Tensor', a, b),
  SquaredDifference: (a, b) => op('square', op('sub.Tensor', a, b)),
  Pow: (a, b, dtype) =>
    dtype === 'int32'
      ? castTo(op('pow.Tensor_Tensor', castTo(a, scalarType.float64), castTo(b, scalarType.float64)), scalarType.int32)
      : op('pow.Tensor_Tensor', a, b),
  RealDiv: (a, b, dtype) => (dtype === 'int32' ? castTo(op('div.Tensor_mode', a, b, 'trunc'), scalarType.int32) : op('div.Tensor', a, b)),
  FloorDiv: (a, b) => op('div.Tensor_mode', a, b, 'floor')
}
/** The same with a number in the place of one operand: it goes along as an argument, and no tensor is made of it. */
const withNumber: Record<string, {right?: (a: Handle, b: number) => Handle; left?: (a: number, b: Handle) => Handle}> = {
  Add: {right: (a, b) => op('add.Scalar', a, b, 1), left: (a, b) => op('add.Scalar', b, a, 1)},
  Sub: {right: (a, b) => op('sub.Scalar', a, b, 1), left: (a, b) => op('rsub.Scalar', b, a, 1)},
  Multiply: {right: (a, b) => op('mul.Scalar', a, b), left: (a, b) => op('mul.Scalar', b, a)},
  RealDiv: {right: (a, b) => op('div.Scalar', a, b)},
  Maximum: {right: (a, b) => op('clamp_min', a, b), left: (a, b) => op('clamp_min', b, a)},
  Minimum: {right: (a, b) => op('clamp_max', a, b), left: (a, b) => op('clamp_max', b, a)}
}

/** a ∘ b where one of two real operands is a number; undefined elsewhere. */
function numberForm(kernel: string, a: TensorInfo, b: TensorInfo): Handle | undefined {
  if (a.dtype !== 'float32' || b.dtype !== 'float32') return undefined
  const {left, right} = withNumber[kernel] ?? {}
  const [x, y] = [backend().scalar(a), backend().scalar(b)]
  if (right && y !== undefined) return right(handleOf(a), y)
  if (left && x !== undefined) return left(x, handleOf(b))
  return undefined
}

for (const [kernel, body] of Object.entries(arithmetic))
  define(kernel, ({a, b}) => {
    const found = numberForm(kernel, a!, b!)
    if (found !== undefined) return [found, 'float32']
    const both = pair(a!, b!)
    return [body(both.a, both.b, both.dtype), both.dtype]
  })
define('Atan2', ({a, b}) => [op('atan2', asFloat(a!), asFloat(b!)), 'float32'])

define('AddN', inputs => {
  const all = Object.values(inputs) as TensorInfo[]
  return all.slice(1).reduce((sum, x) => op('add.Tensor', sum, handleOf(x)), op('alias', handleOf(all[0]!)))
})

const comparisons = {Equal: 'eq', NotEqual: 'ne', Greater: 'gt', GreaterEqual: 'ge', Less: 'lt', LessEqual: 'le'}
for (const [kernel, name] of Object.entries(comparisons))
  define(kernel, ({a, b}) => [op(`${name}.Tensor`, handleOf(a!), handleOf(b!)), 'bool'])
for (const [kernel, name] of Object.entries({LogicalAnd: 'logical_and', LogicalOr: 'logical_or', LogicalXor: 'logical_xor'}))
  define(kernel, ({a, b}) => [op(name, handleOf(a!), handleOf(b!)), 'bool'])

define('Select', ({condition, t, e}) => {
  let where = handleOf(condition!)
  const rank = t!.shape.length
  if (condition!.shape.length === 1 && rank > 1)
    where = op('reshape', where, [condition!.shape[0]!, ...new Array<number>(rank - 1).fill(1)])
  return [op('where.self', castTo(where, scalarType.bool), handleOf(t!), handleOf(e!)), upcastType(t!.dtype, e!.dtype)]
})

define('BitwiseAnd', ({a, b}) => [op('bitwise_and.Tensor', handleOf(a!), handleOf(b!)), 'int32'])
