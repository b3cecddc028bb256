/**
 * Cross-entropy between soft targets and prototype scores, row by row (docs/spec.md §2.4), with its gradient in closed
 * form.
 *
 * CE(t, s) = −Σₖ tₖ·log softmax(s/τ)ₖ. R student rows, n teacher rows, K prototypes, D bottleneck width.
 */
import {add, concat, dispose, div, exp, fill, gather, logSumExp, matMul, mul, reshape, slice, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D} from '../tensor/tf.js'
import {callKernel} from '../tensor/ops/kernel.js'
import {cast, castLike} from '../tensor/ops/precision.js'
import {cachedLogits, chunks, lazyLogits} from './logits.js'
import {logSumOfChunks, logSumOfRows, targetsOf} from './targets.js'
import type {Targets} from './targets.js'

export type RowLoss = {losses: Tensor1D /* [R], weighted */; gradient: Tensor2D /* [R, K], of the weighted sum */}

/**
 * Weighted cross-entropy of each row: scores [R, K], targets [R, K], weights [R]. The targets of a row need not sum to
 * one.
 */
export function crossEntropy(scores: Tensor2D, targets: Tensor2D, weights: Tensor1D, temperature: number): RowLoss {
  return tidy(() => {
    const s: Tensor2D = div(scores, temperature)
    const lse: Tensor2D = logSumExp(s, 1, true) //                          [R, 1]
    const mass: Tensor2D = sum(targets, 1, true) //                         [R, 1]
    const own = sub(mul(mass, lse), sum(mul(targets, s), 1, true)) //       [R, 1]
    const by = reshape(weights, [-1, 1]) // [R, 1]
    return {
      losses: reshape(mul(own, by), [-1]),
      gradient: mul(sub(mul(exp(sub(s, lse)), mass), targets), div(by, temperature))
    }
  })
}

/** Student rows that are compared with one set of targets. */
export type Segment = {
  /** How many; they lie behind the rows of the segments before. */
  readonly rows: number
  /** Of the teacher, each row with a sum of one. */
  readonly targets: Targets
  /**
   * The teacher row, or the two whose losses are added up, that each student row is compared with; int32 [rows] each.
   * Where left out, row i has row i.
   */
  readonly teachers?: readonly [Tensor1D] | readonly [Tensor1D, Tensor1D]
}

export type PrototypeLoss = {losses: Tensor1D /* [R], weighted */; dz: Tensor2D /* [R, D] float32 */}

export type LossOptions = {
  /** Columns at a time; targets whose scores are held are held by pieces of these. */
  readonly width: number
  /**
   * Whether the student's scores are kept between the two passes, R·K numbers in the precision of `w`, or computed
   * again.
   */
  readonly cacheLogits: boolean
  /** Given the gradient [k, D] of the prototypes from `start` on, float32, piece by piece. */
  readonly onPrototypes: (start: number, dw: Tensor2D) => void
}

/**
 * Weighted cross-entropy of rows z [R, D] scored against prototypes w [K, D]; the weights are [R]. Two passes over
 * pieces of columns: the first finds the normalizers, the second losses and gradients, so that neither scores nor
 * targets nor gradients of scores ever exist whole. Products are taken in the precision of `w`.
 */
export function prototypeLoss(
  z: Tensor2D,
  w: Tensor2D,
  segments: readonly Segment[],
  weights: Tensor1D,
  temperature: number,
  {width, cacheLogits: hold, onPrototypes}: LossOptions
): PrototypeLoss {
  const low = castLike(z, w) // [R, D]
  const computed = lazyLogits(low, w)
  const held = hold ? cachedLogits(computed) : undefined
  const scores = held ?? computed
  const parts = [...chunks(scores.prototypes, width)]
  const {lse, mass} = tidy(() => ({
    lse: logSumOfChunks(parts.map(([start, count]) => tidy(() => logSumOfRows(scores.columns(start, count), temperature)))),
    mass: massOf(segments)
  }))
  let sums: {along: Tensor1D; dz: Tensor2D} | undefined
  for (const [start, count] of parts) {
    const before = sums
    sums = tidy(() => {
      const {along, gradient} = columnLoss(scores.columns(start, count), lse, weights, segmentChunks(segments, start, count), temperature)
      const own = slice(w, [start, 0], [count, w.shape[1]]) // [k, D]
      onPrototypes(
        start,
        tidy(() => cast(matMul<Tensor2D>(gradient, low, true, false), 'fp32'))
      )
      const dz = cast(matMul<Tensor2D>(gradient, own), 'fp32') // [R, D]
      return before ? {along: add<Tensor1D>(before.along, along), dz: add<Tensor2D>(before.dz, dz)} : {along, dz}
    })
    if (before) dispose([before.along, before.dz])
  }
  held?.dispose()
  const {along, dz} = sums!
  const losses = tidy(() => mul<Tensor1D>(sub(mul(mass, lse), along), weights)) // [R]
  dispose([low, lse, mass, along])
  return {losses, dz}
}

/** Σₖ t of each row, which is how many teachers it has; [R]. */
const massOf = (segments: readonly Pick<Segment, 'rows' | 'teachers'>[]): Tensor1D =>
  tidy(() => {
    const parts = segments.map(({rows, teachers}) => fill([rows], teachers?.length ?? 1) as Tensor1D)
    return parts.length === 1 ? parts[0]! : concat(parts)
  })

/**
 * What a segment's targets are in some columns: scores s [n, k], u [n] and v [k] (see `targets.ts`), and the teacher's
 * temperature.
 */
export type SegmentChunk = Pick<Segment, 'rows' | 'teachers'> & {
  readonly s: Tensor2D
  readonly u: Tensor1D
  readonly v: Tensor1D
  readonly temperature: number
}

/** The columns `start` to `start + count` of all segments; what several segments share is computed once. */
function segmentChunks(segments: readonly Segment[], start: number, count: number): SegmentChunk[] {
  const known = new Map<Targets, Pick<SegmentChunk, 's' | 'v'>>()
  return segments.map(({rows, targets, teachers}) => {
    const own = known.get(targets) ?? {s: targets.logits.columns(start, count), v: slice(targets.logColumnScale, [start], [count])}
    known.set(targets, own)
    return {rows, ...own, u: targets.logRowScale, temperature: targets.temperature, ...(teachers ? {teachers} : {})}
  })
}

export type ColumnLoss = {along: Tensor1D /* [R], Σₖ t·s/τ */; gradient: Tensor2D /* [R, k] of s, held as s is */}

/** What one piece of columns gives for student scores s [R, k] with lse [R] over all columns, and weights [R]. */
export function columnLoss(
  s: Tensor2D,
  lse: Tensor1D,
  weights: Tensor1D,
  segments: readonly SegmentChunk[],
  temperature: number
): ColumnLoss {
  const fused = callKernel('Dinov2ColumnLoss', {s, lse, weights}, {segments, temperature})
  if (fused) return {along: fused[0] as Tensor1D, gradient: fused[1] as Tensor2D}
  return columnLossReference(s, lse, weights, segments, temperature)
}

/** The reference implementation of `columnLoss`. */
const columnLossReference = (
  s: Tensor2D,
  lse: Tensor1D,
  weights: Tensor1D,
  segments: readonly SegmentChunk[],
  temperature: number
): ColumnLoss =>
  tidy(() => {
    const by = (x: Tensor1D): Tensor2D => reshape(x, [-1, 1])
    const rows = segments.map(({s: scores, u, v, temperature: own, teachers}) => {
      const all = targetsOf(scores, u, v, own) // [n, k]
      return teachers ? teachers.map(of => gather(all, of)).reduce((a, b) => add(a, b)) : all
    })
    const t = rows.length === 1 ? rows[0]! : concat(rows, 0) //                    [R, k]
    const x = div<Tensor2D>(cast(s, 'fp32'), temperature) // [R, k]
    const p = mul<Tensor2D>(exp(sub(x, by(lse))), by(massOf(segments))) // [R, k]
    return {along: sum<Tensor1D>(mul(t, x), 1), gradient: castLike(mul<Tensor2D>(sub(p, t), div(by(weights), temperature)), s)}
  })
