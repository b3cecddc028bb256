/**
 * A backbone saved and loaded: the same numbers from every format, the same features, one fingerprint, and nothing
 * left in the engine.
 */
import assert from 'node:assert/strict'
import {truncate} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {saveBackbone, type NamedTensor} from '../../../src/files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../../src/files/checkpoint/hugging-face-folder.js'
import {forward} from '../../../src/model/vit.js'
import type {Vit} from '../../../src/model/vit.js'
import {loadBackbone} from '../../../src/tasks/embed/load-backbone.js'
import {dispose, tidy} from '../../../src/tensor/tf.js'
import {flatten, disposeTree} from '../../../src/tensor/tree.js'
import {apart, counted, held, normal, onTorch, put, take} from '../../support/engine.js'
import {scratch} from '../../support/scratch.js'
import {configs, smallVit} from '../../support/small-vit.js'

before(onTorch)

async function* tensorsOf(params: Vit): AsyncGenerator<NamedTensor> {
  for (const [name, leaf] of flatten(params)) yield {name, shape: leaf.shape, data: (await leaf.data()) as Float32Array}
}

for (const [kind, config] of Object.entries(configs))
  test(`${kind}: saved and loaded it is the same, from a file and from a folder`, async t => {
    const folder = await scratch(t)
    const start = {tensors: counted(), bytes: held()}
    const params = smallVit(config)
    const [file, face] = [join(folder, 'a.safetensors'), join(folder, 'hf')]
    await saveBackbone(file, config, tensorsOf(params), {note: 'kept'})
    await saveHuggingFace(face, config, tensorsOf(params))
    const x = put(normal('x', [2, 12, 12, 3]))
    const expected = await take(tidy(() => forward(params, x, config).patches))
    const fingerprints = new Set<string>()
    for (const path of [file, face]) {
      const before = {tensors: counted(), bytes: held()}
      const loaded = await loadBackbone(path, {trainable: true})
      // transformers always has LayerScale: a model without it gets one of ones.
      const added = path === face && !config.layerScale
      assert.deepEqual(loaded.config, {...config, layerScale: config.layerScale || added})
      if (path === file) assert.equal(loaded.metadata['note'], 'kept')
      fingerprints.add(loaded.fingerprint)
      const named = flatten(loaded.params)
      const more = added ? [0, 1].flatMap(i => [`blocks.${i}.ls1.gamma`, `blocks.${i}.ls2.gamma`]) : []
      assert.deepEqual([...named.keys()].sort(), [...flatten(params).keys(), ...more].sort())
      for (const name of more) assert.ok((await named.get(name)!.data()).every(x => x === 1))
      for (const [name, leaf] of flatten(params)) assert.deepEqual(await named.get(name)!.data(), await leaf.data(), name)
      assert.equal(held() - before.bytes, 4 * [...named.values()].reduce((sum, leaf) => sum + leaf.size, 0), 'each weight is held once')
      loaded[Symbol.dispose]()
      assert.deepEqual({tensors: counted(), bytes: held()}, before)

      for (const precision of ['fp32', 'bf16'] as const) {
        const folded = await loadBackbone(path, {precision})
        assert.equal(folded.precision, precision)
        fingerprints.add(folded.fingerprint)
        const off = apart(await take(tidy(() => forward(folded.params, x, config).patches)), expected)
        assert.ok(precision === 'fp32' ? off < 1e-5 : off > 0 && off < 0.05, `${precision}: ${off}`)
        folded[Symbol.dispose]()
        assert.deepEqual({tensors: counted(), bytes: held()}, before)
      }
    }
    assert.equal(fingerprints.size, config.layerScale ? 1 : 2)
    dispose(x)
    disposeTree(params)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  })

/** The fingerprint of a backbone, which is freed again. */
async function fingerprintFrom(...from: Parameters<typeof loadBackbone>): Promise<string> {
  const loaded = await loadBackbone(...from)
  loaded[Symbol.dispose]()
  return loaded.fingerprint
}

test('another number anywhere is another fingerprint', async t => {
  const folder = await scratch(t)
  const found = new Set<string>()
  for (const seed of [0, 1]) {
    const params = smallVit(configs.plain, seed)
    await saveBackbone(join(folder, `${seed}`), configs.plain, tensorsOf(params))
    disposeTree(params)
    found.add(await fingerprintFrom(join(folder, `${seed}`)))
  }
  assert.equal(found.size, 2)
})

test('the same weights with other heads or other positions are another fingerprint', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'foreign.safetensors')
  const params = smallVit(configs.plain)
  await saveBackbone(path, configs.plain, tensorsOf(params))
  disposeTree(params)
  const found = new Set<string>()
  // Files of other programs say none of this beside the weights, so that a folder's config.json decides.
  for (const overrides of [{}, {heads: 2}, {interpolateOffset: 0}, {interpolateAntialias: true}, {heads: 3}])
    found.add(await fingerprintFrom(path, {overrides}))
  assert.equal(found.size, 4) // three heads is what the file says
})

test('a file that breaks off is refused, and leaves nothing in the engine', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'a.safetensors')
  const params = smallVit(configs.plain)
  await saveBackbone(path, configs.plain, tensorsOf(params))
  disposeTree(params)
  const start = {tensors: counted(), bytes: held()}
  await truncate(path, 6000)
  await assert.rejects(loadBackbone(path), {name: 'UserError'})
  await assert.rejects(loadBackbone(join(folder, 'nobody.safetensors')), {exit: 3})
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})
