/**
 * Commands on the simulated device, as a user would run them: training at each memory level and resumed, a student,
 * features, every evaluation, clusters and search. What is compared is what the CPU gives.
 */
import assert from 'node:assert/strict'
import {cpSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {CommandServer, folder, realBinary, run, type Ended} from '../support/program.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnFolder} from '../support/drawn-images.js'
import {drawnScenes} from '../support/drawn-masks.js'
import {simAddon} from '../support/sim.js'
import {saveTiny} from '../support/tiny-backbone.js'

const root = folder()
const at = (...names: string[]): string => join(root, ...names)
let sim: string

const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
train: {batch_size_per_gpu: 4, steps: 4, OFFICIAL_EPOCH_LENGTH: 2, centering: sinkhorn_knopp, workers: 1, log_every: 1, checkpoint_every: 2}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.3, layerscale: 1.0}
teacher: {warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 2, warmup_epochs: 1, base_lr: 0.02, layerwise_decay: 1.0}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`

before(async () => {
  sim = await simAddon()
  await drawnFolder(at('train'), ['a', 'b', 'c'], 4)
  await drawnFolder(at('val'), ['a', 'b', 'c'], 2, 10)
  await drawnRooms(at('rooms'), 'train', 4)
  await drawnRooms(at('rooms'), 'val', 2, 20)
  await drawnScenes(at('scenes'), 'train', 4)
  await drawnScenes(at('scenes'), 'val', 2, 20)
  await saveTiny(at('model.safetensors'))
  writeFileSync(at('recipe.yaml'), recipe)
})

type Device = 'sim' | 'cpu'
const servers = new Map<Device, CommandServer>()
after(() => Promise.all([...servers.values()].map(server => server.end())))
const command = (device: Device, ...args: string[]): Promise<Ended> => {
  const server = servers.get(device) ?? new CommandServer({env: {DINOV2_TEST_SIM: sim, OMP_WAIT_POLICY: 'passive'}, cwd: root})
  servers.set(device, server)
  return server.run(...args, '--engine', 'torch', '--device', device, '--precision', 'fp32', '--threads', '1')
}
const onSim = (...args: string[]): Promise<Ended> => command('sim', ...args)
const ok = (ended: Ended): Ended => {
  assert.ok(ended.status === 0 || ended.status === 6, ended.stderr) // so short a run may be judged either way
  return ended
}

const train = (name: string, level: string, ...more: string[]): Promise<Ended> =>
  onSim('pretrain', at('train'), '--config', at('recipe.yaml'), '--set', `train.memory=${level}`, '-o', at(name), ...more)
const teach = (name: string, level: string, ...more: string[]): Promise<Ended> =>
  onSim(
    'distill',
    at('train'),
    '--teacher',
    at('fast'),
    '--config',
    at('recipe.yaml'),
    '--set',
    `train.memory=${level}`,
    '-o',
    at(name),
    ...more
  )
const model = (name: string): Buffer => readFileSync(at(name, 'final', 'backbone.safetensors'))
/** The run as it was before its last steps, in a folder of its own. */
function interrupted(name: string, from: string): void {
  cpSync(at(from), at(name), {recursive: true})
  const states = readdirSync(at(name, 'checkpoints')).sort()
  assert.equal(states.length, 2)
  for (const gone of [join('checkpoints', states.at(-1)!), 'final']) rmSync(at(name, gone), {recursive: true})
}

for (const [what, begin] of [
  ['pretrain', train],
  ['distill', teach]
] as const)
  test(`${what}: the same bytes at each memory level, and when resumed`, {timeout: 300_000}, async () => {
    const prefix = what === 'pretrain' ? '' : 'student-'
    const levels = ['fast', 'balanced', 'small']
    for (const ended of await Promise.all(levels.map(level => begin(`${prefix}${level}`, level)))) ok(ended)
    const names = levels.map(level => `${prefix}${level}`)
    for (const name of names.slice(1)) assert.ok(model(name).equals(model(names[0]!)), name)
    for (const name of names) interrupted(`${name}-again`, name)
    for (const ended of await Promise.all(levels.map(level => begin(`${prefix}${level}-again`, level, '--resume')))) ok(ended)
    for (const name of names) assert.ok(model(`${name}-again`).equals(model(name)), `${name}, resumed`)
  })

/** Numbers of a report, by their place in it. */
function* numbersOf(value: unknown, path = ''): Generator<[string, number]> {
  if (typeof value === 'number' && !/seconds|device|elapsed|per_second/i.test(path)) yield [path, value]
  if (value && typeof value === 'object') for (const [key, child] of Object.entries(value)) yield* numbersOf(child, `${path}.${key}`)
}

/** Runs on both devices and holds the numbers of the reports together. */
async function same(...args: string[]): Promise<void> {
  const [there, here] = await Promise.all([onSim(...args, '--json'), command('cpu', ...args, '--json')])
  for (const ended of [there, here]) assert.equal(ended.status, 0, ended.stderr)
  const [found, expected] = [there, here].map(({stdout}) => new Map(numbersOf(JSON.parse(stdout.trim().split('\n').at(-1)!))))
  assert.ok(expected!.size > 3, here.stdout)
  for (const [path, value] of expected!)
    assert.ok(
      Math.abs((found!.get(path) ?? NaN) - value) <= 2e-3 * Math.max(1, Math.abs(value)),
      `${args[0]} ${path}: ${found!.get(path)}, expected ${value}`
    )
}

const sets = (folder: string): string[] => ['--train', at(folder, 'train'), '--val', at(folder, 'val'), '--model', at('model.safetensors')]

test('features are those of the CPU, cluster and search alike', async () => {
  for (const device of ['sim', 'cpu'] as const)
    ok(
      await command(
        device,
        'embed',
        at('train'),
        '--model',
        at('model.safetensors'),
        '--size',
        '28',
        '-o',
        at(`${device}.jsonl`),
        '--pool',
        'cls+mean'
      )
    )
  type Row = {vector?: number[]; embedding?: number[]; id: string}
  const [there, here] = ['sim', 'cpu'].map(device =>
    readFileSync(at(`${device}.jsonl`), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Row)
  )
  for (const [i, row] of here!.entries()) {
    const [a, b] = [row, there![i]!].map(one => (one.vector ?? one.embedding)!)
    assert.equal(there![i]!.id, row.id)
    assert.ok(a!.every((x, j) => Math.abs(x - b![j]!) < 1e-5))
  }
  ok(await onSim('curate', 'cluster', at('sim.jsonl'), '--levels', '3', '-o', at('clusters.jsonl')))
  assert.equal(readFileSync(at('clusters.jsonl'), 'utf8').trim().split('\n').length, 12)
  ok(await run(realBinary, ['index', at('sim.jsonl'), '-o', at('index')]))
  const hits = ok(await onSim('search', at('index'), at('val'), '--model', at('model.safetensors'), '-k', '3'))
  assert.ok(hits.stdout.trim().split('\n').length >= 18)
})

test('every evaluation runs, and gives what it gives on the CPU', {timeout: 300_000}, async () => {
  await same('knn-eval', ...sets('.'), '-k', '3', '--size', '28')
  const alone = [
    ['linear-eval', ...sets('.'), '--cached', '--size', '28', '--steps', '20'],
    ['retrieval-eval', at('train'), '--model', at('model.safetensors'), '--size', '28', '--query', 'all']
  ]
  for (const ended of await Promise.all(alone.map(args => onSim(...args)))) assert.equal(ended.status, 0, ended.stderr)
  const depth = ['depth-eval', '--train', at('rooms/images/train'), '--val', at('rooms/images/val'), '--depths', at('rooms/depth')]
  await same(...depth, '--model', at('model.safetensors'), '--cached', '--size', '42', '--steps', '10', '--no-flip')
  const masks = ['seg-eval', '--train', at('scenes/images/train'), '--val', at('scenes/images/val'), '--masks', at('scenes/masks')]
  const masked = await onSim(...masks, '--model', at('model.safetensors'), '--cached', '--size', '56', '--steps', '10')
  assert.equal(masked.status, 0, masked.stderr)
})

test('a device with too little memory ends with status 5 and numbers', async () => {
  const ended = await run(
    realBinary,
    [
      'embed',
      at('train'),
      '--model',
      at('model.safetensors'),
      '--size',
      '28',
      '-o',
      at('none.npy'),
      '--engine',
      'torch',
      '--device',
      'sim',
      '--precision',
      'fp32'
    ],
    {env: {DINOV2_TEST_SIM: sim, DINOV2_TEST_SIM_MEMORY: '200000'}}
  )
  assert.equal(ended.status, 5, ended.stderr)
  assert.match(
    ended.stderr,
    /There is not enough memory on sim:0: \d+ MB were asked for at once, \d+ MB are free there, and \d+ MB are held by this program/
  )
  assert.ok(!existsSync(at('none.npy')))
})
