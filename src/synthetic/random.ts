/**
 * Chance in the words of a draughtsman: ranges, likelihoods and choices over one of the project's seeded streams. Each
 * picture has a stream of its own, named by seed, split, class and number, so that no picture depends on which others
 * are drawn before it.
 */
import {rng, type RandomKey} from '../tensor/random.js'

export type Chance = {
  /** Uniform in [low, high). */
  readonly range: (low: number, high: number) => number
  /** A whole number from low to high, both included. */
  readonly int: (low: number, high: number) => number
  /** True with probability p. */
  readonly likely: (p: number) => boolean
  readonly pick: <T>(choices: readonly T[]) => T
}

/** The stream of chance that is named by seed and words. */
export function chance(seed: number, ...words: readonly RandomKey[]): Chance {
  const stream = rng(seed, ...words)
  return {
    range: (low, high) => stream.uniform(low, high),
    int: (low, high) => low + stream.int(high - low + 1),
    likely: p => stream.chance(p),
    pick: choices => choices[stream.int(choices.length)]!
  }
}
