/**
 * From scores of items to figures: estimates with intervals for every candidate on every set, and paired differences
 * between one candidate and the others.
 *
 * Every figure of a set is computed from the same draws of items, so that two candidates are compared on the same
 * items.
 */
import {bootstrap, isSignificant, type Estimate} from '../../../metrics/intervals.js'
import type {EvalDifference, EvalScore, Variant} from './evaluation.js'

/** What one candidate got on the items of one set. */
export type Outcome<T> = {
  readonly features: string
  readonly set: string
  readonly variant?: Variant
  readonly ids: readonly string[]
  readonly items: ArrayLike<T>
  /** Group number of each item, where items of a group depend on each other: whole groups are drawn. */
  readonly groups?: readonly number[]
}

/** How scores of items become one figure. */
export type ScoreMeasure<T> = {
  /** Name of the field in reports. */
  readonly name: string
  readonly better: 'higher' | 'lower'
  /** The figure of the drawn items; one item may be drawn several times. */
  readonly of: (items: ArrayLike<T>, drawn: Int32Array) => number
}

/** A measure that is the mean of one number an item. */
export const meanMeasure = <T, M extends string = string>(
  name: M,
  valueOf: (item: T) => number,
  better: ScoreMeasure<T>['better'] = 'higher'
): ScoreMeasure<T> & {readonly name: M} => ({
  name,
  better,
  of: (items, drawn) => {
    let sum = 0
    for (const item of drawn) sum += valueOf(items[item]!)
    return sum / Math.max(1, drawn.length)
  }
})

/** A statistic of drawn items with its interval; whole groups are drawn where there are groups. */
export function estimateItems(
  {items, groups}: {readonly items: ArrayLike<unknown>; readonly groups?: readonly number[] | undefined},
  statistic: (drawn: Int32Array) => number,
  seed: number
): Estimate {
  if (!groups) return bootstrap(items.length, statistic, seed)
  const members = new Map<number, number[]>()
  for (const [item, group] of groups.entries()) {
    const known = members.get(group)
    if (known) known.push(item)
    else members.set(group, [item])
  }
  const lists = [...members.values()]
  return bootstrap(lists.length, drawn => statistic(Int32Array.from([...drawn].flatMap(group => lists[group]!))), seed)
}

/** The scores of all outcomes: each measure under its name, with its interval. */
export function scoreOutcomes<T, M extends string>(
  outcomes: readonly Outcome<T>[],
  measures: readonly (ScoreMeasure<T> & {readonly name: M})[],
  seed: number
): (EvalScore & Readonly<Record<M, number>>)[] {
  return outcomes.map(outcome => {
    const estimates = measures.map(
      measure => [measure.name, estimateItems(outcome, drawn => measure.of(outcome.items, drawn), seed)] as const
    )
    return {
      features: outcome.features,
      set: outcome.set,
      ...outcome.variant,
      images: outcome.items.length,
      ...(Object.fromEntries(estimates.map(([name, {mean}]) => [name, mean])) as Record<M, number>),
      intervals: Object.fromEntries(estimates.map(([name, {interval}]) => [name, interval]))
    }
  })
}

const fits = (variant: Variant = {}, other: Variant = {}): boolean =>
  Object.entries(other).every(([name, value]) => variant[name] === value)

const haveSameItems = (a: Pick<Outcome<unknown>, 'ids'>, b: Pick<Outcome<unknown>, 'ids'>): boolean =>
  a.ids.length === b.ids.length && a.ids.every((id, i) => id === b.ids[i])

/**
 * The differences between `features` and every other candidate: same set, same variant (an outcome without a variant
 * is compared with all), same items. A candidate that was scored on other items is not compared; a note says so.
 */
export function pairedDifferences<T>(
  outcomes: readonly Outcome<T>[],
  measures: readonly ScoreMeasure<T>[],
  {features, seed, notes}: {readonly features: string; readonly seed: number; readonly notes?: string[]}
): EvalDifference[] {
  const own = outcomes.filter(outcome => outcome.features === features)
  const names = [...new Set(outcomes.map(outcome => outcome.features))].filter(name => name !== features)
  const uncompared = new Set<string>()
  const differences = names.flatMap(over =>
    own.flatMap(mine => {
      const other = outcomes.find(one => one.features === over && one.set === mine.set && fits(mine.variant, one.variant))
      if (!other) return []
      if (!haveSameItems(mine, other)) {
        uncompared.add(`${over} saw other images of ${mine.set} than ${features}, and is not compared`)
        return []
      }
      return measures.map((measure): EvalDifference => {
        const estimate = estimateItems(mine, drawn => measure.of(mine.items, drawn) - measure.of(other.items, drawn), seed)
        return {
          features,
          over,
          set: mine.set,
          ...mine.variant,
          measure: measure.name,
          better: measure.better,
          ...estimate,
          significant: isSignificant(estimate, mine.groups ? new Set(mine.groups).size : mine.items.length)
        }
      })
    })
  )
  notes?.push(...uncompared)
  return differences
}
