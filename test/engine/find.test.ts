/** Looking for libtorch: made-up folders, no Python code run. */
import assert from 'node:assert/strict'
import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {dirname, join} from 'node:path'
import {after, test} from 'node:test'
import {type UserError} from '../../src/config/errors.js'
import {recentEnough, searchTorch} from '../../src/engine/torch/find.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-find-'))
after(() => rmSync(folder, {recursive: true}))

function fake(name: string, version: string, {abi = 1, cuda = false} = {}): string {
  const root = join(folder, name, 'lib', 'python3.11', 'site-packages', 'torch')
  const files = {
    [`lib/libtorch_cpu.${process.platform === 'darwin' ? 'dylib' : 'so'}`]: '',
    'include/ATen/ATen.h': '',
    'version.py': `from typing import Optional\n__version__ = '${version}'\n`,
    'share/cmake/Torch/TorchConfig.cmake': `set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=${abi}")`,
    ...(cuda ? {'lib/libtorch_cuda.so': ''} : {})
  }
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), {recursive: true})
    writeFileSync(join(root, path), text)
  }
  return root
}

test('DINOV2_TORCH may name the package, its parent or its environment', async () => {
  const root = fake('good', '2.12.1+cu130', {abi: 0, cuda: true})
  for (const named of [root, dirname(root), join(folder, 'good')]) {
    const {torch} = await searchTorch({DINOV2_TORCH: named})
    assert.deepEqual(torch, {root, version: '2.12.1+cu130', cuda: true, cxx11abi: 0, python: null, source: 'DINOV2_TORCH'})
  }
})

test('a folder that was named and does not serve is an error, never passed over', async () => {
  for (const [named, words] of [
    [join(folder, 'nothing'), /holds lib\/libtorch_cpu/],
    [fake('old', '2.1.0'), /torch 2\.1\.0; expected 2\.11 or newer/]
  ] as const)
    await assert.rejects(
      searchTorch({DINOV2_TORCH: named}),
      (error: UserError) => error.exit === 5 && words.test(error.message) && Boolean(error.hint)
    )
})

test('versions are compared by number', () => {
  assert.deepEqual(
    ['2.9.1', '2.11.0', '2.13.0+cpu', '3.0.0a0', '1.13.1'].map(version => recentEnough(version)),
    [false, true, true, true, false]
  )
})
