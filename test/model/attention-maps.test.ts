/**
 * Attention that is shown is attention that is computed: held against what the fused kernel does to values, against
 * the next block's input, and by its sums.
 */
import assert from 'node:assert/strict'
import {describe, test} from 'node:test'
import {attentionMaps, patchesWithAttention} from '../../src/model/attention-maps.js'
import {forward} from '../../src/model/vit.js'
import {attentionForward} from '../../src/tensor/ops/attention.js'
import {layerNormForward} from '../../src/tensor/ops/layer-norm.js'
import {linearForward} from '../../src/tensor/ops/linear.js'
import {concat, reshape, slice, tensor, tidy} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {disposeTree} from '../../src/tensor/tree.js'
import {initVit} from '../../src/model/init.js'
import {apart, counted, normal, onPlain, onTorch, put, take} from '../support/engine.js'
import type {VitConfig} from '../../src/model/config.js'

const config: VitConfig = {
  width: 24,
  depth: 3,
  heads: 2,
  patch: 4,
  ffn: 'mlp',
  hidden: 48,
  registers: 2,
  grid: 3,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
}
const [B, N, R] = [2, 6, 2]
const S = 1 + R + N
const K = config.width / config.heads

describe('attention maps', () => {
  for (const [name, engine] of [
    ['plain', onPlain],
    ['torch', onTorch]
  ] as const)
    test(`are the weights that the fused path gives to values (${name})`, async () => {
      await engine()
      const params = initVit(config, 4, 1)
      // Scores of some size: with fresh weights attention is almost even, and a mistake would hardly show.
      for (const {attn} of params.blocks) {
        const loud = tidy(() => attn.qkv.weight.mul<Tensor2D>(25))
        attn.qkv.weight.dispose()
        attn.qkv.weight = loud
      }
      const images = put(normal('pictures', [B, 8, 12, 3]))
      const before = counted()
      for (const block of [0, 2]) {
        const maps = attentionMaps(params, images, config, block)
        assert.equal(counted(), before + 1)
        assert.deepEqual(maps.shape, [B, config.heads, 1 + R, S])
        const found = await take(maps)
        for (let row = 0; row < B * config.heads * (1 + R); row++) {
          const sum = (found.data as Float32Array).subarray(row * S, (row + 1) * S).reduce((a, b) => a + b, 0)
          assert.ok(Math.abs(sum - 1) < 1e-5)
        }
        // Values that are 1 at one token and channel of a head turn the attention's output into its weights, K tokens
        // at a time.
        const expected = new Float32Array(found.data.length)
        for (let first = 0; first < S; first += K) {
          const out = await take(
            tidy(() => {
              const {prenorm} = forward({...params, blocks: params.blocks.slice(0, block)}, images, config)
              const {norm1, attn} = params.blocks[block]!
              const qkv = linearForward(layerNormForward(reshape(prenorm, [B * S, config.width]) as Tensor2D, norm1).y, attn.qkv)
              const values = new Float32Array(B * S * config.width)
              for (let t = first; t < Math.min(S, first + K); t++)
                for (let b = 0; b < B; b++)
                  for (let h = 0; h < config.heads; h++) values[(b * S + t) * config.width + h * K + t - first] = 1
              const marked = concat([slice(qkv, [0, 0], [-1, 2 * config.width]), tensor(values, [B * S, config.width])], 1)
              return attentionForward(marked as Tensor2D, [{count: B, length: S}], config.heads) // [B·S, C]
            })
          )
          for (let b = 0; b < B; b++)
            for (let h = 0; h < config.heads; h++)
              for (let row = 0; row <= R; row++)
                for (let t = first; t < Math.min(S, first + K); t++)
                  expected[((b * config.heads + h) * (1 + R) + row) * S + t] = out.data[(b * S + row) * config.width + h * K + t - first]!
        }
        assert.ok(apart(found, {shape: [B, config.heads, 1 + R, S], data: expected}) < 1e-5)
        const largest = (found.data as Float32Array).reduce((a, b) => Math.max(a, b), 0)
        assert.ok(largest > 2 / S, 'attention is not even')
      }
      assert.throws(() => attentionMaps(params, images, config, 3), /between 0 and 2 but received 3/)
      images.dispose()
      disposeTree(params)
    })
})

test('patches with attention are what forward and the maps of the last block give', async () => {
  await onPlain()
  const params = initVit(config, 4, 1)
  const images = put(normal('pictures', [B, 8, 12, 3]))
  const before = counted()
  const {patches, attention} = patchesWithAttention(params, images, config)
  assert.equal(counted(), before + 2)
  assert.deepEqual([patches.shape, attention.shape], [[B, N, config.width], [B, config.heads, N]]) // prettier-ignore
  const expected = forward(params, images, config)
  assert.ok(apart(await take(patches), await take(expected.patches)) < 1e-5)
  const maps = attentionMaps(params, images, config, 2) //                                      [B, H, 1 + R, S]
  const ofClass = reshape(slice(maps, [0, 0, 0, 1 + R], [B, config.heads, 1, N]), [B, config.heads, N])
  assert.ok(apart(await take(attention), await take(ofClass)) < 1e-5)
  for (const leaf of [expected.cls, expected.registers, expected.prenorm, maps, images]) leaf.dispose()
  disposeTree(params)
})
