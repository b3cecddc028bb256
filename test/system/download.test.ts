/** Downloads against a server on the loopback: whole, resumed, changed, cut off, missing, wrong. */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {mkdtemp, readFile, readdir, rm, symlink, writeFile} from 'node:fs/promises'
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http'
import type {AddressInfo} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, beforeEach, test} from 'node:test'
import {download} from '../../src/system/download.js'

const body = Buffer.from(Array.from({length: 300_000}, (_, i) => (i * 7919) % 251))
const sha256 = createHash('sha256').update(body).digest('hex')
type Answer = (request: IncomingMessage, response: ServerResponse) => void
let server: Server
let url: string
let folder: string
let asked: {range?: string; ifRange?: string}[]
let answer: Answer

/** Serves the body with ranges, as static hosts do; `cut` ends the connection after so many bytes. */
const serve =
  ({etag = '"v1"', cut = Infinity, content = body}: {etag?: string; cut?: number; content?: Buffer} = {}): Answer =>
  (request, response) => {
    const start = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]
    const resume = start !== undefined && (request.headers['if-range'] ?? etag) === etag
    const piece = resume ? content.subarray(Number(start)) : content
    response.writeHead(resume ? 206 : 200, {
      etag,
      'content-length': piece.length,
      ...(resume && {'content-range': `bytes ${start}-${content.length - 1}/${content.length}`})
    })
    if (piece.length <= cut) return response.end(piece)
    response.write(piece.subarray(0, cut), () => setTimeout(() => response.destroy(), 20))
  }

before(async () => {
  server = createServer((request, response) => {
    asked.push({range: request.headers.range, ifRange: request.headers['if-range'] as string | undefined})
    answer(request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/file`
  folder = await mkdtemp(join(tmpdir(), 'download-'))
})
beforeEach(async () => {
  asked = []
  answer = serve()
  for (const name of await readdir(folder)) await rm(join(folder, name))
})
after(async () => {
  server.close()
  await rm(folder, {recursive: true})
})

test('a file arrives whole, with progress, and leaves no part behind', async () => {
  const target = join(folder, 'a')
  const seen: number[] = []
  const {bytes} = await download(url, target, {expectedBytes: body.length, sha256, onProgress: ({bytes}) => seen.push(bytes)})
  assert.equal(bytes, body.length)
  assert.deepEqual(await readFile(target), body)
  assert.deepEqual(await readdir(folder), ['a'])
  assert.equal(seen.at(-1), body.length)
})

test('an existing target is refused without force and replaced with it', async () => {
  const target = join(folder, 'a')
  await writeFile(target, 'old')
  await assert.rejects(download(url, target), {code: 'OUTPUT_EXISTS', exit: 2})
  assert.equal(await readFile(target, 'utf8'), 'old')
  await download(url, target, {force: true})
  assert.deepEqual(await readFile(target), body)
})

test('a connection that drops is taken up again where it broke', async () => {
  answer = (request, response) => serve({cut: asked.length === 1 ? 100_000 : Infinity})(request, response)
  await download(url, join(folder, 'a'), {sha256})
  assert.equal(asked.length, 2)
  assert.match(asked[1]!.range!, /^bytes=[1-9]\d*-$/)
  assert.equal(asked[1]!.ifRange, '"v1"')
  assert.deepEqual(await readFile(join(folder, 'a')), body)
})

test('a later call goes on from the part of an earlier one', async () => {
  answer = serve({cut: 100_000})
  await assert.rejects(download(url, join(folder, 'a'), {attempts: 1}), /could not be fetched: .*\./)
  answer = serve()
  await download(url, join(folder, 'a'))
  assert.ok(asked[1]!.range)
  assert.deepEqual(await readFile(join(folder, 'a')), body)
})

test('a file that changed in between is fetched from the start', async () => {
  answer = serve({cut: 100_000})
  await assert.rejects(download(url, join(folder, 'a'), {attempts: 1}))
  const other = Buffer.alloc(200_000, 9)
  answer = serve({etag: '"v2"', content: other})
  await download(url, join(folder, 'a'))
  assert.deepEqual(await readFile(join(folder, 'a')), other)
})

test('a rest of another version is not put behind the part, also where the host passes over If-Range', async () => {
  const other = Buffer.alloc(300_000, 9)
  const first = {etag: '"v1"', 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT'}
  for (const [name, had, now, whole] of [
    ['tag', first, {...first, etag: '"v2"'}, other],
    ['date', {'last-modified': first['last-modified']}, {'last-modified': 'Tue, 02 Jan 2024 00:00:00 GMT'}, other],
    ['length', first, first, other.subarray(0, 250_000)]
  ] as const) {
    answer = (_, response) => {
      response.writeHead(200, {...had, 'content-length': body.length})
      response.write(body.subarray(0, 100_000), () => response.destroy())
    }
    await assert.rejects(download(url, join(folder, name), {attempts: 1}))
    answer = (request, response) => {
      const from = Number(/\d+/.exec(request.headers.range ?? '0')![0])
      const range = {'content-range': `bytes ${from}-${whole.length - 1}/${whole.length}`}
      response.writeHead(from > 0 ? 206 : 200, {...now, 'content-length': whole.length - from, ...(from > 0 && range)})
      response.end(whole.subarray(from))
    }
    await download(url, join(folder, name))
    assert.deepEqual(await readFile(join(folder, name)), whole, name)
  }
})

test('an answer without a file, and addresses that are none, are sentences at once', async () => {
  for (const status of [204, 205]) {
    answer = (_, response) => response.writeHead(status).end()
    await assert.rejects(download(url, join(folder, 'a')), {
      name: 'UserError',
      code: 'REFUSED',
      message: /answered without a file \(20[45]/
    })
  }
  const count = asked.length
  for (const wrong of ['', 'http://', 'http://[', 'http://127.0.0.1:99999/', 'ftp://x/', 'http:/x', url.replace('//', '//name:secret@')])
    await assert.rejects(download(wrong, join(folder, 'a')), {name: 'UserError', code: 'BAD_ADDRESS', exit: 2})
  answer = (_, response) => response.writeHead(302, {location: url.replace('//', '//name:secret@')}).end()
  await assert.rejects(download(url, join(folder, 'a')), {code: 'REDIRECT'})
  assert.equal(asked.length, count + 1)
})

test('a wrong length and a wrong checksum are named and not kept', async () => {
  await assert.rejects(download(url, join(folder, 'a'), {expectedBytes: 5}), {code: 'WRONG_SIZE', message: /300000 bytes long, but 5/})
  await assert.rejects(download(url, join(folder, 'a'), {sha256: 'ab'.repeat(32)}), {code: 'CHECKSUM'})
  assert.deepEqual(await readdir(folder), [])
})

test('a missing file, a refusing host, a dead host and a wrong address are sentences', async () => {
  answer = (_, response) => response.writeHead(404).end()
  await assert.rejects(download(url, join(folder, 'a')), {name: 'UserError', code: 'NOT_FOUND', exit: 1})
  answer = (_, response) => response.writeHead(403).end()
  await assert.rejects(download(url, join(folder, 'a')), {code: 'REFUSED'})
  answer = (_, response) => response.writeHead(503).end()
  await assert.rejects(download(url, join(folder, 'a'), {attempts: 2}), {code: 'DOWNLOAD_FAILED', message: /answered 503/})
  await assert.rejects(download('http://127.0.0.1:1/x', join(folder, 'a'), {attempts: 1}), {
    code: 'DOWNLOAD_FAILED',
    message: /refused the connection|bad port/
  })
  await assert.rejects(download('ftp://host/x', join(folder, 'a')), {code: 'BAD_ADDRESS', exit: 2})
})

test('of two that fetch one target one waits, says for whom, and then finds it there', async () => {
  answer = (_request, response) => {
    response.writeHead(200, {etag: '"v1"', 'content-length': body.length})
    response.write(body.subarray(0, 100_000), () => setTimeout(() => response.end(body.subarray(100_000)), 100))
  }
  const target = join(folder, 'a')
  const waits: string[] = []
  const onWait = (sentence: string): unknown => waits.push(sentence)
  const both = await Promise.allSettled([download(url, target, {sha256, onWait}), download(url, target, {sha256, onWait})])
  assert.deepEqual(both.map(({status}) => status).sort(), ['fulfilled', 'rejected'])
  const {reason} = both.find(({status}) => status === 'rejected') as PromiseRejectedResult
  assert.equal((reason as {code: string}).code, 'OUTPUT_EXISTS')
  assert.equal(waits.length, 1)
  assert.match(waits[0]!, /a is being taken by several processes at once\. Waiting|is writing .*a\. Waiting until it has ended\.$/)
  assert.equal(asked.length, 1)
  assert.deepEqual(await readFile(target), body)
  assert.deepEqual(await readdir(folder), ['a'])
})

test('a target that is replaced is fetched by one after the other, and a wait is ended by an abort', async () => {
  answer = (_request, response) => {
    response.writeHead(200, {etag: '"v1"', 'content-length': body.length})
    response.write(body.subarray(0, 100_000), () => setTimeout(() => response.end(body.subarray(100_000)), 300))
  }
  const target = join(folder, 'a')
  const first = download(url, target, {sha256, force: true})
  const second = download(url, target, {sha256, force: true, signal: AbortSignal.timeout(20_000)})
  const control = new AbortController()
  const third = download(url, target, {sha256, force: true, signal: control.signal, onWait: () => control.abort(new Error('enough'))})
  await assert.rejects(third, (error: Error) => error.name === 'AbortError' || error.message === 'enough')
  await Promise.all([first, second])
  assert.equal(asked.length, 2)
  assert.deepEqual(await readFile(target), body)
  assert.deepEqual(await readdir(folder), ['a'])
})

test('an abort stops at once and the next call goes on', async () => {
  const control = new AbortController()
  answer = (request, response) => {
    response.writeHead(200, {etag: '"v1"', 'content-length': body.length})
    response.write(body.subarray(0, 50_000))
    if (request.headers.range === undefined) setTimeout(() => control.abort(new Error('enough')), 50)
  }
  await assert.rejects(download(url, join(folder, 'a'), {signal: control.signal}), /enough/)
  answer = serve()
  await download(url, join(folder, 'a'), {sha256})
  assert.equal(asked[1]!.range, 'bytes=50000-')
})

/** Sends bytes without a length and without an end, until the reader leaves. */
const endless: Answer = (_request, response) => {
  response.writeHead(200)
  const more = (): void => {
    while (!response.destroyed && response.write(Buffer.alloc(65_536, 80)));
  }
  response.on('drain', more)
  more()
}

test('a body without end is given up at the length that was expected, else at the cap, and nothing is kept', async () => {
  answer = endless
  await assert.rejects(download(url, join(folder, 'a'), {expectedBytes: 200_000}), {
    code: 'WRONG_SIZE',
    message: /more than the 200000 bytes/
  })
  await assert.rejects(download(url, join(folder, 'a'), {maxBytes: 500_000}), {code: 'WRONG_SIZE', message: /more than the 500000 bytes/})
  answer = serve()
  await assert.rejects(download(url, join(folder, 'a'), {maxBytes: 1000}), {code: 'WRONG_SIZE', message: /at most 1000 were expected/})
  assert.deepEqual(await readdir(folder), [])
})

test('a body that must be inflated is refused', async () => {
  answer = (_request, response) => response.writeHead(200, {'content-encoding': 'gzip'}).end(Buffer.alloc(100))
  await assert.rejects(download(url, join(folder, 'a')), {code: 'WRONG_ENCODING', message: /compressed \(gzip\)/})
  assert.deepEqual(await readdir(folder), [])
})

test('another host is reported before it is asked; other schemes and circles are refused', async () => {
  const other = url.replace('127.0.0.1', 'localhost')
  const hosts: string[] = []
  const onRedirect = (host: string): void => void hosts.push(`${host} after ${asked.length}`)
  answer = (request, response) => (asked.length === 1 ? response.writeHead(302, {location: other}).end() : serve()(request, response))
  await download(url, join(folder, 'a'), {sha256, onRedirect}).catch((error: Error) => {
    if (!/resolved|refused/.test(error.message)) throw error // localhost may be ::1 alone
  })
  assert.deepEqual(hosts.slice(0, 1), [`${new URL(other).host} after 1`])
  answer = (_request, response) => response.writeHead(302, {location: 'file:///etc/passwd'}).end()
  await assert.rejects(download(url, join(folder, 'b')), {code: 'REDIRECT', message: /file:\/\/\/etc\/passwd/})
  answer = (request, response) => response.writeHead(302, {location: request.url}).end()
  await assert.rejects(download(url, join(folder, 'b')), {code: 'REDIRECT', message: /more than 10 times/})
})

test('what is no HTTP, and a length that is no number, are sentences', async () => {
  for (const [said, why] of [
    ['\0\x01\x02nothing\r\n\r\n', /Expected HTTP/],
    ['HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nPK', /Content-Length/],
    [`HTTP/1.1 200 OK\r\nx: ${'a'.repeat(1 << 20)}\r\n\r\n`, /Headers Overflow/]
  ] as const) {
    answer = (_request, {socket}) => {
      socket!.on('error', () => {})
      socket!.end(said)
    }
    await assert.rejects(download(url, join(folder, 'a'), {attempts: 1}), {code: 'DOWNLOAD_FAILED', message: why})
  }
  assert.deepEqual(await readdir(folder), [])
})

test('a host that says nothing, or never ends its headers, is given up', async () => {
  const limits = {idleSeconds: 0.3, attempts: 1}
  answer = () => {}
  await assert.rejects(download(url, join(folder, 'a'), limits), {code: 'DOWNLOAD_FAILED', message: /sent nothing for 0\.3 seconds/})
  answer = (_request, {socket}) => {
    socket!.write('HTTP/1.1 200 OK\r\n')
    const drip = setInterval(() => (socket!.destroyed ? clearInterval(drip) : socket!.write('x-a: b\r\n')), 50)
    socket!.on('error', () => {})
  }
  await assert.rejects(download(url, join(folder, 'a'), limits), {code: 'DOWNLOAD_FAILED', message: /sent nothing for/})
})

test('a host that sends a byte now and then is given up', async () => {
  answer = (_request, response) => {
    response.writeHead(200, {'content-length': 1 << 20})
    const drip = setInterval(() => (response.destroyed ? clearInterval(drip) : response.write('x')), 20)
  }
  const limits = {idleSeconds: 30, least: {bytes: 4096, seconds: 0.3}, attempts: 2}
  await assert.rejects(download(url, join(folder, 'a'), limits), {code: 'DOWNLOAD_FAILED', message: /sent only \d+ bytes in 0\.3 seconds/})
})

test('nothing is written through a link that stands in the place of a part or of what is noted beside it', async () => {
  const whole = Buffer.alloc(5000, 1)
  answer = (_request, response) => void response.end(whole)
  for (const ending of ['.part', '.part.json']) {
    const target = join(folder, `linked${ending}`)
    const victim = join(folder, 'precious')
    await writeFile(victim, 'precious')
    await symlink(victim, target + ending)
    await assert.rejects(download(url, target), {code: 'IS_LINK', exit: 2})
    assert.equal(await readFile(victim, 'utf8'), 'precious')
  }
})
