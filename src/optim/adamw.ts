/** AdamW (Loshchilov and Hutter 2019) over whole trees, clipping by norm, and the teacher's moving average. */
import {add, cast, dispose, div, fill, keep, mul, scalar, sqrt, square, sub, sum, tidy, where} from '../tensor/tf.js'
import type {Scalar, Tensor} from '../tensor/tf.js'
import {callInPlaceKernel} from '../tensor/ops/in-place.js'
import {callKernel} from '../tensor/ops/kernel.js'

/** Parameters by path. */
export type ParamMap = Map<string, Tensor>

export type AdamState = {readonly m: ParamMap; readonly v: ParamMap}

export type AdamOptions = {
  readonly betas: readonly [number, number]
  readonly eps: number
  /** Steps taken, this one included. */
  readonly step: number
  /** Learning rate and weight decay of each parameter; `step` where it has taken fewer steps than all else. */
  readonly rates: (name: string) => {lr: number; wd: number; step?: number}
  /** Numbers that have not been read: what gradients are divided by, and whether the step is left out. */
  readonly guard?: {readonly scale: (name: string) => Tensor; readonly skip: Scalar}
}

/**
 * One step: θ ← θ·(1 − lr·wd); m, v ← moving averages; θ ← θ − lr·m̂ / (√v̂ + eps).
 * Consumes `params` and the moments: afterwards the maps hold the new values. Gradients stay the caller's.
 */
export function adamw(params: ParamMap, grads: ParamMap, {m, v}: AdamState, options: AdamOptions): void {
  const {betas, eps, step: taken, rates, guard} = options
  const [b1, b2] = betas
  const groups = new Map<string, {lr: number; wd: number; step: number; scale: Tensor | undefined; names: string[]}>()
  for (const name of params.keys()) {
    if (!grads.has(name)) continue
    const {lr, wd, step = taken} = rates(name)
    const scale = guard?.scale(name)
    const key = `${lr}/${wd}/${step}/${scale?.id}`
    const group = groups.get(key)
    if (group) group.names.push(name)
    else groups.set(key, {lr, wd, step, scale, names: [name]})
  }
  const counts = new Map([...new Set([...groups.values()].map(({step}) => step))].map(step => [step, scalar(step)]))
  for (const {lr, wd, step, scale: by, names} of groups.values()) {
    const pick = (from: ParamMap): Tensor[] => names.map(name => from.get(name)!)
    const lists: Record<string, Tensor[]> = {params: pick(params), grads: pick(grads), m: pick(m), v: pick(v), steps: [counts.get(step)!]}
    if (guard && by) Object.assign(lists, {scale: [by], skip: [guard.skip]})
    if (callInPlaceKernel('Dinov2AdamW', lists, {lr, wd, b1, b2, eps})) continue
    for (const name of names) {
      const p = params.get(name)!
      const next = tidy(() => {
        const g = by ? div(grads.get(name)!, by) : grads.get(name)!
        const mean = add(mul(m.get(name)!, b1), mul(g, 1 - b1))
        const square2 = add(mul(v.get(name)!, b2), mul(square(g), 1 - b2))
        const scale = add(div(sqrt(square2), Math.sqrt(1 - b2 ** step)), eps)
        const value = sub(mul(p, 1 - lr * wd), mul(div(mean, scale), lr / (1 - b1 ** step)))
        return {
          value: unlessSkipped(value, p, guard?.skip),
          mean: unlessSkipped(mean, m.get(name)!, guard?.skip),
          square2: unlessSkipped(square2, v.get(name)!, guard?.skip)
        }
      })
      replace(params, name, next.value)
      replace(m, name, next.mean)
      replace(v, name, next.square2)
    }
  }
  dispose([...counts.values()])
}

/** Puts a new tensor at a name and lets the old one go. */
function replace(into: ParamMap, name: string, value: Tensor): void {
  dispose(into.get(name)!)
  into.set(name, keep(value))
}

/** `next`, or `before` where `skip` is 1; in a `tidy`. */
export const unlessSkipped = <T extends Tensor>(next: T, before: T, skip: Scalar | undefined): T =>
  skip ? where<T>(cast(skip, 'bool'), before, next) : next

/** The L2 norm of all gradients together, a tensor that nobody has waited for; 0 where there are none. */
export function gradientNorm(grads: Iterable<Tensor>): Scalar {
  const all = [...grads]
  if (all.length === 0) return fill([], 0) as Scalar
  const found = callKernel('Dinov2Norm', {}, {tensors: all})?.[0]
  return (found ?? tidy(() => sqrt(all.map(g => sum(square(g))).reduce((a, b) => add(a, b))))) as Scalar
}

/** `gradientNorm` as a number. */
export const globalNorm = (grads: Iterable<Tensor>): number => tidy(() => gradientNorm(grads).dataSync()[0]!)

/** By what gradients of this norm are multiplied so that it is at most `most`: PyTorch's rule, never above one. */
export const clipFactor = (length: number, most: number): number => {
  const factor = most / (length + 1e-6)
  return factor < 1 ? factor : 1
}

/** Multiplies all tensors of a map, which are consumed. */
export function scaleAll(grads: ParamMap, factor: number): void {
  if (factor === 1 || grads.size === 0) return
  if (callInPlaceKernel('Dinov2Scale', {tensors: [...grads.values()]}, {factor})) return
  for (const [name, g] of grads)
    replace(
      grads,
      name,
      tidy(() => mul(g, factor))
    )
}

/** Scales the gradients so that their norm is at most `maxNorm`; consumes the tensors. Returns the norm before. */
export function clipGradients(grads: ParamMap, maxNorm: number): number {
  const length = globalNorm(grads.values())
  scaleAll(grads, clipFactor(length, maxNorm))
  return length
}

/**
 * The teacher's average: θₜ ← m·θₜ + (1 − m)·θₛ over every parameter (docs/spec.md §2.7). Consumes the teacher's
 * tensors. Where `skip` is 1 nothing changes.
 */
export function ema(teacher: ParamMap, student: ParamMap, momentum: number, skip?: Scalar): void {
  const names = [...teacher.keys()]
  const pick = (from: ParamMap): Tensor[] => names.map(name => from.get(name)!)
  const lists = {teacher: pick(teacher), student: pick(student), ...(skip ? {skip: [skip]} : {})}
  if (callInPlaceKernel('Dinov2Ema', lists, {momentum})) return
  for (const name of names)
    replace(
      teacher,
      name,
      tidy(() => unlessSkipped(add(mul(teacher.get(name)!, momentum), mul(student.get(name)!, 1 - momentum)), teacher.get(name)!, skip))
    )
}
