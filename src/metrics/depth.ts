/**
 * Errors of predicted depth, as the depth literature counts them, and the alignments that let relative depth be scored
 * at all.
 *
 * Definitions are those of Eigen et al. 2014 and of the toolbox behind the published numbers (docs/spec.md §5.4):
 * every measure is a mean over the valid pixels of one image, and images are averaged afterwards, each counting the
 * same whatever its number of valid pixels. Sums are taken in double precision. P valid pixels, d predicted, t true
 * depth in metres.
 */

/** One image's errors, or the mean of several. Metres where a unit is meant. */
export type DepthErrors = {
  /** Share of pixels with max(d/t, t/d) below 1.25. */
  readonly a1: number
  /** The same below 1.25². */
  readonly a2: number
  /** The same below 1.25³. */
  readonly a3: number
  /** Mean |d − t| / t. */
  readonly abs_rel: number
  /** Root of the mean (d − t)², in metres. */
  readonly rmse: number
  /** Mean |log₁₀ d − log₁₀ t|. */
  readonly log10: number
  /** Root of the mean (ln d − ln t)². */
  readonly rmse_log: number
  /** 100 · standard deviation of ln d − ln t: what is left when a common factor is taken out. */
  readonly silog: number
  /** Mean (d − t)² / t, in metres. */
  readonly sq_rel: number
}

export const depthMeasures = ['a1', 'a2', 'a3', 'abs_rel', 'rmse', 'log10', 'rmse_log', 'silog', 'sq_rel'] as const
export type DepthMeasure = (typeof depthMeasures)[number]

/**
 * The errors of predictions d [P] against true depths t [P], all above 0. Throws a RangeError where there is none or
 * the lengths differ.
 */
export function depthErrors(predicted: ArrayLike<number>, truth: ArrayLike<number>): DepthErrors {
  const n = truth.length
  if (n === 0 || predicted.length !== n)
    throw new RangeError(`Expected as many predictions as true depths, and at least one, but received ${predicted.length} and ${n}.`)
  let [a1, a2, a3, abs, sq, square, logs, logs2, log10] = [0, 0, 0, 0, 0, 0, 0, 0, 0]
  for (let i = 0; i < n; i++) {
    const [d, t] = [predicted[i]!, truth[i]!]
    const ratio = Math.max(d / t, t / d)
    if (ratio < 1.25) a1++
    if (ratio < 1.25 ** 2) a2++
    if (ratio < 1.25 ** 3) a3++
    const off = d - t
    abs += Math.abs(off) / t
    sq += (off * off) / t
    square += off * off
    const log = Math.log(d / t)
    logs += log
    logs2 += log * log
    log10 += Math.abs(log)
  }
  return {
    a1: a1 / n,
    a2: a2 / n,
    a3: a3 / n,
    abs_rel: abs / n,
    rmse: Math.sqrt(square / n),
    log10: log10 / n / Math.LN10,
    rmse_log: Math.sqrt(logs2 / n),
    silog: 100 * Math.sqrt(Math.max(0, logs2 / n - (logs / n) ** 2)),
    sq_rel: sq / n
  }
}

/** The mean of several images' errors. Throws a RangeError where there is none. */
export function meanErrors(images: readonly DepthErrors[]): DepthErrors {
  if (images.length === 0) throw new RangeError('Expected the errors of at least one image.')
  const mean = (measure: DepthMeasure): number => images.reduce((sum, errors) => sum + errors[measure], 0) / images.length
  return Object.fromEntries(depthMeasures.map(measure => [measure, mean(measure)])) as DepthErrors
}

/** A rectangle of valid pixels: rows top…bottom−1, columns left…right−1. */
export type CropBox = {readonly top: number; readonly bottom: number; readonly left: number; readonly right: number}

/** Which part of an image counts: all of it, the crop of Eigen et al. for NYU, or that of Garg et al. for KITTI. */
export type DepthCrop = 'none' | 'eigen' | 'garg'

/**
 * The part of an image of height × width that counts.
 *
 * `eigen`: rows 45…470 and columns 41…600 of 480 × 640, in proportion at other sizes. `garg`: shares of the sides,
 * whatever they are, truncated as in the official script.
 */
export function cropBox(crop: DepthCrop, height: number, width: number): CropBox {
  if (crop === 'none') return {top: 0, bottom: height, left: 0, right: width}
  if (crop === 'eigen') {
    const [y, x] = [height / 480, width / 640]
    return {top: Math.round(45 * y), bottom: Math.round(471 * y), left: Math.round(41 * x), right: Math.round(601 * x)}
  }
  return {
    top: Math.trunc(0.40810811 * height),
    bottom: Math.trunc(0.99189189 * height),
    left: Math.trunc(0.03594771 * width),
    right: Math.trunc(0.96405229 * width)
  }
}

/** The places of pixels that count: within the crop, and of a true depth strictly between `min` and `max`. */
export function validPixels(
  truth: Float32Array,
  width: number,
  {top, bottom, left, right}: CropBox,
  min: number,
  max: number
): Uint32Array {
  const found: number[] = []
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++) {
      const depth = truth[y * width + x]!
      if (depth > min && depth < max) found.push(y * width + x)
    }
  return Uint32Array.from(found)
}

/** How predictions are fitted to the truth, image by image, before they are scored. */
export type DepthAlignment = 'none' | 'median' | 'depth' | 'disparity'

/**
 * The middle value; the mean of the two in the middle of an even number. By selection (Hoare 1961), which at the size
 * of an image is much quicker than sorting.
 */
function median(values: ArrayLike<number>): number {
  const list = new Float64Array(values.length)
  for (let i = 0; i < list.length; i++) list[i] = values[i]!
  const half = list.length >> 1
  const upper = select(list, half)
  if (list.length % 2) return upper
  let lower = -Infinity // all below `half` are at most `upper` now
  for (let i = 0; i < half; i++) if (list[i]! > lower) lower = list[i]!
  return (lower + upper) / 2
}

/** Moves the k-th smallest to place k, smaller ones before it, and returns it. */
function select(list: Float64Array, k: number): number {
  let [low, high] = [0, list.length - 1]
  while (low < high) {
    const pivot = list[(low + high) >> 1]!
    let [i, j] = [low, high]
    while (i <= j) {
      while (list[i]! < pivot) i++
      while (list[j]! > pivot) j--
      if (i > j) break
      const swapped = list[i]!
      list[i++] = list[j]!
      list[j--] = swapped
    }
    if (k <= j) high = j
    else if (k >= i) low = i
    else break
  }
  return list[k]!
}

/** The scale and shift that bring x nearest to y in least squares; where x is constant, the scale is 0. */
export function fitLine(x: ArrayLike<number>, y: ArrayLike<number>): {scale: number; shift: number} {
  const n = x.length
  let [mx, my] = [0, 0]
  for (let i = 0; i < n; i++) {
    mx += x[i]! / n
    my += y[i]! / n
  }
  let [xx, xy] = [0, 0]
  for (let i = 0; i < n; i++) {
    xx += (x[i]! - mx) ** 2
    xy += (x[i]! - mx) * (y[i]! - my)
  }
  const scale = xx > 0 ? xy / xx : 0
  return {scale, shift: my - scale * mx}
}

/**
 * Predictions d [P] brought to the scale of the truth t [P], then into [min, max].
 *
 * `none`: clamped alone. `median`: times median t / median d (Zhou et al. 2017). `depth`: scale and shift by least
 * squares in depth. `disparity`: scale and shift by least squares between 1/d and 1/t, and inverted again (Ranftl et
 * al. 2020); what comes out at no positive disparity is `max`. What is not finite counts as `max`, NaN as `min`.
 */
export function align(
  predicted: ArrayLike<number>,
  truth: ArrayLike<number>,
  how: DepthAlignment,
  {min, max}: {readonly min: number; readonly max: number}
): Float64Array {
  const clamp = (depth: number): number => (Number.isNaN(depth) || depth < min ? min : depth > max ? max : depth)
  const bounded = new Float64Array(predicted.length)
  for (let i = 0; i < bounded.length; i++) bounded[i] = clamp(predicted[i]!)
  if (how === 'none') return bounded
  if (how === 'median') {
    const factor = median(truth) / median(bounded)
    return bounded.map(depth => clamp(depth * factor))
  }
  if (how === 'depth') {
    const {scale, shift} = fitLine(bounded, truth)
    return bounded.map(depth => clamp(scale * depth + shift))
  }
  const inverse = bounded.map(depth => 1 / depth)
  const wanted = new Float64Array(truth.length)
  for (let i = 0; i < wanted.length; i++) wanted[i] = 1 / truth[i]!
  const {scale, shift} = fitLine(inverse, wanted)
  return inverse.map(disparity => {
    const fitted = scale * disparity + shift
    return fitted > 0 ? clamp(1 / fitted) : max
  })
}
