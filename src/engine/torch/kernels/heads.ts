/**
 * Kernels of the heads and their losses, whose rows are K prototypes wide and are taken by pieces of columns:
 * cross-entropy, Sinkhorn–Knopp, weight normalization (see `loss/cross-entropy.ts`, `loss/targets.ts`,
 * `model/head.ts`). On a CPU the addon's own loops go once over memory where operators go five times.
 */
import type {Tensor} from '../../../tensor/tf.js'
import {inPlace, op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {define, defineMany, handleOf, castTo, typeOfPrecision} from './define.js'
import {hasNativeKernel} from './device.js'
import {columnLossForm, logSumOfRowsForm, rowNormsForm, sinkhornForm, targetsForm} from './fused-forms.js'
import {koleoForm} from './map-forms.js'

const {float32} = scalarType
const typeOf = (x: Handle): number => torch().type(x)

const sliceRows = (x: Handle, start: number, count: number): Handle => op('slice.Tensor', x, 0, start, start + count, 1)

define('Dinov2LogSumOfRows', ({s, v}, {temperature}) => {
  const logits = v ? handleOf(v) : undefined
  const found = hasNativeKernel('loss')
    ? op('dinov2::log_sum_of_rows', op('contiguous', handleOf(s!)), logits ?? null, temperature as number)
    : logSumOfRowsForm.run(typeOf(handleOf(s!)), [handleOf(s!), logits], temperature as number)[0]!
  return [found, 'float32']
})

defineMany('Dinov2SinkhornTurn', ({s, u, v}, {temperature, prototypes}) => {
  const [tau, K] = [temperature as number, prototypes as number]
  if (hasNativeKernel('loss'))
    return ops('dinov2::sinkhorn_turn', op('contiguous', handleOf(s!)), handleOf(u!), v ? handleOf(v) : null, K, tau).map(
      x => [x, 'float32'] as const
    )
  const before = v ? handleOf(v) : op('div.Scalar', castTo(op('amax', handleOf(s!), [0], false), float32), tau)
  const options = {temperature: tau, prototypes: K, rows: s!.shape[0]!}
  return sinkhornForm.run(typeOf(handleOf(s!)), [handleOf(s!), handleOf(u!), before], options).map(x => [x, 'float32'] as const)
})

/** exp(s/τ − u − v), float32. */
const targets = (s: Handle, u: Handle, v: Handle, temperature: number): Handle => targetsForm.run(typeOf(s), [s, u, v], temperature)[0]!
define('Dinov2Targets', ({s, u, v}, {temperature}) => [targets(handleOf(s!), handleOf(u!), handleOf(v!), temperature as number), 'float32'])

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
  const scores = op('contiguous', handleOf(s!))
  const gradient = op('empty_like', scores, null, null, null, null, null)
  const dots: Handle[] = []
  let at = 0
  for (const {rows, s: t, u, v, temperature: tau, teachers} of segments) {
    const [logits, gradientRows] = [sliceRows(scores, at, rows), sliceRows(gradient, at, rows)]
    const [total, weight] = [sliceRows(handleOf(lse!), at, rows), sliceRows(handleOf(weights!), at, rows)]
    at += rows
    const [first, second] = (teachers ?? []).map(handleOf)
    if (hasNativeKernel('loss')) {
      const picks = [first ?? null, second ?? null] as const
      dots.push(
        op(
          'dinov2::column_loss',
          gradientRows,
          logits,
          total,
          weight,
          op('contiguous', handleOf(t)),
          handleOf(u),
          handleOf(v),
          ...picks,
          temperature,
          tau
        )
      )
      continue
    }
    const all = targets(handleOf(t), handleOf(u), handleOf(v), tau)
    const [dot, slope] = columnLossForm.run(typeOf(logits), [logits, total, weight, all, first, second], temperature)
    dots.push(dot!)
    inPlace('copy_', gradientRows, slope!, false)
  }
  return [[dots.length === 1 ? dots[0]! : op('cat', dots, 0), 'float32'], gradient]
})

const lengths = (v: Handle): Handle => rowNormsForm.run(typeOf(v), [v], undefined)[0]!

define('Dinov2Prototypes', ({v, g}, {precision}) => {
  if (hasNativeKernel('loss')) return op('dinov2::weight_norm', handleOf(v!), handleOf(g!), precision === 'bf16')
  return castTo(op('mul.Tensor', handleOf(v!), op('div.Tensor', handleOf(g!), lengths(handleOf(v!)))), typeOfPrecision(precision))
})

defineMany('Dinov2PrototypesGrad', ({dw, v, g}) => {
  if (hasNativeKernel('loss')) return ops('dinov2::weight_norm_grad', op('contiguous', handleOf(dw!)), handleOf(v!), handleOf(g!))
  const length = lengths(handleOf(v!))
  const direction = op('div.Tensor', handleOf(v!), length)
  const dots = op('sum.dim_IntList', op('mul.Tensor', handleOf(dw!), direction), [1], true)
  const across = op('sub.Tensor', handleOf(dw!), op('mul.Tensor', direction, dots))
  return [dots, op('mul.Tensor', op('div.Tensor', handleOf(g!), length), across)]
})

/** ‖x‖ of each row, [R, 1]. */
define('Dinov2RowNorms', ({x}) => lengths(handleOf(x!)))

/** The loss of `loss/koleo.ts` and its gradient. */
defineMany('Dinov2Koleo', ({x}, {eps}) => {
  const [loss, gradient] = koleoForm.run(float32, [handleOf(x!)], eps as number)
  return [[loss!, 'float32'], gradient!]
})
