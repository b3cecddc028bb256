/** The benchmark for a GPU goes its whole way on a CPU with toy sizes, and says what it did not measure. */
import assert from 'node:assert/strict'
import {fileURLToPath} from 'node:url'
import {test} from 'node:test'
import {runCommand} from '../../src/system/run-command.js'

const program = fileURLToPath(new URL('../../bench/gpu/run.js', import.meta.url))

test('every part runs and has rows; what is not measured is said', {timeout: 180_000}, async () => {
  const {status, stdout, stderr} = await runCommand(process.execPath, [program, '--toy', '--device', 'cpu'])
  assert.equal(status, 0, `${stdout}\n${stderr}`)
  for (const part of ['build', 'conformance', 'verify', 'embed', 'pretrain', 'distill'])
    assert.match(stdout, new RegExp(`^\\| ${part} \\|`, 'm'))
  assert.match(stdout, /^\| embed \| toy, 48 px, batch 2, pixels to cls \| [\d.]+ images\/s/m)
  assert.match(stdout, /^\| distill \| toy \| [\d.e-]+ images\/s/m)
  assert.match(stdout, /\| at least PyTorch, compiled: (not measured|[\d.]+ times, (met|missed)) \|$/m)
  assert.match(stdout, /^\| pretrain \| toy, batch 2 \| [\d.e-]+ images\/s, [\d.]+ GiB \(\w+\) \| [\d.e-]+ images\/s \|/m) // both sides ran
  assert.match(
    stdout,
    /at least 1\.3 times PyTorch: [\d.]+ times, (met|missed); half its memory: not measured; GPU busy at least 90 %: not/
  )
  assert.match(stdout, /files to features \| not measured: name a folder/)
})

test('a part that there is not is refused by name', async () => {
  const {status, stderr} = await runCommand(process.execPath, [program, '--parts', 'sleep'])
  assert.equal(status, 1)
  assert.match(stderr, /there is no part sleep; expected some of build, /)
})
