/**
 * Steps whose numbers are read later: on a device that works while the host goes on, reading a loss after every step
 * makes both wait for each other.
 *
 * What a step measured stays on the device. So does the question whether all of it is finite: where it is not, the
 * device leaves this step out and all that follow, until the host reads, learns which step it was, and finds the state
 * as it was before it. Of several processes all see the same numbers, for they are sums over all of them.
 */
import {callInPlaceKernel} from '../../tensor/ops/in-place.js'
import {cast, concat, dispose, fill, maximum, mul, notEqual, sum, tidy} from '../../tensor/tf.js'
import type {Scalar, Tensor1D} from '../../tensor/tf.js'

/** What a pass or a step measured: numbers that may not be there yet, and what they mean. */
export type MeasuredStep<Report> = {
  readonly values: Tensor1D
  readonly report: (values: Float32Array) => Report
}

/** Reads what was measured and lets it go. */
export function readMeasured<Report>({values, report}: MeasuredStep<Report>): Report {
  const numbers = values.dataSync<'float32'>()
  dispose(values)
  return report(numbers)
}

export class StepsAhead<Report> {
  #skip: Scalar | undefined
  #waiting: MeasuredStep<Report>[] = []

  /**
   * Takes what a step measured, to be read by `settle`. → 1 where this step or one since the last reading is not
   * finite, else 0; it stays this object's.
   */
  add(step: MeasuredStep<Report>): Scalar {
    this.#waiting.push(step)
    this.#skip ??= fill([], 0) as Scalar
    if (callInPlaceKernel('Dinov2MarkNotFinite', {values: [step.values], mark: [this.#skip]})) return this.#skip
    const before = this.#skip
    this.#skip = tidy(() => {
      const nothing = sum<Scalar>(mul<Tensor1D>(step.values, 0)) // NaN where one number is not finite
      return maximum<Scalar>(before, cast<Scalar>(notEqual<Scalar>(nothing, nothing), 'float32'))
    })
    dispose(before)
    return this.#skip
  }

  /** Steps that have not been read. */
  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * Reads all steps since the last reading, in one copy. → The reports of the steps that were taken; where there is
   * one that is not finite, that one's too, which was left out with all after it.
   */
  settle(): {readonly taken: Report[]; readonly failed?: Report} {
    const waiting = this.#waiting
    if (waiting.length === 0) return {taken: []}
    const numbers = tidy(() => concat(waiting.map(({values}) => values)).dataSync<'float32'>())
    const taken: Report[] = []
    let failed: Report | undefined
    let start = 0
    for (const {values, report} of waiting) {
      const own = numbers.subarray(start, (start += values.size))
      if (!own.every(Number.isFinite)) {
        failed = report(own)
        break
      }
      taken.push(report(own))
    }
    this.dispose()
    return {taken, failed}
  }

  dispose(): void {
    dispose([...this.#waiting.map(({values}) => values), ...(this.#skip ? [this.#skip] : [])])
    this.#waiting = []
    this.#skip = undefined
  }
}
