/**
 * Fused forms of layers and losses: normalization, GELU, rows that are added up, cross-entropy and Sinkhorn–Knopp over
 * columns of prototypes. `fused-form.ts` says how they are held against their references.
 *
 * T rows, C channels, K prototypes, R rows of a student, n of a teacher.
 */
import {inPlace, op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {castTo} from './define.js'
import {fusedForm, productLimits, rowNumbers, waves, wavesOf} from './fused-form.js'

const {float32, int64} = scalarType
const typeOf = (x: Handle): number => torch().type(x)
const real = (x: Handle): Handle => castTo(x, float32)
type One = readonly [Handle]
type Two = readonly [Handle, Handle]
type Three = readonly [Handle, Handle, Handle]
type Six = readonly [Handle, Handle, Handle, Handle, Handle, Handle]

// ----------------------------------------------------------------------------------------------------------- layers

/** Φ(x), float32. */
const normalCdf = (x: Handle): Handle => op('mul.Scalar', op('add.Scalar', op('erf', op('mul.Scalar', real(x), Math.SQRT1_2)), 1, 1), 0.5)
const geluByErf = (x: Handle): Handle => castTo(op('mul.Tensor', real(x), normalCdf(x)), typeOf(x))

/** [x] → x·Φ(x). */
export const geluForm = fusedForm<One>({
  name: 'GELU',
  operators: ['gelu'],
  trials: type => [[[wavesOf(type, [9, 64], 0.7311)], undefined]],
  fused: ([x]) => [op('gelu', x, 'none')],
  reference: ([x]) => [geluByErf(x)]
})

/** [dy, x] → dy·(Φ(x) + x·φ(x)). */
export const geluGradForm = fusedForm<Two>({
  name: 'GELU gradient',
  operators: ['gelu_backward'],
  trials: type => [[[wavesOf(type, [9, 64], 1.1173), wavesOf(type, [9, 64], 0.7311)], undefined]],
  fused: ([dy, x]) => [op('gelu_backward', dy, x, 'none')],
  reference: ([dy, x]) => {
    const density = op('mul.Scalar', op('exp', op('mul.Scalar', op('square', real(x)), -0.5)), 1 / Math.sqrt(2 * Math.PI))
    const slope = op('addcmul', normalCdf(x), real(x), density, 1)
    return [castTo(op('mul.Tensor', real(dy), slope), typeOf(x))]
  }
})

/** [x, W, b] → GELU(x·Wᵀ + b). The fused one may take GELU's approximation by tanh, good enough for half precision. */
export const linearGeluForm = fusedForm<Three>({
  name: 'product with GELU',
  operators: ['_addmm_activation'],
  limits: productLimits,
  trials: type => [[[wavesOf(type, [9, 64], 0.7311), wavesOf(type, [48, 64], 0.8311), wavesOf(type, [48], 0.9311)], undefined]],
  fused: ([x, w, b]) => [op('_addmm_activation', b, x, op('t', w), 1, 1, true)],
  reference: ([x, w, b]) => [geluForm.run(typeOf(x), [op('linear', x, w, b)], undefined)[0]!]
})

/** [dy, a, b] → gradients of SiLU(a) ⊙ b by a and b. */
export const swiGluGradForm = fusedForm<Three>({
  name: 'SwiGLU gradient',
  operators: ['silu_backward'],
  trials: type => [[[wavesOf(type, [9, 64], 1.1173), wavesOf(type, [9, 64], 0.7311), wavesOf(type, [9, 64], 0.5)], undefined]],
  fused: ([dy, a, b]) => [op('silu_backward', op('mul.Tensor', dy, b), a), op('mul.Tensor', dy, op('silu', a))],
  reference: ([dy, a, b]) => {
    const s = op('sigmoid', real(a))
    const slope = op('mul.Tensor', s, op('add.Scalar', op('mul.Tensor', real(a), op('rsub.Scalar', s, 1)), 1, 1))
    const [da, db] = [op('mul.Tensor', op('mul.Tensor', dy, b), slope), op('mul.Tensor', dy, op('mul.Tensor', real(a), s))]
    return [castTo(da, typeOf(a)), castTo(db, typeOf(a))]
  }
})

/** Means over channels, [T, 1]. */
const rowMeans = (x: Handle): Handle => op('mean.dim', x, [1], true, float32)

/** [x, weight, bias] → (x − mean)·rstd ⊙ weight + bias, mean and rstd [T, 1]. All of one format. */
export const layerNormForm = fusedForm<Three, number>({
  name: 'layer norm',
  operators: ['native_layer_norm'],
  trials: type => [[[wavesOf(type, [9, 64], 0.7311), wavesOf(type, [64], 1.3), wavesOf(type, [64], 0.3)], 1e-6]],
  fused: ([x, weight, bias], eps) => ops('native_layer_norm', x, [torch().shape(x)[1]!], weight, bias, eps),
  reference: ([x, weight, bias], eps) => {
    const mean = rowMeans(real(x))
    const centred = op('sub.Tensor', real(x), mean, 1)
    const rstd = op('rsqrt', op('add.Scalar', rowMeans(op('square', centred)), eps, 1))
    const y = op('addcmul', real(bias), op('mul.Tensor', centred, rstd), real(weight), 1)
    return [castTo(y, typeOf(x)), mean, rstd]
  }
})

/** [dy, x, mean, rstd, weight, bias] → gradients of x, weight and bias. */
export const layerNormGradForm = fusedForm<Six>({
  name: 'layer norm gradient',
  operators: ['native_layer_norm_backward'],
  limits: new Map([[float32, 2e-4]]), // training normalizes float32 alone
  trials: type => {
    const [dy, x] = [wavesOf(type, [9, 64], 0.7311), wavesOf(type, [9, 64], 0.8311)]
    const [mean, rstd] = [waves([9, 1], 0.9311), op('exp', waves([9, 1], 1.0311))]
    return [[[dy, x, mean, rstd, wavesOf(type, [64], 1.1311), wavesOf(type, [64], 1.2311)], undefined]]
  },
  fused: ([dy, x, mean, rstd, weight, bias]) =>
    ops('native_layer_norm_backward', dy, x, [torch().shape(x)[1]!], mean, rstd, weight, bias, [true, true, true]),
  reference: ([dy, x, mean, rstd, weight]) => {
    const normalized = op('mul.Tensor', op('sub.Tensor', real(x), mean, 1), rstd) // [T, C]
    const scaled = op('mul.Tensor', real(dy), real(weight))
    const along = rowMeans(op('mul.Tensor', scaled, normalized)) // [T, 1]
    const across = op('sub.Tensor', op('sub.Tensor', scaled, rowMeans(scaled), 1), op('mul.Tensor', normalized, along), 1)
    const sum = (y: Handle): Handle => castTo(op('sum.dim_IntList', y, [0], false, float32), typeOf(weight))
    return [castTo(op('mul.Tensor', across, rstd), typeOf(x)), sum(op('mul.Tensor', real(dy), normalized)), sum(real(dy))]
  }
})

/** [x, rows, y] → x with factor·y added to its rows, which are different ones or not. */
export const indexAddForm = fusedForm<Three, number>({
  name: 'adding rows',
  operators: ['index_add'],
  trials: type => [[[wavesOf(type, [9, 8], 0.7311), rowNumbers(7, 0, 4), wavesOf(type, [3, 8], 1.3)], 0.5]],
  fused: ([x, rows, y], factor) => [op('index_add', x, 0, rows, y, factor)],
  reference: ([x, rows, y], factor) => {
    const scaled = factor === 1 ? y : op('mul.Scalar', y, factor)
    return [op('index_put', x, [castTo(rows, int64)], scaled, true)]
  }
})

/** [x] → ‖x‖ of each row, [T, 1]. */
export const rowNormsForm = fusedForm<One>({
  name: 'norms of rows',
  operators: ['linalg_vector_norm'],
  trials: type => [[[wavesOf(type, [9, 64], 0.7311)], undefined]],
  fused: ([x]) => [op('linalg_vector_norm', x, 2, [1], true)],
  reference: ([x]) => [op('sqrt', op('sum.dim_IntList', op('square', x), [1], true))]
})

// ----------------------------------------------------------------------------------------------------------- losses

/** A float32 copy of s/τ − v − u, which may be changed. */
function exponent(s: Handle, temperature: number, u?: Handle, v?: Handle): Handle {
  const x = op('div.Scalar', real(s), temperature)
  if (v) inPlace('sub_.Tensor', x, v)
  if (u) inPlace('sub_.Tensor', x, op('unsqueeze', u, 1))
  return x
}

/** s/τ − v − u by operators that change nothing. */
const plainExponent = (s: Handle, temperature: number, u: Handle, v: Handle): Handle =>
  op('sub.Tensor', op('sub.Tensor', op('mul.Scalar', real(s), 1 / temperature), v, 1), op('unsqueeze', u, 1), 1)

/** [s, v] → log Σₖ exp(s/τ − v) of each row of s [R, K]. */
export const logSumOfRowsForm = fusedForm<readonly [s: Handle, v: Handle | undefined], number>({
  name: 'log of sums of rows',
  operators: ['logsumexp'],
  trials: type => [[[wavesOf(type, [9, 64], 0.7311), waves([64], 0.3)], 0.2]],
  fused: ([s, v], temperature) => [op('logsumexp', exponent(s, temperature, undefined, v), [1], false)],
  reference: ([s, v], temperature) => {
    const divided = op('mul.Scalar', real(s), 1 / temperature)
    const x = v ? op('sub.Tensor', divided, v, 1) : divided
    const most = op('amax', x, [1], true) // [R, 1]
    const total = op('sum.dim_IntList', op('exp', op('sub.Tensor', x, most, 1)), [1], true)
    return [op('squeeze.dim', op('add.Tensor', op('log', total), most, 1), 1)]
  }
})

export type SinkhornOptions = {readonly temperature: number; readonly prototypes: number; readonly rows: number}

/** [s, u, v] → the next scales of columns and what they give the rows; s [n, K] (`loss/targets.ts`). */
export const sinkhornForm = fusedForm<Three, SinkhornOptions>({
  name: 'Sinkhorn–Knopp turn',
  operators: ['mv', 'reciprocal'],
  trials: type => [[[wavesOf(type, [9, 16], 0.7311), waves([9], 0.3), waves([16], 0.5)], {temperature: 0.2, prototypes: 64, rows: 9}]],
  fused: ([s, u, v], {temperature, prototypes, rows}) => {
    const p = exponent(s, temperature, u, v)
    inPlace('exp_', p)
    const totals = op('sum.dim_IntList', p, [0], false)
    inPlace('clamp_min_', totals, 1e-37)
    inPlace('mul_.Scalar', totals, prototypes / rows)
    return [op('add.Tensor', v, op('log', totals)), op('mv', p, op('reciprocal', totals))]
  },
  reference: ([s, u, v], {temperature, prototypes, rows}) => {
    const p = op('exp', plainExponent(s, temperature, u, v)) // [n, K]
    const totals = op('mul.Scalar', op('clamp_min', op('sum.dim_IntList', p, [0], false), 1e-37), prototypes / rows)
    return [op('add.Tensor', v, op('log', totals), 1), op('sum.dim_IntList', op('div.Tensor', p, totals), [1], false)]
  }
})

/** [s, u, v] → exp(s/τ − u − v), float32; s [n, K]. */
export const targetsForm = fusedForm<Three, number>({
  name: 'targets',
  operators: ['exp', 'sub'],
  trials: type => [[[wavesOf(type, [9, 16], 0.7311), waves([9], 0.3), waves([16], 0.5)], 0.2]],
  fused: ([s, u, v], temperature) => {
    const x = exponent(s, temperature, u, v)
    inPlace('exp_', x)
    return [x]
  },
  reference: ([s, u, v], temperature) => [op('exp', plainExponent(s, temperature, u, v))]
})

type ColumnLossTensors = readonly [
  s: Handle,
  lse: Handle,
  weights: Handle,
  targets: Handle,
  first: Handle | undefined,
  second: Handle | undefined
]

/**
 * [s, lse, weights, targets, first, second] of rows that are compared with the sum of one or two rows of targets, of
 * row i with row i where neither is there: Σₖ tₖ·s/τ of each row, and the gradient of the weighted losses by s [R, K].
 */
export const columnLossForm = fusedForm<ColumnLossTensors, number>({
  name: 'cross-entropy by columns',
  operators: ['index_select', 'exp', 'mul'],
  trials: type => {
    const rows = [wavesOf(type, [3, 16], 0.7311), waves([3], 0.3), waves([3], 0.5)] as const
    const two = [...rows, waves([5, 16], 0.9), rowNumbers(4, 0, 2), rowNumbers(1, 1, 3)] as const
    return [[two, 0.2], [[...rows, waves([3, 16], 0.9), undefined, undefined], 0.2]] // prettier-ignore
  },
  fused: ([s, lse, weights, targets, first, second], temperature) => {
    const pick = (row: Handle): Handle => op('index_select', targets, 0, row)
    const target = first ? (second ? op('add.Tensor', pick(first), pick(second)) : pick(first)) : targets
    const x = exponent(s, temperature)
    const dots = op('sum.dim_IntList', op('mul.Tensor', target, x), [1], false)
    inPlace('sub_.Tensor', x, op('unsqueeze', lse, 1))
    inPlace('exp_', x)
    if (second) inPlace('mul_.Scalar', x, 2)
    inPlace('sub_.Tensor', x, target)
    inPlace('mul_.Tensor', x, op('unsqueeze', op('div.Scalar', weights, temperature), 1))
    return [dots, x]
  },
  reference: ([s, lse, weights, targets, first, second], temperature) => {
    const picked = [first, second].flatMap(row => (row ? [op('index.Tensor', targets, [castTo(row, int64)])] : []))
    const target = picked.length > 0 ? picked.reduce((a, b) => op('add.Tensor', a, b, 1)) : targets // [R, K]
    const x = op('mul.Scalar', real(s), 1 / temperature)
    const softmax = op('exp', op('sub.Tensor', x, op('unsqueeze', lse, 1), 1))
    const slope = op('sub.Tensor', op('mul.Scalar', softmax, picked.length || 1), target, 1)
    const by = op('mul.Scalar', op('unsqueeze', weights, 1), 1 / temperature) // [R, 1]
    return [op('sum.dim_IntList', op('mul.Tensor', target, x), [1], false), op('mul.Tensor', slope, by)]
  }
})
