/**
 * Losses of depth training, forward and backward (docs/spec.md §5.4): the scale-invariant logarithmic loss of the
 * published heads, and the gradient loss that was meant to stand beside it.
 *
 * The published second file of the gradient loss slices batch and channel instead of rows and columns, so that at two
 * images a GPU its term was 0: the published heads were in effect trained with SigLoss alone. Here it is as it was
 * meant. B images, H × W pixels; true depth 0 (or beyond `max`) is unknown and counts nowhere.
 */
import {
  abs,
  add,
  div,
  greater,
  lessEqual,
  log,
  logicalAnd,
  mul,
  pad,
  reshape,
  sign,
  slice,
  square,
  stridedSlice,
  sub,
  sum,
  tidy
} from '../tensor/tf.js'
import type {Rank, Scalar, Tensor3D} from '../tensor/tf.js'

export type DepthLossOptions = {
  /** True depths above this are not looked at, in metres. */
  readonly max?: number
}

export type SigLossOptions = DepthLossOptions & {
  /** Only the mean counts, not the spread: for the first hundred steps. */
  readonly warmUp?: boolean
}

/** A loss and its gradient with respect to the predictions. The caller disposes both. */
export type DepthLoss = {readonly loss: Scalar; readonly gradient: Tensor3D /* [B, H, W] */}

const EPS = 1e-3
const WEIGHT = 0.15

const validOf = (truth: Tensor3D, max: number | undefined): Tensor3D => {
  const known = greater<Tensor3D>(truth, 0)
  return (max === undefined ? known : logicalAnd<Tensor3D>(known, lessEqual(truth, max))).cast('float32')
}

const logRatio = (predicted: Tensor3D, truth: Tensor3D, valid: Tensor3D): Tensor3D =>
  mul<Tensor3D>(sub(log(add(predicted, EPS)), log(add(mul(truth, valid), EPS))), valid)

/**
 * SigLoss (Bhat et al. 2021): with g = ln(d + ε) − ln(t + ε) over all valid pixels of the batch together, √(var g +
 * 0.15·mean² g), the variance with n − 1.
 *
 * Both tensors are [B, H, W] in metres. Without two valid pixels the loss and its gradient are 0.
 */
export function sigLoss(predicted: Tensor3D, truth: Tensor3D, {max, warmUp = false}: SigLossOptions = {}): DepthLoss {
  return tidy(() => {
    const valid = validOf(truth, max)
    const g = logRatio(predicted, truth, valid) //                                   [B, H, W]
    const n = sum<Scalar>(valid)
    const count = n.dataSync()[0]!
    if (count < 2) return {loss: mul<Scalar>(n, 0), gradient: mul<Tensor3D>(predicted, 0)}
    const mean = div<Scalar>(sum(g), n)
    const centred = mul<Tensor3D>(sub(g, mean), valid)
    const spread = warmUp ? mul<Scalar>(mean, 0) : div<Scalar>(sum(square(centred)), count - 1)
    const loss = add(spread, mul(square(mean), WEIGHT)).sqrt() as Scalar
    // d loss / d g = ((g − mean)/(n − 1) + 0.15·mean/n) / loss; at a loss of 0 the slope is taken as 0
    const size = loss.dataSync()[0]!
    if (!(size > 0)) return {loss, gradient: mul<Tensor3D>(predicted, 0)}
    const pull = mul<Tensor3D>(valid, div(mul(mean, WEIGHT / count), loss))
    const dg = warmUp ? pull : add<Tensor3D>(pull, div(centred, mul(loss, count - 1)))
    return {loss, gradient: div<Tensor3D>(dg, add(predicted, EPS))}
  })
}

/** Each of every `step` rows and columns, from the first on; [B, H, W] → [B, ⌈H/step⌉, ⌈W/step⌉]. */
const thin = (x: Tensor3D, step: number): Tensor3D => (step === 1 ? x : (stridedSlice(x, [0, 0, 0], x.shape, [1, step, step]) as Tensor3D))

/** The gradient of `thin`: what came from between is 0. */
function spreadOut(dy: Tensor3D, step: number, [B, H, W]: [number, number, number]): Tensor3D {
  if (step === 1) return dy
  const [, h, w] = dy.shape
  const apart = pad(reshape<Rank.R5>(dy, [B, h, 1, w, 1]), [
    [0, 0],
    [0, 0],
    [0, step - 1],
    [0, 0],
    [0, step - 1]
  ]) //                                                                              [B, h, step, w, step]
  return slice(reshape<Rank.R3>(apart, [B, h * step, w * step]), [0, 0, 0], [B, H, W])
}

/** Differences of log-ratios two pixels apart along an axis where both are valid: their sum and its gradient. */
function slope(d: Tensor3D, valid: Tensor3D, axis: 1 | 2): {total: Scalar; gradient: Tensor3D} | undefined {
  const [B, H, W] = d.shape
  const length = axis === 1 ? H : W
  if (length < 3) return undefined
  const size: [number, number, number] = axis === 1 ? [B, H - 2, W] : [B, H, W - 2]
  const behind: [number, number, number] = axis === 1 ? [0, 2, 0] : [0, 0, 2]
  const both = mul<Tensor3D>(slice(valid, [0, 0, 0], size), slice(valid, behind, size))
  const step = mul<Tensor3D>(sub(slice(d, [0, 0, 0], size), slice(d, behind, size)), both)
  const way = mul<Tensor3D>(sign(step), both)
  const [none, two] = [
    [0, 0],
    [0, 2]
  ] as [[number, number], [number, number]]
  const back = [2, 0] as [number, number]
  const first = pad(way, axis === 1 ? [none, two, none] : [none, none, two])
  const second = pad(way, axis === 1 ? [none, back, none] : [none, none, back])
  return {total: sum<Scalar>(abs(step)), gradient: sub(first, second)}
}

/**
 * Gradient loss (Li and Snavely 2018): |difference of ln d − ln t two pixels apart|, along rows and columns, at every
 * 1st, 2nd, 4th and 6th pixel, each scale divided by its number of valid pixels; the four are summed. The weight of
 * 0.5 is the caller's.
 */
export function gradientLoss(predicted: Tensor3D, truth: Tensor3D, {max}: DepthLossOptions = {}): DepthLoss {
  return tidy(() => {
    const valid = validOf(truth, max)
    const d = logRatio(predicted, truth, valid)
    let loss = mul<Scalar>(sum(d), 0)
    let dd = mul<Tensor3D>(d, 0)
    for (const step of [1, 2, 4, 6]) {
      const [seen, known] = [thin(d, step), thin(valid, step)]
      const n = sum<Scalar>(known).dataSync()[0]!
      if (n === 0) continue
      for (const axis of [1, 2] as const) {
        const found = slope(seen, known, axis)
        if (!found) continue
        loss = add(loss, div(found.total, n))
        dd = add(dd, div(spreadOut(found.gradient, step, d.shape), n))
      }
    }
    return {loss, gradient: div<Tensor3D>(mul(dd, valid), add(predicted, EPS))}
  })
}
