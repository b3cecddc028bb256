/**
 * Published linear classifiers: `dinov2_<size>14_linear_head.pth` holds weight [K, F] and bias [K] and nothing that says which features they read; that
 * follows from F: the cls token of the last block and the mean patch token (2 C), or the cls tokens of the last four and the mean (5 C).
 */
import {UserError} from '../config/errors.js'
import {openCheckpoint} from '../files/checkpoint.js'
import {usualKinds, type Kind} from '../probe/linear-grid.js'

/** Reads one. Throws a `UserError` (exit 2) where the file holds other things or does not fit `n` blocks of width C. */
export async function publishedClassifier(
  path: string,
  n: number,
  C: number
): Promise<{kind: Kind; weight: Float32Array; bias: Float32Array}> {
  const file = await openCheckpoint(path)
  try {
    const found = (ending: string): [string, {readonly shape: readonly number[]; readFloat32(): Promise<Float32Array>}] | undefined =>
      [...file.tensors, ...file.heads].find(([name]) => name === ending || name.endsWith(`.${ending}`))
    const [weight, bias] = [found('weight'), found('bias')]
    if (!weight || !bias || weight[1].shape.length !== 2)
      throw new UserError(`${path} holds no linear classifier: expected weight [classes, features] and bias.`, {
        exit: 2,
        code: 'WRONG_HEAD',
        hint: `It holds ${[...file.tensors.keys(), ...file.heads.keys()].slice(0, 6).join(', ')}.`
      })
    const F = weight[1].shape[1]!
    const kind = usualKinds(n, C).find(({length}) => length === F)
    if (!kind)
      throw new UserError(`${path} reads ${F} features, but the backbone is ${C} wide and ${n} of its blocks are used.`, {
        exit: 2,
        code: 'WRONG_HEAD',
        hint: 'Give the backbone that the head was published for, and --blocks 1 or 4.'
      })
    return {kind, weight: await weight[1].readFloat32(), bias: await bias[1].readFloat32()}
  } finally {
    await file.close()
  }
}
