/**
 * Every kind of file and folder that holds a model, opened under Meta's names; what is saved is opened again as the
 * same model.
 */
import assert from 'node:assert/strict'
import {copyFile, mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import {expectedShapes, inferConfig} from '../../../src/files/checkpoint/architecture.js'
import {openBackbone, readBackbone, saveBackbone, type NamedTensor} from '../../../src/files/checkpoint/backbone.js'
import {openCheckpoint, type Checkpoint} from '../../../src/files/checkpoint/checkpoint.js'
import {saveHuggingFace} from '../../../src/files/checkpoint/hugging-face-folder.js'
import {writePth} from '../../../src/files/checkpoint/pth.js'
import {openSafetensors, writeSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import {concatenated, elements, float32Entry, renamed, type TensorEntry} from '../../../src/files/checkpoint/tensor-entry.js'
import {saveTimm} from '../../../src/files/checkpoint/timm-folder.js'
import type {VitConfig} from '../../../src/model/config.js'
import {dict, op, pickle, pth, tensor} from '../../support/pickle-bytes.js'
import {golden, scratch} from '../../support/scratch.js'

const overrides = {heads: 4}

async function same(a: ReadonlyMap<string, TensorEntry>, b: ReadonlyMap<string, TensorEntry>): Promise<void> {
  assert.deepEqual([...a.keys()].sort(), [...b.keys()].sort())
  for (const [name, entry] of a) {
    assert.deepEqual(entry.shape, b.get(name)!.shape, name)
    assert.deepEqual(await entry.readFloat32(), await b.get(name)!.readFloat32(), name)
  }
}

const opened = async (t: {after(done: () => Promise<void>): void}, ...args: Parameters<typeof openCheckpoint>): Promise<Checkpoint> => {
  const checkpoint = await openCheckpoint(...args)
  t.after(() => checkpoint.close())
  return checkpoint
}

test('flat, chunked and wrapped files give Meta’s names', async t => {
  const folder = await scratch(t)
  const plain = await opened(t, golden('vit_plain.pth'))
  assert.equal(plain.format, 'pth')
  assert.equal(plain.dialect, 'meta')
  assert.ok(plain.tensors.has('blocks.3.attn.qkv.weight'))

  const chunked = await opened(t, golden('vit_chunked.pth'))
  assert.equal(chunked.dialect, 'chunked')
  assert.deepEqual([...chunked.tensors.keys()].sort(), [...plain.tensors.keys()].sort())
  await same(chunked.tensors, (await opened(t, golden('vit_chunked.safetensors'))).tensors)

  for (const prefix of [
    'module.',
    'backbone.',
    'teacher.backbone.',
    'student.module.backbone.',
    'model.teacher.backbone._fsdp_wrapped_module.',
    '_orig_mod.',
    'encoder.'
  ]) {
    const path = join(folder, 'wrapped.safetensors')
    const wrapped = [...plain.tensors.values()].map(entry =>
      renamed(entry, prefix + entry.name.replace('.attn.', '._fsdp_wrapped_module.attn.'))
    )
    const head = float32Entry(
      `${prefix.replace(/backbone\..*/, '')}dino_head.last_layer.parametrizations.weight.original0`,
      [1],
      Float32Array.of(3)
    )
    await writeSafetensors(path, [...wrapped, head], {}, {force: true})
    const checkpoint = await opened(t, path)
    await same(checkpoint.tensors, plain.tensors)
    if (prefix.includes('backbone.')) assert.deepEqual([...checkpoint.heads.keys()], ['dino_head.last_layer.weight_g'], prefix)
  }
})

test('the teacher is taken unless another root is named, and its heads come with it', async t => {
  const init = await opened(t, golden('train_untied_final.safetensors'))
  assert.equal(init.root, 'teacher')
  const student = await opened(t, golden('train_untied_final.safetensors'), {root: 'student'})
  assert.equal(student.root, 'student')
  assert.equal(init.tensors.size, student.tensors.size)
  assert.notDeepEqual(await init.tensors.get('cls_token')!.read(), await student.tensors.get('cls_token')!.read())
  const heads = [...init.heads.keys()]
  for (const name of ['dino_head.mlp.0.weight', 'ibot_head.last_layer.weight_g', 'dino_head.last_layer.weight_v', 'center.dino'])
    assert.ok(heads.includes(name), name)
  assert.ok(heads.every(name => !/^(student|teacher)\./.test(name)))
  const raw = await openSafetensors(golden('train_untied_final.safetensors'))
  t.after(() => raw.close())
  assert.deepEqual(await init.heads.get('dino_head.mlp.0.weight')!.read(), await raw.tensors.get('teacher.dino_head.mlp.0.weight')!.read())
  await assert.rejects(openCheckpoint(golden('train_untied_final.safetensors'), {root: 'ema'}), (error: UserError) => {
    return error.exit === 2 && /no model under ema; it has: .*student\.backbone, teacher\.backbone/.test(error.message)
  })
})

test('roots of .pth files: teacher, model, state_dict, two unnamed ones', async t => {
  const folder = await scratch(t)
  const plain = await opened(t, golden('vit_plain.safetensors'))
  const path = join(folder, 'a.pth')
  for (const root of ['teacher', 'model', 'state_dict', 'student']) {
    const entries = [...plain.tensors.values()].map(entry => renamed(entry, root === 'model' ? entry.name : `backbone.${entry.name}`))
    await writePth(path, entries, {root, force: true})
    const checkpoint = await opened(t, path)
    assert.equal(checkpoint.root, root)
    await same(checkpoint.tensors, plain.tensors)
  }
  for (const teacher of ['model.teacher_backbone.', 'ssl.teacher.module.backbone.', 'ema_teacher.']) {
    const named = [...plain.tensors.values()].flatMap(entry => {
      const student = teacher.replace('teacher', 'student') + entry.name
      return [float32Entry(student, entry.shape, new Float32Array(elements(entry.shape))), renamed(entry, teacher + entry.name)]
    })
    await writePth(path, named, {root: 'state_dict', force: true})
    const checkpoint = await opened(t, path)
    await same(checkpoint.tensors, plain.tensors)
  }
  const one = dict({'patch_embed.proj.weight': tensor('0', 1, [1, 1, 1, 1], [1, 1, 1, 1])})
  await writeFile(path, pth(pickle(dict({first: one, second: one})), {0: new Uint8Array(4)}))
  await assert.rejects(
    openCheckpoint(path),
    (error: UserError) => /several models: first, second/.test(error.message) && /--root/.test(error.hint ?? '')
  )
  assert.equal((await opened(t, path, {root: 'second'})).tensors.size, 1)
  await writeFile(
    path,
    pth(pickle(dict({model: dict({'student.backbone._fsdp_wrapped_module._flat_param': tensor('0', 1, [1], [1])})})), {
      0: new Uint8Array(4)
    })
  )
  await assert.rejects(openCheckpoint(path), /shards of one process/)
})

test('a head alone and an mmcv head are reachable', async t => {
  const head = await opened(t, golden('dino_head.pth'))
  assert.ok(head.tensors.has('mlp.0.weight') && head.tensors.has('last_layer.weight_v'))
  const path = join(await scratch(t), 'head.pth')
  const meta = Buffer.concat([op.global('mmcv.utils', 'Config'), op.emptyTuple, op.newObject])
  await writeFile(
    path,
    pth(pickle(dict({meta, state_dict: dict({'decode_head.conv_depth.weight': tensor('0', 1, [1], [1])})})), {0: new Uint8Array(4)})
  )
  await assert.rejects(openCheckpoint(path), {code: 'UNSAFE_PICKLE'})
  const mmcv = await opened(t, path, {tolerant: true})
  assert.deepEqual([...mmcv.heads.keys()], ['decode_head.conv_depth.weight'])
  assert.equal(mmcv.root, 'state_dict')
})

const cases: [string, Partial<VitConfig>][] = [
  ['vit_plain', {ffn: 'mlp', registers: 0, interpolateOffset: 0.1, interpolateAntialias: false, hidden: 256}],
  ['vit_reg4_swiglu', {ffn: 'swiglu', registers: 4, interpolateOffset: 0, interpolateAntialias: true, hidden: 176}],
  ['vit_chunked', {ffn: 'mlp', registers: 0}]
]
for (const [name, wanted] of cases)
  test(`${name}: the architecture is recognized, and every format gives the same tensors back`, async t => {
    const folder = await scratch(t)
    const {config, checkpoint} = await openBackbone(golden(`${name}.pth`), {overrides})
    t.after(() => checkpoint.close())
    assert.deepEqual({...config, ...wanted}, config)
    assert.deepEqual([config.width, config.depth, config.heads, config.patch, config.grid, config.layerScale], [64, 4, 4, 14, 5, true])

    const safe = join(folder, 'backbone.safetensors')
    await saveBackbone(safe, config, readBackbone(config, checkpoint), {tool_version: '0'})
    const back = await openBackbone(safe)
    t.after(() => back.checkpoint.close())
    assert.deepEqual(back.config, config, 'heads come from the metadata')
    await same(back.checkpoint.tensors, checkpoint.tensors)

    const hf = join(folder, 'hf')
    await saveHuggingFace(hf, config, readBackbone(config, checkpoint), {modelCard: {license: 'apache-2.0', metrics: {'kNN top-1': 0.5}}})
    const hugging = await openBackbone(hf)
    t.after(() => hugging.checkpoint.close())
    assert.equal(hugging.checkpoint.format, 'huggingface')
    assert.deepEqual(hugging.config, config)
    await same(hugging.checkpoint.tensors, checkpoint.tensors)

    const timm = join(folder, 'timm')
    await saveTimm(timm, config, readBackbone(config, checkpoint))
    const again = await openBackbone(timm)
    t.after(() => again.checkpoint.close())
    assert.deepEqual(again.config, config)
    assert.equal(again.checkpoint.dialect, 'timm')
    assert.equal(again.checkpoint.notes.length, 1)
    // timm keeps no mask token, and with registers the sum of class token and its position.
    for (const [key, entry] of checkpoint.tensors) {
      if (key === 'mask_token' || (config.registers && (key === 'cls_token' || key === 'pos_embed'))) continue
      assert.deepEqual(await again.checkpoint.tensors.get(key)!.readFloat32(), await entry.readFloat32(), key)
    }
    const sum = async ({tensors}: Checkpoint): Promise<number[]> => {
      const [cls, pos] = [await tensors.get('cls_token')!.readFloat32(), await tensors.get('pos_embed')!.readFloat32()]
      return [...cls.map((value, i) => value + pos[i]!), ...pos.subarray(64)]
    }
    assert.deepEqual(await sum(again.checkpoint), await sum(checkpoint))
  })

test('names of newer transformers, sharded folders and prefixes are read too', async t => {
  const folder = await scratch(t)
  for (const name of ['vit_plain', 'vit_reg4_swiglu']) {
    const {config, checkpoint} = await openBackbone(golden(`${name}.pth`), {overrides})
    t.after(() => checkpoint.close())
    const hf = join(folder, name)
    await saveHuggingFace(hf, config, readBackbone(config, checkpoint))
    const file = await openSafetensors(join(hf, 'model.safetensors'))
    t.after(() => file.close())
    const modern: TensorEntry[] = []
    for (const [key, entry] of file.tensors) {
      const renamedKey = key
        .replace(/attention\.attention\.(query|key|value)/, (_, part: string) => `attention.${part[0]}_proj`)
        .replace('attention.output.dense', 'attention.o_proj')
        .replace('mlp.weights_out', 'mlp.down_proj')
      if (key.includes('mlp.weights_in')) {
        const data = await entry.readFloat32()
        const [rows, ...rest] = entry.shape as [number, ...number[]]
        for (const [i, half] of ['gate_proj', 'up_proj'].entries())
          modern.push(
            float32Entry(
              key.replace('weights_in', half),
              [rows / 2, ...rest],
              data.slice((i * data.length) / 2, ((i + 1) * data.length) / 2)
            )
          )
      } else modern.push(renamed(entry, renamedKey))
    }
    const shards = join(folder, `${name}-shards`)
    await mkdir(shards)
    await copyFile(join(hf, 'config.json'), join(shards, 'config.json'))
    const weight_map: Record<string, string> = {}
    for (const half of [0, 1]) {
      const part = modern.filter((_, i) => i % 2 === half).map(entry => renamed(entry, `dinov2.${entry.name}`))
      for (const entry of part) weight_map[entry.name] = `model-${half}.safetensors`
      await writeSafetensors(join(shards, `model-${half}.safetensors`), part)
    }
    await writeFile(join(shards, 'model.safetensors.index.json'), JSON.stringify({weight_map}))
    const back = await openBackbone(shards)
    t.after(() => back.checkpoint.close())
    assert.deepEqual(back.config, config)
    await same(back.checkpoint.tensors, checkpoint.tensors)
    await writeFile(
      join(shards, 'model.safetensors.index.json'),
      JSON.stringify({weight_map: {...weight_map, more: 'model-0.safetensors'}})
    )
    await assert.rejects(openCheckpoint(shards), /lacks the tensor more/)
    await writeFile(join(shards, 'model.safetensors.index.json'), JSON.stringify({weight_map: {a: '../../secret'}}))
    await assert.rejects(openCheckpoint(shards), /no weight_map/)
  }
})

test('run folders: the final backbone with its heads, else the newest export', async t => {
  const run = await scratch(t)
  await assert.rejects(openCheckpoint(run), (error: UserError) => error.exit === 3 && /final\/backbone\.safetensors/.test(error.hint ?? ''))
  for (const step of ['training_99', 'training_499']) {
    await mkdir(join(run, 'eval', step), {recursive: true})
    await copyFile(golden('vit_plain.pth'), join(run, 'eval', step, 'teacher_checkpoint.pth'))
  }
  assert.equal((await opened(t, run)).path, join(run, 'eval', 'training_499', 'teacher_checkpoint.pth'))
  await mkdir(join(run, 'final'))
  await copyFile(golden('vit_plain.safetensors'), join(run, 'final', 'backbone.safetensors'))
  await writeSafetensors(join(run, 'final', 'heads.safetensors'), [float32Entry('dino_head.mlp.0.bias', [1], Float32Array.of(1))])
  const checkpoint = await opened(t, run)
  assert.equal(checkpoint.path, join(run, 'final', 'backbone.safetensors'))
  assert.deepEqual([...checkpoint.heads.keys()], ['dino_head.mlp.0.bias'])
  assert.equal((await opened(t, join(run, 'final'))).heads.size, 1)
})

test('models of others and models that are not here are refused with a way out', async t => {
  const folder = await scratch(t)
  const refuses = async (config: unknown, message: RegExp): Promise<void> => {
    await writeFile(join(folder, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config))
    await assert.rejects(openCheckpoint(folder), {name: 'UserError', message})
  }
  await refuses({model_type: 'vit'}, /config\.json has the model_type vit/)
  await refuses({model_type: 'dinov2', layer_norm_eps: 1e-12}, /layer_norm_eps/)
  await refuses({model_type: 'dinov2', hidden_act: 'relu'}, /hidden_act/)
  await refuses({model_type: 'dinov2'}, /neither model\.safetensors/)
  await refuses('{', /not good JSON/)
  await assert.rejects(openCheckpoint('/no/such/file'), {exit: 3, code: 'NO_INPUT'})
  const before = process.env['XDG_CACHE_HOME']
  process.env['XDG_CACHE_HOME'] = folder
  t.after(() => (before === undefined ? delete process.env['XDG_CACHE_HOME'] : (process.env['XDG_CACHE_HOME'] = before)))
  await assert.rejects(openCheckpoint('dinov2_vits14_reg'), {exit: 3, hint: 'Fetch it with `dinov2 models pull dinov2_vits14_reg`.'})
  await mkdir(join(folder, 'dinov2', 'models'), {recursive: true})
  await copyFile(golden('vit_plain.pth'), join(folder, 'dinov2', 'models', 'dinov2_vits14_reg4_pretrain.pth'))
  assert.ok((await opened(t, 'dinov2_vits14_reg')).tensors.has('norm.weight'))
})

test('parts that do not go together are named', () => {
  const a = float32Entry('a', [1, 2], new Float32Array(2))
  const b = float32Entry('b', [1, 3], new Float32Array(3))
  assert.throws(() => concatenated('ab', [a, b]), /ab should be made of a, b, but .*F32 \[1, 2\], F32 \[1, 3\]/)
})

test('blocks without LayerScale get gains of one for transformers', async t => {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides})
  t.after(() => checkpoint.close())
  const bare = {...config, layerScale: false}
  await saveHuggingFace(folder + '/hf', bare, readBackbone(bare, checkpoint))
  const back = await openBackbone(folder + '/hf')
  t.after(() => back.checkpoint.close())
  assert.equal(back.config.layerScale, true)
  assert.deepEqual([...(await back.checkpoint.tensors.get('blocks.2.ls2.gamma')!.readFloat32())], new Array(64).fill(1))
})

test('widths that transformers cannot have are refused before anything is written', async t => {
  const folder = await scratch(t)
  const config = inferConfig(
    new Map(Object.entries({'patch_embed.proj.weight': [64, 3, 14, 14], pos_embed: [1, 26, 64], 'blocks.0.mlp.fc2.weight': [64, 100]}))
  )
  await assert.rejects(saveHuggingFace(join(folder, 'hf'), config, []), {code: 'UNSUPPORTED', message: /100 hidden units/})
  await assert.rejects(saveHuggingFace(join(folder, 'hf'), {...config, ffn: 'swiglu', hidden: 100}, []), /two thirds/)
  await assert.rejects(openCheckpoint(join(folder, 'hf')), {exit: 3})
})

test('a stream of tensors that is not the model is a defect, and leaves nothing', async t => {
  const path = join(await scratch(t), 'a.safetensors')
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides})
  t.after(() => checkpoint.close())
  const some: NamedTensor[] = []
  for await (const tensor of readBackbone(config, checkpoint)) some.push(tensor)
  await assert.rejects(saveBackbone(path, config, some.slice(1)), /lacks cls_token/)
  await assert.rejects(saveBackbone(path, config, [{...some[0]!, name: 'other'}]), /no tensor for other/)
  await assert.rejects(saveBackbone(path, config, [{...some[0]!, shape: [1, 64]}]), /Expected \[1, 1, 64\] for cls_token/)
  await saveBackbone(path, config, some.toReversed())
  assert.equal((await opened(t, path)).tensors.size, expectedShapes(config).size)
})

test('the projectors of a student that was distilled from features stand beside its backbone', async t => {
  const path = join(await scratch(t), 'student.safetensors')
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides})
  t.after(() => checkpoint.close())
  const heads = ['cls_projector.weight', 'patch_projector.weight'].map(name => float32Entry(name, [1], Float32Array.of(1)))
  for (const prefix of ['backbone.', '']) {
    const backbone = [...checkpoint.tensors.values()].map(entry => renamed(entry, `${prefix}${entry.name}`))
    await writeSafetensors(path, [...backbone, ...heads], {heads: '4'}, {force: true})
    const found = await openBackbone(path)
    await found.checkpoint.close()
    assert.deepEqual(found.config, config)
    assert.deepEqual([...found.checkpoint.heads.keys()], ['cls_projector.weight', 'patch_projector.weight'])
  }
})
