/** Models of the hub fetched into its cache, from a server on the loopback that answers as the hub does. */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {lstat, readFile, readdir, readlink} from 'node:fs/promises'
import {createServer} from 'node:http'
import type {AddressInfo} from 'node:net'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import {openBackbone, readBackbone} from '../../src/files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {pullHubModel} from '../../src/tasks/hub-models.js'
import {realBinary, run} from '../support/program.js'
import {golden, scratch} from '../support/scratch.js'

const commit = '0123456789abcdef0123456789abcdef01234567'
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
const gitBlob = (bytes: Buffer): string => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')

type Hub = {endpoint: string; cache: string; asked: string[]; spoil: (name: string, bytes: Buffer) => void; describe: (sha: string) => void}

/** A hub that holds someone/tiny, and an empty cache. */
async function hub(t: TestContext): Promise<Hub> {
  const folder = await scratch(t)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  await saveHuggingFace(join(folder, 'model'), config, readBackbone(config, checkpoint))
  await checkpoint.close()
  const files = new Map<string, Buffer>()
  for (const name of await readdir(join(folder, 'model'))) files.set(name, await readFile(join(folder, 'model', name)))
  const siblings = [...files].map(([rfilename, bytes]) => ({
    rfilename,
    size: bytes.length,
    blobId: gitBlob(bytes),
    ...(rfilename.endsWith('.safetensors') ? {lfs: {sha256: sha256(bytes), size: bytes.length}} : {})
  }))
  siblings.push(
    {rfilename: '../../evil', size: 1, blobId: gitBlob(Buffer.from('x'))},
    {rfilename: 'pytorch_model.bin', size: 9, blobId: 'a'}
  )
  let sha = commit
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url!)
    if (request.url === '/api/models/someone/tiny/revision/main?blobs=true')
      return response.end(JSON.stringify({sha, siblings, cardData: {license: 'apache-2.0'}}))
    const name = /^\/someone\/tiny\/resolve\/[0-9a-f]{40}\/([\w.]+)$/.exec(request.url!)?.[1]
    const bytes = files.get(name ?? '')
    return bytes ? response.writeHead(200, {'content-length': bytes.length}).end(bytes) : response.writeHead(404).end()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  const cache = join(folder, 'hub')
  const before = {...process.env}
  process.env['HF_HUB_CACHE'] = cache
  delete process.env['HF_HUB_OFFLINE']
  t.after(() => void (process.env = before))
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cache,
    asked,
    spoil: (name, bytes) => void files.set(name, bytes),
    describe: other => void (sha = other)
  }
}

test('a model is laid down as the hub’s own tools do, and opens by its id; nothing is fetched twice', async t => {
  const {endpoint, cache, asked} = await hub(t)
  const planned = await pullHubModel({id: 'someone/tiny', endpoint, dryRun: true})
  assert.equal(planned.fetched, false)
  const report = await pullHubModel({id: 'someone/tiny', endpoint})
  const home = join(cache, 'models--someone--tiny')
  assert.deepEqual([report.fetched, report.path, report.licence], [true, join(home, 'snapshots', commit), 'apache-2.0'])
  assert.equal(await readFile(join(home, 'refs/main'), 'utf8'), commit)
  assert.deepEqual((await readdir(home)).sort(), ['blobs', 'refs', 'snapshots'])
  const names = (await readdir(report.path)).sort()
  assert.deepEqual(names, ['config.json', 'model.safetensors', 'preprocessor_config.json'])
  for (const name of names) {
    assert.ok((await lstat(join(report.path, name))).isSymbolicLink())
    assert.match(await readlink(join(report.path, name)), /^\.\.\/\.\.\/blobs\/[0-9a-f]{40,64}$/)
  }
  const {config, checkpoint} = await openBackbone('someone/tiny')
  await checkpoint.close()
  assert.deepEqual([config.width, config.depth, config.heads], [64, 4, 4])
  const before = asked.length
  assert.equal((await pullHubModel({id: 'someone/tiny', endpoint})).fetched, false)
  assert.equal(asked.length, before + 1)
})

test('other bytes than the hub states are not kept, and the model is not there', async t => {
  const {endpoint, cache, spoil, describe} = await hub(t)
  const good = await readFile(golden('vit_plain.pth'))
  spoil('config.json', Buffer.from('{}'))
  await assert.rejects(pullHubModel({id: 'someone/tiny', endpoint}), /length|bytes/)
  await assert.rejects(openBackbone('someone/tiny'), {exit: 3, hint: /dinov2 models pull someone\/tiny/})
  spoil('model.safetensors', good)
  await assert.rejects(pullHubModel({id: 'someone/tiny', endpoint}))
  await assert.rejects(readdir(join(cache, 'models--someone--tiny/refs')))
  describe('../../..')
  await assert.rejects(pullHubModel({id: 'someone/tiny', endpoint}), {code: 'BAD_ANSWER', message: /it names no commit/})
  await assert.rejects(pullHubModel({id: 'someone/other', endpoint}), /404|not found|does not/i)
})

test('the command: offline it refuses, online it prints the folder', async t => {
  const {endpoint, cache} = await hub(t)
  const env = {HF_HUB_CACHE: cache, HF_ENDPOINT: endpoint}
  const refused = await run(realBinary, ['models', 'pull', 'someone/tiny'], {env: {...env, HF_HUB_OFFLINE: '1'}})
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /someone\/tiny is not fetched, because HF_HUB_OFFLINE is set\./)
  const pulled = await run(realBinary, ['models', 'pull', 'someone/tiny', '--json'], {env})
  assert.equal(pulled.status, 0, pulled.stderr)
  assert.equal((JSON.parse(pulled.stdout) as {path: string}[])[0]!.path, join(cache, 'models--someone--tiny/snapshots', commit))
  assert.equal((await run(realBinary, ['models', 'pull', 'someone/tiny', '-o', 'x'], {env})).status, 2)
})

test('a model that is named and not here is fetched once, planned under --dry-run and refused offline', async t => {
  const {endpoint, cache, asked} = await hub(t)
  const env = {HF_HUB_CACHE: cache, HF_ENDPOINT: endpoint}
  const folder = await scratch(t)
  const line = (output: string): string[] => [
    'export',
    'someone/tiny',
    '--to',
    'safetensors',
    '-o',
    join(folder, output),
    '--num-heads',
    '4'
  ]
  const offline = await run(realBinary, line('a.safetensors'), {env: {...env, HF_HUB_OFFLINE: '1'}})
  assert.equal(offline.status, 3, offline.stderr)
  assert.match(offline.stderr, /someone\/tiny does not exist, neither as a file nor in the cache/)
  const dry = await run(realBinary, [...line('a.safetensors'), '--dry-run'], {env})
  assert.equal(dry.status, 0, dry.stderr)
  assert.match(dry.stderr, /would download someone\/tiny first \(.* [kM]B\) from http.* to .*hub/)
  await assert.rejects(readdir(cache), 'a plan writes nothing')

  const fetched = await run(realBinary, [...line('a.safetensors'), '--quiet'], {env})
  assert.equal(fetched.status, 0, fetched.stderr)
  assert.match(fetched.stderr, /someone\/tiny is not on this machine: it is downloaded from http.*someone\/tiny \(.* [kM]B\) to .*hub/)
  const before = asked.length
  const again = await run(realBinary, line('b.safetensors'), {env})
  assert.equal(again.status, 0, again.stderr)
  assert.doesNotMatch(again.stderr, /downloaded/)
  assert.equal(asked.length, before)

  const other = await run(realBinary, ['export', 'someone/other', '--to', 'safetensors', '-o', join(folder, 'c.safetensors')], {env})
  assert.equal(other.status, 1)
  assert.match(other.stderr, /someone\/other is no file or folder here, and could not be fetched from the Hugging Face hub/)
})
