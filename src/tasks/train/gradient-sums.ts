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
import {gatherCrops, oneProcess, sumOverProcesses} from '../../tensor/ops/collectives.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import {add, concat, div, fill, mul, reshape, slice, square, stack, sum, tidy, zerosLike} from '../../tensor/tf.js'
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
 * The terms on the class tokens of both global crops, cls [2b, C] crop-major. `share` is b/B, B over all processes.
 * With `koleo` global, neighbours are looked for among the tokens of all processes, of whose loss each takes an equal
 * part. Call it in a `tidy`.
 */
export function regularize(
  own: Tensor2D,
  share: number,
  {
    regularizers: weights,
    processes = oneProcess,
    koleo
  }: {
    readonly regularizers: RegularizerWeights
    readonly processes?: Processes
    readonly koleo?: 'process' | 'global'
  }
): Regularized {
  if (koleo === 'global' && processes.size > 1) return regularizeGathered(own, share, weights, processes)
  return regularizeRows(own, share, weights)
}

/** The terms over the rows of all processes; own [2b, C]. */
function regularizeGathered(own: Tensor2D, share: number, weights: RegularizerWeights, processes: Processes): Regularized {
  const {rank, size} = processes
  const [rows, width] = own.shape
  const {losses, gradient} = regularizeRows(gatherCrops(own, processes), share * size, weights)
  const mine = (crop: number): Tensor2D => slice(gradient!, [(rows / 2) * (crop * size + rank), 0], [rows / 2, width])
  return {losses: div<Tensor1D>(losses, size), gradient: gradient && concat([mine(0), mine(1)])}
}

function regularizeRows(cls: Tensor2D, share: number, weights: RegularizerWeights): Regularized {
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
 * Heads of masked patches get a gradient in every process where any has masked patches; zero where this one has none.
 */
export function addMissingGradients(student: Tree, found: ParamMap, patchRows: number): void {
  if (patchRows === 0) return
  for (const [name, leaf] of leaves(student)) if (name.startsWith('ibot_head.') && !found.has(name)) found.set(name, zerosLike(leaf))
}

/**
 * What the passes of all processes measured: the sums of `vectors`, then ‖Σ û‖² of the unit class tokens whose sum is
 * `cls` [1, C].
 */
export function measuredOverProcesses(vectors: readonly (Tensor1D | Scalar)[], cls: Tensor2D, processes: Processes): Tensor1D {
  return tidy(() => {
    const own = concat(vectors.map(x => reshape(x, [-1]) as Tensor1D))
    const all = sumOverProcesses(concat([own, reshape(cls, [-1]) as Tensor1D]), processes)
    const length = sum<Scalar>(square(slice(all, own.shape[0])))
    return concat([slice(all, 0, own.shape[0]), reshape(length, [1]) as Tensor1D])
  })
}

/**
 * Mean of û·û' over pairs of different images, from ‖Σ û‖² of B unit class tokens: (‖Σ û‖² − B) / (B·(B − 1)).
 * Undefined where there is one image, and so no pair.
 */
export const meanCosine = (length: number, images: number): number | undefined =>
  images < 2 ? undefined : (length - images) / (images * (images - 1))
