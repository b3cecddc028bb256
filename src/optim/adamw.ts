/** AdamW (Loshchilov and Hutter 2019) over whole trees, clipping by norm, and the teacher's moving average. */
import {add, dispose, div, keep, mul, sqrt, square, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor} from '../tensor/tf.js'
import {callInPlaceKernel} from '../tensor/ops/in-place.js'

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
}

/**
 * One step: θ ← θ·(1 − lr·wd); m, v ← moving averages; θ ← θ − lr·m̂ / (√v̂ + eps).
 * Consumes `params` and the moments: afterwards the maps hold the new values. Gradients stay the caller's.
 */
export function adamw(params: ParamMap, grads: ParamMap, {m, v}: AdamState, {betas: [b1, b2], eps, step: taken, rates}: AdamOptions): void {
  const groups = new Map<string, {lr: number; wd: number; step: number; names: string[]}>()
  for (const name of params.keys()) {
    if (!grads.has(name)) continue
    const {lr, wd, step = taken} = rates(name)
    const key = `${lr}/${wd}/${step}`
    const group = groups.get(key)
    if (group) group.names.push(name)
    else groups.set(key, {lr, wd, step, names: [name]})
  }
  for (const {lr, wd, step, names} of groups.values()) {
    const pick = (from: ParamMap): Tensor[] => names.map(name => from.get(name)!)
    if (callInPlaceKernel('Dinov2AdamW', {params: pick(params), grads: pick(grads), m: pick(m), v: pick(v)}, {lr, wd, b1, b2, eps, step}))
      continue
    for (const name of names) {
      const [p, g] = [params.get(name)!, grads.get(name)!]
      const next = tidy(() => {
        const mean = add(mul(m.get(name)!, b1), mul(g, 1 - b1))
        const square2 = add(mul(v.get(name)!, b2), mul(square(g), 1 - b2))
        const scale = add(div(sqrt(square2), Math.sqrt(1 - b2 ** step)), eps)
        const value = sub(mul(p, 1 - lr * wd), mul(div(mean, scale), lr / (1 - b1 ** step)))
        return {value, mean, square2}
      })
      replace(params, name, next.value)
      replace(m, name, next.mean)
      replace(v, name, next.square2)
    }
  }
}

/** Puts a new tensor at a name and lets the old one go. */
function replace(into: ParamMap, name: string, value: Tensor): void {
  dispose(into.get(name)!)
  into.set(name, keep(value))
}

/** The L2 norm of all gradients together, as a number; 0 where there are none. */
export function globalNorm(grads: Iterable<Tensor>): number {
  const all = [...grads]
  if (all.length === 0) return 0
  const found = callInPlaceKernel('Dinov2GlobalNorm', {grads: all})
  if (typeof found === 'number') return found
  return tidy(() => {
    const total = all.map(g => sum(square(g))).reduce((a, b) => add(a, b))
    return Math.sqrt(total.dataSync()[0]!)
  })
}

/**
 * Scales the gradients so that their norm is at most `most` (PyTorch's rule: most / (norm + 1e-6), never above one).
 * Consumes the tensors of the map. Returns the norm before. `whole` makes of the norm of these gradients that of all,
 * where others hold the rest.
 */
export function clipGradients(grads: ParamMap, maxNorm: number, whole: (own: number) => number = own => own): number {
  const length = whole(globalNorm(grads.values()))
  const factor = maxNorm / (length + 1e-6)
  if (!(factor < 1)) return length
  if (callInPlaceKernel('Dinov2Scale', {tensors: [...grads.values()]}, {factor}) === undefined)
    for (const [name, g] of grads)
      replace(
        grads,
        name,
        tidy(() => mul(g, factor))
      )
  return length
}

/**
 * The teacher's average: θₜ ← m·θₜ + (1 − m)·θₛ over every parameter (docs/spec.md §2.7). Consumes the teacher's
 * tensors.
 */
export function ema(teacher: ParamMap, student: ParamMap, momentum: number): void {
  const names = [...teacher.keys()]
  const pick = (from: ParamMap): Tensor[] => names.map(name => from.get(name)!)
  if (callInPlaceKernel('Dinov2Ema', {teacher: pick(teacher), student: pick(student)}, {momentum}) !== undefined) return
  for (const name of names)
    replace(
      teacher,
      name,
      tidy(() => add(mul(teacher.get(name)!, momentum), mul(student.get(name)!, 1 - momentum)))
    )
}
