/** What model folders say of resize, crop, mean and deviation, and the patch embedding into which it is folded. */
import assert from 'node:assert/strict'
import {readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {foldNormalization} from '../../../src/files/checkpoint/fold-normalization.js'
import {openBackbone, type NamedTensor} from '../../../src/files/checkpoint/backbone.js'
import {
  defaultPreprocessing,
  huggingFacePreprocessing,
  isImageNet,
  preprocessingMetadata,
  recordedPreprocessing,
  timmPreprocessing
} from '../../../src/files/checkpoint/preprocessing.js'
import {exportModel} from '../../../src/tasks/export.js'
import {imageMean, imageStd} from '../../../src/tensor/ops/patches.js'
import {scratch} from '../../support/scratch.js'
import {saveTiny} from '../../support/tiny-backbone.js'

const [mean, std] = [
  [0.5, 0.4, 0.3],
  [0.2, 0.25, 0.3]
]
const bit = {size: {shortest_edge: 64}, crop_size: {height: 56, width: 56}, do_center_crop: true, image_mean: mean, image_std: std}

test('a preprocessor_config.json of transformers, in the forms that versions of it write', () => {
  const read = (fields: object) => huggingFacePreprocessing({...bit, ...fields}, 'p.json')
  assert.deepEqual(read({}), {resize: 64, crop: 56, mean, std, source: 'p.json', notes: []})
  assert.equal(read({size: 70, crop_size: 42}).crop, 42)
  assert.equal(read({size: 70}).resize, 70)
  assert.equal(read({do_center_crop: false, crop_size: null}).crop, undefined)
  const raw = read({do_rescale: false, image_mean: [127.5, 102, 76.5], image_std: [51, 63.75, 76.5]})
  for (let i = 0; i < 3; i++) assert.ok(Math.abs(raw.mean[i]! - mean[i]!) + Math.abs(raw.std[i]! - std[i]!) < 1e-9)
  assert.deepEqual(read({do_normalize: false}).std, [1, 1, 1])
  assert.match(read({size: {height: 60, width: 56}, crop_size: undefined, do_center_crop: false}).notes.join(), /stretches images/)
  assert.match(read({resample: 2}).notes.join(), /bilinear/)
  assert.match(read({do_pad: true, size_divisor: 14}).notes.join(), /p\.json pads images; nothing is padded/)
  const convNext = {crop_pct: 0.875, crop_size: undefined, do_center_crop: undefined, image_processor_type: 'ConvNextImageProcessor'}
  const near = read({...convNext, size: {shortest_edge: 224}})
  assert.deepEqual([near.resize, near.crop], [256, 224])
  const far = read({...convNext, size: {shortest_edge: 384}})
  assert.deepEqual([far.resize, far.crop], [384, 384])
  assert.match(far.notes.join(), /stretches images to 384 × 384 pixels/)
  assert.throws(() => read({...convNext, crop_pct: 7}), /crop_pct = 7; a share from 0.05 to 1 was expected/)
  assert.match(read({size: {shortest_edge: 62, longest_edge: 99}}).notes.join(), /limits the long side to 99 pixels/)
  assert.match(read({image_mean: undefined}).notes.join(), /no image_mean/)
  for (const wrong of [{image_std: [1, 0, 1]}, {image_mean: [1, 2]}, {size: -3}, {size: {shortest_edge: 1e9}}, {rescale_factor: 'x'}])
    assert.throws(() => read(wrong), {name: 'UserError', code: 'BAD_CHECKPOINT', message: /^p\.json has \w+ = .* was expected/s})
})

test('the pretrained_cfg of a timm folder: the short side is floor(input / crop_pct)', () => {
  const read = (fields: object) => timmPreprocessing({input_size: [3, 56, 56], crop_pct: 0.9, mean, std, ...fields}, 'c.json')
  assert.deepEqual(read({}), {resize: 62, crop: 56, mean, std, source: 'c.json', notes: []})
  assert.match(read({crop_mode: 'squash', interpolation: 'bilinear'}).notes.join(), /crop mode squash.*bilinear/)
  assert.match(read({input_size: [3, 56, 42]}).notes.join(), /cuts 56 × 42 pixels; a square of 42 is cut/)
  for (const wrong of [{input_size: [3, 0, 0]}, {input_size: 64}, {input_size: [64]}, {crop_pct: 0}, {crop_pct: 1e-9}, {std: 0}])
    assert.throws(() => read(wrong), {code: 'BAD_CHECKPOINT'})
})

test('early folders of timm have the fields of pretrained_cfg beside the architecture', async t => {
  const folder = await scratch(t)
  await saveTiny(join(folder, 'tiny.safetensors'))
  const timm = join(folder, 'timm')
  await exportModel({model: join(folder, 'tiny.safetensors'), to: 'timm', output: timm, toolVersion: 'test'})
  const path = join(timm, 'config.json')
  const {pretrained_cfg: cfg, ...rest} = JSON.parse(await readFile(path, 'utf8')) as {pretrained_cfg: object}
  await writeFile(path, JSON.stringify({...rest, ...cfg, mean, std}))
  const {checkpoint} = await openBackbone(timm)
  await checkpoint.close()
  assert.deepEqual([checkpoint.preprocessing?.mean, checkpoint.preprocessing?.source], [mean, path])
})

test('the metadata of our own files read back as they were written', () => {
  const given = {...defaultPreprocessing, resize: 64, mean, std, source: 'f'} as unknown as typeof defaultPreprocessing
  for (const own of [given, {...given, crop: undefined}]) {
    const back = recordedPreprocessing(preprocessingMetadata(own), 'f')!
    assert.deepEqual([back.resize, back.crop, back.mean, back.std], [own.resize, own.crop, own.mean, own.std])
  }
  assert.equal(recordedPreprocessing({heads: '4'}, 'f'), undefined)
  assert.throws(() => recordedPreprocessing({resize: '9x', crop: '3'}, 'f'), {code: 'BAD_CHECKPOINT'})
})

test('a folded patch embedding computes of ImageNet-normalized pixels what the model computes of its own', async () => {
  const own = {mean: mean as [number, number, number], std: std as [number, number, number]}
  const [C, P] = [2, 2]
  const weight = Float32Array.from({length: C * 3 * P * P}, (_, i) => Math.sin(i))
  const bias = Float32Array.of(0.5, -1)
  const tensors = async function* (): AsyncGenerator<NamedTensor> {
    yield {name: 'patch_embed.proj.weight', shape: [C, 3, P, P], data: weight}
    yield {name: 'patch_embed.proj.bias', shape: [C], data: bias}
  }
  const folded: NamedTensor[] = []
  for await (const one of foldNormalization(tensors(), own)) folded.push(one)
  const pixels = Array.from({length: 3 * P * P}, (_, i) => ((i * 37) % 100) / 100)
  const project = (w: Float32Array, b: Float32Array, m: readonly number[], s: readonly number[]): number[] =>
    [...b].map((sum, row) =>
      pixels.reduce((all, p, i) => all + (w[row * 3 * P * P + i]! * (p - m[Math.trunc(i / 4)]!)) / s[Math.trunc(i / 4)]!, sum)
    )
  const expected = project(weight, bias, own.mean, own.std)
  project(folded[0]!.data, folded[1]!.data, imageMean, imageStd).forEach((value, i) =>
    assert.ok(Math.abs(value - expected[i]!) < 1e-5, `${value} and ${expected[i]}`)
  )
  assert.ok(isImageNet({mean: [0.4850001, 0.456, 0.406], std: imageStd}))
})
