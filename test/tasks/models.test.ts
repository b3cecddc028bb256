/** Listing and fetching released models, against a server on the loopback. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdir, readdir, readFile, writeFile} from 'node:fs/promises'
import {createServer} from 'node:http'
import type {AddressInfo} from 'node:net'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import {promisify} from 'node:util'
import {openCheckpoint} from '../../src/files/checkpoint/checkpoint.js'
import {listModels, modelLines, pullModel, released} from '../../src/tasks/models.js'
import {golden, projectFolder, scratch} from '../support/scratch.js'

/** A cache folder of the test's own for as long as it runs. */
async function cache(t: TestContext): Promise<string> {
  const folder = await scratch(t)
  const before = process.env['XDG_CACHE_HOME']
  process.env['XDG_CACHE_HOME'] = folder
  t.after(() => (before === undefined ? delete process.env['XDG_CACHE_HOME'] : (process.env['XDG_CACHE_HOME'] = before)))
  return join(folder, 'dinov2', 'models')
}

/** Serves the recorded head under every released name, with ranges; counts what was asked for. */
async function mirror(t: TestContext, content?: Buffer): Promise<{url: string; asked: (string | undefined)[][]; body: Buffer}> {
  const body = content ?? (await readFile(golden('dino_head.pth')))
  const asked: (string | undefined)[][] = []
  const server = createServer((request, response) => {
    asked.push([request.url, request.headers.range])
    if (!request.url?.startsWith('/mirror/dinov2_')) return response.writeHead(404).end()
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    response.writeHead(start ? 206 : 200, {
      etag: '"1"',
      'content-length': body.length - start,
      ...(start && {'content-range': `bytes ${start}-${body.length - 1}/${body.length}`})
    })
    response.end(body.subarray(start))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  return {url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mirror/`, asked, body}
}

test('the list follows the pattern of the hub, every name once', async t => {
  await cache(t)
  const models = await listModels()
  assert.equal(new Set(models.map(model => model.name)).size, models.length)
  assert.equal(new Set(models.map(model => model.url)).size, models.length)
  const count = (kind: string): number => models.filter(model => model.kind === kind).length
  assert.deepEqual(['backbone', 'classifier', 'depth', 'segmentation'].map(count), [8, 16, 24, 17])
  const url = (name: string): string | undefined => models.find(model => model.name === name)?.url
  const base = 'https://dl.fbaipublicfiles.com/dinov2'
  assert.equal(url('dinov2_vits14'), `${base}/dinov2_vits14/dinov2_vits14_pretrain.pth`)
  assert.equal(url('dinov2_vitg14_reg'), `${base}/dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth`)
  assert.equal(url('dinov2_vitl14_reg4_linear4'), `${base}/dinov2_vitl14/dinov2_vitl14_reg4_linear4_head.pth`)
  assert.equal(url('dinov2_vitb14_kitti_dpt'), `${base}/dinov2_vitb14/dinov2_vitb14_kitti_dpt_head.pth`)
  assert.equal(url('dinov2_vitg14_voc2012_ms'), `${base}/dinov2_vitg14/dinov2_vitg14_voc2012_ms_head.pth`)
  assert.ok(models.every(model => model.licence === 'Apache-2.0' && released.some(entry => entry.name === model.backbone)))
  assert.equal((await listModels({kind: 'depth'})).length, 24)
  assert.match(modelLines(models)[0]!, /^dinov2_vits14 +88\.3 MB +ViT-S\/14, 22 M parameters$/)
})

test('a model is fetched into the cache once, and found by its name', async t => {
  const folder = await cache(t)
  const {url, asked, body} = await mirror(t)
  const request = {name: 'dinov2_vitb14_linear', baseUrl: url}
  const dry = await pullModel({...request, dryRun: true})
  assert.deepEqual([dry.fetched, dry.bytes, asked.splice(0).length], [false, body.length, 1])
  let last = 0
  const report = await pullModel({...request, onProgress: ({bytes}) => (last = bytes)})
  assert.deepEqual([report.fetched, report.bytes, last], [true, body.length, body.length])
  const head = 'dinov2_vitb14_linear_head.pth'
  assert.deepEqual((await readdir(folder)).sort(), [head, `${head}.sha256`])
  assert.equal(await readFile(join(folder, `${head}.sha256`), 'utf8'), `${report.sha256}  ${head}\n`)
  assert.equal(asked[0]![0], '/mirror/dinov2_vitb14/dinov2_vitb14_linear_head.pth')
  assert.equal((await pullModel(request)).fetched, false)
  assert.equal(asked.length, 1)
  const checkpoint = await openCheckpoint('dinov2_vitb14_linear')
  await checkpoint.close()
  assert.equal((await listModels()).find(model => model.name === request.name)?.here, report.path)
})

test('what an interrupted call left is gone on with', async t => {
  const folder = await cache(t)
  const {url, asked, body} = await mirror(t)
  await mkdir(folder, {recursive: true})
  const part = join(folder, 'dinov2_vitb14_linear_head.pth.part')
  await writeFile(part, body.subarray(0, 50_000))
  const address = `${url}dinov2_vitb14/dinov2_vitb14_linear_head.pth`
  await writeFile(`${part}.json`, JSON.stringify({url: address, etag: '"1"', total: body.length}))
  const {path} = await pullModel({name: 'dinov2_vitb14_linear', baseUrl: url})
  assert.equal(asked[0]![1], 'bytes=50000-')
  assert.ok((await readFile(path)).equals(body))
})

test('a file of another length than is known, a web page, and a missing one are not kept', async t => {
  const folder = await cache(t)
  const {url} = await mirror(t)
  await assert.rejects(pullModel({name: 'dinov2_vits14', baseUrl: url}), {code: 'WRONG_SIZE'})
  const page = await mirror(t, Buffer.from('<html>please sign in</html>'))
  await assert.rejects(pullModel({name: 'dinov2_vitb14_linear', baseUrl: page.url}), {code: 'NOT_A_MODEL'})
  await assert.rejects(pullModel({name: 'dinov2_vitb14_linear', baseUrl: url.replace('mirror', 'nowhere')}), {code: 'NOT_FOUND'})
  await assert.rejects(pullModel({name: 'dinov2_vitz14', baseUrl: url}), {exit: 2, code: 'NO_MODEL'})
  assert.deepEqual(await readdir(folder), [])
})

test('the command: path on stdout, a named output refused when it exists, the mirror by environment', async t => {
  const folder = await scratch(t)
  const {url, body} = await mirror(t)
  const run = async (...args: string[]): Promise<{code: number; stdout: string; stderr: string}> =>
    promisify(execFile)(process.execPath, [join(projectFolder(), 'bin', 'run.js'), 'models', 'pull', ...args], {
      env: {...process.env, DINOV2_BASE_URL: url, XDG_CACHE_HOME: folder}
    }).then(
      done => ({code: 0, ...done}),
      (error: {code: number; stdout: string; stderr: string}) => error
    )
  const output = join(folder, 'head.pth')
  const good = await run('dinov2_vitb14_linear', '-o', output)
  assert.equal(good.code, 0, good.stderr)
  assert.equal(good.stdout, `${output}\n`)
  assert.match(good.stderr, /Apache-2\.0/)
  assert.ok((await readFile(output)).equals(body))
  assert.equal((await run('dinov2_vitb14_linear', '-o', output)).code, 2)
  const guess = await run('dinov2_vitb14_liner')
  assert.equal(guess.code, 2)
  assert.match(guess.stderr, /Did you mean dinov2_vitb14_linear/)
  const two = await run('dinov2_vitb14_linear', 'dinov2_vitl14_linear', '-o', folder, '--force', '--json')
  assert.deepEqual(
    (JSON.parse(two.stdout) as {path: string}[]).map(({path}) => path),
    ['dinov2_vitb14_linear_head.pth', 'dinov2_vitl14_linear_head.pth'].map(name => join(folder, name))
  )
})
