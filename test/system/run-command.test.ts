/** Other programs, run where too many files are open already. */
import assert from 'node:assert/strict'
import {spawnSync} from 'node:child_process'
import {test} from 'node:test'

/** Opens files until there are no more, then runs a program and prints what became of it. */
const script = `
  import {openSync} from 'node:fs'
  const {runCommand} = await import(${JSON.stringify(new URL('../../src/system/run-command.js', import.meta.url))})
  try { for (;;) openSync('/dev/null', 'r') } catch {}
  console.log(JSON.stringify(await runCommand('true', [])))
`

test('a program that cannot be started for too many open files is reported as one that did not run', () => {
  const line = 'ulimit -n 64; exec "$0" --input-type=module -e "$1"'
  const {status, stdout, stderr} = spawnSync('sh', ['-c', line, process.execPath, script], {encoding: 'utf8'})
  assert.equal(status, 0, stderr)
  assert.deepEqual(JSON.parse(stdout), {status: null, stdout: '', stderr: '', log: '', missing: 'EMFILE'})
})
