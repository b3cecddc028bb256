/**
 * The short way to the cls token against the long one: `clsTokens` skips what the last block does for other tokens and
 * must give what `forward` gives.
 */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import type {VitConfig} from '../../src/model/config.js'
import {initVit} from '../../src/model/init.js'
import {clsTokens, forward, castForInference} from '../../src/model/vit.js'
import {normalizePixels} from '../../src/tensor/ops/patches.js'
import {dispose} from '../../src/tensor/tf.js'
import {disposeTree} from '../../src/tensor/tree.js'
import {rng} from '../../src/tensor/random.js'
import {apart, counted, onPlain, onTorch, take} from '../support/engine.js'

before(onTorch)

const config = (ffn: 'mlp' | 'swiglu', registers: number): VitConfig => ({
  width: 48,
  depth: 2,
  heads: 3,
  patch: 7,
  ffn,
  hidden: 64,
  registers,
  grid: 4,
  layerScale: true,
  interpolateOffset: registers ? 0 : 0.1,
  interpolateAntialias: registers > 0
})

for (const [engine, use] of [
  ['torch', onTorch],
  ['plain', onPlain]
] as const)
  for (const [ffn, registers] of [
    ['mlp', 0],
    ['swiglu', 2]
  ] as const)
    test(`${engine}, ${ffn}, ${registers} registers: the cls token alone is the cls token of all features`, async () => {
      await use()
      const vit = config(ffn, registers)
      const params = initVit(vit, 3, 0.7)
      const {params: folded, owned} = castForInference(params, 'fp32')
      const random = rng(4, 'pixels')
      const images = normalizePixels(
        Uint8Array.from({length: 2 * 35 * 28 * 3}, () => random.int(256)),
        [2, 35, 28]
      )
      const before = counted()
      const short = clsTokens(folded, images, vit)
      assert.equal(counted(), before + 1)
      const {cls, ...rest} = forward(params, images, vit)
      disposeTree(rest)
      assert.ok(apart(await take(short), await take(cls)) < 2e-6)
      assert.equal(counted(), before)
      dispose(owned)
      dispose(images)
      disposeTree(params)
    })
