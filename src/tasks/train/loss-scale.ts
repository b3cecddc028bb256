/**
 * Dynamic loss scaling (Micikevicius et al. 2018): in float16 small gradients vanish, so losses are multiplied by a
 * power of two before the backward pass, and gradients divided by it after.
 *
 * Where gradients overflow, the step is taken again with half the scale: no batch is lost, and a step says the same
 * whatever scale it began with. After many steps without that the scale is doubled.
 */
import {isObject} from '../../system/json.js'
import {NotFiniteStep} from './non-finite.js'
import type {StepSettings} from './step-types.js'

/** As PyTorch begins. */
const FIRST = 2 ** 16
/** Steps without overflow after which the scale is doubled. */
const PATIENCE = 2000

export class LossScale {
  #value = FIRST
  #since = 0

  /** Takes a step with the scale that fits. Throws what `step` throws where no scale helps. */
  take<T>(step: (scale: number) => T): T {
    for (;;) {
      const before = this.kept()
      try {
        return step(this.next())
      } catch (error) {
        this.restore(before)
        if (!(error instanceof NotFiniteStep && error.isOfGradients) || !this.halve(before)) throw error
      }
    }
  }

  /** The scale of the next step, which counts as one without overflow until `halve` says otherwise. */
  next(): number {
    const value = this.#value
    if (++this.#since === PATIENCE) this.#set(value * 2)
    return value
  }

  /** Goes on from half of what was kept before a step that overflowed. False where no smaller scale is left. */
  halve(before: ReturnType<LossScale['kept']>): boolean {
    if (before.value <= 1) return false
    this.#set(before.value / 2)
    return true
  }

  #set(value: number): void {
    this.#value = value
    this.#since = 0
  }

  /** What a checkpoint keeps. */
  kept(): {value: number; since: number} {
    return {value: this.#value, since: this.#since}
  }

  /** Goes on from what a checkpoint kept; a run that had no scale begins with the first. */
  restore(kept: unknown): void {
    if (!isLossScale(kept)) return
    this.#value = kept.value
    this.#since = kept.since
  }
}

/** Whether this is what `kept` gives. */
export const isLossScale = (kept: unknown): kept is ReturnType<LossScale['kept']> =>
  isObject(kept) && Number.isInteger(Math.log2(kept['value'] as number)) && Number.isInteger(kept['since'])

/**
 * The settings with which losses, and so gradients, are larger by the loss scale: small ones would vanish in float16.
 */
export function withScaledLosses(settings: StepSettings): StepSettings {
  const {lossScale = 1, dinoWeight, ibotWeight, regularizers: weights} = settings
  if (lossScale === 1) return settings
  const scaled = Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, weight * lossScale]))
  return {...settings, dinoWeight: dinoWeight * lossScale, ibotWeight: ibotWeight * lossScale, regularizers: scaled}
}
