/**
 * Block masks obey their rule, and a batch of them has the counts that the reference generator was measured to give.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {blockMask, collateMasks, ladder, maskSettings, maxPatches} from '../../../src/data/augment/block-masks.js'
import {rng} from '../../../src/tensor/random.js'
import {ladders} from '../../support/pixels.js'

test('the largest block is counted from left to right', () => {
  assert.deepEqual([maxPatches(224, 14), maxPatches(224, 16), maxPatches(518, 14), maxPatches(48, 8)], [128, 98, 666, 18])
})

test('the ladder is torch.linspace, to the bit', () => {
  for (const {count, values} of ladders) assert.deepEqual([...ladder(0.1, 0.5, count + 1)], values.map(Math.fround))
})

test('a mask never exceeds its target, and mostly reaches it', () => {
  for (const [size, patch] of [
    [224, 14],
    [224, 16],
    [48, 8],
    [28, 14]
  ] as const) {
    const settings = maskSettings(size, patch, 0.5, [0.1, 0.5])
    const patches = settings.rows * settings.columns
    let reached = 0
    for (let i = 0; i < 400; i++) {
      const target = i % (Math.floor(patches / 2) + 1)
      const mask = new Uint8Array(patches)
      const count = blockMask(rng(4, size, i), target, settings, mask)
      assert.equal(
        count,
        mask.reduce((a, b) => a + b, 0)
      )
      assert.ok(count <= target)
      if (count === target) reached++
    }
    assert.ok(reached > (size === 28 ? 0 : 200), `${size}/${patch}: ${reached} of 400`)
  }
})

test('blocks stay strictly inside the grid: none fits into a single row or column', () => {
  for (const [rows, columns] of [
    [1, 9],
    [9, 1]
  ] as const)
    for (let i = 0; i < 200; i++) {
      const mask = new Uint8Array(9)
      assert.equal(blockMask(rng(8, i), 4, {rows, columns, probability: 0.5, ratio: [0.1, 0.5], maxPatches: 4}, mask), 0)
    }
  // In two by two only single cells are smaller both ways, so two of them never make the target overflow.
  for (let i = 0; i < 200; i++) assert.ok(blockMask(rng(9, i), 2, maskSettings(28, 14, 0.5, [0.1, 0.5]), new Uint8Array(4)) <= 2)
})

test('a batch: half of the crops, flat indices, weights that sum to one per crop, a bound that holds', () => {
  const settings = maskSettings(224, 14, 0.5, [0.1, 0.5])
  const bounds = new Set<number>()
  for (let step = 0; step < 20; step++) {
    const {masks, indices, weights, upperbound} = collateMasks(rng(1, 'masks', step), 16, settings)
    bounds.add(upperbound)
    assert.equal(masks.length, 16 * 256)
    assert.deepEqual(
      [...indices],
      [...masks.keys()].filter(i => masks[i])
    )
    assert.ok(indices.length <= upperbound)
    const sums = new Float64Array(16)
    indices.forEach((place, i) => (sums[Math.floor(place / 256)]! += weights[i]!))
    assert.equal(sums.filter(s => s > 0).length, 8)
    for (const sum of sums) assert.ok(sum === 0 || Math.abs(sum - 1) < 1e-5)
  }
  assert.equal(bounds.size, 1)
  // Rungs 0.15, 0.2, … 0.5 of 256 patches, each cut to a whole number: 38 + 51 + 64 + 76 + 89 + 102 + 115 + 128.
  assert.ok([663, 664].includes([...bounds][0]!), `${[...bounds]}`)
  const none = collateMasks(rng(1), 1, settings)
  assert.deepEqual([none.indices.length, none.upperbound], [0, 0])
})

test('counts agree with those measured on the reference generator: about 328 patches a step at 48 px, patch 8, batch 32', () => {
  const settings = maskSettings(48, 8, 0.5, [0.1, 0.5])
  let total = 0
  for (let step = 0; step < 300; step++) total += collateMasks(rng(2, step), 64, settings).indices.length
  assert.ok(Math.abs(total / 300 - 328) < 3, `${total / 300}`)
})

test('which crops are masked is even over the places', () => {
  const settings = maskSettings(48, 8, 0.5, [0.1, 0.5])
  const counts = new Float64Array(8)
  for (let step = 0; step < 2000; step++) {
    const {masks} = collateMasks(rng(3, step), 8, settings)
    for (let i = 0; i < 8; i++) if (masks.subarray(36 * i, 36 * i + 36).some(v => v)) counts[i]!++
  }
  for (const count of counts) assert.ok(Math.abs(count - 1000) < 5 * Math.sqrt(500), `${[...counts]}`)
})
