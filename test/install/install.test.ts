/**
 * The packed package, installed globally into an empty prefix, goes the whole way on the wasm engine: with, without
 * and with failing install scripts, under every supported major version of Node, with no compiler on the path.
 */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'
import {diskUsage, install, nodeOf, pack, tensorflowData, type Scripts} from './package.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-install-'))
after(() => rmSync(folder, {recursive: true, force: true}))

let packed: Awaited<ReturnType<typeof pack>>
const prefixes: Record<Scripts, string> = {with: '', without: '', failing: ''}
before(async () => {
  packed = await pack(folder)
  for (const scripts of ['without', 'with', 'failing'] as const) prefixes[scripts] = await install(packed.tarball, folder, scripts)
})

type Ended = {status: number; stdout: string; stderr: string}

/** A function that runs the installed program as a user with an empty home would, who has node and little else. */
async function user(major: number, scripts: Scripts): Promise<(...args: string[]) => Promise<Ended>> {
  const node = await nodeOf(major)
  const home = join(folder, `home-${major}-${scripts}`)
  mkdirSync(join(home, 'bin'), {recursive: true})
  symlinkSync(node, join(home, 'bin/node'))
  const program = join(prefixes[scripts], 'bin/dinov2')
  const env = {HOME: home, PATH: join(home, 'bin'), LANG: 'C.UTF-8', UV_THREADPOOL_SIZE: '2'}
  return (...args) =>
    new Promise(resolve =>
      execFile(node, [program, ...args], {cwd: home, env, maxBuffer: 1 << 26}, (error, stdout, stderr) =>
        resolve({status: error ? Number(error.code) : 0, stdout, stderr})
      )
    )
}

for (const [major, scripts] of [
  [20, 'without'],
  [22, 'with'],
  [24, 'failing']
] as const)
  test(`Node ${major}, ${scripts} install scripts: samples, pretrain, embed, index, search, knn-eval`, async () => {
    const dinov2 = await user(major, scripts)
    const good = async (...args: string[]): Promise<Ended> => {
      const ended = await dinov2(...args)
      assert.equal(ended.status, 0, `${args.join(' ')}\n${ended.stderr}`)
      return ended
    }
    assert.match((await good('--help')).stdout, /^Self-supervised vision features/)
    assert.match((await good('--version')).stdout, /^dinov2 \d+\.\d+\.\d+\n$/)
    await good('samples', 'draw', '-o', 'samples', '--classes', 'star,mug', '--per-class', '6', '--val-per-class', '2', '--size', '48')
    const sizes = ['train.steps=2', 'train.batch_size_per_gpu=4', 'student.embed_dim=32', 'student.depth=2', 'dino.head_n_prototypes=64']
    const pretrained = await dinov2(
      ...['pretrain', 'samples/train', '--config', 'tiny', '--engine', 'wasm', '-o', 'run'],
      ...sizes.flatMap(setting => ['--set', setting])
    )
    assert.ok([0, 6].includes(pretrained.status), pretrained.stderr) // two steps may count as unhealthy
    if (process.platform === 'linux' && process.arch === 'x64')
      assert.doesNotMatch(pretrained.stderr, /compil|slower/, 'the packed image code is loaded')
    const model = ['--model', 'run', '--engine', 'wasm', '--size', '48']
    await good('embed', 'samples/train', ...model, '-o', 'vectors.parquet')
    await good('index', 'vectors.parquet', '-o', 'photos.index')
    const found = await good('search', 'photos.index', 'samples/val', '--model', 'run', '--engine', 'wasm', '-k', '2')
    assert.equal(found.stdout.trim().split('\n').length, 8)
    const scores = JSON.parse(
      (await good('knn-eval', '--train', 'samples/train', '--val', 'samples/val', ...model, '-k', '3', '--json')).stdout
    )
    assert.equal(typeof scores, 'object')

    const mistake = await dinov2('embd', 'samples')
    assert.equal(mistake.status, 2)
    assert.match(mistake.stderr, /Did you mean dinov2 embed\?/)
    const graph = await dinov2('index', 'vectors.parquet', '-o', 'graph.index', '--kind', 'hnsw')
    if (scripts === 'with') assert.equal(graph.status, 0, graph.stderr)
    else {
      assert.equal(graph.status, 5)
      assert.match(graph.stderr, scripts === 'without' ? /npm rebuild hnswlib-node/ : /npm install --no-save --omit=dev hnswlib-node/)
    }
  })

test('engine install tensorflow, from the packed program alone: it computes what wasm does and agrees with the recording', async () => {
  const program = join(prefixes.without, 'lib/node_modules/dinov2/bin/run.js')
  const env = {...process.env, XDG_DATA_HOME: tensorflowData()}
  const dinov2 = (...args: string[]): Promise<Ended> =>
    new Promise(resolve =>
      execFile(process.execPath, [program, ...args], {cwd: folder, env, maxBuffer: 1 << 26}, (error, stdout, stderr) =>
        resolve({status: error ? Number(error.code) : 0, stdout, stderr})
      )
    )
  const good = async (...args: string[]): Promise<Ended> => {
    const ended = await dinov2(...args)
    assert.equal(ended.status, 0, `${args.join(' ')}\n${ended.stderr}`)
    return ended
  }
  await good('engine', 'install', 'tensorflow', '--yes')
  await good('samples', 'draw', '-o', 'drawn', '--classes', 'star,mug', '--per-class', '2', '--val-per-class', '1', '--size', '64')
  const vectors = async (engine: string): Promise<number[]> => {
    const {stdout, stderr} = await good('embed', 'drawn/train', '--model', 'starter', '--engine', engine, '--format', 'jsonl')
    assert.doesNotMatch(stderr, /Platform|warn/i)
    const rows = stdout.trim().split('\n')
    assert.equal(rows.length, 4)
    return rows.flatMap(row => (JSON.parse(row) as {vector: number[]}).vector)
  }
  const [tensorflow, wasm] = [await vectors('tensorflow'), await vectors('wasm')]
  assert.equal(tensorflow.length, 4 * 128)
  for (const [i, value] of tensorflow.entries()) assert.ok(Math.abs(value - wasm[i]!) < 1e-4, `number ${i}: ${value} and ${wasm[i]}`)
  await good('engine', 'verify', '--engine', 'tensorflow', '--golden', join(packageFolder(), 'test/golden'))
})

test('the tarball holds what a user needs and nothing else', () => {
  const wanted = [
    'README.md',
    'LICENSE',
    'THIRD-PARTY-LICENSES',
    'CHANGELOG.md',
    'dist/bundle/core.js',
    'dist/bundle/oclif.manifest.json',
    'dist/bundle/program.js',
    'bin/run.js',
    'dist/src/tasks/dinov2.d.ts',
    'dist/src/tasks/library.js',
    'configs/default.yaml',
    'native/pixels/addon.cc',
    'dist/src/cli/oclif.js',
    'dist/src/tensor/tfjs/core.js',
    'dist/src/tensor/tfjs/tfjs-backend-wasm-simd.wasm'
  ]
  assert.deepEqual(
    wanted.filter(file => !packed.files.includes(file)),
    []
  )
  assert.deepEqual(
    packed.files.filter(file => /^(test|bench|src|commands|scripts|demo|node_modules)\/|^dist\/(test|bench)\/|tsbuildinfo/.test(file)),
    []
  )
  assert.ok(packed.files.some(file => file.startsWith(`prebuilt/pixels-${process.platform}-${process.arch}-`)))
})

test('an installation stays light', async () => {
  const used = await diskUsage(join(prefixes.without, 'lib/node_modules/dinov2'))
  assert.ok(used < 72 * 2 ** 20, `${Math.round(used / 2 ** 20)} MiB with all packages, expected at most 72`)
})

test('a checkout holds no leftovers of packing', () => {
  assert.equal(existsSync(join(packageFolder(), 'prebuilt')), false)
  const {private: hidden, name} = JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')) as Record<string, unknown>
  assert.equal(hidden, undefined)
  assert.equal(name, 'dinov2')
})
