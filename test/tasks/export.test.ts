/** `export` from every format to every other: the same numbers, the right wrapping, and nothing half written. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdir, readdir, readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {promisify} from 'node:util'
import {configMetadata} from '../../src/files/checkpoint/architecture.js'
import {openBackbone, readBackbone, saveBackbone} from '../../src/files/checkpoint/backbone.js'
import {openCheckpoint} from '../../src/files/checkpoint/checkpoint.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../src/files/checkpoint/preprocessing.js'
import {openPth} from '../../src/files/checkpoint/pth.js'
import {writeState} from '../../src/files/checkpoint/training-state.js'
import {exportFormats, exportModel, type ExportFormat} from '../../src/tasks/export.js'
import {dict, op, pickle, pth, tensor} from '../support/pickle-bytes.js'
import {golden, projectFolder, scratch} from '../support/scratch.js'

const toolVersion = '0.1.0'
const endings: Record<ExportFormat, string> = {safetensors: '.safetensors', hf: '', meta: '.pth', timm: '', onnx: ''}

test('a model goes from format to format and keeps its architecture and numbers', async t => {
  const folder = await scratch(t)
  const first = await openBackbone(golden('vit_reg4_swiglu.pth'), {overrides: {heads: 4}})
  t.after(() => first.checkpoint.close())
  let model = golden('vit_reg4_swiglu.pth')
  // Through all formats that keep everything, in a row.
  for (const to of ['hf', 'meta', 'safetensors', 'hf'] as const) {
    const output = join(folder, `${to}-${Math.abs(model.length)}${endings[to]}`)
    const seen: number[] = []
    const report = await exportModel({model, to, output, numHeads: 4, toolVersion, onTensor: done => seen.push(done)})
    assert.deepEqual(report.config, first.config)
    assert.deepEqual(
      seen,
      Array.from({length: report.tensors}, (_, i) => i + 1)
    )
    model = output
  }
  const last = await openBackbone(model)
  t.after(() => last.checkpoint.close())
  assert.deepEqual(last.config, first.config)
  assert.equal(last.checkpoint.metadata['tool_version'], toolVersion)
  for (const [name, entry] of first.checkpoint.tensors)
    assert.deepEqual(await last.checkpoint.tensors.get(name)!.readFloat32(), await entry.readFloat32(), name)
})

test('half precision: half the bytes, each number the nearest, and only where it can be held', async t => {
  const folder = await scratch(t)
  const [model, output] = [golden('vit_plain.safetensors'), join(folder, 'half.safetensors')]
  const report = await exportModel({model, to: 'safetensors', output, fp16: true, numHeads: 4, toolVersion})
  assert.equal(report.bytes, 2 * report.parameters)
  const [exact, half] = [await openBackbone(model, {overrides: {heads: 4}}), await openBackbone(output)]
  t.after(() => Promise.all([exact.checkpoint.close(), half.checkpoint.close()]))
  assert.deepEqual(half.config, exact.config)
  for (const [name, entry] of exact.checkpoint.tensors) {
    const [wanted, got] = [await entry.readFloat32(), await half.checkpoint.tensors.get(name)!.readFloat32()]
    assert.equal(half.checkpoint.tensors.get(name)!.dtype, 'F16')
    for (const [i, value] of wanted.entries())
      assert.ok(Math.abs(got[i]! - value) <= Math.max(Math.abs(value) * 2 ** -11, 2 ** -25), `${name}[${i}]: ${value} became ${got[i]}`)
  }
  await assert.rejects(exportModel({model, to: 'hf', output: join(folder, 'hf'), fp16: true, numHeads: 4, toolVersion}), {exit: 2})
  assert.deepEqual(await readdir(folder), ['half.safetensors'])
})

test('a number that is not finite is written in no format', async t => {
  const folder = await scratch(t)
  const model = join(folder, 'model.safetensors')
  const bytes = await readFile(golden('vit_plain.safetensors'))
  for (const number of [NaN, -Infinity]) {
    bytes.writeFloatLE(number, bytes.length - 4)
    await writeFile(model, bytes)
    for (const to of exportFormats)
      for (const fp16 of to === 'safetensors' || to === 'onnx' ? [false, true] : [false])
        await assert.rejects(exportModel({model, to, output: join(folder, `out${endings[to]}`), fp16, numHeads: 4, toolVersion}), {
          name: 'UserError',
          code: 'NOT_FINITE'
        })
  }
  assert.deepEqual(await readdir(folder), ['model.safetensors'])
})

test('the same export gives the same bytes', async t => {
  const folder = await scratch(t)
  for (const to of exportFormats) {
    const outputs = ['a', 'b'].map(name => join(folder, `${name}-${to}${endings[to]}`))
    for (const output of outputs) await exportModel({model: golden('vit_plain.safetensors'), to, output, numHeads: 4, toolVersion})
    const files = endings[to] ? [''] : (await readdir(outputs[0]!, {recursive: true})).filter(file => file !== 'onnx').sort()
    for (const file of files) {
      const [a, b] = await Promise.all(outputs.map(output => readFile(join(output, file))))
      assert.ok(a!.equals(b!), `${to} ${file}`)
    }
  }
  assert.deepEqual((await readdir(join(folder, 'a-hf'))).sort(), [
    'README.md',
    'config.json',
    'model.safetensors',
    'preprocessor_config.json'
  ])
})

test('with heads: a teacher as Meta’s training writes it, and safetensors under the same names', async t => {
  const folder = await scratch(t)
  const model = golden('train_untied_final.safetensors')
  const source = await openCheckpoint(model)
  t.after(() => source.close())
  const path = join(folder, 'teacher.pth')
  await exportModel({model, to: 'meta', withHeads: true, output: path, numHeads: 4, toolVersion})
  const file = await openPth(path)
  t.after(() => file.close())
  assert.deepEqual([...file.roots.keys()], ['teacher'])
  const names = [...file.roots.get('teacher')!.keys()]
  assert.ok(
    names.includes('backbone.cls_token') &&
      names.includes('ibot_head.last_layer.weight_v') &&
      !names.some(name => name.startsWith('center'))
  )
  for (const [to, output] of [
    ['meta', path],
    ['safetensors', join(folder, 'both.safetensors')]
  ] as const) {
    if (to === 'safetensors') await exportModel({model: path, to, withHeads: true, output, numHeads: 4, toolVersion})
    const back = await openCheckpoint(output)
    t.after(() => back.close())
    assert.equal(back.tensors.size, source.tensors.size)
    for (const name of ['dino_head.mlp.0.weight', 'ibot_head.last_layer.weight_g'])
      assert.deepEqual(await back.heads.get(name)!.read(), await source.heads.get(name)!.read())
  }
  const bare = {model: golden('vit_plain.pth'), withHeads: true, output: join(folder, 'x'), numHeads: 4, toolVersion}
  await assert.rejects(exportModel({...bare, to: 'meta'}), {code: 'NO_HEADS'})
  await assert.rejects(exportModel({...bare, to: 'hf'}), /no place for projection heads/)
})

test('a head alone, and one of mmcv, become safetensors', async t => {
  const folder = await scratch(t)
  const output = join(folder, 'head.safetensors')
  await exportModel({model: golden('dino_head.pth'), to: 'safetensors', output, toolVersion})
  assert.ok((await openCheckpoint(output)).tensors.has('last_layer.weight_v'))
  await assert.rejects(exportModel({model: golden('dino_head.pth'), to: 'timm', output: join(folder, 'x'), toolVersion}), {
    code: 'NO_BACKBONE'
  })

  const mmcv = join(folder, 'mmcv.pth')
  const meta = Buffer.concat([op.global('mmcv.utils', 'Config'), op.emptyTuple, op.newObject])
  const state = dict({'decode_head.conv_depth.weight': tensor('0', 2, [2], [1])})
  await writeFile(mmcv, pth(pickle(dict({meta, state_dict: state})), {0: new Uint8Array(Float32Array.of(3, 4).buffer)}))
  const request = {model: mmcv, to: 'safetensors', output, force: true, toolVersion} as const
  await assert.rejects(exportModel(request), {code: 'UNSAFE_PICKLE'})
  await exportModel({...request, stateDictOnly: true})
  const back = await openCheckpoint(output)
  assert.deepEqual([...(await back.heads.get('decode_head.conv_depth.weight')!.readFloat32())], [3, 4])
})

test('an existing output, a dry run and an incomplete model write nothing', async t => {
  const folder = await scratch(t)
  const output = join(folder, 'a.safetensors')
  await writeFile(output, 'mine')
  const request = {model: golden('vit_plain.pth'), to: 'safetensors', output, numHeads: 4, toolVersion} as const
  await assert.rejects(exportModel(request), {exit: 2, code: 'OUTPUT_EXISTS'})
  const report = await exportModel({...request, force: true, dryRun: true})
  assert.equal(report.bytes, 4 * report.parameters)
  assert.equal(await readFile(output, 'utf8'), 'mine')
  const partial = join(folder, 'partial.pth')
  const one = {'patch_embed.proj.weight': tensor('0', 3, [1, 3, 1, 1], [3, 1, 1, 1]), pos_embed: tensor('0', 3, [1, 2, 1], [2, 1, 1])}
  await writeFile(partial, pth(pickle(dict({...one, 'blocks.0.mlp.fc2.weight': tensor('0', 3, [1, 1], [1, 1])})), {0: new Uint8Array(12)}))
  await assert.rejects(exportModel({...request, model: partial, numHeads: 1, force: true}), /missing \(\d+\):/)
  assert.equal(await readFile(output, 'utf8'), 'mine')
  assert.deepEqual((await readdir(folder)).sort(), ['a.safetensors', 'partial.pth'])
})

test('the command: report on stdout under --json, words on stderr, statuses as promised', async t => {
  const folder = await scratch(t)
  const run = async (...args: string[]): Promise<{code: number; stdout: string; stderr: string}> =>
    promisify(execFile)(process.execPath, [join(projectFolder(), 'bin', 'run.js'), 'export', ...args]).then(
      done => ({code: 0, ...done}),
      (error: {code: number; stdout: string; stderr: string}) => error
    )
  const output = join(folder, 'a.safetensors')
  const good = await run(golden('vit_plain.pth'), '--to', 'safetensors', '-o', output, '--num-heads', '4', '--json')
  assert.equal(good.code, 0, good.stderr)
  assert.equal((JSON.parse(good.stdout) as {config: {heads: number}}).config.heads, 4)
  assert.match(good.stderr, /wrote .*a\.safetensors/)
  const again = await run(golden('vit_plain.pth'), '--to', 'safetensors', '-o', output, '--json')
  assert.equal(again.code, 2)
  assert.equal((JSON.parse(again.stdout) as {error: {code: string}}).error.code, 'OUTPUT_EXISTS')
  assert.equal((await run('/no/such.pth', '--to', 'hf', '-o', join(folder, 'b'))).code, 3)
  assert.equal((await run(golden('vit_plain.pth'), '--to', 'gguf', '-o', join(folder, 'b'))).code, 2)
})

test('any checkpoint of a run is a model: the teacher of the newest, for other tools as Meta writes it', async t => {
  const run = join(await scratch(t), 'run')
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  t.after(() => checkpoint.close())
  const metadata = {...configMetadata(config), resize: '32', crop: '28', settings: '{}', window: '{}', tool: 'dinov2 1'}
  for (const step of [10, 20]) {
    const shown = (group: string, factor: number) =>
      [...checkpoint.tensors.values()].map(entry => ({
        name: `${group}.backbone.${entry.name}`,
        shape: entry.shape,
        read: async () => (await entry.readFloat32()).map(x => factor * x)
      }))
    const head = {name: 'teacher.dino_head.mlp.0.bias', shape: [3], read: async () => Float32Array.of(step, 2, 3)}
    const groups = [...shown('student', -step), ...shown('teacher', step), ...shown('moment1', 0), ...shown('moment2', 0), head]
    await writeState(run, step, groups, metadata).written
  }
  const expected = await checkpoint.tensors.get('blocks.1.attn.qkv.weight')!.readFloat32()
  for (const [model, step] of [
    [run, 20],
    [join(run, 'checkpoints', 'step-0000010.safetensors'), 10]
  ] as const) {
    const output = join(run, `teacher-${step}.pth`)
    const {config: found, notes} = await exportModel({model, to: 'meta', output, withHeads: true, toolVersion})
    assert.deepEqual(found, config)
    const unfinished = model === run ? [`${run} is not finished; the teacher of its newest checkpoint is taken (step 20).`] : []
    assert.deepEqual(notes.slice(0, -1), unfinished)
    assert.match(notes.at(-1)!, /Other programs find no preprocessing in a \.pth \(images: short side 32, centre crop 28/)
    const file = await openPth(output)
    assert.deepEqual([...file.roots.keys()], ['teacher'])
    const teacher = file.roots.get('teacher')!
    assert.deepEqual([...teacher.keys()].filter(name => !name.startsWith('backbone.')), ['dino_head.mlp.0.bias']) // prettier-ignore
    assert.deepEqual(await teacher.get('backbone.blocks.1.attn.qkv.weight')!.readFloat32(), expected.map(x => step * x)) // prettier-ignore
    await file.close()
  }
  const student = await openBackbone(run, {root: 'student'})
  assert.deepEqual(await student.checkpoint.tensors.get('blocks.1.attn.qkv.weight')!.readFloat32(), expected.map(x => -20 * x)) // prettier-ignore
  await student.checkpoint.close()
  const hf = join(run, 'hf')
  await exportModel({model: run, to: 'hf', output: hf, toolVersion})
  const {size, crop_size: crop} = JSON.parse(await readFile(join(hf, 'preprocessor_config.json'), 'utf8')) as Record<string, object>
  assert.deepEqual([size, crop], [{shortest_edge: 32}, {height: 28, width: 28}])
  const {checkpoint: exported} = await openBackbone(hf)
  await exported.close()
  assert.deepEqual([exported.metadata['settings'], exported.metadata['tool']], [undefined, 'dinov2 1'])
  // A finished run is its final model, until it has gone on.
  await mkdir(join(run, 'final'))
  await saveBackbone(join(run, 'final', 'backbone.safetensors'), config, readBackbone(config, checkpoint), {step: '20'})
  const finished = await openCheckpoint(run)
  await finished.close()
  assert.equal(finished.path, join(run, 'final', 'backbone.safetensors'))
  await writeState(run, 30, [{name: 'teacher.backbone.cls_token', shape: [1], read: async () => Float32Array.of(1)}], metadata).written
  const further = await openCheckpoint(run)
  await further.close()
  assert.equal(further.path, join(run, 'checkpoints', 'step-0000030.safetensors'))
})

test('an export carries the mean, deviation and sizes of the model on, through every format that holds them', async t => {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  t.after(() => checkpoint.close())
  const crop = config.grid * config.patch // the size that timm shows its models
  const own = {...defaultPreprocessing, resize: crop + 8, crop, mean: [0.53, 0.5, 0.4], std: [0.25, 0.25, 0.3]} as const
  let model = join(folder, 'foreign')
  await saveHuggingFace(model, config, readBackbone(config, checkpoint), {preprocessing: own})
  for (const [i, to] of (['safetensors', 'hf', 'timm', 'safetensors', 'timm', 'hf'] as const).entries()) {
    const output = join(folder, `${i}${endings[to]}`)
    await exportModel({model, to, output, numHeads: 4, toolVersion})
    const next = await openCheckpoint(output)
    await next.close()
    assert.deepEqual({...next.preprocessing, source: undefined}, {...own, source: undefined}, to)
    model = output
  }
  const {notes} = await exportModel({model, to: 'meta', output: join(folder, 'a.pth'), numHeads: 4, toolVersion})
  assert.match(notes.join(' '), /Other programs find no preprocessing in a \.pth .*mean 0\.53 0\.5 0\.4/)
})

test('an export for transformers has an even margin, unless another is asked for', async t => {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  t.after(() => checkpoint.close())
  const odd = join(folder, 'odd.safetensors')
  await saveBackbone(odd, config, readBackbone(config, checkpoint), {resize: '55', crop: '42'})
  const exported = async (output: string, sizes: {resize?: number; crop?: number} = {}): Promise<{margin: number; notes: string}> => {
    const {notes} = await exportModel({model: odd, to: 'hf', output, toolVersion, ...sizes})
    const {preprocessing} = await openBackbone(output).then(async ({checkpoint}) => (await checkpoint.close(), checkpoint))
    return {margin: preprocessing!.resize - preprocessing!.crop!, notes: notes.join(' ')}
  }
  const plain = await exported(join(folder, 'a'))
  assert.equal(plain.margin, 14)
  assert.match(plain.notes, /exported as 56 instead of 55/)
  const asked = await exported(join(folder, 'b'), {resize: 51, crop: 42})
  assert.equal(asked.margin, 9)
  assert.match(asked.notes, /margin of 9 pixels is odd/)
})
