/**
 * Efficient stochastic depth (docs/spec.md §3): for each branch of each block, and each group of crops apart, an exact
 * number of sequences is kept at random; the branch is computed for those alone and weighs sequences / kept.
 */
import {tensor1d, tensor2d} from '../tensor/tf.js'
import type {Rng} from '../tensor/random.js'
import type {Group} from '../tensor/ops/attention.js'
import type {Kept} from './block.js'

/** How many of `count` sequences stay at drop rate `rate`: the whole part of count·(1 − rate), at least one. */
export const keptCount = (count: number, rate: number): number => Math.max(Math.trunc(count * (1 - rate)), 1)

/** Draws the sequences that one branch is computed for. The tensors inside are the caller's. */
export function drawKept(groups: readonly Group[], rate: number, random: Rng): Kept {
  const rows: number[] = []
  const factors: number[] = []
  const kept: Group[] = []
  const each: number[] = []
  let start = 0
  for (const {count, length} of groups) {
    const stay = keptCount(count, rate)
    const chosen = random.permutation(count).slice(0, stay).sort()
    for (const sequence of chosen) for (let i = 0; i < length; i++) rows.push(start + sequence * length + i)
    for (let i = 0; i < stay * length; i++) factors.push(count / stay)
    each.push(count / stay)
    kept.push({count: stay, length})
    start += count * length
  }
  const same = each.every(factor => factor === each[0])
  return {
    rows: tensor1d(rows, 'int32'),
    groups: kept,
    factor: same ? each[0]! : tensor2d(factors, [factors.length, 1])
  }
}
