/**
 * Kernels of the heads and their losses, whose rows are K prototypes wide: cross-entropy over prototypes in pieces, Sinkhorn–Knopp, weight normalisation
 * (see `loss/cross-entropy.ts`, `loss/sinkhorn.ts`, `model/head.ts`). On a CPU the addon's own loops go once over memory where operators go five times.
 */
import type {Tensor} from '../../../tensor/tf.js'
import {inPlace, op, ops, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {define, defineMany, h, to} from './define.js'
import {hasOwn} from './device.js'
import {linear} from './fused.js'

const {bfloat16, float32} = scalarType
const typeOf = (x: Handle): number => torch().type(x)

const rowsOf = (x: Handle, start: number, count: number): Handle => op('slice.Tensor', x, 0, start, start + count, 1)

/** One share's losses; `scores` [rows, K] become, or are replaced by, the gradient. */
function crossEntropy(
  scores: Handle,
  targets: Handle,
  first: Handle,
  second: Handle | null,
  weights: Handle,
  temperature: number
): {losses: Handle; gradient: Handle} {
  if (hasOwn('loss')) {
    const losses = op('dinov2::cross_entropy_', scores, targets, first, second, weights, temperature)
    return {losses, gradient: scores}
  }
  const pick = (rows: Handle): Handle => to(op('index_select', targets, 0, rows), float32)
  const target = second ? op('add.Tensor', pick(first), pick(second)) : pick(first)
  const s = op('div.Scalar', to(scores, float32), temperature)
  const lse = op('logsumexp', s, [1], true)
  const mass = op('sum.dim_IntList', target, [1], true)
  const own = op('sub.Tensor', op('mul.Tensor', mass, lse), op('sum.dim_IntList', op('mul.Tensor', target, s), [1], true))
  const gradient = op('sub.Tensor', s, lse)
  inPlace('exp_', gradient)
  inPlace('mul_.Tensor', gradient, mass)
  inPlace('sub_.Tensor', gradient, target)
  inPlace('mul_.Tensor', gradient, op('div.Scalar', op('unsqueeze', weights, 1), temperature))
  return {losses: op('mul.Tensor', op('squeeze.dim', own, 1), weights), gradient: to(gradient, typeOf(scores))}
}

type Shares = readonly {
  readonly rows: number
  readonly targets: Tensor
  readonly first: Tensor
  readonly second?: Tensor
  readonly weights: Tensor
}[]

defineMany('Dinov2PrototypeLoss', ({z, w}, attrs) => {
  const {shares, temperature, chunk} = attrs as unknown as {shares: Shares; temperature: number; chunk: number}
  const R = z!.shape[0]!
  const weight = h(w!)
  const unit = to(h(z!), typeOf(weight))
  const losses: Handle[] = []
  const dz: Handle[] = []
  let dw: Handle | undefined
  for (let start = 0; start < R; start += chunk) {
    const count = Math.min(chunk, R - start)
    // What a piece needs is let go before the next one.
    const [more, own, ...each] = scoped(() => {
      const part = rowsOf(unit, start, count)
      const scores = linear(part, weight, null, false) //                                  [count, K]
      const found: Handle[] = []
      const gradients: Handle[] = []
      let at = 0 // where a share begins
      for (const share of shares) {
        const from = Math.max(at, start)
        const length = Math.min(at + share.rows, start + count) - from
        at += share.rows
        if (length <= 0) continue
        const piece = (x: Tensor): Handle => rowsOf(h(x), from - at + share.rows, length)
        const {losses: some, gradient} = crossEntropy(
          rowsOf(scores, from - start, length),
          h(share.targets),
          piece(share.first),
          share.second ? piece(share.second) : null,
          piece(share.weights),
          temperature
        )
        found.push(some)
        gradients.push(gradient)
      }
      const gradient = hasOwn('loss') ? scores : op('cat', gradients, 0)
      return [op('mm', op('t', gradient), part), op('mm', gradient, weight), ...found]
    })
    if (dw === undefined) dw = to(more!, float32)
    else inPlace('add_.Tensor', dw, more!)
    dz.push(to(own!, float32))
    losses.push(...each)
  }
  const joined = (parts: Handle[]): Handle => (parts.length === 1 ? parts[0]! : op('cat', parts, 0))
  return [joined(losses), joined(dz), dw!]
})

define('Dinov2Sinkhorn', ({scores}, {temperature, iterations}) => {
  const [n, K] = scores!.shape as [number, number]
  if (hasOwn('loss')) return op('dinov2::sinkhorn', op('contiguous', h(scores!)), temperature as number, iterations as number)
  const s = to(h(scores!), float32)
  const q = op('sub.Tensor', s, op('amax', s, [0], true))
  inPlace('div_.Scalar', q, temperature as number)
  inPlace('exp_', q)
  inPlace('div_.Tensor', q, op('sum', q))
  for (let i = 0; i < (iterations as number); i++) {
    inPlace('div_.Tensor', q, op('mul.Scalar', op('sum.dim_IntList', q, [0], true), K))
    inPlace('div_.Tensor', q, op('mul.Scalar', op('sum.dim_IntList', q, [1], true), n))
  }
  inPlace('mul_.Scalar', q, n)
  return to(q, typeOf(h(scores!)))
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
