/** Scores of classification: ranks of the true class, accuracy by class, confusion. n items, K classes. */

/**
 * Rank of the true class of each item among its scores [n, K], from 0; equal scores count against it unless the true
 * class has the smaller number.
 */
export function trueClassRanks(scores: ArrayLike<number>, truth: ArrayLike<number>, classes: number): Int32Array {
  const n = truth.length
  return Int32Array.from({length: n}, (_, i) => {
    const own = scores[i * classes + truth[i]!]!
    let rank = 0
    for (let k = 0; k < classes; k++) {
      const other = scores[i * classes + k]!
      if (other > own || (other === own && k < truth[i]!) || (Number.isNaN(own) && k !== truth[i])) rank++
    }
    return rank
  })
}

/** The class of the highest score of each item; the first of equal ones. */
export function predictedClasses(scores: ArrayLike<number>, n: number, classes: number): Int32Array {
  return Int32Array.from({length: n}, (_, i) => {
    let top = 0
    for (let k = 1; k < classes; k++) if (scores[i * classes + k]! > scores[i * classes + top]!) top = k
    return top
  })
}

/** How often class `truth` was taken for class `said`: counts [K, K], row by true class. */
export function confusionMatrix(truth: ArrayLike<number>, said: ArrayLike<number>, classes: number): Int32Array {
  const counts = new Int32Array(classes * classes)
  for (let i = 0; i < truth.length; i++) counts[truth[i]! * classes + said[i]!]! += 1
  return counts
}

/** Of each class the share of its items that were named rightly; NaN where it has none. */
export function accuracyByClass(counts: Int32Array, classes: number): Float64Array {
  return Float64Array.from({length: classes}, (_, k) => {
    let all = 0
    for (let j = 0; j < classes; j++) all += counts[k * classes + j]!
    return all === 0 ? NaN : counts[k * classes + k]! / all
  })
}
