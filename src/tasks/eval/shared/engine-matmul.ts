/** The running engine's matrix product, for searches with much to do. */
import type {InnerProductFn} from '../../../search/exact.js'
import {matMul, tensor2d, tidy} from '../../../tensor/tf.js'

/** Inner products of queries [Q, D] and rows [N, D] → [Q, N]. */
export const engineMatmul: InnerProductFn = (queries, rows, dim) => {
  const out = tidy(() => matMul(tensor2d(queries, [queries.length / dim, dim]), tensor2d(rows, [rows.length / dim, dim]), false, true)) // [Q, N]
  try {
    return out.dataSync<'float32'>() // outside of the tidy, which would look through all of these numbers for tensors
  } finally {
    out.dispose()
  }
}
