/**
 * Teacher targets that never exist whole (docs/spec.md §2.3).
 *
 * Sinkhorn–Knopp scales rows and columns of exp(s/τ), and centring takes a centre off and divides by a row's sum;
 * either way a target is
 *
 *     t[r, k] = exp(s[r, k]/τ − u[r] − v[k]),
 *
 * so that two vectors say all, and the student's loss asks for the columns it is at. n rows, K prototypes, teacher
 * temperature τ. All float32.
 */
import {
  add,
  concat,
  dispose,
  div,
  exp,
  fill,
  log,
  logSumExp,
  max,
  maximum,
  mean,
  mul,
  neg,
  reshape,
  slice,
  sub,
  sum,
  tidy
} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {callKernel} from '../tensor/ops/kernel.js'
import {cast} from '../tensor/ops/precision.js'
import {chunks, logitRows} from './logits.js'
import type {Logits} from './logits.js'

export type Targets = {
  readonly logits: Logits
  /** u, logarithms of what the rows are divided by. */
  readonly logRowScale: Tensor1D /* [n] */
  /** v, the same of the columns. */
  readonly logColumnScale: Tensor1D /* [K] */
  readonly temperature: number
}

/** Below this a total counts as this: a row that no prototype reaches at first is reached in the next turn. */
export const LEAST = 1e-37

/** s/τ − v − u, in float32; s [n, k], u [n], v [k]. */
const exponent = (s: Tensor2D, temperature: number, u?: Tensor1D, v?: Tensor1D): Tensor2D =>
  tidy(() => {
    let x: Tensor2D = div(cast(s, 'fp32'), temperature) // [n, k]
    if (v) x = sub(x, v)
    return u ? sub(x, reshape(u, [-1, 1])) : x // [n, k]
  })

/** log Σₖ exp(s/τ − v) of each row of a piece; s [n, k], v [k] → [n]. */
export function logSumOfRows(s: Tensor2D, temperature: number, v?: Tensor1D): Tensor1D {
  const fused = callKernel('Dinov2LogSumOfRows', {s, v}, {temperature})
  return (fused?.[0] ?? logSumOfRowsReference(s, temperature, v)) as Tensor1D
}

/** The reference implementation of `logSumOfRows`. */
const logSumOfRowsReference = (s: Tensor2D, temperature: number, v?: Tensor1D): Tensor1D =>
  tidy(() => logSumExp<Tensor1D>(exponent(s, temperature, undefined, v), 1))

/**
 * One turn of Sinkhorn–Knopp over a piece: its columns are brought to a total of n/K, then counted by rows. s [n, k],
 * u [n], v [k] (absent before the first turn, where the largest score of each prototype stands for it) → the new v
 * [k], and what the piece adds to the total of each row [n].
 */
function sinkhornTurn(s: Tensor2D, u: Tensor1D, v: Tensor1D | undefined, prototypes: number, temperature: number): [Tensor1D, Tensor1D] {
  const fused = callKernel('Dinov2SinkhornTurn', {s, u, v}, {temperature, prototypes})
  return (fused as [Tensor1D, Tensor1D] | undefined) ?? sinkhornTurnReference(s, u, v, prototypes, temperature)
}

/** The reference implementation of `sinkhornTurn`. */
const sinkhornTurnReference = (
  s: Tensor2D,
  u: Tensor1D,
  v: Tensor1D | undefined,
  prototypes: number,
  temperature: number
): [Tensor1D, Tensor1D] =>
  tidy(() => {
    const before = v ?? max<Tensor1D>(exponent(s, temperature), 0) // [k]
    const p = exp(exponent(s, temperature, u, before)) //                         [n, k]
    const totals = mul<Tensor1D>(maximum(sum<Tensor1D>(p, 0), LEAST), prototypes / s.shape[0]) // [k], over what they should be
    return [add<Tensor1D>(before, log(totals)), sum<Tensor1D>(div(p, totals), 1)]
  })

/**
 * Targets of Sinkhorn–Knopp (Cuturi 2013; SwAV, Caron et al. 2020) from scores [n, K]: by turns each prototype's total
 * is made n/K and each row's one; rows sum to one in the end. The scores are asked for once a turn, `width` columns at
 * a time. `iterations` is at least 1. The caller owns the vectors.
 */
export function sinkhornTargets(scores: Logits, temperature: number, width: number, iterations = 3): Targets {
  const parts = [...chunks(scores.prototypes, width)]
  let u = fill([scores.rows], 0) as Tensor1D
  let vs: (Tensor1D | undefined)[] = parts.map(() => undefined)
  for (let turn = 0; turn < iterations; turn++) {
    let totals: Tensor1D | undefined
    vs = parts.map(([start, count], i) => {
      const {v, sums} = tidy(() => {
        const [next, own] = sinkhornTurn(scores.columns(start, count), u, vs[i], scores.prototypes, temperature)
        return {v: next, sums: totals ? add<Tensor1D>(totals, own) : own}
      })
      dispose([...(vs[i] ? [vs[i]] : []), ...(totals ? [totals] : [])])
      totals = sums
      return v
    })
    const next = tidy(() => add<Tensor1D>(u, log(maximum(totals!, LEAST)))) // [n]
    dispose([u, totals!])
    u = next
  }
  const all = vs as Tensor1D[]
  const columns = concat(all) // [K]
  dispose(all)
  return {logits: scores, logRowScale: u, logColumnScale: columns, temperature}
}

/**
 * Targets of centring, softmax((s − c)/τ) by rows, from scores [n, K] and a centre [1, K]; and the mean of the scores
 * [1, K], from which the next centre follows. The caller owns both.
 */
export function centeredTargets(scores: Logits, center: Tensor2D, temperature: number, width: number): {targets: Targets; mean: Tensor2D} {
  const found = tidy(() => {
    const columns = div<Tensor1D>(reshape(center, [-1]), temperature) // [K]
    const parts = [...chunks(scores.prototypes, width)].map(([start, count]) =>
      tidy(() => {
        const s = scores.columns(start, count) // [n, k]
        return {rows: logSumOfRows(s, temperature, slice(columns, [start], [count])), mean: mean<Tensor2D>(cast(s, 'fp32'), 0, true)}
      })
    )
    return {
      columns,
      rows: logSumOfChunks(parts.map(({rows}) => rows)),
      average:
        parts.length === 1
          ? parts[0]!.mean
          : concat<Tensor2D>(
              parts.map(part => part.mean),
              1
            )
    }
  })
  return {targets: {logits: scores, logRowScale: found.rows, logColumnScale: found.columns, temperature}, mean: found.average}
}

/** log Σ exp over pieces, from those of each piece [n]. */
export const logSumOfChunks = (parts: readonly Tensor1D[]): Tensor1D =>
  tidy(() =>
    parts.length === 1
      ? parts[0]!.clone()
      : logSumExp<Tensor1D>(
          concat(
            parts.map(part => reshape(part, [1, -1])),
            0
          ),
          0
        )
  )

/** Columns `start` to `start + count` of the targets, [n, count]; the caller's. */
export const targetColumns = (
  {logits: scores, logRowScale: rows, logColumnScale: columns, temperature}: Targets,
  start: number,
  count: number
): Tensor2D => tidy(() => targetsOf(scores.columns(start, count), rows, slice(columns, [start], [count]), temperature))

/** exp(s/τ − u − v); s [n, k], u [n], v [k] → [n, k] float32. */
export function targetsOf(s: Tensor2D, u: Tensor1D, v: Tensor1D, temperature: number): Tensor2D {
  const fused = callKernel('Dinov2Targets', {s, u, v}, {temperature})
  return (fused?.[0] ?? targetsReference(s, u, v, temperature)) as Tensor2D
}

/** The reference implementation of `targetsOf`. */
const targetsReference = (s: Tensor2D, u: Tensor1D, v: Tensor1D, temperature: number): Tensor2D =>
  tidy(() => exp(exponent(s, temperature, u, v)))

/** The targets of rows `from` to `from + count`; what is new of them is the caller's: `rows`. */
export const targetRows = (targets: Targets, from: number, count: number): Targets => ({
  ...targets,
  logits: logitRows(targets.logits, from, count),
  logRowScale: slice(targets.logRowScale, [from], [count])
})

/** Mean over the rows of −Σₖ t·log t, in nats. */
export function targetEntropy({logits: scores, logRowScale: rows, logColumnScale: columns, temperature}: Targets, width: number): Scalar {
  return tidy(() => {
    const parts = [...chunks(scores.prototypes, width)].map(([start, count]) =>
      tidy(() => {
        const x = exponent(scores.columns(start, count), temperature, rows, slice(columns, [start], [count]))
        return sum<Scalar>(mul(exp(x), x))
      })
    )
    return div<Scalar>(neg(parts.reduce((a, b) => add(a, b))), scores.rows)
  })
}

/** The center after scores of this mean [1, K]: m·c + (1 − m)·mean; → [1, K]. */
export const centerAfter = (center: Tensor2D, average: Tensor2D, momentum = 0.9): Tensor2D =>
  tidy(() => add<Tensor2D>(mul(center, momentum), mul(average, 1 - momentum)))
