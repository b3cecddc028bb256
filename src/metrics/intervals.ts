/**
 * How sure a score is: 95 % percentile intervals by drawing the scored items with replacement (Efron 1979), for a mean
 * and for the difference of two models on the same items.
 */
import {rng} from '../tensor/random.js'

export type Interval = readonly [low: number, high: number]
export type Estimate = {readonly mean: number; readonly interval: Interval}

const draws = 1000

/**
 * The value of `statistic` over all n items and its interval over draws of n items with replacement; the statistic
 * gets the numbers of the drawn items. The same seed and n draw the same items, so that two statistics of the same
 * items are compared like with like.
 */
export function bootstrap(n: number, statistic: (items: Int32Array) => number, seed: number): Estimate {
  const all = Int32Array.from({length: n}, (_, i) => i)
  const mean = statistic(all)
  if (n === 0) return {mean, interval: [mean, mean]}
  const random = rng(seed, 'bootstrap', n)
  const items = new Int32Array(n)
  const values = Float64Array.from({length: draws}, () => {
    for (let i = 0; i < n; i++) items[i] = random.int(n)
    return statistic(items)
  }).sort()
  const at = (share: number): number => values[Math.round(share * (draws - 1))]!
  return {mean, interval: [at(0.025), at(0.975)]}
}

/** Mean of one number an item, with its interval. */
export const meanOf = (values: ArrayLike<number>, seed: number): Estimate =>
  bootstrap(
    values.length,
    items => {
      let sum = 0
      for (const item of items) sum += values[item]!
      return sum / Math.max(1, items.length)
    },
    seed
  )

/** Mean of a − b over the same items, with its interval. Throws a RangeError where they are not equally many. */
export function differenceOf(a: ArrayLike<number>, b: ArrayLike<number>, seed: number): Estimate {
  if (a.length !== b.length) throw new RangeError(`expected numbers of the same items but received ${a.length} and ${b.length}`)
  return meanOf(
    Float64Array.from({length: a.length}, (_, i) => a[i]! - b[i]!),
    seed
  )
}

/**
 * Below so many items no difference is called significant: even if all of five had the same sign, a sign test would
 * give p = 2 · 2⁻⁵ = 0.06.
 */
const MIN_SIGNIFICANT_ITEMS = 6

/** Whether a paired difference over so many independent items differs from zero at the level of its interval. */
export const isSignificant = ({interval: [low, high]}: Pick<Estimate, 'interval'>, items: number): boolean =>
  items >= MIN_SIGNIFICANT_ITEMS && (low > 0 || high < 0)
