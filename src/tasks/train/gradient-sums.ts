/**
 * What the passes of pretraining and of feature distillation share: terms on class tokens, gradients that are added up
 * part by part, and the cosine between images.
 *
 * b images in a part, B in the batch, C width.
 */
import {numberAt} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {regularizers} from '../../loss/terms.js'
import type {RegularizerName} from '../../loss/terms.js'
import type {ParamMap} from '../../optim/adamw.js'
import {addAll} from '../../tensor/ops/row-sum.js'
import {add, concat, fill, mul, slice, stack} from '../../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {leaves} from '../../tensor/tree.js'
import type {Tree} from '../../tensor/tree.js'

/** Weights of the terms on class tokens; a term that is absent has none. */
export type RegularizerWeights = Readonly<Partial<Record<RegularizerName, number>>>

/** The weights that the settings give these terms. */
export const regularizerWeights = (settings: Settings): RegularizerWeights =>
  Object.fromEntries(regularizers.map(({name, weight}) => [name, numberAt(settings, weight)]))

export type Regularized = {
  /** Weighted losses in the order of `regularizers`; 0 where a weight is 0. */
  readonly losses: Tensor1D /* [terms] */
  /** Their gradient; undefined where all weights are 0. */
  readonly gradient: Tensor2D | undefined /* [2b, C] */
}

/**
 * The terms on the class tokens of both global crops, cls [2b, C] crop-major. `share` is b/B. Call it in a `tidy`.
 */
export function regularize(cls: Tensor2D, weights: RegularizerWeights, share: number): Regularized {
  const b = cls.shape[0] / 2
  let gradient: Tensor2D | undefined
  const losses = regularizers.map(({name, regularizer}): Scalar => {
    const by = (weights[name] ?? 0) * share
    if (by === 0) return fill([], 0) as Scalar
    const crops = [0, 1].map(crop => regularizer(slice(cls, [crop * b, 0], [b, -1])))
    const own = mul<Tensor2D>(concat(crops.map(crop => crop.gradient)), by) // [2b, C]
    gradient = gradient ? add<Tensor2D>(gradient, own) : own
    return mul<Scalar>(add(crops[0]!.loss, crops[1]!.loss), by)
  })
  return {losses: stack(losses) as Tensor1D, gradient}
}

/** Names the numbers of `regularize` that lie in `values` from `start` on. */
export const regularizerLosses = (values: ArrayLike<number>, start: number): Record<RegularizerName, number> =>
  Object.fromEntries(regularizers.map(({name}, i) => [name, values[start + i]!])) as Record<RegularizerName, number>

/** Adds the gradients of a part to those of the parts before it. Consumes both. */
export function addGradients(sums: ParamMap, grads: ParamMap): void {
  const known = [...grads].filter(([name]) => sums.has(name))
  const added = addAll(
    known.map(([name]) => sums.get(name)!),
    known.map(([, grad]) => grad)
  )
  for (const [name, grad] of grads) if (!sums.has(name)) sums.set(name, grad)
  known.forEach(([name], i) => sums.set(name, added[i]!))
}

/** The gradients in the order of a network's parameters. */
export function inParameterOrder(network: Tree, found: ParamMap): ParamMap {
  const grads: ParamMap = new Map()
  for (const [name] of leaves(network)) {
    const grad = found.get(name)
    if (grad) grads.set(name, grad)
  }
  return grads
}

/**
 * Mean of û·û' over pairs of different images, from ‖Σ û‖² of B unit class tokens: (‖Σ û‖² − B) / (B·(B − 1)).
 * Undefined where there is one image, and so no pair.
 */
export const meanCosine = (length: number, images: number): number | undefined =>
  images < 2 ? undefined : (length - images) / (images * (images - 1))
