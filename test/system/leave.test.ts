/** Ending at once: with whom, when, and that all who listen for the end are called before. */
import assert from 'node:assert/strict'
import {spawnSync} from 'node:child_process'
import {test} from 'node:test'

const leave = new URL('../../src/system/leave.js', import.meta.url).href

/** Runs a program that gives a way to end, which writes the status with which it was asked to. */
function ended(body: string, {args = [], env = {}}: {args?: string[]; env?: Record<string, string>} = {}): string {
  const text = `import {leaveAtOnce, leaveBy} from ${JSON.stringify(leave)}
    import {writeSync} from 'node:fs'
    const own = status => writeSync(1, 'own ' + status)
    ${body}`
  const {NODE_OPTIONS: _, NODE_V8_COVERAGE: __, ...plain} = process.env
  return spawnSync(process.execPath, [...args, '--input-type=module', '-e', text], {env: {...plain, ...env}, encoding: 'utf8'}).stdout
}

test('the way that was given ends the process with its status, after all listeners', () => {
  const body = `leaveBy(own); process.on('exit', () => writeSync(1, 'listener ')); leaveAtOnce(); process.exit(4)`
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number]
  const cannotKeepCode = major === 22 && minor < 10
  assert.equal(ended(body), cannotKeepCode ? 'listener ' : 'listener own 4')
})

test('nothing changes without a way, before it is asked for, and where Node is observed', () => {
  assert.equal(ended(`leaveAtOnce(); process.exit(4)`), '')
  assert.equal(ended(`leaveBy(own); process.exit(4)`), '')
  const body = `leaveBy(own); leaveAtOnce(); process.exit(4)`
  assert.equal(ended(body, {args: ['--trace-warnings']}), '')
  assert.equal(ended(body, {env: {NODE_OPTIONS: '--trace-warnings'}}), '')
})
