/**
 * Distillation through the program: what a student takes over from its teacher, several students side by side as each
 * alone, a run resumed as the unbroken one, and every misfit in a sentence before anything long begins.
 */
import assert from 'node:assert/strict'
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import type {Batches} from '../../../src/data/loader/load-stats.js'
import type {CropBatch} from '../../../src/data/loader/crop-batches.js'
import {SharedBatches} from '../../../src/data/loader/shared-batches.js'
import {listStates} from '../../../src/files/checkpoint/training-state.js'
import {loadTeacher, planTeacher, teacherCropSide} from '../../../src/tasks/train/teacher.js'
import {CommandServer, folder as makeFolder, realBinary, start, type Ended} from '../../support/program.js'
import {onTorch, take} from '../../support/engine.js'
import {drawnFolder} from '../../support/drawn-images.js'
import {readTensors} from '../../support/tensors.js'

const root = makeFolder()
const at = (...names: string[]): string => join(root, ...names)
const engine = ['--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1']
const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
ibot: {separate_head: true, head_n_prototypes: 24, head_bottleneck_dim: 8, head_hidden_dim: 32}
train: {batch_size_per_gpu: 4, steps: 6, centering: sinkhorn_knopp, workers: 1}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.2, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.05, warmup_teacher_temp_epochs: 0}
optim: {epochs: 6, warmup_epochs: 1, base_lr: 0.02}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`
const small = `
student: {arch: custom, embed_dim: 16, depth: 2, num_heads: 2, layerscale: 1.0}
optim: {base_lr: 0.02, warmup_epochs: 1, epochs: 10}
teacher: {momentum_teacher: 0.9}
`
const course = `train: {batch_size_per_gpu: 4, steps: 8, workers: 1, log_every: 2, checkpoint_every: 3}`
const server = new CommandServer({env: {}, cwd: root})
after(() => server.end())
const distill = (...more: string[]): Promise<Ended> => server.run('distill', at('pictures'), ...engine, ...more)
const teach = (name: string, ...more: string[]): Promise<Ended> =>
  distill('--teacher', at('run'), '--config', at('course.yaml'), '--output', at(name), ...more)
const ok = (ended: Ended): void => assert.ok(ended.status === 0 || ended.status === 6, ended.stderr) // so short a run may be judged either way

const final = (name: string, file = 'backbone'): Promise<Map<string, Float32Array>> => readTensors(at(name, 'final', `${file}.safetensors`))

before(async () => {
  await drawnFolder(at('pictures'), ['a', 'b', 'c'], 4)
  for (const [name, text] of Object.entries({teacher: recipe, small, course, both: `${course}\n${small}`}))
    writeFileSync(at(`${name}.yaml`), text)
  writeFileSync(at('wide.yaml'), small.replace('embed_dim: 16', 'embed_dim: 24').replace('layerscale', 'patch_size: 16, layerscale'))
  ok(await server.run(...['pretrain', at('pictures'), ...engine, '--config', at('teacher.yaml'), '--output', at('run')]))
  mkdirSync(at('bare'))
  writeFileSync(at('bare', 'weights.safetensors'), readFileSync(at('run', 'final', 'backbone.safetensors')))
})

describe('what a student takes over', () => {
  test('prototypes, crops and temperatures from its teacher, shown by --print-config; no stochastic depth, no centring', async () => {
    const {stdout, stderr, status} = await teach('none', '--config', at('both.yaml'), '--print-config')
    assert.equal(status, 0, stderr)
    for (const line of [
      /^ {2}head_n_prototypes: 32 +# --teacher$/m,
      /^ {2}head_n_prototypes: 24 +# --teacher$/m,
      /^ {2}separate_head: true +# --teacher$/m,
      /^ {2}patch_size: 8 +# --teacher$/m,
      /^ {2}global_crops_size: 32 +# --teacher$/m,
      /^ {2}teacher_temp: 0\.05 +# --teacher$/m,
      /^ {2}drop_path_rate: 0 +# distill$/m,
      /^ {2}centering: sinkhorn_knopp +# distill$/m,
      /^ {2}momentum_teacher: 0\.9 +# .*both\.yaml:\d+$/m,
      new RegExp(`^  teacher: ${at('run')} +# --teacher$`, 'm')
    ])
      assert.match(stdout, line)
    assert.ok(!existsSync(at('none')))
  })

  test('the run folder is that of pretrain: heads, metrics, a model that embeds', async () => {
    ok(await teach('plain', '--config', at('both.yaml')))
    const heads = await final('plain', 'heads')
    assert.equal(heads.get('dino_head.last_layer.weight_g')!.length, 32)
    assert.equal(heads.get('ibot_head.last_layer.weight_g')!.length, 24)
    const lines = readFileSync(at('plain', 'metrics.jsonl'), 'utf8').trim().split('\n')
    const {ibot, dino_local, step} = JSON.parse(lines.at(-1)!) as Record<string, number>
    assert.equal(step, 8)
    assert.ok(dino_local! > 0 && ibot! > 1, 'the patch loss counts all patches, not half of the crops')
    const embedded = await server.run(...['embed', at('pictures'), ...engine, '--model', at('plain'), '--format', 'jsonl', '-o', '-'])
    assert.equal(embedded.stdout.trim().split('\n').length, 12, embedded.stderr)
    const report = await server.run(...['report', at('plain'), '-o', at('plain.html')])
    assert.equal(report.status, 0, report.stderr)
  })

  test('without a weight the loss on patches is not computed, and the head for them stays as it began', async () => {
    ok(await teach('blind', '--config', at('both.yaml'), '--set', 'ibot.loss_weight=0', '--set', 'optim.weight_decay=0', '--set', 'optim.weight_decay_end=0')) // prettier-ignore
    const line = readFileSync(at('blind', 'metrics.jsonl'), 'utf8').trim().split('\n').at(-1)!
    assert.equal((JSON.parse(line) as Record<string, number>)['ibot'], 0)
    const {initHead} = await import('../../../src/model/init.js')
    await onTorch()
    const fresh = initHead({width: 16, hidden: 32, bottleneck: 8, prototypes: 24, layers: 3}, 0, 'ibot_head')
    const {data} = await take(fresh.last_layer.weight_v)
    const own = (await final('blind', 'heads')).get('ibot_head.last_layer.weight_v')!
    assert.ok(own.every((value, i) => Math.abs(value - data[i]!) < 1e-6)) // averaging a tensor with itself rounds
  })

  test('without heads its features: projectors beside the backbone, no small crops, said on stderr', async () => {
    const ended = await distill('--teacher', at('bare', 'weights.safetensors'), '--config', at('both.yaml'), '--set', 'crops.global_crops_size=32', '--output', at('features')) // prettier-ignore
    ok(ended)
    assert.match(ended.stderr, /has no heads: its features are the targets, cls and patch tokens/)
    const heads = await final('features', 'heads')
    assert.deepEqual([...heads.keys()].sort(), [
      'cls_projector.bias',
      'cls_projector.weight',
      'patch_projector.bias',
      'patch_projector.weight'
    ])
    assert.equal(heads.get('cls_projector.weight')!.length, 32 * 16)
    const lines = readFileSync(at('features', 'metrics.jsonl'), 'utf8').trim().split('\n')
    const last = JSON.parse(lines.at(-1)!) as Record<string, number>
    assert.ok(last['cls_loss']! > 0 && last['patch_loss']! > 0 && last['dino_local'] === undefined)
    assert.match(readFileSync(at('features', 'config.yaml'), 'utf8'), /local_crops_number: 0/)
  })

  test('at another patch or image size the teacher’s patches are resampled, and it is said', async () => {
    const ended = await teach('patch16', '--config', at('wide.yaml'), '--set', 'distill.teacher_crops_size=48', '--set', 'train.steps=2')
    ok(ended)
    assert.match(ended.stderr, /the teacher sees global crops at 48 pixels, the student at 32/)
    assert.match(ended.stderr, /the teacher's 6 × 6 patches are resampled to the student's 2 × 2/)
    assert.equal(teacherCropSide(100, {patch: 14} as never), 98)
  })

  test('scores of teacher and student stand beside each other', async () => {
    const ended = await teach('scored', '--config', at('both.yaml'), '--set', 'train.steps=4', '--eval-images', at('pictures'), '--eval-every', '4', '--json') // prettier-ignore
    ok(ended)
    assert.match(ended.stderr, /the student: k-nearest neighbours [\d.]+ % .*; the teacher: k-nearest neighbours [\d.]+ %/)
    const kept = JSON.parse(readFileSync(at('scored', 'teacher.json'), 'utf8')) as Record<string, unknown>
    const {teacher_scores: scores} = JSON.parse(ended.stdout || '{}') as {teacher_scores?: Record<string, number>}
    assert.equal(kept['teacher'], at('run'))
    if (scores) assert.equal(kept['knn_10'], scores['knn_10'])
    const page = await server.run(...['report', at('scored'), '-o', '-'])
    assert.match(page.stdout, /teacher\.json/)
  })
})

describe('several students', () => {
  for (const [kind, from] of [
    ['heads', 'run'],
    ['features', join('bare', 'weights.safetensors')]
  ] as const)
    test(`distilled together by ${kind} are what each is alone, bit for bit, at two patch sizes`, async () => {
      const common = ['--teacher', at(from), '--config', at('course.yaml'), '--set', 'crops.global_crops_size=32', '--set', 'crops.local_crops_size=16'] // prettier-ignore
      const together = await distill(...common, '--student', at('small.yaml'), '--student', at('wide.yaml'), '--output', at(`two-${kind}`))
      ok(together)
      for (const name of ['small', 'wide']) {
        ok(await distill(...common, '--student', at(`${name}.yaml`), '--output', at(`one-${kind}`), '--force'))
        assert.deepEqual(await final(join(`two-${kind}`, name)), await final(join(`one-${kind}`, name)), name)
        assert.deepEqual(await final(join(`two-${kind}`, name), 'heads'), await final(join(`one-${kind}`, name), 'heads'), name)
      }
    })

  test('that cannot learn side by side are refused with what differs', async () => {
    writeFileSync(at('other.yaml'), `${small}\ntrain: {batch_size_per_gpu: 8}\ncrops: {global_crops_size: 64}`)
    const ended = await teach('refused', '--student', at('small.yaml'), '--student', at('other.yaml'))
    assert.equal(ended.status, 2)
    assert.match(ended.stderr, /student other cannot learn beside.*batch_size_per_gpu is 8.*and 4 for the others/s)
    mkdirSync(at('again'))
    writeFileSync(at('again', 'small.yaml'), small)
    const twice = await teach('refused', '--student', at('small.yaml'), '--student', at('again', 'small.yaml'))
    assert.deepEqual([twice.status, /Two students are called small/.test(twice.stderr)], [2, true])
    assert.ok(!existsSync(at('refused')))
  })
})

describe('stopped and resumed', () => {
  test('killed at any moment and resumed, two students end with the bytes of unbroken ones; another teacher is refused', async () => {
    const args = ['--student', at('small.yaml'), '--student', at('wide.yaml'), '--set', 'train.steps=24', '--set', 'train.checkpoint_every=1', '--set', 'crops.local_crops_size=16'] // prettier-ignore
    ok(await teach('whole', ...args))
    const {child, ended} = start(realBinary, ['distill', at('pictures'), ...engine, '--teacher', at('run'), '--config', at('course.yaml'), '--output', at('broken'), ...args]) // prettier-ignore
    for (let i = 0; i < 4000 && ((await listStates(at('broken', 'wide'))).at(-1)?.step ?? 0) < 3; i++) await sleep(5)
    child.kill('SIGKILL')
    await ended
    const steps = await Promise.all(['small', 'wide'].map(async name => (await listStates(at('broken', name))).at(-1)?.step ?? 0))
    assert.ok(steps[1]! >= 3 && steps[1]! < 24, `stopped at ${steps.join()}`)
    const changed = await distill('--resume', '--output', at('broken'), ...args.slice(0, 4), '--set', 'train.seed=9')
    assert.equal(changed.status, 2, changed.stderr)
    assert.match(changed.stderr, /cannot go on as it began: train\.seed was 0 and is 9\./)
    const other = await distill('--teacher', at('plain'), '--config', at('course.yaml'), '--output', at('broken'), ...args, '--resume')
    assert.equal(other.status, 2, other.stderr)
    assert.match(other.stderr, /the teacher has other weights than the one so far/)
    ok(await distill('--resume', '--output', at('broken'), ...args.slice(0, 4))) // teacher and settings are those of the runs
    for (const name of ['small', 'wide']) assert.deepEqual(await final(join('broken', name)), await final(join('whole', name)), name)
  })

  test('a reader that is behind is served the batches it lacks, each made once where readers go together', async () => {
    const made: number[] = []
    const make = (from: number): Batches<CropBatch> => {
      async function* stream(): AsyncGenerator<CropBatch, void, undefined> {
        for (let step = from; step < 9; step++) {
          made.push(step)
          yield await Promise.resolve({step, waitSeconds: 1} as CropBatch)
        }
      }
      return Object.assign(stream(), {stats: () => ({waitSeconds: 0, batches: 0, images: 0, bad: 0, native: false})})
    }
    const shared = new SharedBatches(make, 9)
    const [ahead, behind] = [shared.from(5), shared.from(3)]
    const stepOf = async (reader: Batches<CropBatch>): Promise<number> => ((await reader.next()).value as CropBatch).step
    assert.deepEqual([await stepOf(ahead), await stepOf(behind), await stepOf(behind), await stepOf(behind)], [5, 3, 4, 5])
    assert.deepEqual([await stepOf(ahead), await stepOf(behind)], [6, 6])
    assert.deepEqual(
      made,
      [5, 3, 4, 5, 6].filter((step, i, all) => all.indexOf(step) === i || step === 5)
    )
    await ahead.return()
    await behind.return()
  })
})

describe('sentences', () => {
  const refused: [what: string, args: () => string[], status: number, says: RegExp][] = [
    ['no teacher', () => ['--config', at('both.yaml')], 2, /No teacher is named\.\n.*--teacher/],
    [
      'no student',
      () => ['--teacher', at('run'), '--config', at('course.yaml')],
      2,
      /Which student is to be taught is not said\.\n.*student\.arch/
    ],
    ['a teacher that is not there', () => ['--teacher', at('nowhere'), '--config', at('both.yaml')], 3, /nowhere does not exist/],
    ['a teacher that is no model', () => ['--teacher', at('both.yaml'), '--config', at('both.yaml')], 1, /both\.yaml/],
    ['a folder of pictures as teacher', () => ['--teacher', at('pictures'), '--config', at('both.yaml')], 3, /pictures/],
    ['prototypes that are not the teacher’s', () => ['--teacher', at('run'), '--config', at('both.yaml'), '--set', 'dino.head_n_prototypes=64'], 2, /dino\.head_n_prototypes is 64 \(--set\), but the DINO head of the teacher .* has 32 prototypes/], // prettier-ignore
    ['heads that the teacher has not', () => ['--teacher', at('bare', 'weights.safetensors'), '--config', at('both.yaml'), '--set', 'distill.from=heads'], 2, /has no DINO head, which distill\.from=heads asks for/], // prettier-ignore
    ['crops that do not fit the student’s patch', () => ['--teacher', at('run'), '--config', at('both.yaml'), '--set', 'student.patch_size=7', '--set', 'crops.global_crops_size=32'], 2, /crops\.global_crops_size 32 is not a multiple of student\.patch_size 7/], // prettier-ignore
    ['a teacher’s crop that does not fit its patch', () => ['--teacher', at('run'), '--config', at('both.yaml'), '--set', 'distill.teacher_crops_size=30'], 2, /distill\.teacher_crops_size 30 is not a multiple of the patch of the teacher .*, 8 pixels\.\n.*32/] // prettier-ignore
  ]
  for (const [what, args, status, says] of refused)
    test(what, async () => {
      const ended = await distill(...args(), '--output', at('never'))
      assert.equal(ended.status, status, ended.stderr)
      assert.match(ended.stderr, says)
      assert.doesNotMatch(ended.stderr, /\n {4}at /, 'no stack')
      assert.ok(!existsSync(at('never')))
    })

  test('a teacher larger than memory, before it is loaded; bf16 where that would do', async () => {
    await onTorch()
    const plan = await planTeacher(at('run'), 'auto')
    assert.ok(plan.bytes('bf16') < plan.bytes('fp32'))
    await assert.rejects(loadTeacher(plan, 'fp32', plan.bytes('bf16')), (error: Error & {exit?: number; hint?: string}) => {
      assert.equal(error.exit, 5)
      assert.match(error.message, /has \d+ million parameters, which take .* in fp32, but .* may be used/)
      assert.match(error.hint!, /--precision bf16/)
      return true
    })
    await assert.rejects(loadTeacher(plan, 'bf16', 1000), /Take a smaller teacher|may be used/)
  })

  test('--batch auto says how many images fit, for one student alone', async () => {
    const ended = await distill('--teacher', at('run'), '--config', at('both.yaml'), '--batch', 'auto', '--dry-run', '--json')
    assert.equal(ended.status, 0, ended.stderr)
    assert.match(ended.stderr, /--batch auto: 12 images a step/) // no image comes twice in a batch
    const two = await teach('never', '--student', at('small.yaml'), '--student', at('wide.yaml'), '--batch', 'auto')
    assert.deepEqual([two.status, /--batch auto is for one student/.test(two.stderr)], [2, true])
  })

  test('a student that does not fit into memory, before the teacher is loaded', async () => {
    const ended = await distill('--teacher', at('run'), '--set', 'student.arch=vit_giant2', '--batch', '65536', '--output', at('never'), '--json') // prettier-ignore
    assert.equal(ended.status, 5, ended.stderr)
    const {error} = JSON.parse(ended.stdout) as {error: {code: string; message: string}}
    assert.equal(error.code, 'OUT_OF_MEMORY')
    assert.match(error.message, /^This run needs about [\d.]+ GiB, and [\d.]+ GiB of memory may be used: .* 65536 images a step/)
    assert.doesNotMatch(ended.stderr, /teaches by its heads/)
    assert.ok(!existsSync(at('never')))
  })

  test('nobody describes a student: a recipe that suits the teacher is taken and named', async () => {
    const shown = await distill('--teacher', at('run'), '--set', 'train.steps=3', '--print-config')
    ok(shown)
    assert.match(shown.stderr, /no --config: the recipe distill-small is taken, which suits the teacher .*\. Choose another with --config/)
    assert.match(shown.stdout, /^ {2}embed_dim: 96 +# .*distill-small.*:\d+$/m)
    assert.match(shown.stdout, /^ {2}steps: 3 +# --set$/m)
  })

  test('--dry-run tells steps, hours and memory, and writes nothing', async () => {
    const ended = await distill('--teacher', at('run'), '--config', at('both.yaml'), '--dry-run', '--json')
    assert.equal(ended.status, 0, ended.stderr)
    const cost = JSON.parse(ended.stdout) as {steps: number; secondsPerStep: number; processBytes: number}
    assert.equal(cost.steps, 8)
    assert.ok(cost.secondsPerStep > 0 && cost.processBytes > 0)
    assert.match(ended.stderr, /12 images, 8 steps of 4/)
  })
})
