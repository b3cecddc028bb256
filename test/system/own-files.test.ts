/** Native code is loaded only from files and folders that nobody else may write. */
import assert from 'node:assert/strict'
import {chmodSync, mkdirSync, statSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {it} from 'node:test'
import {assertOwn, isOwn, makeOwn} from '../../src/system/own-files.js'
import {folder} from '../support/program.js'

it('code that others may write, or whose folder they may write, is refused with the remedy', () => {
  const place = join(folder(), 'cache')
  mkdirSync(place, {mode: 0o755})
  const addon = join(place, 'addon.node')
  writeFileSync(addon, '')
  const paths = [addon, place]
  chmodSync(addon, 0o755)
  assert.doesNotThrow(() => assertOwn(paths))
  for (const [path, mode] of [
    [addon, 0o775],
    [addon, 0o757],
    [place, 0o777]
  ] as const) {
    chmodSync(path, mode)
    assert.equal(isOwn(paths), false)
    assert.throws(() => assertOwn(paths), {exit: 5, code: 'NOT_OWN', hint: new RegExp(`chmod go-w ${path}`)})
    makeOwn(paths)
    assert.ok(isOwn(paths))
    assert.equal(statSync(path).mode & 0o777, 0o755)
  }
})

it(
  'code of another user is refused, and not taken over',
  {skip: process.getuid?.() !== 0 && 'needs the right to give files away'},
  async () => {
    const {chownSync} = await import('node:fs')
    const path = join(folder(), 'addon.node')
    writeFileSync(path, '')
    chmodSync(path, 0o755)
    chownSync(path, 12345, 12345)
    assert.throws(() => assertOwn([path]), /belongs to another user \(12345\)/)
    makeOwn([path])
    assert.equal(isOwn([path]), false)
  }
)
