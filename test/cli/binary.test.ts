/**
 * The binary that users run sets the size of Node's pool of threads, in which images are decoded, before anything has
 * used the pool.
 */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {availableParallelism} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {folder, realBinary, run} from '../support/program.js'

/**
 * Runs the binary; as it ends it says the size of the pool, and how many threads there are once the pool was used
 * (where the system tells).
 */
async function ask(env: Record<string, string>): Promise<{size: string; threads: number}> {
  const preload = join(folder(), 'preload.cjs')
  writeFileSync(
    preload,
    `process.on('exit', () => {
       let threads = 0
       try { threads = require('node:fs').readdirSync('/proc/self/task').length } catch {}
       process.stderr.write('POOL ' + JSON.stringify({size: process.env.UV_THREADPOOL_SIZE, threads}) + '\\n')
     })`
  )
  const {status, stdout, stderr} = await run(realBinary, ['--version'], {env: {NODE_OPTIONS: `--require ${preload}`, ...env}})
  assert.equal(status, 0, stderr)
  assert.match(stdout, /^dinov2 \d/)
  return JSON.parse(/^POOL (.*)$/m.exec(stderr)![1]!) as {size: string; threads: number}
}

test('one thread of the pool for each core, four at least; a size that was set stays', async () => {
  const inherited = process.env['UV_THREADPOOL_SIZE']
  assert.equal((await ask({})).size, inherited ?? String(Math.max(4, availableParallelism())))
  const many = await ask({UV_THREADPOOL_SIZE: '40'})
  assert.equal(many.size, '40')
  const few = await ask({UV_THREADPOOL_SIZE: '1'})
  if (few.threads > 0)
    assert.ok(many.threads - few.threads >= 30, `${many.threads} and ${few.threads} threads: the pool was there before its size`)
})
