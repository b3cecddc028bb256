/**
 * Pretraining through the binary that users run: a run folder that is complete, runs that are interrupted and go on as
 * if they had not been, the same bytes whatever the number of workers, and the exit status of all that can be wrong.
 */
import assert from 'node:assert/strict'
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join, relative} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import {derive} from '../../../src/config/derived.js'
import {readLayers} from '../../../src/config/read-layers.js'
import {resolveSettings} from '../../../src/config/settings.js'
import type {Settings} from '../../../src/config/table.js'
import type {CropBatch} from '../../../src/data/loader/crop-batches.js'
import {maskSettings} from '../../../src/data/augment/block-masks.js'
import {openSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import {listStates} from '../../../src/files/checkpoint/training-state.js'
import {forward} from '../../../src/model/vit.js'
import {loadBackbone} from '../../../src/tasks/embed/load-backbone.js'
import {memoryLine} from '../../../src/tasks/train/auto-batch.js'
import {probeCost, noiseBatches, type MeasuredCost} from '../../../src/tasks/train/cost-probe.js'
import {assessHealth} from '../../../src/tasks/train/health.js'
import {cropSettings, initState, loadState, ratesAt, stepSettings} from '../../../src/tasks/train/pretrain-state.js'
import {freeBatch, stepBatch} from '../../../src/tasks/train/step-batch.js'
import {trainStep} from '../../../src/tasks/train/train-step.js'
import {dispose} from '../../../src/tensor/tf.js'
import {CommandServer, folder as makeFolder, realBinary, run as runBinary, start, type Ended} from '../../support/program.js'
import {counted, held, normal, onTorch, put, take} from '../../support/engine.js'
import {freeState} from '../../support/small-run.js'
import {drawStripes} from '../../support/stripes.js'

const root = makeFolder()
const at = (...names: string[]): string => join(root, ...names)
const pictures = at('pictures')

const steps = 60
const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
train:
  batch_size_per_gpu: 8
  steps: ${steps}
  OFFICIAL_EPOCH_LENGTH: 10
  centering: sinkhorn_knopp
  workers: 1
  log_every: 10
  checkpoint_every: 20
  keep_checkpoints: 2
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.2, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 6, warmup_epochs: 1, base_lr: 0.02, layerwise_decay: 1.0, patch_embed_lr_mult: 1.0, weight_decay_end: 0.04}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`
const recipeFile = at('recipe.yaml')

const flags = (name: string, ...more: string[]): string[] => [
  'pretrain',
  pictures,
  ...['--config', recipeFile, '--output', at(name), '--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1'],
  ...more
]
const server = new CommandServer({env: {}, cwd: root})
after(() => server.end())
const pretrain = (name: string, ...more: string[]): Promise<Ended> => server.run(...flags(name, ...more))

/** What a failed command said under --json. */
const errorOf = ({stdout}: Ended): {code: string; message: string; hint?: string} =>
  (JSON.parse(stdout) as {error: {code: string; message: string}}).error

function* files(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, {withFileTypes: true, recursive: true}))
    if (entry.isFile()) yield relative(folder, join(entry.parentPath, entry.name))
}
/** Lines of metrics, each with what the same step has in timings.jsonl. */
const metricsOf = (name: string): Record<string, number>[] => {
  const lines = (file: string): Record<string, number>[] =>
    readFileSync(at(name, file), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Record<string, number>)
  const timings = new Map(lines('timings.jsonl').map(line => [line['step'], line]))
  return lines('metrics.jsonl').map(line => ({...timings.get(line['step']!), ...line}))
}
const checkpoint = (name: string, step: number): string => at(name, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`)

/** Byte for byte, naming the file. */
function sameFiles(a: string, b: string, names: Iterable<string>): void {
  for (const name of names) assert.ok(readFileSync(join(a, name)).equals(readFileSync(join(b, name))), `${name} differs`)
}
/** The numbers of a safetensors file, without its metadata. */
const numbers = (path: string): Buffer => {
  const bytes = readFileSync(path)
  return bytes.subarray(8 + Number(bytes.readBigUInt64LE(0)))
}
const settings: () => Settings = () => resolveSettings(readLayers([recipeFile], [], {flags: [], settings: true}).settings).settings

let straight: Ended
let config: string
before(async () => {
  await drawStripes(pictures)
  writeFileSync(recipeFile, recipe)
  straight = await runBinary(realBinary, flags('straight', '--json', '--seed', '5')) // its memory is measured
  config = readFileSync(at('straight', 'config.yaml'), 'utf8')
})

describe('a run', () => {
  test('leaves a complete folder, and says where the model is', async () => {
    assert.equal(straight.status, 0, straight.stderr)
    const outcome = JSON.parse(straight.stdout) as {step: number; model: string; finished: boolean; health: {healthy: boolean}}
    assert.deepEqual([outcome.step, outcome.finished, outcome.health.healthy], [steps, true, true])
    assert.equal(outcome.model, at('straight', 'final', 'backbone.safetensors'))
    assert.match(straight.stderr, /backbone\.safetensors after 60 steps\. .*DINO loss [\d.]+ a pair against 3\.466/)
    const left = [...files(at('straight'))].filter(name => !name.startsWith('tensorboard/events.out.tfevents.'))
    assert.equal(left.length, [...files(at('straight'))].length - 1, 'one file of events')
    assert.deepEqual(left.sort(), [
      'checkpoints/step-0000040.safetensors',
      'checkpoints/step-0000060.safetensors',
      'config.yaml',
      'final/backbone.safetensors',
      'final/heads.safetensors',
      'final/huggingface/README.md',
      'final/huggingface/config.json',
      'final/huggingface/model.safetensors',
      'final/huggingface/preprocessor_config.json',
      'metrics.jsonl',
      'timings.jsonl'
    ])
    const written = resolveSettings(readLayers([at('straight', 'config.yaml')], [], {flags: [], settings: true}).settings).settings
    assert.deepEqual(written, {...settings(), train: {...settings().train, seed: 5}})
  })

  test('writes metrics: losses, norms, rates, speed; and the loss falls', () => {
    const lines = metricsOf('straight')
    assert.deepEqual(
      lines.map(({step}) => step),
      [10, 20, 30, 40, 50, 60]
    )
    const names = ['dino_local', 'dino_global', 'koleo', 'ibot', 'total', 'grad_norm_backbone', 'grad_norm_dino_head', 'teacher_entropy']
    const rates = ['lr', 'last_layer_lr', 'wd', 'momentum', 'teacher_temp']
    for (const line of lines) {
      for (const name of [...names, ...rates, 'cls_cosine', 'masked_patches', 'images_per_second', 'data_wait'])
        assert.ok(Number.isFinite(line[name]), name)
      assert.ok(line['data_wait']! >= 0 && line['data_wait']! <= 1)
      const planned = ratesAt(derive(settings()), line['step']! - 1)
      assert.ok(Math.abs(line['lr']! - planned.lr) < 1e-6 * planned.lr)
      assert.ok(Math.abs(line['total']! - (line['dino_local']! + line['dino_global']! + line['koleo']! + line['ibot']!)) < 1e-4)
    }
    assert.ok(lines.at(-1)!['total']! < lines[0]!['total']!)
  })

  test('ends with a model that loads: the teacher of the last checkpoint, from the file and from the folder', async () => {
    await onTorch()
    const start = counted()
    const file = await loadBackbone(at('straight', 'final', 'backbone.safetensors'), {trainable: true})
    const face = await loadBackbone(at('straight', 'final', 'huggingface'))
    assert.equal(file.fingerprint, face.fingerprint)
    assert.deepEqual(file.config, derive(settings()).vit)
    assert.deepEqual([file.metadata['step'], file.metadata['seed'], file.metadata['crop']], ['60', '5', '32'])
    const last = await openSafetensors(checkpoint('straight', steps))
    const [name, other] = ['blocks.1.mlp.fc2.weight', 'last_layer.weight_v']
    const teacher = await last.tensors.get(`teacher.backbone.${name}`)!.readFloat32()
    assert.deepEqual(await (file.params.blocks[1]!.mlp as {fc2: {weight: {data(): Promise<unknown>}}}).fc2.weight.data(), teacher)
    const heads = await openSafetensors(at('straight', 'final', 'heads.safetensors'))
    assert.deepEqual(
      await heads.tensors.get(`dino_head.${other}`)!.readFloat32(),
      await last.tensors.get(`teacher.dino_head.${other}`)!.readFloat32()
    )
    await last.close()
    await heads.close()
    const x = put(normal('x', [1, 48, 32, 3]))
    const features = forward(face.params, x, face.config)
    assert.ok((await take(features.cls)).data.every(Number.isFinite))
    dispose([features.patches, features.registers, features.prenorm, x])
    file[Symbol.dispose]()
    face[Symbol.dispose]()
    assert.equal(counted(), start)
  })

  test('needs the memory that --dry-run said, within 15 %, and the metrics say what it was made of', async () => {
    const [, , ...rest] = flags('unmade', '--json', '--seed', '5', '--dry-run').filter(
      (_, i, all) => i !== all.indexOf('--output') && i !== all.indexOf('--output') + 1
    )
    const ended = await runBinary(realBinary, ['pretrain', pictures, ...rest])
    assert.equal(ended.status, 0, ended.stderr)
    assert.match(ended.stderr, /8 images, 60 steps of 8, .* s a step \(\d+ % of it waiting for images\).* at the peak: state .* GiB/)
    const cost = JSON.parse(ended.stdout) as MeasuredCost
    const last = metricsOf('straight').at(-1)!
    const near = (said: number, was: number, what: string): void =>
      assert.ok(Math.abs(said / was - 1) < 0.15, `${what}: ${said} was said and ${was} needed`)
    near(cost.processBytes! / 2 ** 20, last['memory_process_mib']!, 'process')
    assert.equal(Math.round(cost.parts.state / 2 ** 20), last['memory_state_mib'])
    near(cost.parts.state + cost.parts.copies + cost.parts.activations!, cost.peakBytes!, 'tensors')
    assert.ok(Math.abs(cost.peakBytes! / 2 ** 20 - last['memory_tensors_mib']!) <= 1)
    assert.ok(!existsSync(at('unmade')))
  })

  test('at every level of memory ends with the same bytes, and goes on at another', async () => {
    const small = await pretrain('small', '--seed', '5', '--set', 'train.memory=small')
    assert.equal(small.status, 0, small.stderr)
    sameFiles(at('straight', 'final'), at('small', 'final'), files(at('straight', 'final')))
    const on = await pretrain('small', '--seed', '5', '--set', 'train.memory=balanced', '--resume')
    assert.equal(on.status, 0, on.stderr)
  })

  test('--minutes measures the first steps and sets how many there are; a setting besides, and too few, are refused', async () => {
    const ended = await pretrain('unmade', '--json', '--dry-run', '--minutes', '0.5')
    assert.equal(ended.status, 0, ended.stderr)
    const {steps: planned, secondsPerStep} = JSON.parse(ended.stdout) as {steps: number; secondsPerStep: number}
    assert.match(ended.stderr, new RegExp(`--minutes 0\\.5: ${planned} steps, for a step of 8 images takes`))
    const seconds = planned * secondsPerStep
    assert.ok(seconds > 7 && seconds < 120, `${planned} steps of ${secondsPerStep} s for half a minute`)
    const both = await pretrain('unmade', '--minutes', '1', '--set', 'train.steps=5')
    assert.deepEqual([both.status, /--minutes and --set train\.steps both say/.test(both.stderr)], [2, true], both.stderr)
    const short = await pretrain('unmade', '--minutes', '0.0001')
    assert.deepEqual([short.status, /step.* would fit into 0\.0001 minutes/.test(short.stderr)], [2, true], short.stderr)
  })

  test('--batch auto takes what fits, at most every image once, and says so; other words are refused', async () => {
    const ended = await pretrain('unmade', '--json', '--dry-run', '--batch', 'auto')
    assert.equal(ended.status, 0, ended.stderr)
    assert.match(ended.stderr, /--batch auto: 8 images a step, for which .* GiB of .* GiB are expected to be needed/)
    assert.match(ended.stderr, /8 images, 60 steps of 8,/)
    for (const batch of ['many', '0', '1.5']) {
      const refused = await pretrain('unmade', '--batch', batch)
      assert.equal(refused.status, 2)
      assert.match(refused.stderr, /expected a number of images or auto, but received/)
    }
    const parts = await pretrain('unmade', '--set', 'train.grad_accumulation=9')
    assert.equal(parts.status, 2)
    assert.match(parts.stderr, /train\.grad_accumulation 9 is more than the 8 images of a batch/)
    const nowhere = await runBinary(realBinary, ['pretrain', pictures, '--config', recipeFile])
    assert.equal(nowhere.status, 2)
    assert.match(nowhere.stderr, /No output folder: give -o/)
  })

  test('with more workers has the same bytes; with another seed it has not', async () => {
    const [more, other] = [await pretrain('workers', '--seed', '5', '--set', 'train.workers=3'), await pretrain('seed', '--seed', '6')]
    assert.equal(more.status, 0, more.stderr)
    assert.ok(other.status === 0 || other.status === 6, other.stderr) // so short a run may be judged either way; its files are written
    sameFiles(at('straight', 'final'), at('workers', 'final'), files(at('straight', 'final')))
    assert.ok(numbers(checkpoint('straight', steps)).equals(numbers(checkpoint('workers', steps))))
    assert.ok(!numbers(checkpoint('straight', steps)).equals(numbers(checkpoint('seed', steps))))
  })

  test('goes on without --config by its own config.yaml, or its checkpoint; what is given besides is held against it', async () => {
    const bare = [
      'pretrain',
      pictures,
      '--output',
      at('straight'),
      '--resume',
      '--engine',
      'torch',
      '--precision',
      'fp32',
      '--threads',
      '1'
    ]
    const on = await runBinary(realBinary, bare)
    assert.equal(on.status, 0, on.stderr)
    assert.doesNotMatch(on.stderr, / was .* and is /)
    assert.equal(readFileSync(at('straight', 'config.yaml'), 'utf8'), config)
    rmSync(at('straight', 'config.yaml'))
    const gone = await runBinary(realBinary, bare)
    assert.equal(gone.status, 0, gone.stderr)
    assert.equal(readFileSync(at('straight', 'config.yaml'), 'utf8'), config)
    const other = await runBinary(realBinary, [...bare, '--set', 'optim.base_lr=0.001'])
    assert.equal(other.status, 2)
    assert.match(other.stderr, /cannot go on as it began: optim\.base_lr was 0\.02 and is 0\.001\.\n.*--accept-changes/)
    const shown = await runBinary(realBinary, [...bare, '--print-config'])
    assert.match(shown.stdout, /^ {2}embed_dim: 32 +# .*straight\/config\.yaml:\d+$/m)
  })

  test('that does not fit into memory is refused before its first step, with what would fit', async () => {
    const ended = await pretrain('unmade', '--json', '--set', 'student.embed_dim=4096', '--batch', '65536')
    assert.equal(ended.status, 5, ended.stderr)
    const {code, message} = errorOf(ended)
    assert.equal(code, 'OUT_OF_MEMORY')
    assert.match(
      message,
      /^This run needs about [\d.]+ GiB, and [\d.]+ GiB of memory may be used: [\d.]+ million parameters with heads, 65536 images/
    )
    assert.ok(!existsSync(at('unmade')))
  })

  test('without --config takes a recipe that suits images and device, names it, and lets settings stand above it', async () => {
    const ended = await runBinary(realBinary, ['pretrain', pictures, '--dry-run', '--set', 'train.steps=7', '--engine', 'torch', '--device', 'cpu']) // prettier-ignore
    assert.equal(ended.status, 0, ended.stderr)
    assert.match(
      ended.stderr,
      /no --config: the recipe small is taken, which suits 8 images and cpu \(192 wide, 6 blocks; 7 steps of 32 images; about .*\)\. Choose another with --config tiny\|small\|medium\|/
    )
    assert.match(ended.stderr, /8 images, 7 steps of 32, /)
  })

  test('goes on with its own settings and images only; how it is carried out may change', async () => {
    const free = await pretrain('straight', '--seed', '5', '--resume', '--set', 'train.workers=2', '--set', 'train.keep_checkpoints=5')
    assert.equal(free.status, 0, free.stderr)
    assert.match(free.stderr, /train\.workers was 1 and is 2: what is computed stays the same/)
    const other = await pretrain('straight', '--seed', '5', '--resume', '--set', 'optim.base_lr=0.001')
    assert.equal(other.status, 2)
    assert.match(other.stderr, /cannot go on as it began: optim\.base_lr was .* and is 0\.001/)
    assert.match(other.stderr, /--accept-changes/)
  })

  test('stopped by Ctrl-C, killed, and resumed twice is the unbroken run, bit for bit', async () => {
    const first = start(realBinary, flags('broken', '--seed', '5'))
    const until = async (there: () => boolean, run: {child: {exitCode: number | null}}): Promise<void> => {
      while (!there() && run.child.exitCode === null) await sleep(4)
    }
    await until(() => existsSync(at('broken', 'metrics.jsonl')) && readFileSync(at('broken', 'metrics.jsonl'), 'utf8') !== '', first)
    first.child.kill('SIGINT')
    const stopped = await first.ended
    assert.equal(stopped.status, 130, stopped.stderr)
    const [state] = (await listStates(at('broken'))).slice(-1)
    assert.ok(state!.step >= 10 && state!.step < steps, `${state!.step}`)
    assert.match(stopped.stderr, new RegExp(`stopped at step ${state!.step}; .* is written\\. Go on with the same command and --resume\\.`))
    assert.ok(!existsSync(at('broken', 'final')))

    const second = start(realBinary, flags('broken', '--seed', '5', '--resume'))
    const next = checkpoint('broken', 20 * (Math.floor(state!.step / 20) + 1))
    await until(() => existsSync(next), second)
    second.child.kill('SIGKILL')
    const killed = await second.ended
    assert.match(killed.stderr, new RegExp(`going on from .*${state!.step}\\.safetensors`))

    const third = await pretrain('broken', '--seed', '5', '--resume')
    assert.equal(third.status, 0, third.stderr)
    sameFiles(at('straight'), at('broken'), [
      ...[...files(at('straight', 'final'))].map(name => join('final', name)),
      relative(at('straight'), checkpoint('straight', steps))
    ])
    assert.equal(readFileSync(at('broken', 'config.yaml'), 'utf8'), config)
    const lines = metricsOf('broken').map(({step}) => step!)
    assert.equal(lines.at(-1), steps)
    assert.deepEqual(
      lines,
      [...new Set(lines)].sort((a, b) => a - b)
    )
    assert.deepEqual(
      [...files(at('broken'))].filter(name => !existsSync(at('straight', name)) && !/^(checkpoints\/step-|tensorboard\/events)/.test(name)),
      [],
      'nothing half written stays'
    )
  })
})

describe('what goes wrong', () => {
  test('a loss that is not a number: status 6, which step, which images, and what to try', async () => {
    mkdirSync(at('nan', 'final'), {recursive: true})
    for (const name of ['config.yaml', 'metrics.jsonl', 'final/backbone.safetensors', 'mine.txt']) writeFileSync(at('nan', name), '')
    const args = ['--json', '--force', '--set', 'optim.base_lr=1e30', '--set', 'optim.warmup_epochs=0']
    const ended = await pretrain('nan', ...args)
    assert.equal(ended.status, 6, ended.stderr)
    const {code, message, hint} = errorOf(ended)
    assert.equal(code, 'NOT_FINITE')
    assert.match(message, /^Step 2 is not finite: .*dino_global is NaN.*; it began in blocks\.0 of the teacher\. Its images: .*\.png/)
    assert.match(hint!, /No checkpoint was written yet\. More in .*not-finite\.json\. Try a lower optim\.base_lr/)
    assert.ok(!existsSync(at('nan', 'final')), 'no model comes of it, and --force took the old one')
    assert.ok(existsSync(at('nan', 'mine.txt')), 'what no run wrote stays')
    const why = JSON.parse(readFileSync(at('nan', 'not-finite.json'), 'utf8')) as Record<string, unknown>
    assert.deepEqual([why['step'], (why['images'] as string[]).length, (why['losses'] as {ibot: unknown}).ibot], [2, 8, 'NaN'])
    assert.ok((why['gradients'] as string[]).includes('backbone.blocks.0.attn.qkv.weight'))
  })

  test('settings that are unknown, out of range or at odds: status 2, before anything is made', async () => {
    for (const [set, says] of [
      ['optim.base_lrr=1', /no setting optim\.base_lrr\. Did you mean optim\.base_lr\?/],
      ['ibot.mask_sample_probability=1.5', /ibot\.mask_sample_probability/],
      ['crops.global_crops_size=33', /33 is not a multiple of student\.patch_size 8.*/]
    ] as const) {
      const ended = await pretrain('refused', '--json', '--set', set)
      assert.equal(ended.status, 2, ended.stderr)
      assert.match(errorOf(ended).message, says)
    }
    assert.ok(!existsSync(at('refused')))
  })

  test('a folder that holds something: status 2, and it stays as it is', async () => {
    const before = [...files(at('straight'))].map(name => readFileSync(at('straight', name)))
    const ended = await pretrain('straight', '--json')
    assert.equal(ended.status, 2)
    assert.deepEqual([errorOf(ended).code, /--resume.*--force/.test(errorOf(ended).hint!)], ['OUTPUT_EXISTS', true])
    assert.deepEqual(
      [...files(at('straight'))].map(name => readFileSync(at('straight', name))),
      before
    )
  })

  test('no images, and nothing to go on from: status 3', async () => {
    mkdirSync(at('empty'))
    const [, , ...rest] = flags('none', '--json')
    for (const images of [at('nowhere'), at('empty')]) {
      const ended = await runBinary(realBinary, ['pretrain', images, ...rest])
      assert.equal(ended.status, 3, ended.stderr)
      assert.match(errorOf(ended).message, /no (file|image)/)
    }
    const resumed = await pretrain('none', '--json', '--resume')
    assert.equal(resumed.status, 3)
    assert.match(errorOf(resumed).message, /has no checkpoint to go on from/)
  })

  test('images that cannot be read: named and passed over up to --max-bad, status 4 beyond', async () => {
    const mixed = at('mixed')
    mkdirSync(mixed)
    for (const name of readdirSync(pictures)) writeFileSync(join(mixed, name), readFileSync(join(pictures, name)))
    writeFileSync(join(mixed, 'broken.png'), 'no picture')
    const [, , ...rest] = flags('some', '--set', 'train.steps=4', '--set', 'optim.warmup_epochs=0', '--set', 'dino.loss_weight=0')
    const good = await runBinary(realBinary, ['pretrain', mixed, ...rest, '--max-bad', '1', '--bad', at('bad.jsonl')])
    assert.equal(good.status, 0, good.stderr)
    assert.match(good.stderr, /broken\.png: /)
    const [line] = readFileSync(at('bad.jsonl'), 'utf8').trim().split('\n')
    assert.equal((JSON.parse(line!) as {path: string}).path, join(mixed, 'broken.png'))
    const bad = await runBinary(realBinary, ['pretrain', mixed, ...rest, '--force', '--max-bad', '0'])
    assert.match(bad.stderr, /stopped at step \d/, 'not trained to the end')
    assert.equal(bad.status, 4, bad.stderr)
  })
})

test('--dry-run prints the estimate and writes nothing', async () => {
  const ended = await pretrain('dry', '--dry-run', '--json')
  assert.equal(ended.status, 0, ended.stderr)
  const cost = JSON.parse(ended.stdout) as Record<string, number>
  assert.deepEqual([cost['images'], cost['steps']], [8, steps])
  assert.ok(cost['parameters']! > 30_000 && cost['secondsPerStep']! > 0 && cost['peakBytes']! > 1e5)
  assert.match(ended.stderr, /8 images, 60 steps of 8, 0\.0 M parameters with heads: [\d.]+ s a step/)
  assert.ok(!existsSync(at('dry')))
})

test('--dry-run refuses a folder as the run would: nothing to go on with, or something that is no run', async () => {
  const absent = await pretrain('dry', '--dry-run', '--resume')
  assert.equal(absent.status, 3, absent.stderr)
  assert.match(absent.stderr, /There is no run folder .*dry/)
  mkdirSync(at('taken'))
  writeFileSync(at('taken', 'thesis.txt'), 'years of work')
  const taken = await pretrain('taken', '--dry-run')
  assert.equal(taken.status, 2, taken.stderr)
  assert.match(taken.stderr, /taken exists and is not empty/)
})

describe('beneath the command', () => {
  const withSets = (...sets: string[]): Settings =>
    resolveSettings(readLayers([recipeFile], sets, {flags: [], settings: true}).settings).settings
  const fresh = (own: Settings): ReturnType<typeof initState> => initState(own, derive(own))

  before(onTorch)
  after(() => assert.equal(counted(), 0))

  test('student and teacher begin alike, the moments at zero; separate heads and centres where asked', async () => {
    const own = withSets('train.seed=5', 'ibot.separate_head=true', 'ibot.head_n_prototypes=24', 'train.centering=centering')
    const state = await fresh(own)
    assert.deepEqual([...state.student.keys()], [...state.teacher.keys()])
    assert.ok(state.student.has('ibot_head.last_layer.weight_v'))
    for (const [name, leaf] of state.student) assert.deepEqual(await state.teacher.get(name)!.data(), await leaf.data(), name)
    for (const named of [state.moments.m, state.moments.v])
      for (const leaf of named.values()) assert.ok((await leaf.data()).every(x => x === 0))
    assert.deepEqual([state.centers!.dino.shape, state.centers!.ibot.shape], [[1, 32], [1, 24]]) // prettier-ignore
    freeState(state)
  })

  test('a state read back is the state; one that does not fit is refused with all differences', async () => {
    const start = held()
    const state = await loadState(checkpoint('straight', steps), await fresh(withSets()))
    assert.equal(state.step, steps)
    const file = await openSafetensors(checkpoint('straight', steps))
    for (const [group, named] of [
      ['student', state.student],
      ['teacher', state.teacher],
      ['moment1', state.moments.m],
      ['moment2', state.moments.v]
    ] as const)
      for (const [name, leaf] of named) assert.deepEqual(await leaf.data(), await file.tensors.get(`${group}.${name}`)!.readFloat32(), name)
    await file.close()
    freeState(state)
    const other = await fresh(withSets('student.embed_dim=16', 'student.num_register_tokens=2'))
    await assert.rejects(loadState(checkpoint('straight', steps), other), (error: {exit: number; code: string; message: string}) => {
      assert.deepEqual([error.exit, error.code], [2, 'SETTINGS'])
      assert.match(error.message, /\.backbone\.blocks\.0\.attn\.qkv\.bias is \[96\] there and \[48\] here/)
      assert.match(error.message, /and \d+ more/)
      return true
    })
    freeState(other)
    assert.equal(held(), start)
  })

  test('a run may start from a backbone; one of another size is refused', async () => {
    const model = at('straight', 'final', 'backbone.safetensors')
    const state = await fresh(withSets(`student.pretrained_weights=${model}`))
    const file = await openSafetensors(model)
    for (const [name, entry] of file.tensors) {
      const expected = await entry.readFloat32()
      for (const named of [state.student, state.teacher]) assert.deepEqual(await named.get(`backbone.${name}`)!.data(), expected, name)
    }
    await file.close()
    freeState(state)
    const start = counted()
    await assert.rejects(fresh(withSets(`student.pretrained_weights=${model}`, 'student.depth=3')), {
      exit: 2,
      message: /does not fit the settings: depth is 2 there and 3 here/
    })
    assert.equal(counted(), start)
  })

  test('a forecast on noise leaves nothing in the engine', async () => {
    const start = {tensors: counted(), bytes: held()}
    const own = withSets('train.grad_accumulation=3', 'train.memory=small')
    const probe = {warm: 1, least: 1, most: 2, seconds: 0}
    const cost = await probeCost({images: 10, settings: own, plan: derive(own), precision: 'fp32', probe})
    assert.ok(cost.seconds > cost.secondsPerStep * steps && cost.checkpointSeconds > 0)
    assert.equal(cost.dataWait, 0)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
    assert.equal(cost.checkpointBytes, cost.parts.state)
    assert.ok(cost.parts.state > 16 * cost.parameters - 1 && cost.parts.state < 17 * cost.parameters)
  })

  test('a step in parts, its crops made when they are needed, is the step of the whole batch', async () => {
    const own = withSets('student.drop_path_rate=0', 'dino.koleo_loss_weight=0')
    const plan = derive(own)
    const crops = cropSettings(own)
    const masks = maskSettings(crops.globalSize, plan.vit.patch, 0.5, [0.1, 0.5])
    const made = (await noiseBatches(own, plan.batch, masks).next()).value as CropBatch
    const reports = []
    for (const parts of [1, 3]) {
      const state = await initState(own, plan)
      const batch = stepBatch(made, plan.batch, crops, plan.vit.patch, parts)
      const next = trainStep(state, batch, ratesAt(plan, 0), {...stepSettings(own, plan, 'fp32'), accumulate: parts})
      freeBatch(batch)
      freeState(next.state)
      reports.push(next.report)
    }
    const [whole, split] = reports
    for (const name of ['dino_local', 'dino_global', 'ibot'] as const)
      assert.ok(Math.abs(split!.losses[name] / whole!.losses[name] - 1) < 1e-5, name)
    assert.ok(Math.abs(split!.gradNorms['backbone']! / whole!.gradNorms['backbone']! - 1) < 1e-4)
  })

  test('memory grows in a line with the batch: the line goes through two points and never falls', () => {
    assert.deepEqual(memoryLine({images: 2, bytes: 100}, {images: 10, bytes: 180}), {fixed: 80, perImage: 10})
    assert.deepEqual(memoryLine({images: 2, bytes: 100}, {images: 10, bytes: 90}), {fixed: 100, perImage: 0})
  })

  test('health: collapsed, not learning, healthy, each in words', () => {
    const scale = {prototypes: 32, weight: 1}
    const line = (loss: number, cosine: number) => ({step: 1, dino_local: (loss * 2) / 3, dino_global: loss / 3, cls_cosine: cosine})
    assert.match(assessHealth([line(2, 0.99)], scale).words, /^collapsed: all images look alike/)
    assert.match(assessHealth([line(Math.log(32), 0.5)], scale).words, /^not learning: .* ln 32 = 3\.466/)
    assert.deepEqual(assessHealth([{...line(2, 0.5), teacher_entropy: 1}], scale).healthy, true)
    assert.match(assessHealth([{...line(0.001, 0.5), teacher_entropy: 0.001}], scale).words, /^collapsed: one prototype/)
    assert.equal(assessHealth([line(3.47, 0.5), line(3.2, 0.5)], scale).healthy, true, 'the noise of one line decides nothing')
    assert.equal(assessHealth([line(0, 0.5)], {prototypes: 32, weight: 0}).healthy, true)
  })
})
