/**
 * Checkpoints in the hands of Python users: transformers computes Meta's features from our folder, torch loads our
 * files, we load torch's.
 */
import assert from 'node:assert/strict'
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, test} from 'node:test'
import type {UserError} from '../../src/config/errors.js'
import {shortSideFor} from '../../src/config/derived.js'
import {loadPixels} from '../../src/data/image/decode.js'
import {openBackbone, readBackbone, saveBackbone} from '../../src/files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../src/files/checkpoint/preprocessing.js'
import {openPth, writePth} from '../../src/files/checkpoint/pth.js'
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {renamed} from '../../src/files/checkpoint/tensor-entry.js'
import {rng} from '../../src/tensor/random.js'
import {png} from '../support/drawn.js'
import {golden, scratch} from '../support/scratch.js'
import {pythonServer} from '../support/python.js'

const server = pythonServer('open_checkpoints.py', {HF_HUB_OFFLINE: '1', TRANSFORMERS_VERBOSITY: 'error'})
after(() => server.end())
const python = server.ask

for (const [name, model] of [
  ['plain', 'Dinov2Model'],
  ['reg4_swiglu', 'Dinov2WithRegistersModel']
])
  test(`transformers opens our folder of vit_${name} as ${model} and computes the recorded features`, async t => {
    const folder = join(await scratch(t), 'hf')
    const {config, checkpoint} = await openBackbone(golden(`vit_${name}.pth`), {overrides: {heads: 4}})
    t.after(() => checkpoint.close())
    await saveHuggingFace(folder, config, readBackbone(config, checkpoint))
    const answer = await python('transformers', folder, golden(`vit_${name}_io.safetensors`))
    assert.equal(answer['class'], model)
    for (const keys of ['missing', 'unexpected', 'mismatched']) assert.deepEqual(answer[keys], [], keys)
    const worst = answer['worst'] as Record<string, number>
    assert.deepEqual(Object.keys(worst), name === 'plain' ? ['full', 'masked'] : ['full', 'masked', 'resized'])
    for (const [pass, difference] of Object.entries(worst)) assert.ok(difference <= 1e-4, `${pass}: ${difference}`)
  })

test('transformers cuts the pixels that we cut, from exports of every size and with foreign mean and deviation', async t => {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  t.after(() => checkpoint.close())
  // The long side's margin is even as well, or half of it is rounded down by both.
  const images = [join(folder, 'a.png'), join(folder, 'b.png')]
  for (const [i, path] of images.entries()) {
    const noise = rng(i, 'noise')
    const [width, height] = i === 0 ? [96, 64] : [64, 96]
    await writeFile(path, await png({width, height, data: Uint8Array.from({length: width * height * 3}, () => noise.int(256))}))
  }
  const foreign = {mean: [0.5307, 0.5, 0.4], std: [0.2583, 0.25, 0.3]} as const
  for (const [crop, normalization] of [
    [14, {}],
    [28, foreign],
    [42, {}],
    [56, foreign]
  ] as const) {
    const preprocessing = {...defaultPreprocessing, ...normalization, resize: shortSideFor(crop), crop}
    const hf = join(folder, `hf-${crop}`)
    await saveHuggingFace(hf, config, readBackbone(config, checkpoint), {preprocessing})
    const answer = join(folder, `${crop}.safetensors`)
    await python('processor', hf, answer, ...images)
    const made = await openSafetensors(answer)
    for (const [i, path] of images.entries()) {
      const {data} = await loadPixels({id: path, path, fields: {}}, preprocessing)
      const theirs = await made.tensors.get(String(i))!.readFloat32() // [3, crop, crop]
      assert.equal(theirs.length, 3 * crop * crop)
      // Back to bytes: resampling may round a value differently, a cut of other pixels of noise is far off.
      const worst = theirs.reduce((most, value, at) => {
        const channel = Math.trunc(at / crop ** 2)
        const byte = 255 * (value * preprocessing.std[channel]! + preprocessing.mean[channel]!)
        return Math.max(most, Math.abs(byte - data[(at % crop ** 2) * 3 + channel]!))
      }, 0)
      assert.ok(worst <= 1.01, `crop ${crop}, image ${i}: pixels differ by ${worst}`)
    }
    await made.close()
  }
})

test('torch.load(weights_only=True) opens what we write, flat, under a teacher, and with 64-bit places', async t => {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  t.after(() => checkpoint.close())
  const safe = join(folder, 'a.safetensors')
  await saveBackbone(safe, config, readBackbone(config, checkpoint))
  const flat = [...checkpoint.tensors.values()]
  for (const zip64Above of [undefined, 0]) {
    const path = join(folder, 'flat.pth')
    await writePth(path, flat, {zip64Above, force: true})
    const answer = await python('torch', path, safe)
    assert.deepEqual(answer['names'], [...checkpoint.tensors.keys()])
    assert.deepEqual((answer['metadata'] as Record<string, string>)['format'], 'pt')
    assert.deepEqual((answer['metadata'] as Record<string, string>)['heads'], '4')
  }
  const path = join(folder, 'teacher.pth')
  await writePth(
    path,
    flat.map(entry => renamed(entry, `backbone.${entry.name}`)),
    {root: 'teacher'}
  )
  assert.deepEqual((await python('torch', path, safe))['roots'], ['teacher'])
})

test('we open what torch.save writes: views, shared storages, all types, protocols 2 to 5 and the form before version 1.6, training checkpoints', async t => {
  const folder = await scratch(t)
  await python('save', folder)
  for (const ending of ['2', '3', '4', '5', 'old'])
    for (const [name, root] of [
      ['views', ''],
      ['types', 'teacher'],
      ['training', 'model']
    ] as const) {
      const file = await openPth(join(folder, `${name}-${ending}.pth`))
      const plain = await openSafetensors(join(folder, `${name}.safetensors`))
      const tensors = file.roots.get(root)!
      assert.deepEqual([...tensors.keys()].sort(), [...plain.tensors.keys()].sort())
      for (const [key, expected] of plain.tensors) {
        const entry = tensors.get(key)!
        assert.deepEqual([entry.dtype, entry.shape], [expected.dtype, expected.shape], key)
        assert.deepEqual(await entry.read(), await expected.read(), `${name} ${key} ${ending}`)
      }
      await file.close()
      await plain.close()
    }
  await assert.rejects(openPth(join(folder, 'module.pth')), (error: UserError) => /torch\.nn\.modules\.linear\.Linear/.test(error.message))
})
