/**
 * Models and heads that are named and not on this machine are downloaded first, by every flag that takes one; from
 * servers on the loopback that answer as the host of released files and as the hub do.
 */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {once} from 'node:events'
import {existsSync, readFileSync} from 'node:fs'
import {mkdir, readdir, readFile, rm, symlink} from 'node:fs/promises'
import {createServer, type Server} from 'node:http'
import type {AddressInfo} from 'node:net'
import {homedir} from 'node:os'
import {join} from 'node:path'
import {after, before, beforeEach, test} from 'node:test'
import {writePth} from '../../src/files/checkpoint/pth.js'
import {exportModel} from '../../src/tasks/export.js'
import {drawnFolder} from '../support/drawn-images.js'
import {CommandServer, folder, realBinary, start, type Ended} from '../support/program.js'
import {saveTiny, tiny} from '../support/tiny-backbone.js'

const dir = folder()
const at = (...names: string[]): string => join(dir, ...names)
const released = at('cache', 'dinov2', 'models')
const hub = at('hub')
const commit = '0123456789abcdef0123456789abcdef01234567'
const digest = (kind: 'sha1' | 'sha256', ...parts: (string | Buffer)[]): string =>
  parts.reduce((hash, part) => hash.update(part), createHash(kind)).digest('hex')

/** What the hosts hold, by the address below them, and what was asked for. */
const held = new Map<string, Buffer>()
const asked: string[] = []
/** After how many bytes of a file the connection stands still; 0: never. */
let standstill = 0
let isStill: () => void
let server: Server
let commands: CommandServer
const env: Record<string, string> = {
  DINOV2_ENGINE: 'wasm',
  DINOV2_WORKERS: '1',
  XDG_CACHE_HOME: at('cache'),
  HF_HUB_CACHE: hub,
  HF_HUB_OFFLINE: ''
}

before(async () => {
  const config = {...tiny, width: 64, hidden: 256, depth: 2, heads: 1}
  await saveTiny(at('tiny.safetensors'), 0, config)
  for (const to of ['meta', 'hf'] as const)
    await exportModel({model: at('tiny.safetensors'), to, output: at(to === 'meta' ? 'tiny.pth' : 'tiny-hf'), toolVersion: '0'})
  const weights = new Float32Array(1000 * 2 * config.width).fill(0.01)
  const read = (data: Float32Array) => async () => new Uint8Array(data.buffer)
  await writePth(at('head.pth'), [
    {name: 'weight', shape: [1000, 2 * config.width], dtype: 'F32', read: read(weights)},
    {name: 'bias', shape: [1000], dtype: 'F32', read: read(new Float32Array(1000))}
  ])
  held.set('/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth', await readFile(at('tiny.pth')))
  held.set('/dinov2_vits14/dinov2_vits14_reg4_linear_head.pth', await readFile(at('head.pth')))
  const siblings = []
  for (const rfilename of await readdir(at('tiny-hf'))) {
    const bytes = await readFile(at('tiny-hf', rfilename))
    held.set(`/someone/tiny/resolve/${commit}/${rfilename}`, bytes)
    const lfs = rfilename.endsWith('.safetensors') ? {lfs: {sha256: digest('sha256', bytes)}} : {}
    siblings.push({rfilename, size: bytes.length, blobId: digest('sha1', `blob ${bytes.length}\0`, bytes), ...lfs})
  }
  held.set('/api/models/someone/tiny/revision/main', Buffer.from(JSON.stringify({sha: commit, siblings})))
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.range ?? ''}`.trim())
    const bytes = held.get(request.url!.split('?')[0]!)
    if (!bytes) return response.writeHead(404).end()
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    response.writeHead(from ? 206 : 200, {
      etag: '"1"',
      'content-length': bytes.length - from,
      ...(from ? {'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`} : {})
    })
    if (request.method === 'HEAD') return response.end()
    if (!standstill || bytes.length < standstill) return response.end(bytes.subarray(from))
    response.write(bytes.subarray(from, standstill))
    isStill()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const {port} = server.address() as AddressInfo
  env['DINOV2_BASE_URL'] = env['HF_ENDPOINT'] = `http://127.0.0.1:${port}`
  commands = new CommandServer({env, cwd: dir})
  await drawnFolder(at('photos'), ['one', 'two'], 2)
  const compiled = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'dinov2', 'native')
  await mkdir(compiled, {recursive: true})
  await mkdir(at('cache', 'dinov2'), {recursive: true})
  await symlink(compiled, at('cache', 'dinov2', 'native'))
})
after(async () => {
  await commands.end()
  server.closeAllConnections()
  server.close()
})
beforeEach(async () => {
  standstill = 0
  await rm(released, {recursive: true, force: true})
  await rm(hub, {recursive: true, force: true})
  asked.length = 0
})

const small = ['crops.global_crops_size=28', 'crops.local_crops_size=14', 'crops.local_crops_number=1', 'train.steps=1', 'train.batch=2', 'train.log_every=1', 'dino.head_n_prototypes=8', 'dino.head_hidden_dim=8', 'dino.head_bottleneck_dim=8'].flatMap(set => ['--set', set]) // prettier-ignore
const student = [...small, ...['student.arch=custom', 'student.embed_dim=32', 'student.depth=1', 'student.num_heads=1', 'student.patch_size=14'].flatMap(set => ['--set', set])] // prettier-ignore
const [R, HEAD, H] = ['dinov2_vits14_reg', 'dinov2_vits14_reg4_linear', 'someone/tiny']
const clean = async (): Promise<string[]> => [...(await readdir(released).catch(() => [])), ...(await readdir(hub).catch(() => []))]

/** Lines by what names the model, and what is downloaded. */
const lines: readonly (readonly [line: readonly string[], models: readonly string[]])[] = [
  [['embed', 'photos', '--model', R, '--size', '28', '--format', 'jsonl', '-o', 'a.jsonl'], [R]],
  [['embed', 'photos', '--model', H, '--size', '28', '--format', 'jsonl', '-o', 'b.jsonl'], [H]],
  [['export', H, '--to', 'safetensors', '-o', 'c.safetensors'], [H]],
  [['pretrain', 'photos', '--init', R, ...small, '-o', 'run'], [R]],
  [['distill', 'photos', '--teacher', H, ...student, '-o', 'student'], [H]],
  [['explore', 'photos', '--model', H, '--size', '28', '-o', 'site'], [H]],
  [
    ['predict', 'classify', 'photos', '--model', R, '--head', HEAD, '--size', '28', '-o', 'd.jsonl'],
    [R, HEAD]
  ],
  [['knn-eval', '--train', 'photos', '--val', 'photos', '--model', H, '--size', '28', '-o', 'k.json'], [H]]
]

test('--dry-run plans the download with its length, and fetches nothing', async () => {
  for (const [line, models] of lines) {
    const plan = line.filter((_, i) => !(['pretrain', 'distill'].includes(line[0]!) && i >= line.length - 2))
    const {status, stdout, stderr} = await commands.run(...plan, '--dry-run', '--json')
    const text = line.join(' ')
    assert.equal(status, 0, `${text}: ${stderr}`)
    for (const model of models) assert.match(stderr, new RegExp(`would download ${model} first \\([\\d.]+ [kM]B\\) from http`), text)
    const report = JSON.parse(stdout || stderr.trim().split('\n').at(-1)!) as {download?: Planned; downloads?: Planned[]}
    const planned = report.downloads ?? [report.download!]
    assert.deepEqual(planned.map(({model}) => model), models) // prettier-ignore
    for (const {bytes} of planned) assert.ok(bytes > 100_000, text)
  }
  assert.deepEqual(await clean(), [])
})
type Planned = {readonly model: string; readonly bytes: number}

test('offline the same lines are refused with the way to get it, also without a server that answers', async () => {
  const offline = new CommandServer({env: {...env, HF_HUB_OFFLINE: '1'}, cwd: dir})
  for (const [line, models] of lines) {
    const {status, stderr} = await offline.run(...line)
    assert.equal(status, 3, `${line.join(' ')}: ${stderr}`)
    assert.match(stderr, new RegExp(`dinov2 models pull ${models[0]}`))
  }
  await offline.end()
  assert.deepEqual([asked, await clean()], [[], []])
})

test('every flag that names a model fetches it once, and says so also under --quiet', async () => {
  const seen = new Set<string>()
  for (const [line, models] of lines) {
    const {status, stderr} = await commands.run(...line, '--quiet')
    assert.ok(status === 0 || status === 6, `${line.join(' ')}: ${status} ${stderr}`) // one step may be judged either way
    for (const model of models)
      assert.equal(
        /is not on this machine: it is downloaded from/.test(stderr) && stderr.includes(`${model} is not`),
        !seen.has(model),
        stderr
      )
    for (const model of models) seen.add(model)
  }
  const weights = asked.filter(one => /GET .*(pth|safetensors)$/.test(one))
  assert.equal(weights.length, 3, weights.join('\n'))
  assert.equal(readFileSync(at('d.jsonl'), 'utf8').trim().split('\n').length, 4)
})

/** Starts the program and waits until the server stands still in the middle of the weights. */
async function startAndStall(...line: readonly string[]): Promise<ReturnType<typeof start>> {
  const still = new Promise<void>(done => (isStill = done))
  standstill = 60_000
  const started = start(realBinary, line, {env, cwd: dir})
  await Promise.race([still, started.ended.then(({stderr}) => assert.fail(stderr))])
  return started
}
const begun = async (part: () => boolean): Promise<void> => {
  while (!part()) await new Promise(done => setTimeout(done, 10))
}

for (const [name, model, part] of [
  ['a released model', R, () => join(released, 'dinov2_vits14_reg4_pretrain.pth.part')],
  ['a model of the hub', H, () => join(hub, 'models--someone--tiny', 'blobs', `${digest('sha256', held.get(`/someone/tiny/resolve/${commit}/model.safetensors`)!)}.part`)] // prettier-ignore
] as const)
  test(`SIGINT in the middle of ${name}: status 130, no lock is left, and the same command goes on behind what came`, async () => {
    const line = ['embed', 'photos', '--model', model, '--size', '28', '--format', 'jsonl', '-o', 'stopped.jsonl', '--force']
    await rm(at('stopped.jsonl'), {force: true})
    const {child, ended} = await startAndStall(...line)
    await begun(() => existsSync(part()) && readFileSync(part()).length === 60_000)
    child.kill('SIGINT')
    const {status, stderr} = await ended
    assert.equal(status, 130, stderr)
    assert.equal(existsSync(at('stopped.jsonl')), false)
    assert.deepEqual(await locks(), [])
    standstill = 0
    asked.length = 0
    const again: Ended = await commands.run(...line)
    assert.equal(again.status, 0, again.stderr)
    assert.ok(asked.some(one => one.endsWith('bytes=60000-')), asked.join('\n')) // prettier-ignore
    assert.equal(existsSync(part()), false)
  })

const locks = async (): Promise<string[]> => {
  const names = await Promise.all([released, hub].map(path => readdir(path, {recursive: true}).catch(() => [] as string[])))
  return names.flat().filter(name => name.includes('.lock'))
}

test('two commands at once: the second waits for the first and fetches nothing itself', async () => {
  const line = ['embed', 'photos', '--model', R, '--size', '28', '--format', 'jsonl', '--force', '-o']
  const first = await startAndStall(...line, 'first.jsonl')
  const second = start(realBinary, ['models', 'pull', R], {env, cwd: dir})
  const third = start(realBinary, [...line, 'third.jsonl'], {env, cwd: dir})
  const waits = Promise.all(
    [second, third].map(
      ({child}) => new Promise<void>(done => child.stderr!.on('data', text => /Waiting until it has ended/.test(String(text)) && done()))
    )
  )
  await waits
  standstill = 0
  server.closeAllConnections() // the first goes on from where it was
  const all = await Promise.all([first, second, third].map(({ended}) => ended))
  assert.deepEqual(all.map(({status}) => status), [0, 0, 0], all.map(({stderr}) => stderr).join('\n')) // prettier-ignore
  assert.deepEqual(readFileSync(at('first.jsonl')), readFileSync(at('third.jsonl')))
  assert.match(all[1]!.stderr, /is here already/)
  const bodies = asked.filter(one => one.startsWith('GET') && !one.includes('bytes='))
  assert.equal(bodies.length, 1, asked.join('\n'))
  assert.deepEqual(await locks(), [])
})

test('a model that is neither here nor to be fetched is said before an engine is started', async () => {
  const model = ['--model', 'nowhere.safetensors', '--device', 'cuda:9'] // the device would be refused with status 5
  const sets = ['--train', 'photos', '--val', 'photos']
  const made = await commands.run('embed', 'photos', '--model', 'tiny.safetensors', '--size', '28', '-o', 'v.arrow', '-q', '-f')
  assert.equal(made.status, 0, made.stderr)
  const indexed = await commands.run('index', 'v.arrow', '-o', 'v.index', '-f')
  assert.equal(indexed.status, 0, indexed.stderr)
  for (const line of [
    ['embed', 'photos', '-o', 'n.arrow'],
    ['search', 'v.index', 'photos'],
    ['knn-eval', ...sets],
    ['linear-eval', ...sets, '--cached'],
    ['retrieval-eval', 'photos'],
    ['predict', 'classify', 'photos', '--head', 'head.pth'],
    ['predict', 'depth', 'photos', '--head', 'head.pth', '-o', 'n'],
    ['predict', 'segment', 'photos', '--head', 'head.pth', '-o', 'n'],
    ['visualize', 'pca', 'photos', '-o', 'n.png'],
    ['visualize', 'neighbours', 'v.index', 'photos', '-o', 'n.html'],
    ['explore', 'photos', '-o', 'n'],
    ['curate', 'dedup', 'photos', '--features', 'model', '-o', 'n.jsonl']
  ]) {
    const {status, stderr} = await commands.run(...line, ...model)
    assert.equal(status, 3, `${line.join(' ')}: ${stderr}`)
    assert.match(stderr, /nowhere\.safetensors does not exist/)
  }
})
