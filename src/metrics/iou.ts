/**
 * Scores of segmentation from counts of pixels, by the definitions of mmsegmentation: everything is counted over the
 * whole set, then divided.
 *
 * K classes. `confusion[t · K + p]` counts pixels of class t that were taken for class p; pixels to be ignored are in
 * no count.
 *
 *     IoU of a class     intersection / (labelled + predicted − intersection)
 *     accuracy           intersection / labelled
 *     mIoU, mean acc.    means over the classes for which the quotient exists
 *     pixel accuracy     intersections of all classes / labelled pixels
 */

/** Counts [K · K], truth by prediction. */
export type Confusion = Float64Array

export type IouScores = {
  readonly miou: number
  readonly meanAccuracy: number
  readonly pixelAccuracy: number
  /** Null: the class is neither in the masks nor in the predictions (`iou`), or not in the masks (`accuracy`). */
  readonly iou: readonly (number | null)[]
  readonly accuracy: readonly (number | null)[]
  /** Pixels that carry the class. */
  readonly pixels: readonly number[]
}

export const emptyConfusion = (classes: number): Confusion => new Float64Array(classes * classes)

/**
 * Counts one image into `into`; truth and prediction [H · W] hold class numbers below K, `ignore` in the truth leaves
 * a pixel out. Throws a RangeError where lengths differ or a number is no class.
 */
export function countPixels(
  into: Confusion,
  truth: ArrayLike<number>,
  predicted: ArrayLike<number>,
  classes: number,
  ignore: number
): void {
  if (truth.length !== predicted.length) throw new RangeError(`expected ${truth.length} predicted pixels but received ${predicted.length}`)
  for (let i = 0; i < truth.length; i++) {
    const t = truth[i]!
    if (t === ignore) continue
    const p = predicted[i]!
    if (t >= classes || p >= classes) throw new RangeError(`expected class numbers below ${classes} but received ${t} (truth) and ${p}`)
    into[t * classes + p]!++
  }
}

/** Adds counts onto counts. */
export function addCounts(into: Float64Array, counts: Float64Array): void {
  for (let i = 0; i < into.length; i++) into[i]! += counts[i]!
}

/**
 * What IoU needs of one image, three counts a class: intersection, predicted, labelled; [3K]. Sums of these are the
 * counts of a set.
 */
export function areasOf(confusion: Confusion, classes: number): Float64Array {
  const areas = new Float64Array(3 * classes)
  for (let t = 0; t < classes; t++)
    for (let p = 0; p < classes; p++) {
      const count = confusion[t * classes + p]!
      if (t === p) areas[t]! += count
      areas[classes + p]! += count
      areas[2 * classes + t]! += count
    }
  return areas
}

/** Mean of what exists; NaN where nothing does. */
function meanOf(values: readonly (number | null)[]): number {
  let [sum, n] = [0, 0]
  for (const value of values)
    if (value !== null) {
      sum += value
      n++
    }
  return sum / n
}

/** The scores of areas [3K]. Means are NaN where no pixel is labelled. */
export function scoresOf(areas: Float64Array, classes: number): IouScores {
  const at = (kind: number): number[] => [...areas.subarray(kind * classes, (kind + 1) * classes)]
  const [both, predicted, labelled] = [at(0), at(1), at(2)]
  const over = (a: number, b: number): number | null => (b > 0 ? a / b : null)
  const iou = both.map((n, k) => over(n, labelled[k]! + predicted[k]! - n))
  const accuracy = both.map((n, k) => over(n, labelled[k]!))
  const total = (counts: readonly number[]): number => counts.reduce((a, b) => a + b, 0)
  return {
    miou: meanOf(iou),
    meanAccuracy: meanOf(accuracy),
    pixelAccuracy: total(both) / total(labelled),
    iou,
    accuracy,
    pixels: labelled
  }
}

/** mIoU alone, for many draws of the bootstrap. */
export function miouOf(areas: Float64Array, classes: number): number {
  let [sum, n] = [0, 0]
  for (let k = 0; k < classes; k++) {
    const union = areas[classes + k]! + areas[2 * classes + k]! - areas[k]!
    if (union > 0) {
      sum += areas[k]! / union
      n++
    }
  }
  return sum / n
}

/** Sums of the areas of images, drawn ones as often as they were drawn; [3K]. */
export function sumAreas(images: ArrayLike<Float64Array>, drawn: Int32Array, classes: number): Float64Array {
  const sum = new Float64Array(3 * classes)
  for (const item of drawn) addCounts(sum, images[item]!)
  return sum
}
