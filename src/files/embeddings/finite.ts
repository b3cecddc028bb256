/** The one check that vectors are finite, for rows that are read and for features that leave a model. */
import {UserError} from '../../config/errors.js'

/** Throws a `UserError` naming the first row of `vectors` [n, D] that holds NaN or an infinity. */
export function assertFiniteRows(vectors: Float32Array, ids: readonly string[]): void {
  for (let at = 0; at < vectors.length; at++) {
    if (Number.isFinite(vectors[at])) continue
    const dim = vectors.length / ids.length
    throw new UserError(`The vector of ${ids[Math.floor(at / dim)]!} holds a number that is not finite.`, {
      code: 'NOT_FINITE',
      hint: 'Leave the row out, or embed the image again with --precision fp32; if that does not help, the weights of the model are not sound.'
    })
  }
}
