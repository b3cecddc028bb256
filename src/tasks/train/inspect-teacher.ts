/**
 * What the teacher's features say of a run without any labels: their effective rank, and how many prototypes its
 * images choose. Looked at on the first global crops of a few images of a batch, beside the step and without changing
 * anything. N images, C width, D bottleneck, K prototypes.
 */
import {singularValues} from '../../model/pca.js'
import {headForward} from '../../model/head.js'
import {castForInference, clsTokens} from '../../model/vit.js'
import type {VitConfig} from '../../model/config.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import {argMax, cast, concat, dispose, matMul, reshape, tidy} from '../../tensor/tf.js'
import type {Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import {castHead} from './teacher-targets.js'
import type {Network} from './step-types.js'

/** Images that are looked at, at most. */
const inspectedImages = 64

/** Fewer images than this say nothing of a rank. */
const fewest = 8

export type TeacherSigns = {
  /**
   * Effective rank of the class tokens (RankMe: Garrido et al. 2023, eq. 1): 0 where they lie on one line, 1 where it
   * is the largest that so many images and so many features can have.
   */
  readonly feature_rank: number
  /**
   * Different prototypes that are the first choice of one of these images: 0 where all choose the same, about 1 where
   * they spread evenly.
   */
  readonly prototype_use: number
}

/** RankMe of rows [N, C]: e to the entropy of their singular values, which are taken to sum to one. */
export function effectiveRank(rows: Float32Array, n: number, width: number): number {
  const singular = singularValues(rows, n, width)
  const total = singular.reduce((sum, value) => sum + value, 0)
  if (!(total > 0)) return 0
  return Math.exp(-singular.reduce((sum, value) => sum + (value > 0 ? (value / total) * Math.log(value / total) : 0), 0))
}

/** Prototypes that `n` images reach when each falls on one of `k` with equal chance. */
const evenSpread = (n: number, k: number): number => k * (1 - (1 - 1 / k) ** n)

/**
 * Looks at the teacher through the first global crops of a process: `globals` [2, N, side, side, 3] of 8 bits, the
 * first crops of all its images before the second ones. Nothing is said of fewer than 8 images.
 */
export function inspectTeacher(
  teacher: ParamMap,
  {globals, side}: {readonly globals: Uint8Array; readonly side: number},
  {vit, precision}: {readonly vit: VitConfig; readonly precision: Precision}
): TeacherSigns | undefined {
  const bytes = side * side * 3
  const n = Math.min(globals.length / (2 * bytes), inspectedImages)
  if (n < fewest) return undefined
  const network = unflatten<Network>(teacher)
  const backbone = castForInference(network.backbone, precision)
  const head = castHead(network.dino_head, 'fp32')
  const both = tidy(() => {
    const cls = clsTokens(backbone.params, normalizePixels(globals.subarray(0, n * bytes), [n, side, side]), vit) // [N, C]
    const {z} = headForward(cls, head.low) // [N, D]
    const choices = cast<Tensor1D>(argMax<Tensor1D>(matMul(z as Tensor2D, head.w, false, true), 1), 'float32') // [N], whole numbers below 2²⁴
    return concat([reshape(cls, [-1]) as Tensor1D, choices])
  })
  dispose([...backbone.owned, ...head.owned])
  const numbers = both.dataSync<'float32'>()
  dispose(both)
  const features = numbers.subarray(0, n * vit.width)
  const chosen = new Set(numbers.subarray(n * vit.width))
  const [width, prototypes] = [vit.width, network.dino_head.last_layer.weight_v.shape[0]]
  return {
    feature_rank: Math.max(0, effectiveRank(features, n, width) - 1) / (Math.min(n, width) - 1),
    prototype_use: (chosen.size - 1) / (evenSpread(n, prototypes) - 1)
  }
}
