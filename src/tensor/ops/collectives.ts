/**
 * Sums and gathers over the processes that train together.
 *
 * A `Processes` of size 1 is the one-process form: every function then gives its input back, and no engine needs a
 * kernel. With more, the engine's kernels talk to the other processes, so that all processes must call the same
 * functions in the same order with tensors of the same shapes.
 */
import {concat, engine, keep, slice, tidy} from '../tf.js'
import type {NamedAttrMap, Tensor, Tensor2D} from '../tf.js'
import {callInPlaceKernel} from './in-place.js'
import {callKernel} from './kernel.js'

/** Which of how many processes this is. */
export type Processes = {readonly rank: number; readonly size: number}

export const oneProcess: Processes = {rank: 0, size: 1}

/** The result of a kernel that several processes need. */
function needed<T>(found: T | undefined, name: string): T {
  if (found === undefined) throw new Error(`the running engine has no kernel ${name}, or no process group is open`)
  return found
}

/** The sum over all processes, by element. The caller owns the result. */
export const sumOverProcesses = <T extends Tensor>(x: T, {size}: Processes): T =>
  size === 1 ? x.clone() : (needed(callKernel('Dinov2AllReduce', {x}), 'Dinov2AllReduce')[0] as T)

/** The largest over all processes, by element. The caller owns the result. */
export const maxOverProcesses = <T extends Tensor>(x: T, {size}: Processes): T =>
  size === 1 ? x.clone() : (needed(callKernel('Dinov2AllReduce', {x}, {largest: true}), 'Dinov2AllReduce')[0] as T)

/** Adds up each tensor of a list over all processes, in place: nobody else may hold them. */
export function sumAllOverProcesses(tensors: readonly Tensor[], {size}: Processes): void {
  if (size > 1 && tensors.length > 0) needed(callInPlaceKernel('Dinov2AllReduceAll', {tensors}) || undefined, 'Dinov2AllReduceAll')
}

/** x [b, …] of all processes, one below the other in order of their ranks: [n·b, …]. The caller owns the result. */
const gatherOverProcesses = <T extends Tensor>(x: T, {size}: Processes): T =>
  size === 1 ? x.clone() : (needed(callKernel('Dinov2AllGather', {x}), 'Dinov2AllGather')[0] as T)

/** Numbers of the host, of each process its own: all of them by rank. No device is asked. */
export function gatherNumbers(own: readonly number[], {size}: Processes): readonly (readonly number[])[] {
  if (size === 1) return [own]
  const answer: {all?: readonly number[]} = {}
  engine().runKernel('Dinov2GatherNumbers', {}, {own, answer} as unknown as NamedAttrMap)
  const all = needed(answer.all, 'Dinov2GatherNumbers')
  return Array.from({length: size}, (_, rank) => all.slice(rank * own.length, (rank + 1) * own.length))
}

/** How an engine's kernel names a collective that it has begun. */
export type Begun = {number: number}

/** A collective under way, beside which this process may compute. */
export type Pending<T extends Tensor> = {
  /** The result, when it is there. The caller owns it; call it once. */
  readonly wait: () => T
}

/** Begins a collective; `x` may be disposed at once. No `tidy` lets go of the result, which others may still write. */
function begin<T extends Tensor>(kernel: string, x: T, {size}: Processes): Pending<T> {
  if (size === 1) {
    const own = keep(x.clone())
    return {wait: () => own}
  }
  const begun: Begun = {number: 0}
  const out = keep(needed(callKernel(kernel, {x}, {begun}), kernel)[0] as T)
  return {
    wait: () => {
      engine().runKernel('Dinov2Wait', {}, {number: begun.number})
      return out
    }
  }
}

/** Begins `gatherOverProcesses`. */
export const beginGather = <T extends Tensor>(x: T, processes: Processes): Pending<T> => begin('Dinov2BeginAllGather', x, processes)

/**
 * Begins to send row r of x [n, …] to process r; the result [n, …] is what all have sent to this one, in order of
 * their ranks. The sum of its rows is what a reduce-scatter gives, in a type and order that the caller chooses.
 */
export const beginExchangeOfRows = <T extends Tensor>(x: T, processes: Processes): Pending<T> => begin('Dinov2BeginAllToAll', x, processes)

/** Rows of two crops [2b, C], crop-major, of all processes as those of one batch: [2·n·b, C], crop-major. */
export function gatherCrops(x: Tensor2D, processes: Processes): Tensor2D {
  if (processes.size === 1) return x.clone()
  const [rows, width] = x.shape
  return tidy(() => {
    const all = gatherOverProcesses(x, processes) //  [n·2b, C]
    const crop = (c: number): Tensor2D[] =>
      Array.from({length: processes.size}, (_, r) => slice(all, [r * rows + (c * rows) / 2, 0], [rows / 2, width]))
    return concat([...crop(0), ...crop(1)])
  })
}
