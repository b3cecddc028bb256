/**
 * Going on from weights: what they decide, what is resampled, which heads are taken, how the backbone waits for new
 * heads, and that a run resumed at any step, across the end of that waiting too, is the unbroken one and needs the
 * weights no more.
 */
import assert from 'node:assert/strict'
import {mkdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {derive} from '../../../src/config/derived.js'
import {readLayers} from '../../../src/config/read-layers.js'
import {resolveSettings} from '../../../src/config/settings.js'
import type {Settings} from '../../../src/config/table.js'
import type {CropBatch} from '../../../src/data/loader/crop-batches.js'
import {maskSettings} from '../../../src/data/augment/block-masks.js'
import {adapt} from '../../../src/model/adapt.js'
import {forward} from '../../../src/model/vit.js'
import {loadBackbone} from '../../../src/tasks/embed/load-backbone.js'
import {noiseBatches} from '../../../src/tasks/train/cost-probe.js'
import {scheduleFor} from '../../../src/tasks/train/default-recipe.js'
import {readOrigin, withInferredSettings} from '../../../src/tasks/train/init-weights.js'
import {cropSettings, initState, ratesAt, stepSettings} from '../../../src/tasks/train/pretrain-state.js'
import {freeBatch, stepBatch} from '../../../src/tasks/train/step-batch.js'
import {trainStep} from '../../../src/tasks/train/train-step.js'
import {rng} from '../../../src/tensor/random.js'
import {dispose, type Tensor} from '../../../src/tensor/tf.js'
import {flatten, unflatten} from '../../../src/tensor/tree.js'
import type {Vit} from '../../../src/model/vit.js'
import {CommandServer, folder as makeFolder, realBinary, run as runBinary, type Ended} from '../../support/program.js'
import {counted, normal, onTorch, put} from '../../support/engine.js'
import {drawnFolder} from '../../support/drawn-images.js'
import {freeState} from '../../support/small-run.js'
import {readTensors} from '../../support/tensors.js'

const root = makeFolder()
const at = (...names: string[]): string => join(root, ...names)
const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
train: {batch_size_per_gpu: 4, steps: 20, centering: sinkhorn_knopp, workers: 1, log_every: 5, checkpoint_every: 10}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.2, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 20, warmup_epochs: 1, base_lr: 0.02, layerwise_decay: 1.0, patch_embed_lr_mult: 1.0, weight_decay_end: 0.04}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`
const engine = ['--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1']
const short = ['train.steps=20', 'train.batch=4', 'train.workers=1', 'optim.epochs=20', 'optim.warmup_epochs=2']
const sets = (...more: string[]): string[] => more.flatMap(set => ['--set', set])
const server = new CommandServer({env: {}, cwd: root})
after(() => server.end())
const pretrain = (...more: string[]): Promise<Ended> => server.run('pretrain', at('pictures'), ...engine, ...more)
/** From the run, shortly; everything else is left to the weights. */
const goOn = (name: string, ...more: string[]): Promise<Ended> => pretrain(...sets(...short), '--output', at(name), ...more)
const ok = (ended: Ended): void => assert.ok(ended.status === 0 || ended.status === 6, ended.stderr) // so short a run may be judged either way
const checkpoint = (name: string, step: number): string => at(name, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`)
const model = (name: string): string => at(name, 'final', 'backbone.safetensors')

const sectionsOf = (file: string): Settings => resolveSettings(readLayers([file], [], {flags: [], settings: true}).settings).settings
/** The settings of a run that starts from weights, with what they decide. */
async function from(weights: string, ...given: string[]): Promise<Settings> {
  const resolved = resolveSettings(
    readLayers([], [...given, `student.pretrained_weights=${weights}`], {flags: [], settings: true}).settings
  )
  return withInferredSettings(await readOrigin(weights, sectionsOf), resolved, '--init').settings
}

const numbers = async (leaf: Tensor): Promise<Float32Array> => (await leaf.data()) as Float32Array

before(async () => {
  await drawnFolder(at('pictures'), ['a', 'b', 'c'], 4)
  writeFileSync(at('recipe.yaml'), recipe)
  ok(await pretrain('--config', at('recipe.yaml'), '--output', at('run')))
  mkdirSync(at('bare'))
  writeFileSync(at('bare', 'backbone.safetensors'), readFileSync(model('run'))) // without its run and its heads
  writeFileSync(at('config.yaml'), recipe) // of nobody's run
})

describe('what weights decide', () => {
  test('of a run of ours: its sizes, heads, losses and crops, a tenth of its learning rate; what is set stands', async () => {
    const own = await from(at('run'), 'crops.local_crops_number=3')
    const made = sectionsOf(at('run', 'config.yaml'))
    assert.deepEqual(own.student, {...made.student, pretrained_weights: at('run')})
    assert.deepEqual([own.dino, own.ibot, own.teacher], [made.dino, made.ibot, made.teacher])
    assert.deepEqual(own.crops, {...made.crops, local_crops_number: 3})
    assert.deepEqual([own.optim.base_lr, own.optim.layerwise_decay, own.optim.head_warmup_epochs], [0.002, 0.9, 0])
    assert.equal(own.train.steps, 0, 'not how long it was')
  })

  test('of bare weights: sizes by their shapes, gentle rates, and heads that learn first', async () => {
    const own = await from(at('bare', 'backbone.safetensors'))
    const {arch, embed_dim, depth, num_heads, patch_size} = own.student
    assert.deepEqual([arch, embed_dim, depth, num_heads, patch_size], ['custom', 32, 2, 2, 8])
    assert.deepEqual([own.crops.global_crops_size, own.crops.local_crops_size], [32, 16])
    assert.deepEqual([own.optim.base_lr, own.optim.layerwise_decay, own.optim.head_warmup_epochs], [4e-4, 0.9, 5])
    const set = await from(at('bare', 'backbone.safetensors'), 'optim.base_lr=0.01', 'optim.head_warmup_epochs=1', 'student.patch_size=4')
    assert.deepEqual([set.optim.base_lr, set.optim.head_warmup_epochs, set.student.patch_size], [0.01, 1, 4])
  })

  test('--print-config says that it came from --init, with a path that holds from any folder', async () => {
    const shown = await runBinary(realBinary, ['pretrain', at('pictures'), '--init', 'run', '--print-config'], {cwd: root})
    assert.equal(shown.status, 0, shown.stderr)
    for (const line of [
      /^ {2}embed_dim: 32 +# --init$/m,
      /^ {2}base_lr: 0\.002 +# --init$/m,
      new RegExp(`^  pretrained_weights: ${at('run')} +# --init$`, 'm')
    ])
      assert.match(shown.stdout, line)
  })

  test('what cannot be bridged is refused with all differences in one message', async () => {
    const ended = await goOn(
      'refused',
      '--init',
      at('run'),
      '--json',
      ...sets('student.embed_dim=48', 'student.depth=3', 'student.num_heads=3')
    )
    assert.equal(ended.status, 2)
    const {message} = (JSON.parse(ended.stdout) as {error: {message: string}}).error
    assert.match(
      message,
      /does not fit the settings: width is 32 there and 48 here; depth is 2 there and 3 here; heads is 2 there and 3 here; hidden is 128 there and 192 here/
    )
    const nothing = await goOn('refused', '--init', at('nothing'))
    assert.equal(nothing.status, 3)
    assert.match(nothing.stderr, /nothing does not exist/)
    const wrong = await goOn('refused', '--init', at('recipe.yaml'))
    assert.equal(wrong.status, 1, wrong.stderr)
  })
})

describe('the state', () => {
  before(onTorch)
  after(() => assert.equal(counted(), 0))

  test('of the same shape has the weights and the heads of the run, in student and teacher, in the order of drawn ones', async () => {
    const own = await from(at('run'))
    const plan = derive(own)
    const state = await initState(own, plan)
    const drawn = await initState(own, plan, '')
    assert.deepEqual([...state.student.keys()], [...drawn.student.keys()])
    freeState(drawn)
    const heads = await readTensors(at('run', 'final', 'heads.safetensors'))
    for (const [name, values] of [...[...(await readTensors(model('run')))].map(([name, v]) => [`backbone.${name}`, v] as const), ...heads])
      for (const named of [state.student, state.teacher]) assert.deepEqual(await numbers(named.get(name)!), values, name)
    // What the first step sees is what the model says.
    const loaded = await loadBackbone(at('run'), {trainable: true})
    const x = put(normal('x', [2, 32, 32, 3]))
    const tree = unflatten<{backbone: Vit}>([...state.student].filter(([name]) => name.startsWith('backbone.'))).backbone
    const [a, b] = [forward(tree, x, plan.vit), forward(loaded.params, x, loaded.config)]
    assert.deepEqual(await numbers(a.patches), await numbers(b.patches))
    for (const f of [a, b]) dispose([f.cls, f.patches, f.registers, f.prenorm])
    dispose(x)
    loaded[Symbol.dispose]()
    freeState(state)
  })

  test('of another patch, grid and number of registers is what adapt makes of the weights', async () => {
    const own = await from(at('run'), 'student.patch_size=4', 'student.num_register_tokens=2', 'crops.global_crops_size=40')
    const plan = derive(own)
    assert.deepEqual([plan.vit.grid, plan.vit.registers, own.crops.local_crops_size], [10, 2, 16])
    const state = await initState(own, plan)
    const loaded = await loadBackbone(at('run'), {trainable: true})
    const expected = adapt(loaded.params, loaded.config, plan.vit, own.train.seed)
    for (const [name, leaf] of flatten(expected)) {
      assert.deepEqual(await numbers(state.student.get(`backbone.${name}`)!), await numbers(leaf), name)
      dispose(leaf)
    }
    const drawn = await initState(own, plan, '')
    assert.deepEqual([...state.student.keys()], [...drawn.student.keys()])
    for (const each of [drawn, state]) freeState(each)
    loaded[Symbol.dispose]()
  })

  test('heads of another size, or none, are drawn', async () => {
    const own = await from(at('run'), 'dino.head_n_prototypes=24')
    assert.equal(own.optim.head_warmup_epochs, 5)
    const state = await initState(own, derive(own))
    const drawn = await initState(own, derive(own), '')
    for (const [name, leaf] of drawn.student)
      if (!name.startsWith('backbone.')) assert.deepEqual(await numbers(state.student.get(name)!), await numbers(leaf), name)
    for (const each of [drawn, state]) freeState(each)
  })

  test('while new heads learn the backbone keeps its bytes; then both move', async () => {
    const own = await from(at('bare', 'backbone.safetensors'), ...short, 'optim.head_warmup_epochs=3', 'dino.head_n_prototypes=32')
    const plan = derive(own)
    assert.equal(plan.headWarmup, 3)
    const crops = cropSettings(own)
    const masks = maskSettings(crops.globalSize, plan.vit.patch, 0.5, [0.1, 0.5])
    let state = await initState(own, plan)
    const seen = async (): Promise<Map<string, Float32Array>> => {
      const all = new Map<string, Float32Array>()
      for (const [group, named] of [
        ['student', state.student],
        ['teacher', state.teacher],
        ['m', state.moments.m]
      ] as const)
        // prettier-ignore
        for (const [name, leaf] of named) all.set(`${group}.${name}`, (await numbers(leaf)).slice())
      return all
    }
    const begun = await seen()
    const isBackbone = (name: string): boolean => name.includes('.backbone.')
    let resting = begun
    for await (const made of noiseBatches(own, plan.batch, masks)) {
      if (made.step === 6) break
      const batch = stepBatch(made as CropBatch, plan.batch, crops, plan.vit.patch)
      const stepped = trainStep(state, batch, ratesAt(plan, made.step), stepSettings(own, plan, 'fp32'), rng(0, 'drop path', made.step))
      state = stepped.state
      freeBatch(batch)
      const now = await seen()
      for (const [name, values] of now)
        if (isBackbone(name) && made.step < 3) assert.deepEqual(values, begun.get(name), `${name} at step ${made.step}`)
      assert.equal(stepped.report.gradNorms['backbone']! > 0, made.step >= 3)
      if (made.step === 2) resting = now
    }
    const changed = (name: string, before: Map<string, Float32Array>, now: Map<string, Float32Array>): boolean =>
      Buffer.compare(Buffer.from(before.get(name)!.buffer), Buffer.from(now.get(name)!.buffer)) !== 0
    assert.ok(changed('student.dino_head.mlp.0.weight', begun, resting) && changed('teacher.dino_head.mlp.0.weight', begun, resting))
    const now = await seen()
    for (const name of ['student.dino_head.mlp.0.weight', 'student.backbone.blocks.1.attn.qkv.weight', 'teacher.backbone.norm.weight'])
      assert.ok(changed(name, resting, now), name)
    freeState(state)
  })
})

describe('a run', () => {
  test('from random weights on few images names the model that comes along where its sizes are the same, and only there', async () => {
    const few = ['--config', 'tiny', ...sets('train.steps=1', 'train.batch=4', 'train.workers=0')]
    const advice = /starting from random weights; .*--init starter/
    const random = await pretrain(...few, '--output', at('random'))
    ok(random)
    assert.match(random.stderr, advice)
    const begun = await pretrain(...few, '--init', 'starter', '--output', at('begun'))
    ok(begun)
    assert.doesNotMatch(begun.stderr, advice)
    assert.doesNotMatch((await pretrain(...few, ...sets('student.depth=2'), '--output', at('shallow'))).stderr, advice)
  })

  test('takes the sizes of its weights, not those of a recipe for small models, and says so; what a user sets stands', async () => {
    const few = sets('train.steps=1', 'train.batch=4', 'train.workers=0')
    const begun = await pretrain('--config', 'tiny', '--init', model('run'), ...few, '--output', at('other-sizes'))
    ok(begun)
    assert.match(begun.stderr, /starting from .*: 32 wide, 2 blocks/)
    assert.match(begun.stderr, /the sizes of these weights take the place of those of tiny \(128 wide, 4 blocks\)/)
    const {student, optim, dino} = sectionsOf(at('other-sizes', 'config.yaml'))
    assert.deepEqual([student.embed_dim, student.depth, student.num_heads], [32, 2, 2])
    assert.deepEqual([optim.base_lr, dino.head_n_prototypes], [0.008, 256]) // the rest is the recipe's
    const on = await pretrain('--config', 'tiny', '--init', model('run'), ...few, '--output', at('other-sizes'), '--resume')
    ok(on)
    assert.match(on.stderr, /nothing is left|done|after 1 step/)
    const same = await pretrain('--config', 'tiny', '--init', 'starter', ...few, '--dry-run')
    assert.doesNotMatch(same.stderr, /take the place/)
    const mine = at('mine.yaml')
    writeFileSync(mine, 'student: {arch: custom, embed_dim: 64, depth: 2, num_heads: 2, patch_size: 8}\n')
    for (const named of [
      ['--config', 'tiny', ...sets('student.depth=3')],
      ['--config', mine],
      ['--config', 'vits14']
    ]) {
      const refused = await pretrain(...named, '--init', model('run'), ...few, '--output', at('refused'))
      assert.equal(refused.status, 2, refused.stderr)
      assert.match(refused.stderr, /does not fit the settings/)
    }
  })

  test('without a recipe has the length of one that suits its images, and for the models that come along all of it but the sizes', async () => {
    const tries = sets('train.batch=4', 'train.workers=0')
    const starter = await pretrain('--init', 'starter-wide', ...tries, '--dry-run')
    assert.match(
      starter.stderr,
      /the recipe tiny is taken, with the sizes of starter-wide, which suits \d+ images \(700 steps of 4 images\)/
    )
    const other = await pretrain('--init', model('run'), ...sets('train.workers=0'), '--dry-run')
    assert.match(other.stderr, /the length of the recipe small is taken, which suits \d+ images \(1000 steps of 32 images\)/)
    const set = await pretrain('--init', model('run'), ...sets('train.steps=1', 'train.batch=4', 'train.workers=0'), '-o', at('length'))
    ok(set)
    const {optim, dino} = sectionsOf(at('length', 'config.yaml'))
    assert.deepEqual([optim.base_lr, optim.epochs, dino.head_n_prototypes], [0.002, 100, 32]) // a tenth of the run's rate, and its heads
    const here = {device: 'cpu', precision: 'fp32', limit: undefined, minutes: undefined} as const
    const lengths = [100, 2400, 5e6].flatMap(images => [false, true].map(comesAlong => scheduleFor({...here, images}, comesAlong)))
    assert.deepEqual(lengths, ['small', 'tiny', 'medium', 'medium', 'medium', 'medium'])
    assert.equal(scheduleFor({...here, images: 2400, minutes: 5}, true), 'tiny')
    assert.equal(scheduleFor({...here, images: 5e6, device: 'cuda:0'}, false), undefined) // the published length
    assert.equal(scheduleFor({...here, images: 2400, device: 'cuda:0'}, false), 'medium')
  })

  test('from weights without heads says what it does; stopped in the warm-up of its heads and resumed without the weights it ends with the same bytes', async () => {
    const weights = at('lent.safetensors')
    writeFileSync(weights, readFileSync(model('run')))
    const how = [
      '--init',
      weights,
      ...sets(
        'train.checkpoint_every=3',
        'train.keep_checkpoints=9',
        'optim.head_warmup_epochs=5',
        'dino.head_n_prototypes=32',
        'crops.global_crops_size=48'
      )
    ]
    const straight = await goOn('straight', ...how)
    ok(straight)
    assert.match(straight.stderr, /starting from .*lent\.safetensors: 32 wide, 2 blocks, patches of 8, positions for 32 pixels/)
    assert.match(straight.stderr, /positions resampled from 4 × 4 to 6 × 6/)
    assert.match(straight.stderr, /dino_head is new \(there is none\); for 5 steps the heads learn and the backbone stands still/)
    const lines = readFileSync(at('straight', 'metrics.jsonl'), 'utf8').trim().split('\n').map(line => JSON.parse(line) as Record<string, number>) // prettier-ignore
    assert.ok(lines.at(-1)!['backbone_lr']! > 0)
    const resting = await readTensors(checkpoint('straight', 3))
    const [begun, moved] = [await readTensors(model('run')), await readTensors(checkpoint('straight', 9))]
    const name = 'blocks.1.mlp.fc1.weight'
    assert.deepEqual(resting.get(`student.backbone.${name}`), begun.get(name))
    assert.deepEqual(resting.get(`teacher.backbone.${name}`), begun.get(name))
    assert.notDeepEqual(moved.get(`student.backbone.${name}`), begun.get(name))

    // The weights are gone; what is left is what a kill after step 3 leaves. The same command goes on, and so does the
    // run's own file.
    renameSync(weights, at('taken-away'))
    for (const [again, ...rest] of [
      ['again', ...how],
      ['by-file', '--config', at('straight', 'config.yaml')]
    ] as [string, ...string[]][]) {
      // prettier-ignore
      mkdirSync(at(again, 'checkpoints'), {recursive: true})
      writeFileSync(checkpoint(again, 3), readFileSync(checkpoint('straight', 3)))
      const resumed =
        again === 'again' ? await goOn(again, ...rest, '--resume') : await pretrain(...rest, '--output', at(again), '--resume')
      assert.equal(resumed.status, straight.status, resumed.stderr)
      assert.ok(readFileSync(checkpoint('straight', 20)).equals(readFileSync(checkpoint(again, 20))), again)
      assert.equal(readFileSync(at(again, 'config.yaml'), 'utf8'), readFileSync(at('straight', 'config.yaml'), 'utf8'))
      rmSync(at(again), {recursive: true})
    }
  })

  test('with labelled images is scored before the first step and at the end; both are in metrics, report and last words', async () => {
    const ended = await goOn('scored', '--init', at('run'), '--eval-images', at('pictures'), '--json', ...sets('optim.base_lr=0.5'))
    ok(ended)
    const lines = readFileSync(at('scored', 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Record<string, number>)
    const scored = lines.filter(({knn_10: score}) => score !== undefined)
    assert.deepEqual(
      scored.map(({step}) => step),
      [0, 20]
    )
    assert.match(ended.stderr, /before the first step: k-nearest neighbours/)
    assert.match(ended.stderr, /nearest neighbours (fell|rose|went) from [\d.]+ to [\d.]+ % \(k = 10\) and from/)
    const {findings} = await import('../../../src/tasks/report-findings.js')
    const {readRun} = await import('../../../src/files/run/run-folder.js')
    const said = findings((await readRun(at('scored'))).lines, new Map())
    assert.ok(said.some(({text}) => /^Nearest neighbours (fell|rose|went) from/.test(text)))
    const {improvementOf} = await import('../../../src/tasks/train/improvement.js')
    const line = (step: number, score: number) => ({step, values: new Map([['knn_10', score]])})
    const fell = improvementOf([line(0, 0.612), {step: 10, values: new Map([['total', 3]])}, line(20, 0.55)])!
    assert.deepEqual(
      [fell.fell, fell.words.split(';')[0]],
      [true, 'nearest neighbours fell from 61.2 to 55.0 % (k = 10): the weights were better before']
    )
    assert.equal(improvementOf([line(20, 0.5), line(40, 0.6)]), undefined, 'a run from nothing has no before')
  })
})
