/**
 * The archive of `make bundle`, unpacked and installed in an empty folder: it goes the whole way with nothing of this
 * checkout, no environment and, where the system lets a user take it away, no network.
 */
import assert from 'node:assert/strict'
import {execFileSync, spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {findTorch} from '../../src/engine/torch/find.js'
import {cacheFolder, packageFolder} from '../../src/system/paths.js'
import {drawnFolder} from '../support/drawn-images.js'
import {saveTiny} from '../support/tiny-backbone.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-bundle-'))
const at = (...names: string[]): string => join(folder, ...names)
after(() => rmSync(folder, {recursive: true, force: true}))

const alone = spawnSync('unshare', ['-rn', 'true']).status === 0
/** Runs with an empty environment but for `env`, and without a network where that can be had. */
function run(program: string, args: readonly string[], env: Record<string, string> = {}): {status: number | null; text: string} {
  const [first, ...rest] = [...(alone ? ['unshare', '-rn'] : []), program, ...args]
  const base = {HOME: at('home'), PATH: '/usr/bin:/bin'}
  const {status, stdout, stderr} = spawnSync(first!, rest, {env: {...base, ...env}, cwd: at('work'), encoding: 'utf8'})
  return {status, text: `${stdout}${stderr}`}
}

before(async () => {
  for (const name of ['home', 'work', 'unpacked']) mkdirSync(at(name))
  await saveTiny(at('tiny.safetensors'))
  execFileSync(process.execPath, [
    join(packageFolder(), 'scripts/offline-bundle.js'),
    ...['--draft', '-o', at('bundle.tar.xz'), '--with', at('tiny.safetensors')]
  ])
  execFileSync('tar', ['-xJf', at('bundle.tar.xz'), '-C', at('unpacked')])
})

test('it installs into an empty folder, runs, and brings its models', async () => {
  const [name] = readdirSync(at('unpacked'))
  const installed = run('sh', [at('unpacked', name!, 'install.sh'), at('prefix')])
  assert.equal(installed.status, 0, installed.text)
  rmSync(at('unpacked'), {recursive: true})
  const program = at('prefix', 'bin', 'dinov2')
  await drawnFolder(at('work', 'images'), ['a', 'b'], 3)
  const embed = (model: string, output: string, ...more: string[]): string[] => [
    'embed',
    'images',
    '--model',
    model,
    '--size',
    '28',
    '-o',
    output,
    ...more
  ]
  const plain = run(program, embed(at('prefix', 'models', 'tiny.safetensors'), 'plain.parquet', '--engine', 'wasm'))
  assert.equal(plain.status, 0, plain.text)
  assert.ok(statSync(at('work', 'plain.parquet')).size > 1000)
  for (const args of [
    ['index', 'plain.parquet', '-o', 'index'],
    ['curate', 'dedup', 'images', '-o', 'kept.jsonl'],
    ['knn-eval', '--help']
  ]) {
    const ended = run(program, args)
    assert.equal(ended.status, 0, ended.text)
  }
  // The torch of this machine; its addon is compiled from the sources in the bundle, where that has not been done yet.
  const {root} = await findTorch()
  const fast = run(program, embed(at('prefix', 'models', 'tiny.safetensors'), 'fast.jsonl', '--engine', 'torch', '--device', 'cpu'), {
    DINOV2_TORCH: root,
    XDG_CACHE_HOME: join(cacheFolder(), '..')
  })
  assert.equal(fast.status, 0, fast.text)
  assert.equal(readFileSync(at('work', 'fast.jsonl'), 'utf8').trim().split('\n').length, 6)
})

test('it is not laid over files of somebody else, and holds no tests and maps, and no types but those of the library', () => {
  const files = readdirSync(at('prefix', 'lib'), {recursive: true}) as string[]
  assert.deepEqual(
    files.filter(file => /\.(map|d\.ts)$|\.test\.js$/.test(file)),
    [join('dinov2', 'dist', 'src', 'tasks', 'dinov2.d.ts')]
  )
  assert.ok(files.includes(join('dinov2', 'native', 'addon.cc')) && !existsSync(at('prefix', 'lib', 'dinov2', 'dist', 'test')))
})
