/** Weights brought to another shape: what must stay equal stays equal, what cannot be bridged is named. */
import assert from 'node:assert/strict'
import {before, describe, it} from 'node:test'
import {adapt, resamplings, kernelWeights, incompatibilities, resamplePatches} from '../../src/model/adapt.js'
import type {VitConfig} from '../../src/model/config.js'
import {positionsFor, sizeWeights} from '../../src/model/positions.js'
import {normedTokens} from '../../src/model/vit.js'
import {rng} from '../../src/tensor/random.js'
import {dispose, memory, tensor} from '../../src/tensor/tf.js'
import {flatten, disposeTree} from '../../src/tensor/tree.js'
import {onPlain} from '../support/engine.js'
import {configs, smallVit} from '../support/small-vit.js'

/**
 * A picture [side, side] with each of its patches of `from` pixels resized to `to` by the matrix that the
 * pseudo-inverse belongs to.
 */
function resizePatches(image: Float64Array, patches: number, from: number, to: number): Float64Array {
  const R = sizeWeights(from, to)
  const out = new Float64Array((patches * to) ** 2)
  for (let py = 0; py < patches; py++)
    for (let px = 0; px < patches; px++)
      for (let y = 0; y < to; y++)
        for (let x = 0; x < to; x++) {
          let sum = 0
          for (let j = 0; j < from; j++)
            for (let i = 0; i < from; i++)
              sum += R[y * from + j]! * R[x * from + i]! * image[(py * from + j) * patches * from + px * from + i]!
          out[(py * to + y) * patches * to + px * to + x] = sum
        }
  return out
}

describe('adapt', () => {
  before(onPlain)

  it('gives the same features for patches that grew with their kernel', () => {
    const from = configs.plain
    const to: VitConfig = {...from, patch: 6}
    const params = smallVit(from)
    const larger = adapt(params, from, to, 0)
    const random = rng(0, 'pictures')
    const side = from.grid * from.patch
    const channels = [0, 1, 2].map(() => Float64Array.from({length: side * side}, () => random.normal()))
    const grown = channels.map(channel => resizePatches(channel, from.grid, from.patch, to.patch))
    const picture = (planes: Float64Array[], size: number) =>
      tensor(
        Float32Array.from({length: size * size * 3}, (_, at) => planes[at % 3]![Math.floor(at / 3)]!),
        [1, size, size, 3]
      )
    const small = picture(channels, side)
    const large = picture(grown, from.grid * to.patch)
    const old = normedTokens(params, {images: small as never}, from)
    const after = normedTokens(larger, {images: large as never}, to)
    const [one, other] = [old.dataSync(), after.dataSync()]
    assert.ok(one.every((value, at) => Math.abs(value - other[at]!) < 1e-4))
    dispose([small, large, old, after])
    disposeTree(params)
    disposeTree(larger)
  })

  it('inverts itself: a kernel that grew and shrank again is the one it was', () => {
    for (const [small, large] of [
      [4, 6],
      [14, 16],
      [8, 14]
    ] as const) {
      const there = kernelWeights(small, large) // [large, small]
      const R = sizeWeights(small, large) //       [large, small]; Rᵀ·A must be the identity
      for (let i = 0; i < small; i++)
        for (let j = 0; j < small; j++) {
          let sum = 0
          for (let k = 0; k < large; k++) sum += R[k * small + i]! * there[k * small + j]!
          assert.ok(Math.abs(sum - Number(i === j)) < 1e-6, `${small} → ${large}, entry ${i}, ${j}: ${sum}`)
        }
    }
  })

  it('shrinks kernels to the nearest that a resized patch can be read with', () => {
    // A = (RRᵀ)⁻¹R is a left inverse of Rᵀ: what lies in the span of the small kernels is kept.
    const A = kernelWeights(16, 14) //  [14, 16]
    const R = sizeWeights(16, 14) //    [14, 16]
    for (let i = 0; i < 14; i++)
      for (let j = 0; j < 14; j++) {
        let sum = 0
        for (let k = 0; k < 16; k++) sum += A[i * 16 + k]! * R[j * 16 + k]!
        assert.ok(Math.abs(sum - Number(i === j)) < 1e-6)
      }
  })

  it('resamples positions as the model does, and adds registers after those that are there', () => {
    const from = configs.registers
    const to: VitConfig = {...from, grid: 5, registers: 4}
    const params = smallVit(from)
    const start = memory().numTensors
    const next = adapt(params, from, to, 3)
    assert.equal(memory().numTensors - start, flatten(next).size)
    const rows = positionsFor(params.pos_embed, from, 5, 5)
    assert.deepEqual(next.pos_embed.dataSync(), rows.dataSync())
    const registers = next.register_tokens!.dataSync()
    assert.deepEqual(registers.slice(0, 2 * from.width), params.register_tokens!.dataSync())
    assert.ok(registers.slice(2 * from.width).every(value => value !== 0 && Math.abs(value) < 1e-4))
    assert.deepEqual(resamplings(from, to), ['positions resampled from 3 × 3 to 5 × 5', '2 registers added'])
    dispose(rows)
    disposeTree(next)
    disposeTree(params)
  })

  it('copies where nothing differs, and leaves the original alone', () => {
    const params = smallVit(configs.plain)
    const next = adapt(params, configs.plain, configs.plain, 0)
    disposeTree(next)
    assert.ok([...flatten(params).values()].every(leaf => !leaf.isDisposed))
    disposeTree(params)
  })

  it('names all that cannot be bridged', () => {
    const from = configs.registers
    const to: VitConfig = {...from, width: 24, registers: 0}
    assert.deepEqual(incompatibilities(from, to), [
      'width is 12 there and 24 here',
      'registers are 2 there and 0 here, and none can be taken away'
    ])
    const params = smallVit(from)
    assert.throws(() => adapt(params, from, to, 0), /width is 12 there and 24 here; registers are 2/)
    disposeTree(params)
  })

  it('refuses no patch side and loses no tensor', () => {
    const params = smallVit(configs.plain)
    const start = memory().numTensors
    const kernel = resamplePatches(params.patch_embed.proj.weight, 3)
    assert.deepEqual(kernel.shape, [12, 3, 3, 3])
    dispose(kernel)
    assert.equal(memory().numTensors, start)
    disposeTree(params)
  })
})
