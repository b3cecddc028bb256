/**
 * The linear depth heads of the paper, lin.1 and lin.4 (docs/spec.md §5.4): patch features with the class token joined
 * to every patch, four times as many places by bilinear upsampling, one linear layer to 256 bins, and depth as the
 * mean of the bins weighted by relu(logit) + 0.1.
 *
 * A linear layer and bilinear upsampling commute (the weights of a pixel sum to 1), so the layer runs before the
 * upsampling here: 16 times less work at every width. The written-out order is the reference implementation. B images,
 * h × w patches, D channels (2C of each block: patch, then cls), K bins.
 */
import {
  add,
  clipByValue,
  concat,
  div,
  linspace,
  matMul,
  mul,
  neg,
  ones,
  relu,
  reshape,
  slice,
  squeeze,
  stack,
  step,
  sum,
  tensor1d,
  tidy
} from '../tensor/tf.js'
import type {Rank, Tensor1D, Tensor2D, Tensor3D, Tensor4D} from '../tensor/tf.js'
import {linearBackward, linearForward, type Linear} from '../tensor/ops/linear.js'
import {resizeForward, resizeBackward} from '../tensor/ops/resize.js'

/** The range of depth that a head can predict, cut into bins; metres. */
export type DepthBins = {
  readonly min: number
  readonly max: number
  readonly count: number
  /** Equal steps of depth (the published heads) or of its logarithm. */
  readonly spacing: 'uniform' | 'log'
}

/** Parameters, named as in the published files under `decode_head`. */
export type LinearDepthHead = {conv_depth: Linear /* [K, D], [K] */}

/** Added to every weight of a bin. */
export const BIN_EPSILON = 0.1

/** Times as many rows and columns as there are patches. */
export const DEPTH_UPSAMPLE = 4

/** The depth of each bin, both ends included; [K]. */
export function binDepths({min, max, count, spacing}: DepthBins): Tensor1D {
  return spacing === 'uniform' ? linspace(min, max, count) : tensor1d(binDepthValues({min, max, count, spacing}))
}

/** The same as plain numbers. */
export function binDepthValues({min, max, count, spacing}: DepthBins): Float32Array {
  const [low, high] = spacing === 'uniform' ? [min, max] : [Math.log(min), Math.log(max)]
  return Float32Array.from({length: count}, (_, i) => {
    const value = low + ((high - low) * i) / (count - 1)
    return spacing === 'uniform' ? value : Math.exp(value)
  })
}

/** What the backward pass needs. */
export type DepthHeadSaved = {
  readonly features: Tensor4D /* [B, h, w, D], the caller's */
  readonly logits: Tensor4D /* [B, H, W, K] */
  readonly depth: Tensor4D /* [B, H, W, 1] */
  readonly total: Tensor2D /* [B·H·W, 1] */
}

/** [K, 2]: the depth of each bin, and one; a product with the weights of the bins gives Σ p·b and Σ p at once. */
const binsAndOnes = (bins: DepthBins): Tensor2D => stack([binDepths(bins), ones<Rank.R1>([bins.count])], 1) as Tensor2D

/** Depth and the sum of weights from upsampled logits: [B·H·W, 1] both. */
function expectation(logits: Tensor4D, bins: DepthBins): {depth: Tensor2D; total: Tensor2D} {
  const columns = binsAndOnes(bins)
  const open = relu(reshape<Rank.R2>(logits, [-1, bins.count])) //                          [B·H·W, K]
  // Σ (relu + 0.1)·b = Σ relu·b + 0.1·Σ b: the largest tensor is passed over once less.
  const sums = add<Tensor2D>(matMul<Tensor2D>(open, columns), mul(sum(columns, 0, true), BIN_EPSILON)) //     [B·H·W, 2]
  const total = slice(sums, [0, 1], [-1, 1])
  return {depth: div(slice(sums, [0, 0], [-1, 1]), total), total}
}

/**
 * Depth in metres for features [B, h, w, D] → [B, 4h, 4w, 1] (or as many times as `upsample` says), not clamped (it
 * cannot leave the bins), and what the backward pass needs. The caller disposes `depth`, `logits` and `total`.
 *
 * Throws a RangeError where the head is of another width than the features.
 */
export function depthForward(
  features: Tensor4D,
  {conv_depth}: LinearDepthHead,
  bins: DepthBins,
  upsample: number = DEPTH_UPSAMPLE
): DepthHeadSaved {
  const [B, h, w, D] = features.shape
  const [K, width] = conv_depth.weight.shape
  if (D !== width || K !== bins.count)
    throw new RangeError(`Expected features of ${width} channels and ${K} bins but received ${D} and ${bins.count}.`)
  const [H, W] = [h * upsample, w * upsample]
  return tidy(() => {
    const coarse = linearForward(reshape(features, [B * h * w, D]), conv_depth) //          [B·h·w, K]
    const logits = resizeForward(reshape<Rank.R4>(coarse, [B, h, w, K]), [H, W])
    const {depth, total} = expectation(logits, bins)
    return {features, logits, depth: reshape<Rank.R4>(depth, [B, H, W, 1]), total}
  })
}

/** Depth [B, ·, ·, 1] brought into the range and to a size: [B, Y, X, 1]. The order is the published one. */
export const upsampleDepth = (
  depth: Tensor4D,
  {min, max}: {readonly min: number; readonly max: number},
  size: readonly [number, number]
): Tensor4D => tidy(() => resizeForward(clipByValue(depth, min, max), size))

/**
 * Gradients of weight and bias for dy [B, 4h, 4w, 1]; the features are frozen. With p the weights and b the bins,
 * ∂depth/∂p = (b − depth) / Σp.
 */
export function depthBackward(
  dy: Tensor4D,
  {features, logits, depth, total}: DepthHeadSaved,
  {conv_depth}: LinearDepthHead,
  bins: DepthBins
): LinearDepthHead {
  const [B, h, w, D] = features.shape
  const [, H, W, K] = logits.shape
  return tidy(() => {
    const slope = div<Tensor2D>(reshape(dy, [B * H * W, 1]), total)
    // (b − depth)·slope for all bins is a product of [slope, −depth·slope] and [b, 1].
    const pair = concat([slope, neg(mul(slope, reshape<Rank.R2>(depth, [B * H * W, 1])))], 1)
    const gaps = matMul<Tensor2D>(pair, binsAndOnes(bins), false, true) //                     [B·H·W, K]
    const dlogits = mul<Tensor2D>(gaps, step(reshape<Rank.R2>(logits, [B * H * W, K])))
    const coarse = resizeBackward(reshape<Rank.R4>(dlogits, [B, H, W, K]), [h, w])
    const {weight, bias} = linearBackward(reshape(coarse, [B * h * w, K]), reshape(features, [B * h * w, D]), conv_depth.weight)
    return {conv_depth: {weight, bias}}
  })
}

/**
 * The reference implementation of `depthForward`: upsampling first, as published; → [B, 4h, 4w, 1]. For tests, and for
 * whoever wants to read what is computed.
 */
export function plainDepth(features: Tensor4D, {conv_depth: {weight, bias}}: LinearDepthHead, bins: DepthBins): Tensor4D {
  const [B, h, w, D] = features.shape
  const [H, W] = [h * DEPTH_UPSAMPLE, w * DEPTH_UPSAMPLE]
  return tidy(() => {
    const fine = resizeForward(features, [H, W])
    const logits = add<Tensor2D>(matMul(reshape(fine, [B * H * W, D]), weight, false, true), bias)
    return reshape<Rank.R4>(expectation(reshape<Rank.R4>(logits, [B, H, W, bins.count]), bins).depth, [B, H, W, 1])
  })
}

/** Channels of one block out of joined features [B, h, w, n·2C]: its patch features and class token, [B, h, w, 2C]. */
export const blockOf = (features: Tensor4D, block: number, width: number): Tensor4D =>
  slice(features, [0, 0, 0, block * 2 * width], [-1, -1, -1, 2 * width])

/** [B, H, W, 1] → [B, H, W]. */
export const flatDepth = (depth: Tensor4D): Tensor3D => squeeze<Tensor3D>(depth, [3])
