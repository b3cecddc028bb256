/**
 * From normalized pictures to class maps: features of every patch, a linear head, scores stretched over the picture;
 * by sliding windows, at several scales, mirrored (docs/spec.md §5.5).
 *
 * Rules of mmsegmentation's `slide_inference` and test-time augmentation: a window's scores are stretched to the
 * window, overlapping windows are averaged, the whole is stretched to the original size, and over scales and mirrors
 * probabilities are averaged. A window that is no multiple of the patch is padded inside the backbone only and its
 * scores are stretched to the unpadded window, as the published heads were trained.
 *
 * In shape comments: H × W resized picture, Y × X result, n windows of y × x pixels, h × w patches, D channels, K
 * classes.
 */
import {linearForward} from '../tensor/ops/linear.js'
import {resizeForward, type MapSize} from '../tensor/ops/resize.js'
import {add, argMax, concat, dispose, div, mul, pad, reshape, reverse, slice, softmax, tensor, tidy} from '../tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor4D} from '../tensor/tf.js'
import {windowStarts} from './segment-head.js'

/** What a head was trained with, and how pictures are cut for it. */
export type SegmentProtocol = {
  readonly layers: readonly number[]
  /** Short side of the resized picture, in pixels; the long one is at most four times as long. */
  readonly size: number
  /** Side of the square windows; absent: the whole picture at once. */
  readonly crop?: number
  /** Pixels from window to window. */
  readonly stride?: number
  /** Times the size at which a picture is looked at; scores are averaged. */
  readonly scales: readonly number[]
  /** Looks at every picture mirrored too. */
  readonly flip: boolean
}

/** A folded head: one linear layer from D channels to K scores. */
export type FoldedHead = {readonly weight: Tensor2D /* [K, D] */; readonly bias: Tensor1D /* [K] */}

/** Patch features of windows [n, y, x, 3] → [n, h, w, D], and how many windows are computed at once. */
export type WindowFeatures = {compute(windows: Tensor4D): Tensor4D; batch(size: MapSize): number}

/** Scores of maps [n, h, w, D] → [n, h, w, K]. */
function logitMaps(maps: Tensor4D, head: FoldedHead): Tensor4D {
  const [n, h, w, D] = maps.shape
  return tidy(() => reshape(linearForward(reshape(maps, [n * h * w, D]), head), [n, h, w, head.bias.shape[0]]))
}

/** Scores of one normalized picture [1, H, W, 3] at its own size, from windows that overlap: [1, H, W, K]. */
export function slidingLogits(image: Tensor4D, features: WindowFeatures, head: FoldedHead, {crop, stride}: SegmentProtocol): Tensor4D {
  const [, H, W] = image.shape
  const K = head.bias.shape[0]
  const [y, x] = [Math.min(crop ?? H, H), Math.min(crop ?? W, W)]
  const step = stride ?? Math.max(y, x)
  const places = windowStarts(H, y, step).flatMap(top => windowStarts(W, x, step).map(left => [top, left] as const))
  const batch = features.batch([y, x])
  return tidy(() => {
    const scoresOf = (windows: Tensor4D): Tensor4D => resizeForward(logitMaps(features.compute(windows), head), [y, x]) // [n, y, x, K]
    if (places.length === 1) return scoresOf(image)
    let total: Tensor4D | undefined
    const counts = new Float32Array(H * W)
    for (let start = 0; start < places.length; start += batch) {
      const some = places.slice(start, start + batch)
      const next = tidy(() => {
        const scores = scoresOf(
          concat(
            some.map(([top, left]) => slice(image, [0, top, left, 0], [1, y, x, 3])),
            0
          ) as Tensor4D
        )
        const placed = some.map(([top, left], i) => {
          const one = slice(scores, [i, 0, 0, 0], [1, y, x, K])
          return pad(one, [[0, 0], [top, H - top - y], [left, W - left - x], [0, 0]]) // prettier-ignore
        })
        return (total ? [total, ...placed] : placed).reduce((a, b) => add(a, b))
      })
      total?.dispose()
      total = next
      for (const [top, left] of some)
        for (let row = top; row < top + y; row++) for (let column = left; column < left + x; column++) counts[row * W + column]!++
    }
    const mean = div<Tensor4D>(total!, tensor(counts, [1, H, W, 1]))
    total!.dispose()
    return mean
  })
}

/** A prediction: class numbers [Y, X], and the mean over pixels of the probability of the class chosen. */
export type Prediction = {readonly width: number; readonly height: number; readonly labels: Uint16Array; readonly confidence: number}

/**
 * The likeliest class of every pixel at a size, after all ways of the protocol to look at a picture. `look` gives the
 * normalized picture [1, H, W, 3] of a short side, mirrored or not, which is disposed here.
 */
export async function classMap(
  {width, height}: {readonly width: number; readonly height: number},
  look: (size: number, flip: boolean) => Tensor4D,
  features: WindowFeatures,
  head: FoldedHead,
  protocol: SegmentProtocol
): Promise<Prediction> {
  const ways = protocol.scales.flatMap(scale => (protocol.flip ? [false, true] : [false]).map(flip => ({scale, flip})))
  let sum: Tensor4D | undefined
  try {
    for (const {scale, flip} of ways) {
      const next = tidy(() => {
        const image = look(Math.round(protocol.size * scale), flip)
        const scores = resizeForward(slidingLogits(image, features, head, protocol), [height, width]) // [1, Y, X, K]
        const probabilities = softmax(scores, 3)
        const upright = flip ? reverse(probabilities, 2) : probabilities
        return sum ? add<Tensor4D>(sum, upright) : upright
      })
      sum?.dispose()
      sum = next
    }
    const made = tidy(() => ({labels: argMax(sum!, 3), best: mul(sum!.max(3).mean(), 1 / ways.length)}))
    const [labels, best] = await Promise.all([made.labels.data<'int32'>(), made.best.data<'float32'>()])
    dispose([made.labels, made.best])
    return {width, height, labels: Uint16Array.from(labels), confidence: best[0]!}
  } finally {
    sum?.dispose()
  }
}
