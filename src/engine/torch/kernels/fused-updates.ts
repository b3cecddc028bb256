/**
 * Fused forms over whole lists of tensors, float32: AdamW, the teacher's average, norms, clipping, sums of gradients,
 * and the question whether all numbers are finite. `fused-form.ts` says how they are held against their references.
 *
 * All but the norm change tensors in place, and give those that they have changed; their references give them anew.
 */
import {op, ops, run} from '../binding.js'
import type {Handle} from '../binding.js'
import {exactLimits, fusedForm, waves} from './fused-form.js'

type List = readonly Handle[]

/** Tensors of odd sizes that may be changed. */
const some = (step: number): List => [[5, 7], [33], [2, 3, 4]].map((shape, i) => op('clone', waves(shape, step + 0.1 * i), null))
const single = (value: number): Handle => op('reshape', op('mul.Scalar', op('ones_like', waves([1], 1)), value), [])

/** `next`, or `before` where `skip` is 1. */
const unlessSkipped = (next: Handle, before: Handle, skip: Handle | undefined): Handle =>
  skip ? op('where.self', op('gt.Scalar', skip, 0.5), before, next) : next

export type AdamWOptions = {readonly lr: number; readonly wd: number; readonly b1: number; readonly b2: number; readonly eps: number}
type AdamWTensors = readonly [params: List, grads: List, m: List, v: List, steps: Handle, scale?: Handle, skip?: Handle]

/**
 * One step of AdamW (`optim/adamw.ts`). `scale` divides the gradients, and where `skip` is 1 nothing changes: numbers
 * of the device that the host has not read.
 */
export const adamWForm = fusedForm<AdamWTensors, AdamWOptions>({
  name: 'fused AdamW',
  operators: ['_fused_adamw_'],
  limits: exactLimits,
  trials: () =>
    [0, 1].map(skip => [
      [some(0.7), some(1.1), some(0.3), some(1.9).map(x => op('square', x)), single(3), single(2), single(skip)],
      {lr: 0.01, wd: 0.1, b1: 0.9, b2: 0.999, eps: 1e-8}
    ]),
  fused: ([params, grads, m, v, steps, scale, skip], {lr, wd, b1, b2, eps}) => {
    const counts = params.map(() => steps)
    run('_fused_adamw_', params, grads, m, v, [], counts, lr, b1, b2, wd, eps, false, false, scale ?? null, skip ?? null)
    return [...params, ...m, ...v]
  },
  reference: ([params, grads, m, v, steps, scale, skip], {lr, wd, b1, b2, eps}) => {
    const oneLess = (b: number): Handle => op('rsub.Scalar', op('exp', op('mul.Scalar', steps, Math.log(b))), 1) // 1 − bⁿ
    const moved = params.map((p, i) => {
      const g = scale ? op('div.Tensor', grads[i]!, scale) : grads[i]!
      const mean = op('add.Tensor', op('mul.Scalar', m[i]!, b1), op('mul.Scalar', g, 1 - b1), 1)
      const square = op('add.Tensor', op('mul.Scalar', v[i]!, b2), op('mul.Scalar', op('square', g), 1 - b2), 1)
      const root = op('add.Scalar', op('sqrt', op('div.Tensor', square, oneLess(b2))), eps, 1)
      const slope = op('div.Tensor', op('div.Tensor', mean, oneLess(b1)), root)
      return [op('sub.Tensor', op('mul.Scalar', p, 1 - lr * wd), slope, lr), mean, square] as const
    })
    return [params, m, v].flatMap((before, k) => moved.map((all, i) => unlessSkipped(all[k]!, before[i]!, skip)))
  }
})

/** m·θₜ + (1 − m)·θₛ, the average of a teacher; the option is m. */
const average = (teacher: List, student: List, momentum: number): List =>
  teacher.map((t, i) => op('add.Tensor', op('mul.Scalar', t, momentum), student[i]!, 1 - momentum))

export const averageForm = fusedForm<readonly [teacher: List, student: List], number>({
  name: 'average of lists',
  operators: ['_foreach_mul_', '_foreach_add_'],
  limits: exactLimits,
  trials: () => [[[some(0.7), some(1.3)], 0.75]],
  fused: ([teacher, student], momentum) => {
    run('_foreach_mul_.Scalar', teacher, momentum)
    run('_foreach_add_.List', teacher, student, 1 - momentum)
    return teacher
  },
  reference: ([teacher, student], momentum) => average(teacher, student, momentum)
})

/**
 * The same where the host has not read whether the step counts: a step of SGD that the device leaves out by itself,
 * down the slope θₜ − θₛ, of which the decay gives the first half and the negated gradient the other.
 */
export const skippableAverageForm = fusedForm<readonly [teacher: List, student: List, skip: Handle], number>({
  name: 'fused average',
  operators: ['_fused_sgd_'],
  limits: exactLimits,
  trials: () => [0, 1].map(skip => [[some(0.7), some(1.3), single(skip)], 0.75]),
  fused: ([teacher, student, skip], momentum) => {
    run('_fused_sgd_', teacher, student, [], 1, 0, 1 - momentum, 0, false, true, false, null, skip)
    return teacher
  },
  reference: ([teacher, student, skip], momentum) =>
    average(teacher, student, momentum).map((next, i) => unlessSkipped(next, teacher[i]!, skip))
})

/** ‖all tensors together‖. */
export const normForm = fusedForm<readonly [tensors: List]>({
  name: 'norm of lists',
  operators: ['_foreach_norm'],
  trials: () => [[[some(0.7)], undefined]],
  fused: ([tensors]) => [op('linalg_vector_norm', op('stack', ops('_foreach_norm.Scalar', tensors, 2), 0), 2)],
  reference: ([tensors]) => {
    const squares = tensors.map(x => op('sum', op('square', x)))
    return [op('sqrt', op('sum', op('stack', squares, 0)))]
  }
})

/** Every tensor times a number, as clipping takes them. */
export const scaleForm = fusedForm<readonly [tensors: List], number>({
  name: 'scaling of lists',
  operators: ['_foreach_mul_'],
  limits: exactLimits,
  trials: () => [[[some(0.7)], 0.3]],
  fused: ([tensors], factor) => {
    run('_foreach_mul_.Scalar', tensors, factor)
    return tensors
  },
  reference: ([tensors], factor) => tensors.map(x => op('mul.Scalar', x, factor))
})

/** The second list added to the first. */
export const sumForm = fusedForm<readonly [into: List, more: List]>({
  name: 'sums of lists',
  operators: ['_foreach_add_'],
  limits: exactLimits,
  trials: () => [[[some(0.7), some(1.3)], undefined]],
  fused: ([into, more]) => {
    run('_foreach_add_.List', into, more, 1)
    return into
  },
  reference: ([into, more]) => into.map((x, i) => op('add.Tensor', x, more[i]!, 1))
})

/** Sets `mark` to 1 where one of the values is not finite; it stays 1 afterwards. */
export const finiteForm = fusedForm<readonly [values: List, mark: Handle, one: Handle]>({
  name: 'check for finite numbers',
  operators: ['_amp_foreach_non_finite_check_and_unscale_'],
  limits: exactLimits,
  trials: () => {
    const bad = (value: number): List => [...some(0.7), op('mul.Scalar', single(1), value)]
    // What is found lies beside a 1, for a difference is measured against the largest entry.
    return [[bad(1), 0] as const, [bad(NaN), 0] as const, [bad(Infinity), 0] as const, [some(0.7), 1] as const].map(
      ([values, mark]) => [[values, single(mark), single(1)], undefined] as const
    )
  },
  fused: ([values, mark, one]) => {
    run('_amp_foreach_non_finite_check_and_unscale_', values, mark, one)
    return [op('stack', [mark, one], 0)]
  },
  reference: ([values, mark, one]) => {
    const each = values.map(x => op('sum', op('mul.Scalar', x, 0))) // NaN where one number is not finite
    const total = op('sum', op('stack', each, 0))
    const found = op('maximum', mark, op('to.dtype', op('isnan', total), 6, false, false))
    return [op('stack', [found, one], 0)]
  }
})
