/**
 * Kernels of the heads and their losses, whose rows are K prototypes wide and are taken by pieces of columns:
 * cross-entropy, Sinkhorn–Knopp, weight normalisation (see `loss/cross-entropy.ts`, `loss/targets.ts`,
 * `model/head.ts`). On a CPU the addon's own loops go once over memory where operators go five times.
 */
import type {Tensor} from '../../../tensor/tf.js'
import {inPlace, op, ops, scalarType} from '../binding.js'
import type {Handle} from '../binding.js'
import {define, defineMany, h, to} from './define.js'
import {hasOwn} from './device.js'

const {bfloat16, float32} = scalarType

const rowsOf = (x: Handle, start: number, count: number): Handle => op('slice.Tensor', x, 0, start, start + count, 1)

/** A float32 copy of s/τ − v − u, which may be changed. */
function exponent(s: Handle, temperature: number, u?: Handle, v?: Handle): Handle {
  const x = op('div.Scalar', to(s, float32), temperature)
  if (v) inPlace('sub_.Tensor', x, v)
  if (u) inPlace('sub_.Tensor', x, op('unsqueeze', u, 1))
  return x
}

define('Dinov2LogSumOfRows', ({s, v}, {temperature}) => {
  const own = v ? h(v) : undefined
  const found = hasOwn('loss')
    ? op('dinov2::log_sum_of_rows', op('contiguous', h(s!)), own ?? null, temperature as number)
    : op('logsumexp', exponent(h(s!), temperature as number, undefined, own), [1], false)
  return [found, 'float32']
})

defineMany('Dinov2SinkhornTurn', ({s, u, v}, {temperature, prototypes}) => {
  const [tau, K] = [temperature as number, prototypes as number]
  if (hasOwn('loss'))
    return ops('dinov2::sinkhorn_turn', op('contiguous', h(s!)), h(u!), v ? h(v) : null, K, tau).map(x => [x, 'float32'] as const)
  const before = v ? h(v) : op('div.Scalar', to(op('amax', h(s!), [0], false), float32), tau)
  const p = exponent(h(s!), tau, h(u!), before)
  inPlace('exp_', p)
  const totals = op('sum.dim_IntList', p, [0], false)
  inPlace('clamp_min_', totals, 1e-37)
  inPlace('mul_.Scalar', totals, K / s!.shape[0]!)
  return [
    [op('add.Tensor', before, op('log', totals)), 'float32'],
    [op('mv', p, op('reciprocal', totals)), 'float32']
  ]
})

/** exp(s/τ − u − v), float32. */
function targets(s: Handle, u: Handle, v: Handle, temperature: number): Handle {
  const x = exponent(s, temperature, u, v)
  inPlace('exp_', x)
  return x
}
define('Dinov2Targets', ({s, u, v}, {temperature}) => [targets(h(s!), h(u!), h(v!), temperature as number), 'float32'])

type Segments = readonly {
  readonly rows: number
  readonly s: Tensor
  readonly u: Tensor
  readonly v: Tensor
  readonly temperature: number
  readonly teachers?: readonly Tensor[]
}[]

defineMany('Dinov2ColumnLoss', ({s, lse, weights}, attrs) => {
  const {segments, temperature} = attrs as unknown as {segments: Segments; temperature: number}
  const scores = op('contiguous', h(s!))
  const gradient = op('empty_like', scores, null, null, null, null, null)
  const along: Handle[] = []
  let at = 0
  for (const {rows, s: t, u, v, temperature: tau, teachers} of segments) {
    const [own, to_] = [rowsOf(scores, at, rows), rowsOf(gradient, at, rows)]
    const [total, weight] = [rowsOf(h(lse!), at, rows), rowsOf(h(weights!), at, rows)]
    at += rows
    const [first, second] = (teachers ?? []).map(h)
    if (hasOwn('loss')) {
      const picks = [first ?? null, second ?? null] as const
      along.push(op('dinov2::column_loss', to_, own, total, weight, op('contiguous', h(t)), h(u), h(v), ...picks, temperature, tau))
      continue
    }
    const all = targets(h(t), h(u), h(v), tau)
    const pick = (row: Handle): Handle => op('index_select', all, 0, row)
    const target = second ? op('add.Tensor', pick(first!), pick(second)) : first ? pick(first) : all
    const x = exponent(own, temperature)
    along.push(op('sum.dim_IntList', op('mul.Tensor', target, x), [1], false))
    inPlace('sub_.Tensor', x, op('unsqueeze', total, 1))
    inPlace('exp_', x)
    if (second) inPlace('mul_.Scalar', x, 2)
    inPlace('sub_.Tensor', x, target)
    inPlace('mul_.Tensor', x, op('unsqueeze', op('div.Scalar', weight, temperature), 1))
    inPlace('copy_', to_, x, false)
  }
  return [[along.length === 1 ? along[0]! : op('cat', along, 0), 'float32'], gradient]
})

const lengths = (v: Handle): Handle => op('linalg_vector_norm', v, 2, [1], true)

define('Dinov2Prototypes', ({v, g}, {precision}) => {
  const low = precision === 'bf16'
  if (hasOwn('loss')) return op('dinov2::weight_norm', h(v!), h(g!), low)
  return to(op('mul.Tensor', h(v!), op('div.Tensor', h(g!), lengths(h(v!)))), low ? bfloat16 : float32)
})

defineMany('Dinov2PrototypesGrad', ({dw, v, g}) => {
  if (hasOwn('loss')) return ops('dinov2::weight_norm_grad', op('contiguous', h(dw!)), h(v!), h(g!))
  const length = lengths(h(v!))
  const direction = op('div.Tensor', h(v!), length)
  const along = op('sum.dim_IntList', op('mul.Tensor', h(dw!), direction), [1], true)
  const across = op('sub.Tensor', h(dw!), op('mul.Tensor', direction, along))
  return [along, op('mul.Tensor', op('div.Tensor', h(g!), length), across)]
})
