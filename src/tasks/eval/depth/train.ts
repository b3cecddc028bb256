/**
 * Training of a linear depth head on frozen features (docs/spec.md §5.4): AdamW under the published schedule, SigLoss,
 * the corrected gradient loss beside it, valid pixels only.
 *
 * Where features come from is the caller's: computed anew for a random view at every step, as published, or kept from
 * one pass. In the latter case channels are brought to mean 0 and deviation 1 for the training, and the scaling is
 * multiplied into the head afterwards: features of a small model without its final norm differ by orders of magnitude
 * between channels, and what is found no longer depends on it. B views, h × w patches, D channels, K bins, H × W
 * pixels of truth.
 */
import {UserError} from '../../../config/errors.js'
import {gradientLoss, sigLoss} from '../../../heads/depth-loss.js'
import {DEPTH_UPSAMPLE, depthBackward, depthForward, flatDepth, type DepthBins, type LinearDepthHead} from '../../../heads/depth-head.js'
import {adamw, clipGradients, type AdamState, type ParamMap} from '../../../optim/adamw.js'
import {rng} from '../../../tensor/random.js'
import {resizeBackward, resizeForward} from '../../../tensor/ops/resize.js'
import {add, dispose, div, matMul, mul, reshape, sub, tensor, tensor1d, tidy, zerosLike} from '../../../tensor/tf.js'
import type {Rank, Tensor1D, Tensor2D, Tensor3D, Tensor4D} from '../../../tensor/tf.js'

/** How a head is trained. */
export type DepthRecipe = {
  readonly steps: number
  /** Views a step. */
  readonly batch: number
  readonly lr: number
  readonly weightDecay: number
  /** Weight of the gradient loss; 0 is what the published heads were in effect trained with. */
  readonly gradientWeight: number
  /**
   * Whether channels are brought to one scale for the training, and the head begins at the depths of the training set.
   */
  readonly standardize: boolean
  /**
   * Times as many rows and columns as patches at which the bins are weighed. 1 is a sixteenth of the work of the
   * published 4; a head is asked at 4 whatever it was trained at.
   */
  readonly upsample: number
}

/** As published: 8 GPUs with 2 images each. */
export const publishedRecipe: DepthRecipe = {
  steps: 38_400,
  batch: 16,
  lr: 1e-4,
  weightDecay: 0.01,
  gradientWeight: 0.5,
  standardize: false,
  upsample: DEPTH_UPSAMPLE
}

/**
 * For features computed once: few images, few minutes. Rates, decay, steps and weights were chosen on training images
 * alone, the last quarter of each film of them held out.
 */
export const cachedRecipe: DepthRecipe = {
  steps: 1200,
  batch: 8,
  lr: 1e-2,
  weightDecay: 0.01,
  gradientWeight: 0,
  standardize: true,
  upsample: 1
}

/** Half a cosine to zero, and for the first third of the steps a linear warm-up from a thousandth on top of it. */
export function depthRate(step: number, {steps, lr}: Pick<DepthRecipe, 'steps' | 'lr'>): number {
  const warmup = Math.max(1, Math.round(steps / 3))
  const rising = step < warmup ? 1 - (1 - step / warmup) * (1 - 1e-3) : 1
  return (rising * lr * (1 + Math.cos((Math.PI * step) / steps))) / 2
}

/** Momentum by one cycle: 0.95 to 0.85 and back by cosines, turning at three tenths of the steps. */
export function depthMomentum(step: number, steps: number): number {
  const turn = 0.3 * steps
  const share = step < turn ? step / turn : (steps - step) / (steps - turn)
  return 0.85 + 0.05 * (1 + Math.cos(Math.PI * share))
}

/** First steps at which SigLoss has no spread: the published hundred, or a tenth of a short training. */
const sigWarmUp = (steps: number): number => Math.min(100, Math.round(steps / 10))

/** Features [B, h, w, D] of views and their truth [B, H, W], both consumed. */
export type DepthBatch = {readonly features: Tensor4D; readonly truth: Tensor3D}

/** Mean and deviation of channels; [D] both. */
export type ChannelScale = {readonly mean: Float32Array; readonly deviation: Float32Array}

/** Running mean and deviation of channels over maps. */
export class ChannelMoments {
  #count = 0
  readonly #sums: Float64Array
  readonly #squares: Float64Array

  constructor(readonly width: number) {
    this.#sums = new Float64Array(width)
    this.#squares = new Float64Array(width)
  }

  /** Counts a map [h, w, D]. */
  add(map: Float32Array): void {
    const D = this.width
    for (let at = 0; at < map.length; at += D)
      for (let c = 0; c < D; c++) {
        const x = map[at + c]!
        this.#sums[c]! += x
        this.#squares[c]! += x * x
      }
    this.#count += map.length / D
  }

  /** Channels that never change count as of deviation 1: they have nothing to say. */
  finish(): ChannelScale {
    const n = Math.max(1, this.#count)
    const mean = Float32Array.from(this.#sums, sum => sum / n)
    const deviation = Float32Array.from(this.#squares, (square, c) => Math.sqrt(Math.max(0, square / n - (this.#sums[c]! / n) ** 2)))
    const largest = deviation.reduce((a, b) => Math.max(a, b), 0)
    return {mean, deviation: deviation.map(value => (value > 1e-6 * largest ? value : 1))}
  }
}

/**
 * Which views make up each step: groups of images of one size, shuffled apart and cut into batches, whose order is
 * shuffled again; epoch after epoch.
 */
export function* batchOrder(
  groups: readonly (readonly number[])[],
  batch: number,
  seed: number
): Generator<{epoch: number; images: number[]}> {
  const shuffle = <T>(list: T[], ...keys: (string | number)[]): T[] => {
    const random = rng(seed, 'depth', ...keys)
    for (let i = list.length - 1; i > 0; i--) {
      const j = Math.floor(random.uniform() * (i + 1))
      ;[list[i], list[j]] = [list[j]!, list[i]!]
    }
    return list
  }
  for (let epoch = 0; ; epoch++) {
    const batches = groups.flatMap((group, g) => {
      const order = shuffle([...group], epoch, g)
      return Array.from({length: Math.ceil(order.length / batch)}, (_, i) => order.slice(i * batch, (i + 1) * batch))
    })
    if (batches.length === 0) throw new RangeError('Expected at least one image to train on.')
    for (const images of shuffle(batches, epoch, 'order')) yield {epoch, images}
  }
}

export type DepthTraining = {
  /** Channels of the features. */
  readonly width: number
  readonly bins: DepthBins
  readonly recipe: DepthRecipe
  readonly seed: number
  /** Images by the size of their views. */
  readonly groups: readonly (readonly number[])[]
  readonly load: (images: readonly number[], step: number) => Promise<DepthBatch>
  readonly scale?: ChannelScale
  /** How often the depth of each bin occurs, where the head is to begin there; [K]. */
  readonly frequency?: ArrayLike<number>
  readonly signal?: AbortSignal
  readonly onStep?: (step: number, loss: number) => void
}

/**
 * Weight that the bins of a fresh head have together where it begins at the depths of the training set; the 0.1 that
 * each has anyway come to 25.6 at 256 bins.
 */
const START_WEIGHT = 256

/**
 * A fresh head, as PyTorch makes a convolution of one pixel: uniform within ±1/√D.
 *
 * `frequency` [K], how often the depth of each bin occurs in training, adds a bias in proportion: the head begins at
 * the depths that there are, instead of in the middle of its range, which SigLoss (the mean counts 0.15 as much as the
 * spread) takes thousands of steps to leave.
 */
function initDepthHead(width: number, bins: number, seed: number, frequency?: ArrayLike<number>): LinearDepthHead {
  const random = rng(seed, 'depth head')
  const draw = (length: number): Float32Array => Float32Array.from({length}, () => (2 * random.uniform() - 1) / Math.sqrt(width))
  const weight = tensor(draw(bins * width), [bins, width]) as Tensor2D
  const bias = draw(bins)
  if (frequency) {
    let total = 0
    for (let k = 0; k < bins; k++) total += frequency[k]!
    if (total > 0) for (let k = 0; k < bins; k++) bias[k]! += (START_WEIGHT * frequency[k]!) / total
  }
  return {conv_depth: {weight, bias: tensor1d(bias)}}
}

/** Counts the depths of an image in the bins whose depth is nearest. */
export function countBins(counts: Float64Array, truth: Float32Array, valid: Uint32Array, {min, max, count, spacing}: DepthBins): void {
  const place =
    spacing === 'uniform' ? (t: number): number => (t - min) / (max - min) : (t: number): number => Math.log(t / min) / Math.log(max / min)
  // Images count the same whatever their number of valid pixels.
  for (const at of valid) counts[Math.min(count - 1, Math.max(0, Math.round(place(truth[at]!) * (count - 1))))]! += 1 / valid.length
}

/**
 * Trains a head and returns it with the mean loss of the last tenth of the steps; the caller owns its tensors.
 *
 * Throws a `UserError` (exit 6) where the loss is not finite, and what `load` throws. Stops between steps when the
 * signal says so.
 */
export async function trainDepthHead(training: DepthTraining): Promise<{head: LinearDepthHead; loss: number}> {
  const {width, bins, recipe, seed, groups, load, scale, frequency, signal, onStep} = training
  const {steps, batch, gradientWeight, upsample} = recipe
  const start = initDepthHead(width, bins.count, seed, frequency)
  const params: ParamMap = new Map<string, Tensor1D | Tensor2D>([
    ['weight', start.conv_depth.weight],
    ['bias', start.conv_depth.bias]
  ])
  const state: AdamState = {
    m: new Map([...params].map(([name, leaf]) => [name, zerosLike(leaf)])),
    v: new Map([...params].map(([name, leaf]) => [name, zerosLike(leaf)]))
  }
  const scaling = scale && {mean: tensor1d(scale.mean), deviation: tensor1d(scale.deviation)}
  const head = (): LinearDepthHead => ({conv_depth: {weight: params.get('weight') as Tensor2D, bias: params.get('bias') as Tensor1D}})
  const order = batchOrder(groups, batch, seed)
  const last: number[] = []
  let finished = false
  try {
    for (let step = 0; step < steps; step++) {
      signal?.throwIfAborted()
      const given = await load(order.next().value!.images, step)
      const {loss, grads} = tidy(() => {
        const features = scaling ? div<Tensor4D>(sub(given.features, scaling.mean), scaling.deviation) : given.features
        return lossAndGrads(features, given.truth, head(), bins, {gradientWeight, upsample, warmUp: step < sigWarmUp(steps)})
      })
      dispose([given.features, given.truth])
      const value = (await loss.data())[0]!
      dispose(loss)
      if (!Number.isFinite(value)) {
        dispose([grads.conv_depth.weight, grads.conv_depth.bias])
        throw new UserError(`The loss of the depth head is not finite at step ${step + 1}.`, {
          exit: 6,
          code: 'NOT_FINITE',
          hint: 'Try a smaller --lr.'
        })
      }
      const named: ParamMap = new Map([
        ['weight', grads.conv_depth.weight],
        ['bias', grads.conv_depth.bias]
      ] as [string, Tensor1D | Tensor2D][])
      clipGradients(named, 35)
      const lr = depthRate(step, recipe)
      const betas = [depthMomentum(step, steps), 0.999] as const
      adamw(params, named, state, {betas, eps: 1e-8, step: step + 1, rates: () => ({lr, wd: recipe.weightDecay})})
      dispose([...named.values()])
      if (step >= steps - Math.max(1, Math.round(steps / 10))) last.push(value)
      onStep?.(step + 1, value)
    }
    finished = true
  } finally {
    dispose([...state.m.values(), ...state.v.values()])
    if (!finished) dispose([...params.values(), ...(scaling ? [scaling.mean, scaling.deviation] : [])])
  }
  const trained = head()
  const loss = last.reduce((sum, value) => sum + value, 0) / last.length
  if (!scaling) return {head: trained, loss}
  // W·(x − μ)/σ + b = (W/σ)·x + (b − W·μ/σ)
  const folded = tidy(() => {
    const weight = div<Tensor2D>(trained.conv_depth.weight, scaling.deviation)
    const shift = reshape<Rank.R1>(matMul(weight, reshape(scaling.mean, [-1, 1])), [-1])
    return {weight, bias: sub<Tensor1D>(trained.conv_depth.bias, shift)}
  })
  dispose([trained.conv_depth.weight, trained.conv_depth.bias, scaling.mean, scaling.deviation])
  return {head: {conv_depth: folded}, loss}
}

/** The loss of one batch and the gradients of the head; predictions are stretched over the truth first. */
function lossAndGrads(
  features: Tensor4D,
  truth: Tensor3D,
  head: LinearDepthHead,
  bins: DepthBins,
  {gradientWeight, upsample, warmUp}: {gradientWeight: number; upsample: number; warmUp: boolean}
): {loss: Tensor1D; grads: LinearDepthHead} {
  return tidy(() => {
    const saved = depthForward(features, head, bins, upsample)
    const [B, h, w] = saved.depth.shape
    const [, H, W] = truth.shape
    const shown = resizeForward(saved.depth, [H, W])
    const sig = sigLoss(flatDepth(shown), truth, {max: bins.max, warmUp})
    let [loss, dy] = [sig.loss, sig.gradient]
    if (gradientWeight > 0) {
      const slopes = gradientLoss(flatDepth(shown), truth, {max: bins.max})
      loss = add(loss, mul(slopes.loss, gradientWeight))
      dy = add(dy, mul(slopes.gradient, gradientWeight))
    }
    const ddepth = resizeBackward(reshape<Rank.R4>(dy, [B, H, W, 1]), [h, w])
    return {loss: reshape<Rank.R1>(loss, [1]), grads: depthBackward(ddepth, saved, head, bins)}
  })
}
