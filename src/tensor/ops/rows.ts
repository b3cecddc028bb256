/** Picking rows and adding onto rows: what stochastic depth over kept samples, and masked patches, are made of. T rows, C channels. */
import {add, gather, mul, tidy, unsortedSegmentSum} from '../tf.js'
import type {Tensor1D, Tensor2D} from '../tf.js'
import {fast} from './kernel.js'

/** The rows of x [T, C] at `rows` [n] (int32) → [n, C]. */
export function takeRows(x: Tensor2D, rows: Tensor1D): Tensor2D {
  return gather(x, rows)
}

/** x [T, C] with factor·y [n, C] added at `rows` [n]; each row occurs at most once. A factor by row is [n, 1]. */
export function addRows(x: Tensor2D, rows: Tensor1D, y: Tensor2D, factor: Tensor2D | number = 1): Tensor2D {
  return tidy(() => {
    const scaled = typeof factor === 'number' ? y : mul<Tensor2D>(y, factor)
    const by = typeof factor === 'number' ? factor : 1
    const fused = fast('Dinov2AddRows', {x, rows, y: scaled}, {factor: by})
    return fused ? (fused[0] as Tensor2D) : add<Tensor2D>(x, mul(unsortedSegmentSum(scaled, rows, x.shape[0]), by))
  })
}
