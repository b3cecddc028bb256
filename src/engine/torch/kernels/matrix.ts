/** Matrix products, and TensorFlow.js's own fused forms of them. */
import {backend_util} from '../../../tensor/tf.js'
import type {Tensor, TensorInfo} from '../../../tensor/tf.js'
import {op, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {asFloat, define, handleOf, castTo} from './define.js'

/** a·b over the last two axes, with either transposed; leading axes broadcast. int32 stays int32. */
function product(a: TensorInfo, b: TensorInfo, transposeA: unknown, transposeB: unknown): Handle {
  if (a.shape.length < 2 || b.shape.length < 2)
    throw new Error(`Error in matMul: expected inputs of rank 2 or more, but received [${String(a.shape)}] and [${String(b.shape)}]`)
  const whole = a.dtype === 'int32' && b.dtype === 'int32'
  let [x, y] = whole ? [handleOf(a), handleOf(b)] : [asFloat(a), asFloat(b)]
  if (!whole && torch().type(x) !== torch().type(y)) [x, y] = [castTo(x, scalarType.float32), castTo(y, scalarType.float32)]
  if (transposeA) x = op('transpose.int', x, -1, -2)
  if (transposeB) y = op('transpose.int', y, -1, -2)
  return op('matmul', x, y)
}

/**
 * The activation that a fused kernel of TensorFlow.js ends with. `prelu` are the weights of that activation, broadcast
 * against `value`.
 */
export function activate(value: Handle, activation: unknown, prelu: Handle | undefined, leakyreluAlpha: unknown): Handle {
  switch (activation) {
    case undefined:
    case null:
    case 'linear':
      return value
    case 'relu':
      return op('relu', value)
    case 'relu6':
      return op('clamp', value, 0, 6)
    case 'elu':
      return op('elu', value, 1, 1, 1)
    case 'sigmoid':
      return op('sigmoid', value)
    case 'leakyrelu':
      return op('leaky_relu', value, leakyreluAlpha as number)
    case 'prelu':
      return op('where.self', op('ge.Scalar', value, 0), value, op('mul.Tensor', value, prelu!))
    default:
      throw new Error(`the torch engine has no fused activation named ${String(activation)}`)
  }
}

define('BatchMatMul', ({a, b}, {transposeA, transposeB}) => [
  product(a!, b!, transposeA, transposeB),
  a!.dtype === 'int32' && b!.dtype === 'int32' ? 'int32' : 'float32'
])

define('_FusedMatMul', ({a, b, bias, preluActivationWeights}, {transposeA, transposeB, activation, leakyreluAlpha}) => {
  let value = product(a!, b!, transposeA, transposeB)
  if (bias) value = op('add.Tensor', value, handleOf(bias))
  return [activate(value, activation, preluActivationWeights && handleOf(preluActivationWeights), leakyreluAlpha), 'float32']
})

define('Einsum', (inputs, {equation}) => {
  const operands = Object.values(inputs) as TensorInfo[]
  const {allDims, idDims} = backend_util.decodeEinsumEquation(equation as string, operands.length)
  backend_util.checkEinsumDimSizes(allDims.length, idDims, operands as Tensor[])
  return [op('einsum', (equation as string).replaceAll(' ', ''), operands.map(asFloat)), 'float32']
})
