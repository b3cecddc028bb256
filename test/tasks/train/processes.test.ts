/**
 * Training in several processes, through the commands that users run: n processes with batch b compute what one does
 * with n·b; checkpoints do not depend on n; whoever dies, hangs or differs ends all, by name. What ends by itself runs
 * in processes that stay, what is killed in processes of its own.
 *
 * DINOV2_TEST_PROCESSES=all tries more processes and more kills (make test-distributed).
 */
import assert from 'node:assert/strict'
import {cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, watch, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import {encodeImage} from '../../../src/data/image/encode.js'
import {openSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import type {CostEstimate} from '../../../src/tasks/train/cost-estimate.js'
import {LIMITS, updateError} from '../../../src/tasks/verify/checks.js'
import {rng} from '../../../src/tensor/random.js'
import {CommandServer, folder, otherVersion, realBinary, said, start, type Ended} from '../../support/program.js'
import {ServersTogether, startTogether} from '../../support/processes.js'

const all = process.env['DINOV2_TEST_PROCESSES'] === 'all'
const root = folder()
const at = (...names: string[]): string => join(root, ...names)

const single = new CommandServer({env: {}, cwd: root})
const servers = new Map((all ? [2, 3, 4] : [2]).map(size => [size, new ServersTogether(size, root)]))
const two = servers.get(2)!
after(() => Promise.all([single, ...servers.values()].map(server => server.end())))

const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
ibot: {separate_head: true, head_n_prototypes: 48, head_bottleneck_dim: 16, head_hidden_dim: 32, mask_sample_probability: 0.25}
train:
  steps: 4
  OFFICIAL_EPOCH_LENGTH: 4
  centering: sinkhorn_knopp
  koleo: global
  workers: 1
  log_every: 1
  checkpoint_every: 1
  keep_checkpoints: 10
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.0, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 1, warmup_epochs: 0, freeze_last_layer_epochs: 0, base_lr: 0.002, layerwise_decay: 1.0, patch_embed_lr_mult: 1.0}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`

const IMAGES = 24

before(async () => {
  mkdirSync(at('pictures'))
  for (let i = 0; i < IMAGES; i++) {
    const random = rng(7, 'picture', i)
    const pixels = Uint8Array.from({length: 40 * 40 * 3}, (_, p) => (p % (3 + (i % 5)) === 0 ? 255 : Math.floor(random.uniform(0, 255))))
    writeFileSync(at('pictures', `${String(i).padStart(2, '0')}.png`), await encodeImage(pixels, {width: 40, height: 40}))
  }
  writeFileSync(at('recipe.yaml'), recipe)
  const labelled = Array.from({length: IMAGES}, (_, i) => ({
    path: at('pictures', `${String(i).padStart(2, '0')}.png`),
    label: `kind ${i % 5}`
  }))
  writeFileSync(at('labelled.jsonl'), labelled.map(line => JSON.stringify(line)).join('\n'))
})

/** Scores along the run, at two of its steps. */
const scored = ['--eval-images', at('labelled.jsonl'), '--eval-every', '2']

const args = (name: string, batch: number, ...more: string[]): string[] => [
  'pretrain',
  at('pictures'),
  ...['--config', at('recipe.yaml'), '--output', at(name), '--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1'],
  ...['--batch', String(batch), '--set', 'train.process_timeout=20'],
  ...more
]

/** A run in one process. Four steps teach nothing, which status 6 says at its end. */
async function alone(name: string, batch: number, ...more: string[]): Promise<Ended> {
  const ended = await single.run(...args(name, batch, ...more))
  assert.ok([0, 6].includes(ended.status!), ended.stderr)
  return ended
}

/** A run in several processes; `batch` is of each. */
async function together(name: string, size: number, batch: number, ...more: string[]): Promise<Ended[]> {
  const all = await servers.get(size)!.run(() => args(name, batch, ...more))
  for (const [rank, {status, stderr}] of all.entries()) assert.ok([0, ...(rank === 0 ? [6] : [])].includes(status!), `${rank}: ${stderr}`)
  return all
}

const metricsOf = (name: string): Record<string, number>[] =>
  readFileSync(at(name, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, number>)

const checkpoint = (name: string, step: number): string => at(name, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`)

/** Tensors of a checkpoint by name. */
async function tensors(name: string, step: number): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(checkpoint(name, step))
  try {
    const out = new Map<string, Float32Array>()
    for (const [key, entry] of file.tensors) out.set(key, await entry.readFloat32())
    return out
  } finally {
    await file.close()
  }
}

/** Losses agree to 1e-5, and what steps 2 to 4 changed as `engine verify` judges it. */
async function assertEqualRuns(one: string, other: string): Promise<void> {
  const [a, b] = [metricsOf(one), metricsOf(other)]
  assert.equal(b.length, a.length)
  a.forEach((line, i) => {
    for (const term of ['total', 'dino_local', 'dino_global', 'ibot', 'koleo', 'teacher_entropy', 'cls_loss', 'patch_loss'])
      if (line[term] !== undefined)
        assert.ok(
          Math.abs(line[term]! - b[i]![term]!) <= 1e-5 * Math.max(1, Math.abs(line[term]!)),
          `step ${i + 1}, ${term}: ${line[term]} and ${b[i]![term]}`
        )
    for (const name of ['masked_patches', 'knn_10', 'knn_20']) assert.equal(b[i]![name], line[name], `step ${line['step']}, ${name}`)
  })
  const [init, recorded, computed] = [await tensors(one, 1), await tensors(one, 4), await tensors(other, 4)]
  assert.deepEqual([...computed.keys()], [...recorded.keys()])
  for (const [name, values] of recorded) {
    if (!/^(student|teacher)\./.test(name)) continue
    const third = values.length / 3
    const judged = name.endsWith('.attn.qkv.bias') ? (i: number): boolean => i < third || i >= 2 * third : undefined
    const error = updateError(init.get(name)!, computed.get(name)!, values, judged)
    assert.ok(error <= LIMITS.update, `${name}: ${error}`)
  }
}

/** The numbers of a safetensors file, without its metadata. */
const numbers = (path: string): Buffer => {
  const bytes = readFileSync(path)
  return bytes.subarray(8 + Number(bytes.readBigUInt64LE(0)))
}

describe('several processes', {timeout: 600_000}, () => {
  before(async () => void (await alone('one', 8, ...scored)))

  // First, because the peak is that of a process since it began.
  test('sharded parameters are never whole at once: the peak of tensors falls as counted', async () => {
    const depth = 12
    const sizes = ['student.embed_dim=192', `student.depth=${depth}`, 'student.num_heads=3', 'train.steps=2', 'train.checkpoint_every=9']
    const model = sizes.flatMap(set => ['--set', set])
    const peak = (name: string): {state: number; tensors: number} => {
      const [line] = readFileSync(at(name, 'timings.jsonl'), 'utf8').split('\n')
      const {memory_state_mib: state, memory_tensors_mib: tensors} = JSON.parse(line!) as Record<string, number>
      return {state: state!, tensors: tensors!}
    }
    await alone('memory-one', 2, ...model)
    const one = peak('memory-one')
    const parameters = one.state / 4 // the student: the state is it, its average and two moments
    const activations = one.tensors - one.state - parameters // beside the gradients
    if (all) {
      await together('memory-four', 4, 2, ...model, '--set', 'train.parallel=fsdp')
      const four = peak('memory-four')
      const counted = four.state + parameters / 4 + Math.max(0, activations) + (7 * parameters) / depth
      assert.ok(Math.abs(four.state - one.state / 4) <= 1.5, `${four.state} of ${one.state} MiB`)
      assert.ok(four.tensors <= counted + 1, `${four.tensors} MiB, counted ${counted}: ${JSON.stringify([one, four])}`)
    }
    await together('memory-fsdp', 2, 2, ...model, '--set', 'train.parallel=fsdp')
    const two = peak('memory-fsdp')
    assert.ok(Math.abs(two.state - one.state / 2) <= 1.5, `${two.state} of ${one.state} MiB`)
    // Pieces, gradients, blocks under way, and two that a thread of Gloo may still hold after they were waited for.
    const counted = two.state + parameters / 2 + Math.max(0, activations) + (7 * parameters) / depth
    assert.ok(two.tensors <= counted + 1, `${two.tensors} MiB, counted ${counted}: ${JSON.stringify([one, two])}`)
    const asked = ['--dry-run', '--tflops', '1', '--processes', '2', '--json']
    const trial = await single.run(...args('none', 2, ...model, '--set', 'train.parallel=fsdp', ...asked))
    assert.equal(trial.status, 0, trial.stderr)
    const {several} = JSON.parse(trial.stdout) as CostEstimate
    const predicted = several!.fsdp.tensors / 2 ** 20
    assert.ok(Math.abs(several!.fsdp.state / 2 ** 20 - two.state) <= 1.5, `state: ${two.state} MiB, predicted ${JSON.stringify(several)}`)
    assert.ok(Math.abs(predicted / two.tensors - 1) <= 0.2, `${two.tensors} MiB, predicted ${predicted}`)
    assert.ok(counted + 1 < two.state + parameters / 2 + Math.max(0, activations) + parameters, 'a whole student would be seen')
  })

  for (const size of all ? [2, 4] : [2])
    test(`${size} processes compute what one computes with as many images`, async () => {
      const [first, ...others] = await together(`ddp${size}`, size, 8 / size, ...scored)
      await assertEqualRuns('one', `ddp${size}`)
      for (const {stdout, stderr} of others) assert.deepEqual([stdout, stderr], ['', ''], 'process 0 alone speaks')
      assert.match(first!.stderr, /after 4 steps/)
    })

  for (const size of all ? [2, 4] : [2])
    test(`${size} processes with sharded parameters compute the same, and go on bit for bit`, async () => {
      const fsdp = ['--set', 'train.parallel=fsdp']
      await together(`fsdp${size}`, size, 8 / size, ...fsdp, ...scored)
      await assertEqualRuns('one', `fsdp${size}`)
      cpSync(at(`fsdp${size}`), at('fsdp-again'), {recursive: true})
      for (const step of [3, 4]) rmSync(checkpoint('fsdp-again', step))
      cpSync(at('fsdp-again'), at('fsdp-fewer'), {recursive: true})
      await together('fsdp-again', size, 8 / size, ...fsdp, ...scored, '--resume')
      assert.ok(numbers(checkpoint('fsdp-again', 4)).equals(numbers(checkpoint(`fsdp${size}`, 4))), 'the state of the last step differs')
      await alone('fsdp-fewer', 8, ...scored, '--resume')
      await assertEqualRuns('one', 'fsdp-fewer')
      for (const name of ['fsdp-again', 'fsdp-fewer']) rmSync(at(name), {recursive: true})
    })

  test('a batch in two parts: sharded as whole', async () => {
    const parts = ['--set', 'train.grad_accumulation=2']
    await together('ddp-parts', 2, 4, ...parts)
    await together('fsdp-parts', 2, 4, ...parts, '--set', 'train.parallel=fsdp')
    await assertEqualRuns('ddp-parts', 'fsdp-parts')
  })

  test('in bf16, sharded: losses are those of one process within what bf16 rounds', async () => {
    const bf16 = ['--precision', 'bf16', '--set', 'train.checkpoint_every=9']
    await alone('one-bf16', 8, ...bf16)
    await together('fsdp-bf16', 2, 4, ...bf16, '--set', 'train.parallel=fsdp')
    const [one, several] = [metricsOf('one-bf16'), metricsOf('fsdp-bf16')]
    for (const [i, {total}] of one.entries())
      assert.ok(Math.abs(several[i]!['total']! - total!) <= 0.01 * total!, `step ${i + 1}: ${total} and ${several[i]!['total']}`)
  })

  test('centred targets are those of the whole step too', async () => {
    await alone('one-centred', 4, '--set', 'train.centering=centering')
    await together('ddp-centred', 2, 2, '--set', 'train.centering=centering')
    await assertEqualRuns('one-centred', 'ddp-centred')
  })

  test('a run goes on in as many processes bit for bit, and in one process from the same state', async () => {
    for (const name of ['again', 'fewer']) {
      cpSync(at('ddp2'), at(name), {recursive: true})
      for (const step of [3, 4]) rmSync(checkpoint(name, step))
    }
    await together('again', 2, 4, ...scored, '--resume')
    assert.ok(numbers(checkpoint('again', 4)).equals(numbers(checkpoint('ddp2', 4))), 'the state of the last step differs')
    const {stderr} = await alone('fewer', 8, ...scored, '--resume')
    assert.match(stderr, /there were 2 processes and there is 1: the last digits may differ/)
    await assertEqualRuns('one', 'fewer')
  })

  // Four processes are for make test-distributed.
  const withAll: (name: string, body: () => Promise<void>) => void = all ? (name, body) => void test(name, body) : () => undefined
  withAll('what four processes began three go on with, and one', async () => {
    const [fsdp, steps] = [['--set', 'train.parallel=fsdp'], (n: number) => ['--set', `train.steps=${n}`]]
    await together('of-four', 4, 3, ...fsdp, ...steps(3))
    for (const name of ['by-three', 'by-one']) cpSync(at('of-four'), at(name), {recursive: true})
    await together('by-three', 3, 4, ...fsdp, ...steps(4), '--resume', '--accept-changes')
    await alone('by-one', 12, ...steps(4), '--resume', '--accept-changes')
    for (const name of ['by-three', 'by-one']) assert.deepEqual(metricsOf(name).map(({step}) => step), [1, 2, 3, 4]) // prettier-ignore
    await assertEqualRuns('by-one', 'by-three')
  })

  for (const parallel of ['ddp', 'fsdp'])
    test(`a process that goes on from weights with other last digits is named (${parallel})`, async () => {
      const name = (rank: number): string => `goes-on-${parallel}-${rank}`
      for (const [rank, from] of ['ddp2', 'one'].entries()) cpSync(at(from), at(name(rank)), {recursive: true})
      assert.ok(!numbers(checkpoint('one', 4)).equals(numbers(checkpoint('ddp2', 4))), 'sums in another order have other last digits')
      const more = ['--set', `train.parallel=${parallel}`, '--set', 'train.steps=5', '--accept-changes', '--resume']
      for (const {status, stderr} of await two.run(rank => args(name(rank), 4, ...more))) {
        assert.equal(status, 1, stderr)
        const other =
          /Process 1 begins with other weights than process 0: at step 4 with checksum (\w+) .*, and at step 4 with checksum (\w+) /
        const [, its, first] = other.exec(stderr) ?? assert.fail(stderr)
        assert.notEqual(its, first)
      }
    })

  test('other images a step, or KoLeo within a process, are another course', async () => {
    cpSync(at('ddp2'), at('refused'), {recursive: true})
    const batch = await single.run(...args('refused', 4, '--resume'))
    assert.equal(batch.status, 2)
    assert.match(batch.stderr, /train.batch_size_per_gpu was 4 in each of 2 processes and is 4/)
    await together('own-koleo', 2, 4, '--set', 'train.koleo=process')
    const koleo = await single.run(...args('own-koleo', 8, '--set', 'train.koleo=process', '--resume'))
    assert.equal(koleo.status, 2)
    assert.match(koleo.stderr, /there were 2 processes and there is 1, and KoLeo looks for neighbours within a process/)
  })

  for (const [what, from, parallel] of [
    ['by its heads', 'heads', 'ddp'],
    ['by its features', 'features', 'fsdp'],
    ...(all
      ? ([
          ['by its heads', 'heads', 'fsdp'],
          ['by its features', 'features', 'ddp']
        ] as const)
      : [])
  ] as const)
    test(`two students learn from a frozen teacher ${what} in two processes (${parallel}) as in one`, async () => {
      for (const [name, width] of [
        ['narrow', 16],
        ['wide', 32]
      ] as const)
        writeFileSync(at(`${name}.yaml`), `student: {embed_dim: ${width}}\n`)
      const folder = (n: number): string => `students-${from}-${parallel}-${n}`
      const students = (n: number, ...more: string[]): string[] => [
        'distill',
        ...args(folder(n), 4 / n).slice(1),
        ...['--teacher', at('one'), '--student', at('narrow.yaml'), '--student', at('wide.yaml')],
        ...['--set', `distill.from=${from}`, '--set', `train.parallel=${parallel}`, ...scored, ...more]
      ]
      const one = await single.run(...students(1))
      assert.ok([0, 6].includes(one.status!), one.stderr)
      for (const {status, stderr} of await two.run(() => students(2))) assert.ok([0, 6].includes(status!), stderr)
      for (const name of ['narrow', 'wide']) await assertEqualRuns(join(folder(1), name), join(folder(2), name))
      assert.equal(readFileSync(at(folder(2), 'wide', 'teacher.json'), 'utf8'), readFileSync(at(folder(1), 'wide', 'teacher.json'), 'utf8'))
    })

  test('bad images of any process are counted once, by process 0', async () => {
    cpSync(at('pictures'), at('some-bad'), {recursive: true})
    for (const name of ['03.png', '11.png']) writeFileSync(at('some-bad', name), 'not an image')
    const list = (rank: number): string[] => [
      'pretrain',
      at('some-bad'),
      ...args('with-bad', 4).slice(2),
      '--max-bad',
      '2',
      '--bad',
      at(`bad-${rank}.jsonl`)
    ]
    const [first, second] = await two.run(list)
    assert.equal(second!.status, 0, second!.stderr)
    assert.match(first!.stderr, /2 of 24|2 images|2 inputs/)
    assert.equal(readFileSync(at('bad-0.jsonl'), 'utf8').trim().split('\n').length, 2)
    assert.ok(!readdirSync(root).includes('bad-1.jsonl'))
  })
})

describe('processes that fail', {timeout: 600_000}, () => {
  /** Both processes have ended by themselves within `seconds`; → what they said. */
  async function endsWithin(ended: Promise<Ended[]>, seconds: number): Promise<Ended[]> {
    const done = await Promise.race([ended, sleep(seconds * 1000, undefined, {ref: false})])
    assert.ok(done, `processes still run after ${seconds} s`)
    return done
  }
  const long = ['--set', 'train.steps=4000', '--set', 'train.checkpoint_every=3']

  /** The file under which the next checkpoint is written before it has its name; there for a moment. */
  function checkpointBegins(name: string): Promise<string> {
    return new Promise(resolve => {
      const watcher = watch(at(name, 'checkpoints'), (_, file) => {
        if (!file?.includes('.tmp-')) return
        watcher.close()
        resolve(file)
      })
    })
  }

  test('ranks with different settings: which differs in what', async () => {
    const ended = two.run(rank => args('differ', 4, ...(rank === 1 ? ['--seed', '5'] : [])))
    for (const {status, stderr} of await endsWithin(ended, 60)) {
      assert.equal(status, 2, stderr)
      assert.match(stderr, /Process 1 differs from process 0: train\.seed is 5 in process 1 and 0 in process 0\./)
    }
  })

  test('ranks with different versions of the program: which has which', async () => {
    const other = otherVersion('0.0.1')
    const {ended} = await startTogether(
      2,
      () => args('versions', 4),
      {},
      rank => (rank === 1 ? other : realBinary)
    )
    for (const {status, stderr} of await endsWithin(ended, 60)) {
      assert.equal(status, 2, stderr)
      assert.match(stderr, /Process 1 differs from process 0: the version of dinov2 is "0\.0\.1" in process 1 and "[^"]+" in process 0\./)
      assert.match(stderr, /Start all processes with the same program/)
    }
    assert.ok(!existsSync(at('versions')), 'no run folder is made')
  })

  test('warnings of another process have its number, and are counted where there are many', async () => {
    const old = Array.from({length: 5}, () => ['--set', 'train.accumulate=1']).flat()
    const ended = two.run(rank => [...args('warned', 4, ...old), ...(rank === 1 ? ['--seed', '5'] : [])])
    const [first, second] = await endsWithin(ended, 60)
    assert.equal(first!.stderr.match(/^warning: --set: train\.accumulate is deprecated/gm)?.length, 5, first!.stderr)
    assert.equal(second!.stderr.match(/^process 1: warning: --set: train\.accumulate is deprecated/gm)?.length, 3, second!.stderr)
    assert.match(second!.stderr, /^process 1: warning: 5 warnings in all, of which the first 3 are shown$/m)
  })

  test('a process that does not come', async () => {
    const ended = two.run(rank => (rank === 1 ? ['--version'] : [...args('absent', 4), '--set', 'train.process_timeout=3']))
    const [first] = await endsWithin(ended, 90)
    assert.equal(first!.status, 1)
    assert.match(first!.stderr, /Process 1 of 2 failed: it did not come to 127\.0\.0\.1:\d+ within 3 s/)
  })

  test('an address at which nobody listens', async () => {
    const alone = await two.run(rank => (rank === 0 ? ['--version'] : [...args('nowhere', 4), '--set', 'train.process_timeout=2']))
    assert.equal(alone[1]!.status, 1)
    assert.match(
      alone[1]!.stderr,
      /^process 1: error: Process 1 of 2 does not meet the others: 127\.0\.0\.1:\d+ was not reached within 2 s .*\n.*MASTER_ADDR/
    )
  })

  test('a process without images says so to all', async () => {
    mkdirSync(at('empty'), {recursive: true})
    const ended = two.run(rank => ['pretrain', rank === 1 ? at('empty') : at('pictures'), ...args('no-images', 4).slice(2)])
    const [first, second] = await endsWithin(ended, 60)
    assert.equal(second!.status, 3)
    assert.equal(first!.status, 1)
    assert.match(first!.stderr, /Process 1 of 2 failed: .*empty/)
  })

  test('more bad images than are allowed end all processes', async () => {
    const bad = at('too-many-bad')
    cpSync(at('pictures'), bad, {recursive: true})
    for (const name of ['03.png', '11.png', '17.png']) writeFileSync(join(bad, name), 'not an image')
    const ended = two.run(() => ['pretrain', bad, ...args('too-many', 4).slice(2), '--max-bad', '1'])
    const [first, second] = await endsWithin(ended, 60)
    assert.equal(first!.status, 4, first!.stderr)
    assert.match(first!.stderr, /more than --max-bad/)
    assert.deepEqual([second!.status, second!.stderr], [0, ''], 'it stops with process 0, which speaks')
  })

  test('one process alone loads nothing of process groups', {skip: process.platform !== 'linux' && 'reads /proc'}, async () => {
    const loaded = (child: {pid?: number | undefined}): boolean =>
      /\/processes-.*\.node$/m.test(readFileSync(`/proc/${child.pid}/maps`, 'utf8'))
    const one = start(realBinary, [...args('by-itself', 8, ...long), '--verbose'])
    await said(one.child, 'is written')
    assert.ok(!loaded(one.child))
    one.child.kill('SIGTERM')
    assert.equal((await one.ended).status, 143)
    const {children, ended} = await startTogether(2, () => [...args('with-another', 4, ...long), '--verbose'])
    await said(children[0]!.child, 'is written')
    assert.ok(children.every(({child}) => loaded(child)))
    children[1]!.child.kill('SIGTERM')
    await endsWithin(ended, 60)
  })

  test('processes that a launcher starts again before anything was written begin anew', async () => {
    for (const {status, stderr} of await two.run(() => args('early', 4), {TORCHELASTIC_RESTART_COUNT: '1'}))
      assert.ok([0, 6].includes(status!), stderr)
    assert.equal(metricsOf('early').length, 4)
  })

  test('a process that stops responding', async () => {
    const {children, ended} = await startTogether(2, () => [
      ...args('stopped', 4, ...long),
      '--set',
      'train.process_timeout=4',
      '--verbose'
    ])
    await said(children[0]!.child, 'is written')
    children[1]!.child.kill('SIGSTOP')
    const [first] = await endsWithin(Promise.all([children[0]!.ended]), 40)
    children[1]!.child.kill('SIGKILL')
    await ended
    assert.equal(first!.status, 1)
    assert.match(first!.stderr, /Process 1 of 2 failed: it has (not responded for 4 s|ended, or its machine does not answer)/)
  })

  test('kills of any process at any moment, in the write of a checkpoint too: the other ends, and the run goes on', async () => {
    const random = rng(11, 'kills')
    const kills = all ? 20 : 2
    let cut = 0 // checkpoints that a kill left unfinished
    const kind = (i: number): string[] => ['--set', `train.parallel=${i % 2 === 0 ? 'fsdp' : 'ddp'}`] // the same checkpoints
    for (let i = 0; i < kills; i++) {
      const rank = all ? Math.floor(random.uniform(0, 2)) : 1 - i
      const {children, ended} = await startTogether(2, () =>
        args('killed', 4, ...long, ...kind(i), '--verbose', ...(i > 0 ? ['--resume'] : []))
      )
      await said(children[0]!.child, 'is written')
      const inWrite = rank === 0 && i % 4 === 1
      const file = inWrite ? await checkpointBegins('killed') : await sleep(random.uniform(0, 400))
      children[rank]!.child.kill('SIGKILL')
      const others = await endsWithin(ended, 60)
      const other = others[1 - rank]!
      assert.equal(other.status, 1, `kill ${i} of process ${rank}: ${other.stderr}`)
      assert.match(other.stderr, new RegExp(`Process ${rank} of 2 failed: it has ended`))
      assert.match(other.stderr, /--resume/)
      if (file && existsSync(at('killed', 'checkpoints', file))) cut++
    }
    assert.ok(!all || cut > 0, 'no kill came in the write of a checkpoint')
    const {children, ended} = await startTogether(2, () => args('killed', 4, ...long, '--resume', '--verbose'))
    await said(children[0]!.child, 'is written')
    children[1]!.child.kill('SIGTERM') // one process is asked to stop: all do, with a checkpoint
    const stopped = await endsWithin(ended, 60)
    assert.deepEqual(
      stopped.map(({status}) => status),
      [0, 143]
    )
    assert.match(stopped[0]!.stderr, /stopped at step \d+/)
  })
})
