/** Python is asked for its torch once, and again when anything that its answer depends on has changed. */
import assert from 'node:assert/strict'
import {appendFileSync, chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {delimiter, join} from 'node:path'
import {after, test} from 'node:test'
import {torchOfPython} from '../../../src/engine/torch/python-torch.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-python-'))
const before = {...process.env}
const here = process.cwd()
after(() => {
  process.chdir(here)
  Object.assign(process.env, before)
  for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name]
  rmSync(folder, {recursive: true})
})

const calls = join(folder, 'calls')
const packages = join(folder, 'site-packages')
const cache = join(folder, 'cache', 'dinov2', 'python-torch.json')
const work = join(folder, 'work')

/** A script that answers as Python would, and counts how often it was asked. */
function python(where: string, {torch, words = 'pyenv'}: {torch: string | null; words?: string}): string {
  mkdirSync(where, {recursive: true})
  const answer = JSON.stringify({torch, python: join(folder, 'python'), prefix: folder, path: [packages, join(folder, 'user')]})
  writeFileSync(join(where, 'python3'), `#!/bin/sh\n# ${words}\necho >> '${calls}'\necho '${answer}'\n`, {mode: 0o755})
  process.env['PATH'] = [where, before['PATH']].join(delimiter)
  return join(where, 'python3')
}
const asked = (): number => (existsSync(calls) ? readFileSync(calls, 'utf8').length : 0)

/** How often Python is asked by one question. */
async function questions(options?: {fresh?: boolean}): Promise<number> {
  const from = asked()
  await torchOfPython(options)
  return asked() - from
}

test('an answer is kept, also that there is no torch', async () => {
  process.env['XDG_CACHE_HOME'] = join(folder, 'cache')
  for (const made of [packages, work]) mkdirSync(made)
  process.chdir(work)
  for (const torch of [null, join(packages, 'torch', '__init__.py')]) {
    python(join(folder, torch ? 'with' : 'without', 'shims'), {torch})
    const wanted = {python: join(folder, 'python'), torch: torch && {root: join(packages, 'torch'), python: join(folder, 'python')}}
    assert.equal(await questions(), 1)
    assert.equal(await questions(), 0)
    assert.deepEqual(await torchOfPython(), wanted)
    assert.equal(await questions({fresh: true}), 1)
  }
})

test('each thing that the answer depends on asks anew when it changes', async () => {
  const shim = python(join(folder, 'pyenv', 'shims'), {torch: null})
  assert.equal(await questions(), 1)
  const soon = (path: string): void => utimesSync(path, new Date(), new Date(Date.now() + 5000))
  for (const [what, change] of [
    ['a package in its folder', () => (writeFileSync(join(packages, 'torch.py'), ''), soon(packages))],
    ['a folder that was not there', () => mkdirSync(join(folder, 'user'))],
    ['the version of pyenv', () => writeFileSync(join(folder, 'pyenv', 'version'), '3.12')],
    ['a version in the folder', () => writeFileSync(join(work, '.python-version'), '3.12')],
    ['a version above the folder', () => writeFileSync(join(folder, '.python-version'), '3.12')],
    ['the program', () => soon(shim)],
    ['a variable of Python', () => (process.env['PYTHONPATH'] = folder)],
    ['another folder', () => process.chdir(folder)]
  ] as const) {
    change()
    assert.equal(await questions(), 1, what)
    assert.equal(await questions(), 0, `${what}, again`)
  }
})

test('what a path file adds counts, also when the file is changed in place', async () => {
  writeFileSync(join(packages, 'more.pth'), 'a\n')
  python(join(folder, 'path-file', 'shims'), {torch: null})
  assert.equal(await questions(), 1)
  appendFileSync(join(packages, 'more.pth'), 'b\n')
  utimesSync(join(packages, 'more.pth'), new Date(), new Date(Date.now() + 9000))
  assert.equal(await questions(), 1)
})

test('nothing is kept of a script of another kind', async () => {
  python(join(folder, 'other', 'shims'), {torch: null, words: 'something else'})
  assert.equal(await questions(), 1)
  assert.equal(await questions(), 1)
})

test('a record that is damaged, or that others could have written, is not believed', async () => {
  python(join(folder, 'foreign', 'shims'), {torch: null})
  assert.equal(await questions(), 1)
  chmodSync(cache, 0o666)
  assert.equal(await questions(), process.getuid ? 1 : 0)
  chmodSync(cache, 0o644)
  for (const text of ['', '{', '[]', '{"a": 1}', readFileSync(cache, 'utf8').replaceAll('"watched":[', '"watched":[3,')]) {
    writeFileSync(cache, text)
    assert.equal(await questions(), 1, text.slice(0, 40))
  }
})
