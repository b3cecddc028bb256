/**
 * Feature maps of images of any size: padding, channels and precision as the heads expect them; and the store that
 * keeps them within its budget.
 */
import assert from 'node:assert/strict'
import {mkdtemp, readdir, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {denseWidth, mapSize, padToPatches} from '../../../src/model/dense-maps.js'
import {blocksOf, denseBatch, denseFeatures} from '../../../src/tasks/embed/dense-features.js'
import {featureCache} from '../../../src/tasks/embed/dense-feature-cache.js'
import {loadBackbone, type Backbone} from '../../../src/tasks/embed/load-backbone.js'
import {intermediateLayers} from '../../../src/model/vit.js'
import {dispose, slice, tidy} from '../../../src/tensor/tf.js'
import {apart, counted, normal, onPlain, onTorch, put, take} from '../../support/engine.js'
import {saveTiny, tiny} from '../../support/tiny-backbone.js'

describe('dense features', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'dense-'))
    await saveTiny(join(folder, 'tiny.safetensors'))
  })
  after(() => rm(folder, {recursive: true}))
  const load = (): Promise<Backbone> => loadBackbone(join(folder, 'tiny.safetensors'))

  it('pads by zeros on both sides, the odd one behind', async () => {
    await onPlain()
    const images = put(normal('images', [1, 3, 7, 3]))
    const padded = padToPatches(images, 4)
    assert.deepEqual(padded.shape, [1, 4, 8, 3])
    const [inner, all] = [await take(tidy(() => slice(padded, [0, 0, 0, 0], [1, 3, 7, 3]))), await take(padded)]
    assert.equal(apart(inner, normal('images', [1, 3, 7, 3])), 0)
    assert.ok(all.data.slice(-8 * 3).every(value => value === 0))
    images.dispose()
  })

  for (const [name, engine] of [
    ['plain', onPlain],
    ['torch', onTorch]
  ] as const)
    it(`joins blocks and cls tokens in the order of the published heads (${name})`, async () => {
      await engine()
      using backbone = await load()
      const images = put(normal('images', [2, 40, 31, 3])) // pads to 42 × 42
      const before = counted()
      const settings = {layers: [0, 2], cls: true, norm: false}
      const maps = denseFeatures(backbone, images, settings)
      assert.equal(counted(), before + 1)
      assert.deepEqual(maps.shape, [2, 3, 3, 4 * 32])
      assert.equal(denseWidth(tiny, settings), 4 * 32)
      const found = await take(maps)
      const padded = padToPatches(images, tiny.patch)
      const outputs = intermediateLayers(backbone.params, padded, tiny, {n: [0, 2], norm: false})
      const own = await Promise.all(outputs.map(async ({patches, cls}) => ({patches: await take(patches), cls: await take(cls)})))
      const expected: number[] = []
      for (let b = 0; b < 2; b++)
        for (let i = 0; i < 9; i++)
          for (const {patches, cls} of own)
            expected.push(...patches.data.subarray((b * 9 + i) * 32, (b * 9 + i + 1) * 32), ...cls.data.subarray(b * 32, (b + 1) * 32))
      assert.ok(apart(found, {shape: [2, 3, 3, 128], data: Float32Array.from(expected)}) < 1e-6)
      dispose([images, padded])
    })

  it('knows which blocks a model has, and how much fits at once', () => {
    assert.deepEqual(blocksOf(tiny, 2), [1, 2])
    assert.deepEqual(blocksOf(tiny, [2, 0, 2]), [0, 2])
    assert.throws(() => blocksOf(tiny, 4), /--layers 4 does not fit the model, which has 3 blocks/)
    assert.throws(() => blocksOf(tiny, [3]), /does not fit/)
    assert.deepEqual(mapSize(tiny, [40, 28]), [3, 2])
    assert.equal(denseBatch(tiny, [448, 448], 'cpu'), 4)
    assert.equal(denseBatch(tiny, [4480, 4480], 'cpu'), 1)
  })
})

describe('the store of feature maps', () => {
  const map = (seed: number, count = 12): {height: number; width: number; data: Float32Array} => ({
    height: 2,
    width: 2,
    data: normal(`map ${seed}`, [count]).data as Float32Array
  })

  it('keeps to its budget of memory, then of disk, then turns away', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'cache-'))
    const cache = featureCache({memory: 100, disk: 100, folder}) // two maps of 48 bytes each
    for (let i = 0; i < 5; i++) assert.equal(cache.put(i, map(i)), i < 4, `map ${i}`)
    assert.deepEqual(cache.stats(), {maps: 4, memoryBytes: 96, diskBytes: 96, turnedAway: 1})
    for (let i = 0; i < 4; i++) assert.deepEqual(cache.get(i), map(i))
    assert.equal(cache.get(4), undefined)
    cache.put(3, map(7)) // a map on disk is replaced in its place
    assert.deepEqual([cache.get(3), cache.get(2), cache.stats().diskBytes], [map(7), map(2), 96])
    cache[Symbol.dispose]()
    assert.deepEqual(await readdir(folder), [], 'nothing is left behind')
    assert.equal(cache.get(0), undefined)
    await rm(folder, {recursive: true})
  })

  it('gives copies: what a reader does to a map does not reach the next', () => {
    using cache = featureCache({memory: 1000})
    const given = map(1)
    cache.put(1, given)
    given.data.fill(0)
    cache.get(1)!.data.fill(0)
    assert.deepEqual(cache.get(1), map(1))
    assert.throws(() => cache.put(1, map(1, 3)), /expected the 12 numbers of map 1 but received 3/)
  })

  it('rounds to bfloat16 where it may, to the nearest, halves to even', () => {
    using cache = featureCache({memory: 1000, precision: 'bf16'})
    // 1 + 2⁻⁸ lies halfway between 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ halfway between 1 + 2⁻⁷ and 1 + 2⁻⁶.
    const data = Float32Array.of(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -2.5, Infinity, NaN, 0)
    cache.put(1, {height: 1, width: 1, data})
    assert.deepEqual([...cache.get(1)!.data], [1, 1, 1 + 2 ** -6, -2.5, Infinity, NaN, 0])
    assert.equal(cache.stats().memoryBytes, 14)
  })
})
