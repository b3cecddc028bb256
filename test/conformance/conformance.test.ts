/**
 * tfjs-core's operator suites on the torch engine: half a minute, so none is left out. In a process of its own, since
 * jasmine brings globals.
 */
import assert from 'node:assert/strict'
import {fileURLToPath} from 'node:url'
import {test} from 'node:test'
import {runCommand} from '../../src/system/run-command.js'
import {reasonToSkip} from './run.js'

test('the torch engine keeps what tfjs-core demands of a backend', {timeout: 300_000}, async () => {
  const program = fileURLToPath(new URL('run.js', import.meta.url))
  const {stdout, stderr} = await runCommand(process.execPath, [program, '--json'])
  const report = JSON.parse(stdout || '{}') as {
    passed: number
    failed: number
    failures: {suite: string; specification: string; message: string}[]
  }
  assert.ok(report.failures, stderr)
  assert.deepEqual(report.failures, [])
  // A run that loads no suites would find no failures either.
  assert.ok(report.passed > 3000, `only ${report.passed} specifications passed`)
})

test('only what an engine cannot hold counts as skipped', () => {
  assert.equal(reasonToSkip(["Error: Kernel 'FFT' not registered for backend 'torch'"]), 'no kernel FFT')
  assert.equal(
    reasonToSkip(['Error: the torch engine holds no tensors of type complex64; expected float32']),
    'no tensors of type complex64'
  )
  assert.equal(reasonToSkip(['Expected 1 to equal 2.']), null)
})
