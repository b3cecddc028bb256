/** What stands in the place of a lock and is none: damaged ones and links are taken over, other things named. */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs'
import {hostname} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {lockName, lockRun} from '../../src/system/lock.js'
import {scratch} from '../support/scratch.js'

for (const pid of [-1, 0, 0.5, '1', null])
  test(`a lock of the process ${JSON.stringify(pid)} is nobody's`, async t => {
    const run = await scratch(t)
    writeFileSync(join(run, lockName), JSON.stringify({pid, host: hostname(), began: ''}))
    await (await lockRun(run)).release()
  })

test('a link in its place is taken over, whatever it leads to; a folder and a pipe are refused by name', async t => {
  const folder = await scratch(t)
  const place = (name: string): string => {
    mkdirSync(join(folder, name))
    return join(folder, name, lockName)
  }
  symlinkSync('nowhere', place('dangling'))
  const pipe = place('pipe')
  execFileSync('mkfifo', [pipe])
  symlinkSync(pipe, place('to-pipe'))
  for (const name of ['dangling', 'to-pipe']) await (await lockRun(join(folder, name))).release()
  mkdirSync(place('folder'))
  for (const name of ['folder', 'pipe'])
    await assert.rejects(lockRun(join(folder, name)), {code: 'WRITE', message: /run\.lock is no file, but a lock was expected there/})
})
