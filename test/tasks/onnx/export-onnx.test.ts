/** `export --to onnx`: sizes, heads that fit and that do not, and the files of the folder. Numbers: test/python. */
import assert from 'node:assert/strict'
import {existsSync, readFileSync, readdirSync} from 'node:fs'
import {copyFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import {loadBackbone} from '../../../src/tasks/embed/load-backbone.js'
import {exportModel, type ExportRequest} from '../../../src/tasks/export.js'
import {saveBackbone} from '../../../src/files/checkpoint/backbone.js'
import {expectedShapes} from '../../../src/files/checkpoint/architecture.js'
import {onPlain} from '../../support/engine.js'
import {saveHeads} from '../../support/onnx-models.js'
import {folder} from '../../support/program.js'
import {golden} from '../../support/scratch.js'
import {saveTiny, tiny} from '../../support/tiny-backbone.js'

const dir = folder()
const model = join(dir, 'tiny.safetensors')
let heads: string[] = []
before(async () => {
  await onPlain()
  await saveTiny(model)
  const backbone = await loadBackbone(model)
  heads = await saveHeads(dir, backbone)
  backbone[Symbol.dispose]()
})

let count = 0
const exported = async (more: Partial<ExportRequest>) => {
  const output = join(dir, `out-${++count}`)
  const report = await exportModel({model, to: 'onnx', output, toolVersion: '0', ...more})
  const json = (name: string): Record<string, unknown> => JSON.parse(readFileSync(join(output, name), 'utf8')) as Record<string, unknown>
  return {report, output, json}
}
const refused = (more: Partial<ExportRequest>, message: RegExp): Promise<void> =>
  assert.rejects(exported(more), (error: UserError) => message.test(`${error.message} ${error.hint}`) && error.exit !== 70)

test('the folder has the files of transformers.js and optimum, and says what goes in', async () => {
  const {output, json, report} = await exported({size: 56, license: 'apache-2.0'})
  assert.deepEqual(readdirSync(output, {recursive: true}).sort(), [
    'README.md',
    'config.json',
    'onnx',
    'onnx/model.onnx',
    'preprocessor_config.json'
  ])
  assert.equal(json('config.json')['model_type'], 'dinov2')
  assert.equal(json('config.json')['image_size'], 56)
  assert.equal(json('config.json')['transformers.js_config'], undefined)
  const {size, crop_size, do_normalize} = json('preprocessor_config.json')
  assert.deepEqual([size, crop_size, do_normalize], [{shortest_edge: 64}, {height: 56, width: 56}, true])
  assert.match(readFileSync(join(output, 'README.md'), 'utf8'), /license: "apache-2.0"[^]*batch × 17 × 32/)
  assert.equal(report.parameters, 45_344)
})

test('half precision, a second file and normalization inside are said where transformers.js looks', async () => {
  const half = await exported({size: 56, fp16: true, normalize: true, externalAbove: 100})
  assert.deepEqual(half.json('config.json')['transformers.js_config'], {dtype: 'fp16', use_external_data_format: true})
  assert.equal(half.json('preprocessor_config.json')['do_normalize'], false)
  assert.ok(existsSync(join(half.output, 'onnx/model_fp16.onnx_data')))
})

test('the size is that of the model; what is asked for must be a multiple of the patch', async () => {
  assert.equal((await exported({})).json('config.json')['image_size'], 224)
  const rounded = await exported({model: golden('vit_plain.safetensors'), numHeads: 4, dryRun: true})
  assert.deepEqual(rounded.report.notes.filter(note => /no multiple/.test(note)).length, 224 % rounded.report.config!.patch === 0 ? 0 : 1)
  await refused({size: 14_000}, /14000 pixels are more than/)
  await refused({size: 60}, /60 pixels cannot be cut into patches of 14.*--size 56 or --size 70/)
})

test('heads: classes go into config.json; another backbone, two of a task and other formats are refused', async () => {
  const {json, report} = await exported({size: 56, heads})
  assert.deepEqual(json('config.json')['id2label'], {0: 'cat', 1: 'dog', 2: 'fox'})
  assert.deepEqual(json('config.json')['architectures'], ['Dinov2ForImageClassification'])
  assert.ok(report.parameters > 45_344)
  assert.deepEqual(report.notes, [])
  const larger = await exported({size: 84, heads})
  assert.deepEqual(larger.report.notes, [`${heads[2]!} was trained on images of 56 pixels, and is exported for 84.`])
  const other = join(dir, 'other.safetensors')
  await saveTiny(other, 5)
  await refused({model: other, heads: [heads[0]!]}, /trained on features of another backbone/)
  await refused({heads: [heads[0]!, heads[0]!]}, /two heads for classify/)
  await refused({maxDepth: 10}, /no depth head/)
  await refused({heads, minDepth: 20}, /least depth of 20 m is not below a largest depth of 8 m/)
  await refused({heads: [model]}, /holds no trained head/)
  await refused({heads: [join(dir, 'absent.safetensors')]}, /absent/)
  await refused({to: 'hf', heads}, /--head is for --to onnx/)
  await refused({to: 'meta', normalize: true}, /--normalize is for --to onnx/)
  await refused({to: 'hf', maxDepth: 10}, /--max-depth is for --to onnx/)
  await refused({withHeads: true}, /no place for projection heads/)
  const dpt = join(dir, 'nyu_dpt_head.pth')
  await copyFile(golden('depth_dpt_mmcv.pth'), dpt)
  await refused({heads: [dpt]}, /does not fit a backbone 32 wide/)
})

test('a head that slides windows says how many, and one that looks in several ways that the graph looks once', async () => {
  const backbone = await loadBackbone(model)
  const [, , sliding] = await saveHeads(folder(), backbone, {size: 84, crop: 40, stride: 24, scales: [1, 1.5], flip: true})
  backbone[Symbol.dispose]()
  const {report, output} = await exported({size: 84, heads: [sliding!]})
  const notes = [
    `${sliding!} slides 9 windows of 40 pixels over each image, so the backbone is computed for them too.`,
    `${sliding!} averages 2 sizes and mirror images in prediction; the exported model looks once.`
  ]
  assert.deepEqual(report.notes, notes)
  const card = readFileSync(join(output, 'README.md'), 'utf8')
  assert.ok(notes.every(note => card.includes(note)))
  const one = await exported({size: 42, heads: [sliding!], dryRun: true})
  assert.match(one.report.notes.join('\n'), /trained on images of 84 pixels, and is exported for 42.\n.* slides 4 windows/)
})

test('a weight beyond half precision is named', async () => {
  const far = join(dir, 'far.safetensors')
  const tensors = [...expectedShapes(tiny)].map(([name, shape]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(name === 'blocks.1.mlp.fc1.weight' ? 7e4 : 0.01)
    return {name, shape, data}
  })
  await saveBackbone(far, tiny, tensors)
  await refused({model: far, fp16: true}, /blocks\.1\.mlp\.fc1\.weight holds 70000/)
  assert.deepEqual(
    readdirSync(dir).filter(name => name.startsWith(`.out`)),
    [],
    'nothing half written is left'
  )
})
