/**
 * Fused forms of maps and of KoLeo: bilinear resizing, cross-entropy of pixels, distances to nearest neighbours.
 * `fused-form.ts` says how they are held against their references.
 *
 * B maps of C channels, H × W before and Y × X after resizing; R rows of pixels with K classes.
 */
import {inPlace, op, ops, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {constantHandle} from './constants.js'
import {castTo} from './define.js'
import {exactLimits, fusedForm, rowNumbers, waves, wavesOf} from './fused-form.js'
import {indexAddForm, rowNormsForm} from './fused-forms.js'

const {float32, int64} = scalarType
const real = (x: Handle): Handle => castTo(x, float32)
type One = readonly [Handle]

/** 0, 1, 2 … on the device of `like`, float32. */
const numbersUpTo = (count: number, like: Handle): Handle =>
  op('sub.Scalar', op('cumsum', op('new_ones', like, [count], float32), 0, float32), 1, 1)

/** Shares of `before` pixels in each of `after`, [after, before]: hats of width 1 around where a pixel comes from. */
function shares(before: number, after: number, aligned: boolean, like: Handle): Handle {
  const at = numbersUpTo(after, like)
  const from = aligned
    ? op('mul.Scalar', at, after > 1 ? (before - 1) / (after - 1) : 0)
    : op('sub.Scalar', op('mul.Scalar', op('add.Scalar', at, 0.5, 1), before / after), 0.5, 1)
  const distance = op('sub.Tensor', op('unsqueeze', op('clamp', from, 0, before - 1), 1), numbersUpTo(before, like), 1)
  return op('relu', op('rsub.Scalar', op('abs', distance), 1))
}

export type ResizeShape = {readonly from: readonly [number, number]; readonly size: readonly [number, number]; readonly aligned: boolean}

const shapes: readonly ResizeShape[] = [
  {from: [3, 4], size: [7, 5], aligned: false},
  {from: [5, 4], size: [2, 9], aligned: true}
]

/** [x] → maps [B, C, H, W] at another size, [B, C, Y, X]. */
export const resizeForm = fusedForm<One, ResizeShape>({
  name: 'resizing of maps',
  operators: ['upsample_bilinear2d'],
  trials: type => shapes.map(shape => [[wavesOf(type, [2, 3, ...shape.from], 0.7311)], shape]),
  fused: ([x], {size, aligned}) => [op('upsample_bilinear2d', x, size, aligned, null, null)],
  reference: ([x], {from: [H, W], size: [Y, X], aligned}) => {
    const high = op('matmul', shares(H, Y, aligned, x), real(x)) // [B, C, Y, W]
    return [castTo(op('matmul', high, op('t', shares(W, X, aligned, x))), torch().type(x))]
  }
})

/** [dy] → gradient of resizing, [B, C, Y, X] → [B, C, H, W]. */
export const resizeGradForm = fusedForm<One, ResizeShape>({
  name: 'resizing of maps, gradient',
  operators: ['upsample_bilinear2d_backward'],
  trials: type => shapes.map(shape => [[wavesOf(type, [2, 3, ...shape.size], 0.7311)], shape]),
  fused: ([dy], {from, size, aligned}) => {
    const [B, C] = torch().shape(dy) as [number, number]
    return [op('upsample_bilinear2d_backward', dy, size, [B, C, ...from], aligned, null, null)]
  },
  reference: ([dy], {from: [H, W], size: [Y, X], aligned}) => {
    const high = op('matmul', op('t', shares(H, Y, aligned, dy)), real(dy)) // [B, C, H, X]
    return [castTo(op('matmul', high, shares(W, X, aligned, dy)), torch().type(dy))]
  }
})

/** [scores, labels] → cross-entropy of rows with class numbers, summed, and its gradient; no row of class `ignore`. */
export const pixelLossForm = fusedForm<readonly [scores: Handle, labels: Handle], number>({
  name: 'cross-entropy of pixels',
  operators: ['_log_softmax', 'nll_loss_forward', 'nll_loss_backward', '_log_softmax_backward_data'],
  limits: exactLimits,
  trials: type => [[[wavesOf(type, [5, 4], 0.7311), rowNumbers(3, 255, 0, 2, 3)], 255]],
  fused: ([scores, labels], ignore) => {
    const logs = op('_log_softmax', scores, 1, false)
    const target = castTo(labels, int64)
    const sumUp = 2 // reduction
    const [loss, weight] = ops('nll_loss_forward', logs, target, null, sumUp, ignore)
    const slope = op('nll_loss_backward', op('ones_like', loss!), logs, target, null, sumUp, ignore, weight!)
    return [loss!, op('_log_softmax_backward_data', slope, logs, 1, float32)]
  },
  reference: ([scores, labels], ignore) => {
    const row = castTo(op('unsqueeze', labels, 1), float32) // [R, 1]
    const counts = castTo(op('ne.Scalar', row, ignore), float32)
    const own = castTo(op('eq.Tensor', row, numbersUpTo(torch().shape(scores)[1]!, scores)), float32) // [R, K]
    const shifted = op('sub.Tensor', scores, op('amax', scores, [1], true), 1)
    const powers = op('exp', shifted)
    const total = op('sum.dim_IntList', powers, [1], true) // [R, 1]
    const picked = op('sum.dim_IntList', op('mul.Tensor', shifted, own), [1], true)
    const losses = op('mul.Tensor', op('sub.Tensor', op('log', total), picked, 1), counts)
    return [op('sum', losses), op('mul.Tensor', op('sub.Tensor', op('div.Tensor', powers, total), own, 1), counts)]
  }
})

/** [x] → the loss of `loss/koleo.ts` and its gradient; the option is its ε. */
export const koleoForm = fusedForm<One, number>({
  name: 'KoLeo',
  operators: ['addcmul'],
  limits: new Map([[float32, 2e-3]]), // distances of rows are differences of nearly equal numbers
  trials: () => [[[waves([6, 16], 0.7311)], 1e-8]],
  fused: ([x], eps) => {
    const B = torch().shape(x)[0]!
    const length = op('clamp_min', rowNormsForm.run(float32, [x], undefined)[0]!, eps)
    const u = op('div.Tensor', x, length)
    const diagonal = constantHandle(
      Float32Array.from({length: B * B}, (_, i) => (i % (B + 1) === 0 ? -3 : 0)),
      [B, B]
    )
    const near = op('argmax', op('addmm', diagonal, u, op('t', u), 1, 1), 1, false) // never a row itself: u·u ≤ 1
    const gap = op('sub.Tensor', u, op('index_select', u, 0, near), 1)
    inPlace('add_.Scalar', gap, eps, 1)
    const distance = rowNormsForm.run(float32, [gap], undefined)[0]!
    const kept = op('add.Scalar', distance, eps, 1)
    const loss = op('mul.Scalar', op('sum', op('log', kept)), -1 / B)
    const slope = op('div.Tensor', gap, op('mul.Scalar', op('mul.Tensor', distance, kept), -B)) // d loss / d gap
    const du = indexAddForm.run(float32, [slope, near, slope], -1)[0]!
    const along = op('sum.dim_IntList', op('mul.Tensor', du, u), [1], true)
    return [loss, op('div.Tensor', op('addcmul', du, u, along, -1), length)]
  },
  reference: ([x], eps) => {
    const B = torch().shape(x)[0]!
    const norms = (y: Handle): Handle => op('sqrt', op('sum.dim_IntList', op('square', y), [1], true))
    const length = op('clamp_min', norms(x), eps)
    const u = op('div.Tensor', x, length)
    const numbers = numbersUpTo(B, x)
    const itself = castTo(op('eq.Tensor', op('unsqueeze', numbers, 1), numbers), float32) // [B, B]
    const products = op('sub.Tensor', op('matmul', u, op('t', u)), op('mul.Scalar', itself, 3), 1)
    const nearest = op('unsqueeze', op('argmax', products, 1, false), 1)
    const picks = castTo(op('eq.Tensor', castTo(nearest, float32), numbers), float32) // [B, B], one a row
    const gap = op('add.Scalar', op('sub.Tensor', u, op('matmul', picks, u), 1), eps, 1)
    const distance = norms(gap)
    const kept = op('add.Scalar', distance, eps, 1)
    const slope = op('div.Tensor', gap, op('mul.Scalar', op('mul.Tensor', distance, kept), -B))
    const du = op('sub.Tensor', slope, op('matmul', op('t', picks), slope), 1)
    const along = op('sum.dim_IntList', op('mul.Tensor', du, u), [1], true)
    const across = op('sub.Tensor', du, op('mul.Tensor', u, along), 1)
    return [op('mul.Scalar', op('sum', op('log', kept)), -1 / B), op('div.Tensor', across, length)]
  }
})
