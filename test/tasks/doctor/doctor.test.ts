/** `dinov2 doctor` on a machine that has nothing, and its measurement. */
import assert from 'node:assert/strict'
import {mkdirSync, symlinkSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import type {Doctor} from '../../../src/tasks/doctor/doctor.js'
import {folder, realBinary, start} from '../../support/program.js'

test('without compiler, Python and torch it says so, names the commands that help, and measures on wasm', async () => {
  const home = folder()
  mkdirSync(join(home, 'bin'))
  symlinkSync(process.execPath, join(home, 'bin/node'))
  const env = {PATH: join(home, 'bin'), HOME: home, XDG_CACHE_HOME: join(home, 'cache'), XDG_DATA_HOME: join(home, 'data'), CXX: ''}
  const {status, stdout, stderr} = await start(realBinary, ['doctor', '--seconds', '1', '--json'], {env}).ended
  assert.equal(status, 0, stderr)
  const facts = JSON.parse(stdout) as Doctor
  assert.equal(facts.node, process.versions.node)
  assert.equal(facts.python, null)
  assert.equal(facts.compiler, null)
  assert.ok(facts.advice.some(({command}) => command === 'dinov2 engine install torch'))
  assert.ok(facts.advice.some(({command}) => /apt install g\+\+|xcode-select/.test(command)))
  assert.equal(facts.engines.find(({engine}) => engine === 'torch')!.available, false)
  assert.equal(facts.speed!.engine, 'wasm')
  assert.ok(facts.speed!.imagesPerSecond > 0)
})

test('--seconds 0 measures nothing, and the lines name every engine', async () => {
  const {status, stdout, stderr} = await start(realBinary, ['doctor', '--seconds', '0']).ended
  assert.equal(status, 0, stderr)
  for (const name of ['node', 'processor', 'memory', 'torch', 'tensorflow', 'wasm', 'compiler', 'python'])
    assert.match(stdout, new RegExp(`^${name} +\\S`, 'm'))
  assert.doesNotMatch(stdout, /images\/s/)
})
