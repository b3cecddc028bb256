/**
 * `models pull` and hosts that do everything wrong: each ends with one sentence on stderr, with status 1 and a code,
 * shows no control character, and leaves nothing in the place of the model.
 */
import assert from 'node:assert/strict'
import {mkdtempSync, readdirSync} from 'node:fs'
import {createServer, type AddressInfo, type Socket} from 'node:net'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {CommandServer, folder} from '../support/program.js'

/** Clears the screen, sets the title, and turns the direction of writing. */
const EVIL = '\x1b[2J\x1b]0;owned\x07\u202e'

const head = (status: string, ...headers: readonly string[]): string =>
  `HTTP/1.1 ${status}\r\n${headers.join('\r\n')}\r\nconnection: close\r\n\r\n`

/** What a host answers with, and the code that the command ends with. */
const hosts: Readonly<Record<string, {readonly code: string; readonly answer: () => string}>> = {
  'a circle of redirections': {code: 'REDIRECT', answer: () => head('302 Found', 'location: /dinov2_vits14/dinov2_vits14_pretrain.pth')},
  'a redirection to a file': {code: 'REDIRECT', answer: () => head('302 Found', 'location: file:///etc/passwd')},
  'a redirection whose address has escapes': {code: 'REDIRECT', answer: () => head('302 Found', 'location: gopher://x/%1b[2J\u0085')},
  'no such file, with escapes in its body': {
    code: 'NOT_FOUND',
    answer: () => `${head('404 Not Found', `x-${'a'.repeat(20)}: b`, 'etag: "e"')}${EVIL}`
  },
  'a refusal with escapes in its reason': {code: 'REFUSED', answer: () => `${head('403 \u0085\u009b2Jno', 'content-length: 0')}`},
  'another length': {code: 'WRONG_SIZE', answer: () => `${head('200 OK', 'content-length: 10')}PK\x03\x04aaaaaa`},
  'a body to be inflated': {
    code: 'WRONG_ENCODING',
    answer: () => `${head('200 OK', 'content-encoding: gzip', 'content-length: 4')}\x1f\x8b\x08\x00`
  },
  'headers with escapes and a file name': {
    code: 'WRONG_SIZE',
    answer: () => `${head('200 OK', 'content-disposition: attachment; filename="../../x"', 'etag: "\u009b2J"', 'content-length: 4')}abcd`
  }
}

describe('models pull ends with a sentence and leaves nothing behind a host that answers with', () => {
  const scratch = folder()
  const commands = new CommandServer({env: {}, cwd: scratch, patience: 60_000})
  let [mode, port] = ['', 0]
  const server = createServer((socket: Socket) => {
    socket.on('error', () => undefined) // who gives up closes the connection
    socket.once('data', () => socket.end(Buffer.from(hosts[mode]!.answer(), 'latin1')))
  })
  before(async () => {
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    port = (server.address() as AddressInfo).port
  })
  after(async () => {
    server.close()
    await commands.end()
  })
  for (const [name, {code}] of Object.entries(hosts))
    test(name, async () => {
      mode = name
      const out = mkdtempSync(join(scratch, 'models-'))
      const from = `http://127.0.0.1:${port}`
      const {status, stdout, stderr, waited} = await commands.run(
        'models',
        'pull',
        'dinov2_vits14',
        '--base-url',
        from,
        '-o',
        `${out}/`,
        '--json'
      )
      assert.ok(!waited)
      assert.equal(status, 1, stderr)
      assert.equal((JSON.parse(stdout) as {error: {code: string}}).error.code, code)
      assert.doesNotMatch(stderr.replaceAll('\n', ''), /[\p{Cc}\u202a-\u202e\u2066-\u2069]/u)
      assert.deepEqual(readdirSync(out), [])
    })
})
