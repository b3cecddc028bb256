/** Compiling the addon, with a stand-in for the compiler that writes down how it was called. */
import assert from 'node:assert/strict'
import {chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {hostname, tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, beforeEach, test} from 'node:test'
import {type UserError} from '../../src/config/errors.js'
import {packageFolder} from '../../src/system/paths.js'
import {buildAddon, builtAddon, missingCudaHeaders} from '../../src/engine/torch/build.js'
import type {TorchInfo} from '../../src/engine/torch/find.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-build-'))
const torch: TorchInfo = {root: join(folder, 'torch'), version: '2.13.0', cuda: false, cxx11abi: 1, python: null, source: 'private'}
const calls = join(folder, 'calls')
const before = {CXX: process.env['CXX'], XDG_CACHE_HOME: process.env['XDG_CACHE_HOME']}
after(() => {
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
  rmSync(folder, {recursive: true})
})

/** A program that notes its arguments, does `body`, and leaves an output where -o says. */
function compiler(body = ''): void {
  const path = join(folder, 'cxx')
  writeFileSync(path, `#!/bin/sh\necho "$@" >> ${calls}\n${body}\nfor out; do :; done\necho made > "$out"\n`)
  chmodSync(path, 0o755)
  process.env['CXX'] = path
}
const called = (): string[] => (existsSync(calls) ? readFileSync(calls, 'utf8').trim().split('\n') : [])
const sources = readdirSync(join(packageFolder(), 'native')).filter(name => name.endsWith('.cc')).length
const quiet = (): void => undefined

let count = 0
beforeEach(() => {
  process.env['XDG_CACHE_HOME'] = join(folder, `cache${count++}`)
  rmSync(calls, {force: true})
})

test('each source is compiled once, linked once, and not again', async () => {
  compiler()
  const said: string[] = []
  const addon = await buildAddon(torch, sentence => said.push(sentence))
  assert.equal(called().length, sources + 1)
  assert.equal(said.length, 1)
  assert.match(called().join('\n'), /-D_GLIBCXX_USE_CXX11_ABI=1 .*-c /)
  assert.equal(await buildAddon(torch, quiet), addon)
  assert.equal(builtAddon(torch), addon)
  assert.equal(called().length, sources + 1)
  // Another version of libtorch has an addon of its own.
  assert.notEqual(await buildAddon({...torch, version: '2.12.0'}, quiet), addon)
})

test('two builders at once compile once', async () => {
  compiler('sleep 0.3')
  const [a, b] = await Promise.all([buildAddon(torch, quiet), buildAddon(torch, quiet)])
  assert.equal(a, b)
  assert.equal(called().length, sources + 1)
})

test('a lock left behind by a process that is gone does not stop anybody', async () => {
  compiler()
  const addon = await buildAddon(torch, quiet)
  rmSync(addon)
  // No process has this number: it is above the kernel's limit.
  writeFileSync(`${addon.replace(/\/addon\.node$/, '')}.lock`, `99999999 ${hostname()}\n`)
  assert.equal(await buildAddon(torch, quiet), addon)
})

test('a failing compilation says the last lines and keeps the log', async () => {
  compiler('echo "addon.cc:7: error: it does not compile" >&2; exit 1')
  await assert.rejects(buildAddon(torch, quiet), (error: UserError) => {
    assert.equal(error.exit, 5)
    assert.match(error.message, /it does not compile/)
    const log = /The whole log is (\S+( \S+)*\.log)/.exec(error.message)?.[1]
    assert.ok(log && readFileSync(log, 'utf8').includes('it does not compile'))
    return true
  })
  assert.equal(builtAddon(torch), null)
  compiler()
  await buildAddon(torch, quiet)
})

test('without a compiler the error says what to install', async () => {
  process.env['CXX'] = join(folder, 'no-such-compiler')
  mkdirSync(join(folder, 'torch'), {recursive: true})
  await assert.rejects(
    buildAddon(torch, quiet),
    (error: UserError) => error.exit === 5 && error.code === 'NO_COMPILER' && /install/.test(error.hint ?? '')
  )
})

test("headers of CUDA are found in a toolkit, in the packages of PyTorch's wheels and in Triton, and what is missing is named", () => {
  const put = (...path: string[]): void => {
    mkdirSync(join(folder, ...path.slice(0, -1)), {recursive: true})
    writeFileSync(join(folder, ...path), '')
  }
  put('nvidia', 'cu13', 'include', 'of-runtime.h')
  put('nvidia', 'cu13', 'include', 'cccl', 'nv', 'of-cccl')
  put('triton', 'backends', 'nvidia', 'include', 'crt', 'of-triton.h')
  const headers = ['of-runtime.h', 'nv/of-cccl', 'crt/of-triton.h', 'of-toolkit.h']
  assert.deepEqual(missingCudaHeaders(torch, headers), ['of-toolkit.h'])
  const home = process.env['CUDA_HOME']
  put('toolkit', 'include', 'of-toolkit.h')
  process.env['CUDA_HOME'] = join(folder, 'toolkit')
  assert.deepEqual(missingCudaHeaders(torch, headers), [])
  if (home === undefined) delete process.env['CUDA_HOME']
  else process.env['CUDA_HOME'] = home
})
