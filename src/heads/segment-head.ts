/**
 * The linear segmentation head (docs/spec.md §5.5): batch normalization of every channel, then a 1×1 convolution to
 * class scores, which are stretched over the image.
 *
 * The features are frozen, so mean and variance of a batch depend on no parameter, and all gradients follow from two
 * small sums: with x̂ the normalized rows, G = dyᵀ·x̂ and s = Σ dy,
 *
 *     z = x̂ ⊙ γ + β,  y = z·Wᵀ + b:    dW = G ⊙ γ + s βᵀ,  db = s,  dγ = Σₖ W ⊙ G,  dβ = Wᵀ·s
 *
 * Names are those of mmsegmentation's checkpoints (`decode_head.` left away). T places of all maps together, D
 * channels, K classes.
 */
import {add, dispose, matMul, mean, mul, outerProduct, reshape, rsqrt, square, sub, sum, tensor, tensor1d, tidy} from '../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {rng} from '../tensor/random.js'

export type SegmentHead = {
  bn: {weight: Tensor1D /* [D] */; bias: Tensor1D; running_mean: Tensor1D; running_var: Tensor1D}
  conv_seg: {weight: Tensor2D /* [K, D] */; bias: Tensor1D /* [K] */}
}

/** PyTorch's defaults for batch normalization. */
const batchNormEps = 1e-5
const momentum = 0.1

/** A fresh head: weights N(0, 0.01), bias 0, as mmsegmentation draws them. */
export function initSegmentHead(channels: number, classes: number, seed: number): SegmentHead {
  const random = rng(seed, 'segment head')
  const row = (value: number): Tensor1D => tensor1d(new Float32Array(channels).fill(value))
  return {
    bn: {weight: row(1), bias: row(0), running_mean: row(0), running_var: row(1)},
    conv_seg: {
      weight: tensor(
        Float32Array.from({length: classes * channels}, () => random.normal(0, 0.01)),
        [classes, channels]
      ),
      bias: tensor1d(new Float32Array(classes))
    }
  }
}

/**
 * The head as one linear layer, batch normalization by its running statistics: the form for prediction. The caller
 * owns it.
 */
export function foldSegmentHead({bn, conv_seg: {weight, bias}}: SegmentHead): {weight: Tensor2D /* [K, D] */; bias: Tensor1D /* [K] */} {
  return tidy(() => {
    const scale = mul<Tensor1D>(bn.weight, rsqrt(add(bn.running_var, batchNormEps))) //        [D]
    const shift = sub<Tensor1D>(bn.bias, mul(bn.running_mean, scale)) //                       [D]
    return {weight: mul<Tensor2D>(weight, scale), bias: add<Tensor1D>(bias, times(weight, shift))}
  })
}

/** matrix [K, D] · vector [D] → [K]. */
const times = (matrix: Tensor2D, vector: Tensor1D): Tensor1D => reshape(matMul(matrix, reshape(vector, [-1, 1])), [-1])

/** What the backward half needs: normalized rows, and the running statistics that follow from this batch. */
export type SegmentTrace = {readonly normal: Tensor2D /* [T, D] */}

/**
 * Scores [T, K] of rows x [T, D] by the statistics of the batch; replaces the head's running statistics (variance
 * there without bias, momentum 0.1), whose old tensors are disposed. Scores and trace are the caller's.
 */
export function segmentForward(x: Tensor2D, head: SegmentHead): {scores: Tensor2D; trace: SegmentTrace} {
  const T = x.shape[0]
  const made = tidy(() => {
    const centre = mean<Tensor1D>(x, 0)
    const centred = sub<Tensor2D>(x, centre)
    const variance = mean<Tensor1D>(square(centred), 0)
    const normal = mul<Tensor2D>(centred, rsqrt(add(variance, batchNormEps)))
    const {weight, bias} = head.conv_seg
    const scores = add<Tensor2D>(
      matMul(normal, mul<Tensor2D>(weight, head.bn.weight), false, true),
      add<Tensor1D>(bias, times(weight, head.bn.bias))
    )
    const moved = (old: Tensor1D, now: Tensor1D): Tensor1D => add(mul(old, 1 - momentum), mul(now, momentum))
    return {
      scores,
      normal,
      running_mean: moved(head.bn.running_mean, centre),
      running_var: moved(head.bn.running_var, mul(variance, T / Math.max(1, T - 1)))
    }
  })
  dispose([head.bn.running_mean, head.bn.running_var])
  head.bn.running_mean = made.running_mean
  head.bn.running_var = made.running_var
  return {scores: made.scores, trace: {normal: made.normal}}
}

/** Gradients by name (as `trainable` names them) for dy [T, K]. The caller owns them. */
export function segmentBackward(dy: Tensor2D, {normal}: SegmentTrace, {bn, conv_seg: {weight}}: SegmentHead): Map<string, Tensor> {
  const grads = tidy(() => {
    const G = matMul<Tensor2D>(dy, normal, true, false) //                                     [K, D]
    const s = sum<Tensor1D>(dy, 0) //                                                          [K]
    return {
      'bn.weight': sum<Tensor1D>(mul(weight, G), 0),
      'bn.bias': reshape(matMul(weight, reshape(s, [-1, 1]), true, false), [-1]) as Tensor1D,
      'conv_seg.weight': add<Tensor2D>(mul(G, bn.weight), outerProduct(s, bn.bias)),
      'conv_seg.bias': s
    }
  })
  return new Map(Object.entries(grads))
}

/**
 * The parameters that are trained, by name; the same tensors as in the head. `putBack` takes them in again after the
 * optimizer replaced them.
 */
export const trainable = ({bn, conv_seg}: SegmentHead): Map<string, Tensor> =>
  new Map<string, Tensor>([
    ['bn.weight', bn.weight],
    ['bn.bias', bn.bias],
    ['conv_seg.weight', conv_seg.weight],
    ['conv_seg.bias', conv_seg.bias]
  ])

export function setTrainable(head: SegmentHead, named: ReadonlyMap<string, Tensor>): void {
  head.bn.weight = named.get('bn.weight') as Tensor1D
  head.bn.bias = named.get('bn.bias') as Tensor1D
  head.conv_seg.weight = named.get('conv_seg.weight') as Tensor2D
  head.conv_seg.bias = named.get('conv_seg.bias') as Tensor1D
}

/**
 * The learning rate at a step, counted from 0: base · (1 − step / total), during the first `warmup` steps times a
 * factor that grows linearly from `ratio` to 1 (mmcv's `poly` with power 1 and `linear` warm-up; Meta: 1,500 of 40,000
 * steps, from 1e-6).
 */
export function polyLearningRate(base: number, step: number, total: number, warmup: number, ratio = 1e-6): number {
  const rate = base * (1 - step / total)
  return step < warmup ? rate * (1 - (1 - step / warmup) * (1 - ratio)) : rate
}

/**
 * Where the windows of a sliding test lie along one side: every `stride` pixels, the last one moved back to the edge
 * (mmsegmentation's rule). One window where the side is no longer than the window.
 */
export function windowStarts(side: number, window: number, stride: number): number[] {
  if (side <= window) return [0]
  const count = Math.floor(Math.max(side - window + stride - 1, 0) / stride) + 1
  return Array.from({length: count}, (_, i) => Math.min(i * stride, side - window))
}
