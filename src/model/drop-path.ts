/**
 * Efficient stochastic depth (docs/spec.md §3): for each branch of each block, and each group of crops apart, an exact
 * number of sequences is kept at random; the branch is computed for those alone and weighs sequences / kept.
 */
import {tensor1d, tensor2d} from '../tensor/tf.js'
import type {Rng} from '../tensor/random.js'
import type {SequenceGroup} from '../tensor/ops/attention.js'
import type {DropPathSample} from './block.js'

/** How many of `count` sequences stay at drop rate `rate`: the whole part of count·(1 − rate), at least one. */
export const keptCount = (count: number, rate: number): number => Math.max(Math.trunc(count * (1 - rate)), 1)

/** Draws the sequences that one branch is computed for. The tensors inside are the caller's. */
export function sampleDropPath(groups: readonly SequenceGroup[], rate: number, random: Rng): DropPathSample {
  const rows: number[] = []
  const factors: number[] = []
  const kept: SequenceGroup[] = []
  const groupFactors: number[] = []
  let start = 0
  for (const {count, length} of groups) {
    const keptOfGroup = keptCount(count, rate)
    const chosen = random.permutation(count).slice(0, keptOfGroup).sort()
    for (const sequence of chosen) for (let i = 0; i < length; i++) rows.push(start + sequence * length + i)
    for (let i = 0; i < keptOfGroup * length; i++) factors.push(count / keptOfGroup)
    groupFactors.push(count / keptOfGroup)
    kept.push({count: keptOfGroup, length})
    start += count * length
  }
  const same = groupFactors.every(factor => factor === groupFactors[0])
  return {
    rows: tensor1d(rows, 'int32'),
    groups: kept,
    factor: same ? groupFactors[0]! : tensor2d(factors, [factors.length, 1])
  }
}
