/**
 * Teacher targets whose rows lie in several processes: totals of prototypes, and means of scores, are those of all
 * rows together (docs/spec.md §2.3). The numbers are those of `targets.ts` over all rows, but for the order of sums.
 *
 * n rows of this process, of `rows` in all; K prototypes. A process without rows takes part all the same.
 */
import {maxOverProcesses, sumOverProcesses} from '../tensor/ops/collectives.js'
import type {Processes} from '../tensor/ops/collectives.js'
import {cast} from '../tensor/ops/precision.js'
import {add, concat, dispose, div, fill, log, max, maximum, mul, slice, sum, tidy, zeros} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D} from '../tensor/tf.js'
import {chunks} from './logits.js'
import type {Logits} from './logits.js'
import {LEAST, logSumOfChunks, logSumOfRows, targetsOf} from './targets.js'
import type {Targets} from './targets.js'

/** Where the rows of a batch lie: these are some of `rows` over all processes. */
export type SharedRows = {readonly processes: Processes; readonly rows: number}

export type SharedSinkhornOptions = SharedRows & {
  readonly prototypes: number
  readonly temperature: number
  /** Columns of scores at a time. */
  readonly width: number
  readonly iterations?: number
}

/**
 * As `sinkhornTargets`, over the rows of all processes. Of each turn the totals of all prototypes are summed at once,
 * and rows are counted in a second look at the scores: many small sums over processes would cost their latency each.
 * Undefined where this process has no rows. The caller owns the vectors.
 */
export function sharedSinkhornTargets(scores: Logits | undefined, options: SharedSinkhornOptions): Targets | undefined {
  const {processes, rows, prototypes: K, temperature, width, iterations = 3} = options
  const parts = [...chunks(K, width)]
  /** One vector over all prototypes from each chunk of scores, brought together over the processes. */
  const overAll = (
    none: number,
    own: (s: Tensor2D, start: number, count: number) => Tensor1D,
    join: (x: Tensor1D, processes: Processes) => Tensor1D
  ): Tensor1D =>
    tidy(() => {
      const here = scores && parts.map(([start, count]) => tidy(() => own(scores.columns(start, count), start, count)))
      return join(here ? concat(here) : (fill([K], none) as Tensor1D), processes) // [K]
    })
  let v = overAll(-1e30, s => div(max<Tensor1D>(cast(s, 'fp32'), 0), temperature), maxOverProcesses) // [K]
  let u = zeros([scores?.rows ?? 0]) as Tensor1D // [n]
  for (let turn = 0; turn < iterations; turn++) {
    const next = tidy(() => {
      const [before, off] = [v, u]
      const totals = overAll(
        0,
        (s, start, count) => sum<Tensor1D>(targetsOf(s, off, slice(before, [start], [count]), temperature), 0),
        sumOverProcesses
      )
      return add<Tensor1D>(before, log(mul(maximum(totals, LEAST), K / rows)))
    })
    dispose(v)
    v = next
    if (!scores) continue
    const columns = v
    const off = tidy(() =>
      logSumOfChunks(
        parts.map(([start, count]) => tidy(() => logSumOfRows(scores.columns(start, count), temperature, slice(columns, [start], [count]))))
      )
    )
    dispose(u)
    u = off
  }
  if (scores) return {logits: scores, logRowScale: u, logColumnScale: v, temperature}
  dispose([u, v])
  return undefined
}

/**
 * The mean of scores [1, K] over the rows of all processes, from the mean over the `own` rows of this one; undefined
 * where it has none. Consumes the mean; the caller owns the result.
 */
export function sharedMean(mean: Tensor2D | undefined, own: number, {processes, rows}: SharedRows, prototypes: number): Tensor2D {
  const all = tidy(() => sumOverProcesses(mean ? mul<Tensor2D>(mean, own / rows) : (zeros([1, prototypes]) as Tensor2D), processes))
  if (mean) dispose(mean)
  return all
}
