/**
 * Picking rows and adding onto rows: what stochastic depth over kept samples, and masked patches, are made of. T rows,
 * C channels.
 */
import {add, gather, mul, norm, tidy, unsortedSegmentSum} from '../tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tf.js'
import {callKernel} from './kernel.js'

/** A factor as kernels take it: by row [n, 1], or one number. */
const factorOf = (factor: Tensor2D | number): {factors: Tensor2D | undefined; factor: number} =>
  typeof factor === 'number' ? {factors: undefined, factor} : {factors: factor, factor: 1}

/**
 * factor·(the rows of x [T, C] at `rows` [n], int32) → [n, C]; a factor by row is [n, 1]. The result is held as `like`
 * is held (as x where none is given).
 */
export function takeRows(x: Tensor2D, rows: Tensor1D, factor: Tensor2D | number = 1, like?: Tensor): Tensor2D {
  const {factors, factor: by} = factorOf(factor)
  const fused = callKernel('Dinov2TakeRows', {x, rows, factors, like}, {factor: by})
  if (fused) return fused[0] as Tensor2D
  return factor === 1 ? gather(x, rows) : tidy(() => mul<Tensor2D>(gather(x, rows), factor))
}

/** x [T, C] with factor·y [n, C] added at `rows` [n]; each row occurs at most once. A factor by row is [n, 1]. */
export function addRows(x: Tensor2D, rows: Tensor1D, y: Tensor2D, factor: Tensor2D | number = 1): Tensor2D {
  const {factors, factor: by} = factorOf(factor)
  const fused = callKernel('Dinov2AddRows', {x, rows, y, factors}, {factor: by})
  if (fused) return fused[0] as Tensor2D
  return tidy(() => add<Tensor2D>(x, unsortedSegmentSum(factor === 1 ? y : mul<Tensor2D>(y, factor), rows, x.shape[0])))
}

/** Lengths of the rows of x [R, D], float32 → [R, 1]. */
export const rowNorms = (x: Tensor2D): Tensor2D => (callKernel('Dinov2RowNorms', {x})?.[0] ?? norm(x, 2, 1, true)) as Tensor2D
