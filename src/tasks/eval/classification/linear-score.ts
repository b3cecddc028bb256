/**
 * Scores of linear classifiers.
 *
 * In shape comments: n rows, D numbers a row, F of them that a classifier reads, K classes.
 */
import {confusionMatrix, trueClassRanks} from '../../../metrics/accuracy.js'
import {classifierScores} from '../../../heads/logistic.js'
import type {FeatureSlice} from '../../../heads/linear-grid.js'
import {tensor2d, tidy, type Tensor2D} from '../../../tensor/tf.js'
import type {LabelledSet} from '../shared/labelled-features.js'
import type {Classifier} from './classifier-file.js'
import type {ClassifiedItem} from './measures.js'

/** Logits [n, K] of a set, and what became of each image. */
export type ScoredSet = {readonly logits: Float32Array; readonly items: ClassifiedItem[]}

const CHUNK_ROWS = 4096

/** Scores a set in chunks, so that the logits of a large set fit. `truth` holds −1 for classes that are not known. */
export function scoreLabelledSet({x, dim, labels}: LabelledSet, {kind, weight, bias}: Classifier, truth: Int32Array, K: number): ScoredSet {
  const n = labels.length
  const logits = new Float32Array(n * K)
  for (let at = 0; at < n; at += CHUNK_ROWS) {
    const rows = Math.min(CHUNK_ROWS, n - at)
    const part = tidy(() => classifierScores(sliceRows(x, dim, at, rows, kind), {weight, bias})) // [rows, K]
    logits.set(part.dataSync<'float32'>(), at * K)
    part.dispose()
  }
  const ranks = trueClassRanks(
    logits,
    truth.map(k => Math.max(0, k)),
    K
  )
  const isWithin = (i: number, most: number): number => Number(truth[i]! >= 0 && ranks[i]! < most)
  return {logits, items: Array.from(truth, (_, i) => ({top1: isWithin(i, 1), top5: isWithin(i, 5)}))}
}

/** The columns of a slice, rows `at` … `at + rows`, as a tensor [rows, F]. */
function sliceRows(x: Float32Array, dim: number, at: number, rows: number, {start, length}: FeatureSlice): Tensor2D {
  if (start === 0 && length === dim) return tensor2d(x.slice(at * dim, (at + rows) * dim), [rows, dim])
  const out = new Float32Array(rows * length)
  for (let i = 0; i < rows; i++) out.set(x.subarray((at + i) * dim + start, (at + i) * dim + start + length), i * length)
  return tensor2d(out, [rows, length])
}

/** The confusion counts [K · K] of images whose class is known. */
export function confusionOfKnown(truth: Int32Array, predicted: Int32Array, K: number): Int32Array {
  const known = [...truth.keys()].filter(i => truth[i]! >= 0)
  return confusionMatrix(
    known.map(i => truth[i]!),
    known.map(i => predicted[i]!),
    K
  )
}

/** The softmax probability of the predicted class of row i among logits [n, K]. */
export function confidenceOf(logits: Float32Array, i: number, predicted: number, K: number): number {
  const own = logits.subarray(i * K, (i + 1) * K)
  return 1 / own.reduce((total, logit) => total + Math.exp(logit - own[predicted]!), 0)
}
