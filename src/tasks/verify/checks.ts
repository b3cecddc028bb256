/**
 * How an agreement with a recording is judged: one line for each thing compared, with the error by which it is judged,
 * its limit, and the verdict.
 */
import type {Tensor} from '../../tensor/tf.js'
import type {RecordedTensor} from './golden.js'

/** What the number in `error` is. */
export type ErrorMeasure =
  /** Largest absolute difference over the largest recorded entry. */
  | 'max'
  /** L2 norm of the difference of two updates over the norm of the recorded update. */
  | 'update'
  /** Cosine between computed and recorded values; the limit is a lower one. */
  | 'cosine'
  /** Entries that differ at all. */
  | 'count'

export type Check = {
  /** Part of the recording, e.g. `vit plain`. */
  readonly part: string
  readonly name: string
  readonly measure: ErrorMeasure
  readonly error: number
  /** Null where the number is reported but not judged. */
  readonly limit: number | null
  readonly pass: boolean
}

/** What a faithful float32 implementation keeps. */
export const LIMITS = {forward: 1e-5, gradient: 1e-4, update: 3e-3, cosine: 0.999} as const

/** A verdict; what is not a number fails. */
export function check(part: string, name: string, measure: ErrorMeasure, error: number, limit: number | null): Check {
  const pass = limit === null || (measure === 'cosine' ? error >= limit : error <= limit)
  return {part, name, measure, error, limit, pass}
}

/**
 * Largest difference over the largest recorded entry; infinite where lengths differ, NaN where a value is not a
 * number.
 */
export function maxError(computed: ArrayLike<number>, recorded: ArrayLike<number>): number {
  if (computed.length !== recorded.length) return Infinity
  let [worst, largest] = [0, 0]
  for (let i = 0; i < recorded.length; i++) {
    const difference = Math.abs(computed[i]! - recorded[i]!)
    if (Number.isNaN(difference)) return NaN
    worst = Math.max(worst, difference)
    largest = Math.max(largest, Math.abs(recorded[i]!))
  }
  return worst === 0 ? 0 : worst / largest
}

/** Cosine of two vectors; NaN where lengths differ or one is zero. */
function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return NaN
  let [dot, aa, bb] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    dot += a[i]! * b[i]!
    aa += a[i]! ** 2
    bb += b[i]! ** 2
  }
  return dot / Math.sqrt(aa * bb)
}

/**
 * ‖(computed − init) − (recorded − init)‖ / ‖recorded − init‖ over the entries that `counts` picks; 0 where neither
 * moved.
 */
export function updateError(
  init: ArrayLike<number>,
  computed: ArrayLike<number>,
  recorded: ArrayLike<number>,
  counts: (index: number) => boolean = () => true
): number {
  if (computed.length !== recorded.length || init.length !== recorded.length) return Infinity
  let [off, moved] = [0, 0]
  for (let i = 0; i < recorded.length; i++) {
    if (!counts(i)) continue
    off += (computed[i]! - recorded[i]!) ** 2
    moved += (recorded[i]! - init[i]!) ** 2
  }
  return off === 0 ? 0 : Math.sqrt(off / moved)
}

/** Reads a computed tensor and judges it by its largest difference; a wrong shape is an infinite error. */
export async function compareTensor(
  part: string,
  name: string,
  computed: Tensor,
  recorded: RecordedTensor,
  limit: number | null
): Promise<Check> {
  const fits = computed.shape.join() === recorded.shape.join()
  return check(part, name, 'max', fits ? maxError(await computed.data(), recorded.data) : Infinity, limit)
}

/** Reads a computed tensor and returns its cosine with the recorded one. */
export async function compareCosine(
  part: string,
  name: string,
  computed: Tensor,
  recorded: RecordedTensor,
  limit: number | null
): Promise<Check> {
  return check(part, name, 'cosine', cosine(await computed.data(), recorded.data), limit)
}
