/**
 * Stopped at will: a run that is killed with SIGKILL at many random moments, inside the writing of checkpoints too,
 * and resumed each time, ends with the bytes and the lines of one that was never stopped. And what must not be lost or
 * disturbed: a second process, a full disk, changed settings, images that vanish, folders of other things.
 */
import assert from 'node:assert/strict'
import {cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {hostname} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import {openSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import {listStates} from '../../../src/files/checkpoint/training-state.js'
import {rng} from '../../../src/tensor/random.js'
import {CommandServer, folder as makeFolder, realBinary, shell, start, type Ended} from '../../support/program.js'
import {defaultFeatures} from '../../../src/tasks/embed/embedder.js'
import {knnEval} from '../../../src/tasks/eval/classification/knn.js'
import {onTorch} from '../../support/engine.js'
import {drawnFolder} from '../../support/drawn-images.js'

const root = makeFolder()
const at = (...names: string[]): string => join(root, ...names)
const steps = 80
const recipe = `
dino: {head_n_prototypes: 64, head_bottleneck_dim: 16, head_hidden_dim: 32}
train: {batch_size_per_gpu: 4, steps: ${steps}, OFFICIAL_EPOCH_LENGTH: 10, centering: centering, workers: 1, log_every: 3, checkpoint_every: 1, keep_checkpoints: 3}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.2, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 6, warmup_epochs: 1, base_lr: 0.02, layerwise_decay: 1.0, patch_embed_lr_mult: 1.0, weight_decay_end: 0.04}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`
const flags = (name: string, ...more: string[]): string[] => [
  'pretrain',
  at('pictures'),
  ...['--config', at('recipe.yaml'), '--output', at(name), '--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1'],
  ...more
]
const server = new CommandServer({env: {}, cwd: root})
after(() => server.end())
const pretrain = (name: string, ...more: string[]): Promise<Ended> => server.run(...flags(name, ...more))
const errorOf = ({stdout}: Ended): {code: string; message: string; hint?: string} =>
  (JSON.parse(stdout) as {error: {code: string; message: string}}).error

type Line = Record<string, number>
const textOf = (name: string, file = 'metrics.jsonl'): string => readFileSync(at(name, file), 'utf8')
const linesOf = (name: string, file?: string): Line[] =>
  textOf(name, file)
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Line)
const checkpoint = (name: string, step: number): string => at(name, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`)
const newest = async (name: string): Promise<number> => (await listStates(at(name))).at(-1)?.step ?? 0
const halfWritten = (name: string): string[] => {
  try {
    return readdirSync(at(name, 'checkpoints')).filter(file => file.startsWith('.'))
  } catch {
    return []
  }
}

let straight: Ended
before(async () => {
  await drawnFolder(at('pictures'), ['a', 'b', 'c'], 4)
  writeFileSync(at('recipe.yaml'), recipe)
  straight = await pretrain('straight', '--eval-images', at('pictures'), '--eval-every', '20')
  assert.ok(straight.status === 0 || straight.status === 6, straight.stderr) // so short a run may be judged either way
})

test('killed at ten random moments and resumed: the same weights, the same lines', async () => {
  const random = rng(7, 'kills')
  let [begun, inside] = [0, 0]
  for (let kills = 0; kills < 10 && (await newest('killed')) < steps; kills++) {
    const from = await newest('killed')
    // The first goes without evaluations: they must leave no trace in what is learnt.
    const running = start(realBinary, flags('killed', ...(existsSync(at('killed')) ? ['--resume'] : [])))
    const waitFor = async (there: () => boolean | Promise<boolean>): Promise<void> => {
      while (running.child.exitCode === null && !(await there())) await sleep(1)
    }
    if (kills === 1)
      await waitFor(() => existsSync(at('killed', 'run.lock'))) // before it has done anything
    else await waitFor(async () => (await newest('killed')) > from)
    if (kills % 2 === 0)
      await waitFor(() => halfWritten('killed').length > 0) // in the midst of a checkpoint
    else await sleep(random.int(120))
    running.child.kill('SIGKILL')
    const ended = await running.ended
    assert.ok(ended.signal === 'SIGKILL' || ended.status === 0 || ended.status === 6, ended.stderr)
    if (ended.signal === 'SIGKILL') begun++
    if (halfWritten('killed').length > 0) inside++
    for (const {path} of await listStates(at('killed'))) await (await openSafetensors(path)).close() // each that has its name is whole
  }
  assert.ok(begun >= 4 && inside >= 1, `${begun} kills, ${inside} of them inside the writing of a checkpoint`)
  const last = await pretrain('killed', '--resume')
  assert.equal(last.status, straight.status, last.stderr)
  for (const name of ['backbone.safetensors', 'heads.safetensors'])
    assert.ok(readFileSync(at('straight', 'final', name)).equals(readFileSync(at('killed', 'final', name))), name)
  assert.ok(readFileSync(checkpoint('straight', steps)).equals(readFileSync(checkpoint('killed', steps))), 'the last checkpoint')
  const withoutScores = textOf('straight').replace(/^.*"knn_10".*\n/gm, '')
  assert.equal(textOf('killed'), withoutScores, 'metrics, byte for byte')
  assert.equal(textOf('killed', 'config.yaml'), textOf('straight', 'config.yaml'))
  const timed = linesOf('killed', 'timings.jsonl')
  assert.deepEqual(
    timed.map(({step}) => step),
    linesOf('killed').map(({step}) => step)
  )
  for (const line of timed) assert.ok(line['images_per_second']! > 0 && line['rss_mib']! > 0)
  assert.deepEqual(halfWritten('killed'), [], 'what was half written is swept away')
  assert.ok(!existsSync(at('killed', 'run.lock')))
})

describe('while it trains', () => {
  test('scores stand in the metrics and on stderr, every so many steps and at the end', () => {
    const scores = linesOf('straight').filter(line => line['knn_10'] !== undefined)
    assert.deepEqual(
      scores.map(({step}) => step),
      [20, 40, 60, 80]
    )
    for (const {knn_10: ten, knn_20: twenty} of scores) assert.ok(ten! >= 0 && ten! <= 1 && twenty! >= 0 && twenty! <= 1)
    assert.match(straight.stderr, /scoring every 20 steps: 12 images, each by the others, 3 classes, 1 MiB of pixels/)
    assert.match(straight.stderr, /step 80: k-nearest neighbours [\d.]+ % \(k = 10\), [\d.]+ % \(k = 20\)/)
  })

  test('the last scores are those of knn-eval on the final model', async () => {
    await onTorch()
    const events = knnEval({
      train: [at('pictures')],
      model: at('straight'),
      features: {...defaultFeatures, transform: {resize: 37, crop: 32}},
      k: [10, 20],
      seed: 0,
      engine: {engine: 'torch', precision: 'fp32', device: 'cpu', threads: 1, note: () => undefined},
      workers: 1,
      toolVersion: '0'
    })
    let step = await events.next()
    while (!step.done) step = await events.next()
    const last = linesOf('straight').at(-1)!
    assert.deepEqual(
      step.value.report.scores.map(({top1}) => Number(top1.toPrecision(7))),
      [last['knn_10'], last['knn_20']]
    )
  })

  test('a checkpoint says what made it', async () => {
    const file = await openSafetensors(checkpoint('straight', steps))
    await file.close()
    const {settings, computing, window, position, images, seed, tool, step} = file.metadata
    assert.deepEqual([step, position, images, seed], [String(steps), String(4 * steps), '12', '0'])
    assert.match(tool!, /^dinov2 \d/)
    assert.equal((JSON.parse(settings!) as {train: {steps: number}}).train.steps, steps)
    const {engine, ...rest} = JSON.parse(computing!) as Record<string, unknown>
    assert.match(engine as string, /^torch \d/)
    assert.deepEqual(rest, {precision: 'fp32', device: 'cpu', threads: 1})
    assert.deepEqual(JSON.parse(window!), {sums: {}, count: 0})
  })

  test('a second process on the folder gets an error and changes nothing; a lock that was left behind is taken over', async () => {
    const first = start(realBinary, flags('locked', '--set', 'train.steps=4000', '--set', 'train.checkpoint_every=500'))
    while (!existsSync(at('locked', 'metrics.jsonl')) && first.child.exitCode === null) await sleep(5)
    for (const how of ['--resume', '--force']) {
      const second = await pretrain('locked', '--json', how)
      assert.equal(second.status, 2, second.stderr)
      assert.deepEqual([errorOf(second).code, /Another process \(\d+\) is at work in/.test(errorOf(second).message)], ['RUN_LOCKED', true])
    }
    first.child.kill('SIGTERM')
    const ended = await first.ended
    assert.equal(ended.status, 143, ended.stderr)
    assert.ok(!existsSync(at('locked', 'run.lock')))
    assert.equal((await listStates(at('locked'))).length, 1, 'written before leaving')
    // A process of another machine cannot be judged from here.
    writeFileSync(at('locked', 'run.lock'), JSON.stringify({pid: 1, host: `not-${hostname()}`, began: ''}))
    const other = await pretrain('locked', '--json', '--resume')
    assert.equal(other.status, 2)
    assert.match(errorOf(other).hint!, /If it is gone for good: rm .*run\.lock/)
    // One of this machine that is gone, or whose number another process has now, can.
    writeFileSync(at('locked', 'run.lock'), JSON.stringify({pid: process.pid, host: hostname(), began: 'another boot 1'}))
    const taken = await pretrain('locked', '--json', '--resume', '--set', 'optim.base_lr=0.001')
    assert.match(errorOf(taken).message, /optim\.base_lr was 0\.02 and is 0\.001/)
  })
})

describe('what a run goes on with', () => {
  const resumed = (name: string, ...more: string[]): Promise<Ended> => pretrain(name, '--resume', ...more)
  before(() => {
    mkdirSync(at('short'), {recursive: true})
    cpSync(at('straight'), at('short'), {recursive: true})
    for (const step of [steps, steps - 1]) rmSync(checkpoint('short', step))
  })

  test('other settings change the course: refused with all differences, accepted and recorded when asked', async () => {
    const changes = ['--set', 'optim.base_lr=0.001', '--set', 'teacher.teacher_temp=0.05', '--set', 'train.log_every=1']
    const refused = await resumed('short', '--json', ...changes)
    assert.equal(refused.status, 2)
    assert.match(errorOf(refused).message, /: teacher\.teacher_temp was 0\.04 and is 0\.05; optim\.base_lr was 0\.02 and is 0\.001\./)
    assert.doesNotMatch(errorOf(refused).message, /log_every/)
    const accepted = await resumed('short', '--accept-changes', ...changes)
    assert.ok(accepted.status === 0 || accepted.status === 6, accepted.stderr)
    assert.match(accepted.stderr, /optim\.base_lr was 0\.02 and is 0\.001: the rest is no longer what the unbroken run would have been/)
    assert.match(accepted.stderr, /train\.log_every was 3 and is 1: what is computed stays the same/)
    const file = await openSafetensors(checkpoint('short', steps))
    await file.close()
    const [change] = JSON.parse(file.metadata['history']!) as {step: number; changes: string[]}[]
    assert.deepEqual([change!.step, change!.changes.length], [steps - 2, 2])
    const shape = await resumed('short', '--json', '--accept-changes', '--set', 'student.embed_dim=16')
    assert.equal(shape.status, 2)
    assert.match(errorOf(shape).message, /does not fit the settings: .* is \[96\] there and \[48\] here/)
  })

  test('the same images elsewhere are the same set; others, though as many, are not', async () => {
    const elsewhere = at('moved', 'deeper')
    mkdirSync(at('moved'))
    cpSync(at('pictures'), elsewhere, {recursive: true})
    const go = (...more: string[]): Promise<Ended> => {
      const [command, , ...rest] = flags('straight', '--resume', ...more)
      return server.run(command!, elsewhere, ...rest)
    }
    const moved = await go()
    assert.equal(moved.status, straight.status, moved.stderr)
    renameSync(join(elsewhere, 'a', '000.png'), join(elsewhere, 'a', '900.png'))
    const others = await go('--json')
    assert.equal(others.status, 2)
    assert.match(errorOf(others).message, /as many images \(12\), but others or in another order/)
  })

  test('another number of threads is said, not refused; a damaged newest checkpoint is passed over', async () => {
    const [two] = (await listStates(at('straight'))).slice(-2)
    cpSync(at('straight'), at('damaged'), {recursive: true})
    writeFileSync(checkpoint('damaged', steps), readFileSync(checkpoint('damaged', steps)).subarray(0, 5000))
    const ended = await resumed('damaged', '--threads', '2')
    assert.ok(ended.status === 0 || ended.status === 6, ended.stderr)
    assert.match(ended.stderr, /threads was 1 and is 2: the last digits may differ/)
    assert.match(ended.stderr, /step-0000080\.safetensors is not a good safetensors file.*The one before it is taken/)
    assert.match(ended.stderr, new RegExp(`going on from .*${two!.step}\\.safetensors`))
  })
})

describe('parts of two runs in one folder', () => {
  const mixed = (name: string): void => {
    cpSync(at('straight'), at(name), {recursive: true})
    for (const step of [steps, steps - 1]) rmSync(checkpoint(name, step))
  }

  test('metrics that are not those of the checkpoint are refused, and recorded where that is accepted', async () => {
    mixed('other-metrics')
    const own = textOf('other-metrics').split('\n')
    for (const lines of [[], own.slice(0, 5), own.map(line => line.replace(/"total":\d/, '"total":9'))]) {
      writeFileSync(at('other-metrics', 'metrics.jsonl'), lines.join('\n'))
      const refused = await pretrain('other-metrics', '--json', '--resume')
      assert.deepEqual([refused.status, errorOf(refused).code], [2, 'SETTINGS'])
      assert.match(errorOf(refused).message, /metrics\.jsonl does not begin with the 26 lines that the run had written there/)
    }
    const accepted = await pretrain('other-metrics', '--resume', '--accept-changes')
    assert.ok(accepted.status === 0 || accepted.status === 6, accepted.stderr)
    assert.match(accepted.stderr, /metrics\.jsonl does not begin/)
  })

  test('a checkpoint of another step than its name says is refused wherever the newest one is taken', async () => {
    mixed('renamed')
    renameSync(checkpoint('renamed', steps - 2), checkpoint('renamed', steps + 5))
    rmSync(at('renamed', 'final'), {recursive: true})
    const commands = [flags('renamed', '--resume'), ['embed', at('pictures'), '--model', at('renamed')]]
    for (const command of commands) {
      const refused = await server.run(...command, '--json')
      assert.equal(refused.status, 2)
      assert.match(
        refused.stdout + refused.stderr,
        /step-0000085\.safetensors is the checkpoint of step 78 by what it records, but of step 85 by its name/
      )
    }
  })

  test('heads of another model beside a backbone are refused', async () => {
    cpSync(at('straight', 'final'), at('pair'), {recursive: true})
    cpSync(at('short', 'final', 'heads.safetensors'), at('pair', 'heads.safetensors')) // of the same seed and step, but another course
    const refused = await server.run('embed', at('pictures'), '--model', at('pair'))
    assert.equal(refused.status, 2)
    assert.match(refused.stderr, /heads\.safetensors holds the heads of another model than .*backbone\.safetensors/)
  })
})

describe('what must not be lost', () => {
  test('--force on a folder of other things: status 2, and all of it stays', async () => {
    mkdirSync(at('papers', 'final'), {recursive: true})
    for (const name of ['thesis.txt', 'final/thesis.pdf', 'config.yaml']) writeFileSync(at('papers', name), 'words')
    const ended = await pretrain('papers', '--json', '--force')
    assert.equal(ended.status, 2)
    assert.match(errorOf(ended).message, /holds something else than a run \(thesis\.txt\)/)
    assert.deepEqual(readdirSync(at('papers')).sort(), ['config.yaml', 'final', 'thesis.txt'])
    assert.equal(readFileSync(at('papers', 'final', 'thesis.pdf'), 'utf8'), 'words')
  })

  test('images that vanish while it trains: a sentence, status 4, and a checkpoint to go on from', async () => {
    cpSync(at('pictures'), at('fleeting'), {recursive: true})
    const [command, , ...rest] = flags(
      'vanished',
      '--set',
      'train.steps=4000',
      '--set',
      'train.cache_mb=0',
      '--set',
      'train.checkpoint_every=4000'
    )
    const running = start(realBinary, [command!, at('fleeting'), ...rest, '--json', '--max-bad', '100%'])
    while (
      running.child.exitCode === null &&
      !(existsSync(at('vanished', 'metrics.jsonl')) && readFileSync(at('vanished', 'metrics.jsonl')).length > 0)
    )
      await sleep(5)
    renameSync(at('fleeting'), at('elsewhere'))
    const ended = await running.ended
    assert.equal(ended.status, 4, ended.stderr)
    const {message, hint} = errorOf(ended)
    assert.match(message, /None of the 12 images can be decoded; the first, .*\.png: /)
    assert.match(hint!, /The last good checkpoint is .*step-\d+\.safetensors\. When the images are there again, go on with --resume\./)
    assert.equal((await listStates(at('vanished'))).length, 1)
  })

  test('a checkpoint that cannot be written: training goes on, says so once, and ends with status 1 and a model', async () => {
    // A limit on the size of files stands for the full disk: checkpoints are above it, all else is below.
    const line = `trap '' XFSZ; ulimit -f 200; exec $P ${flags('full', '--set', 'train.steps=12', '--set', 'train.checkpoint_every=4').join(' ')}`
    const ended = await shell(realBinary, line)
    assert.equal(ended.status, 1, ended.stderr)
    assert.equal(
      ended.stderr.match(/warning: .*step-0000004\.safetensors would be larger than a file may be here\. Training goes on/g)?.length,
      1,
      ended.stderr
    )
    assert.match(
      ended.stderr,
      /error: .*step-0000012\.safetensors would be larger than a file may be here\.\n.*No checkpoint was written yet\. The model stands in .*full\/final\/backbone\.safetensors/
    )
    assert.deepEqual(readdirSync(at('full', 'checkpoints')), [], 'nothing half written stays')
    assert.equal(linesOf('full').at(-1)!['step'], 12)
  })

  test('resuming what is not there makes nothing', async () => {
    const ended = await pretrain('nowhere', '--json', '--resume')
    assert.equal(ended.status, 3)
    assert.ok(!existsSync(at('nowhere')))
  })
})
