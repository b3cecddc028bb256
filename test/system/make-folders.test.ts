/** Folders made with those above them: as the system's own, but with an end where nothing may be made. */
import assert from 'node:assert/strict'
import {existsSync, statSync} from 'node:fs'
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {makeFolders, makeFoldersSync} from '../../src/system/make-folders.js'
import {scratch} from '../support/scratch.js'

test('all that is missing is made, and the first of it is named', async t => {
  const root = await scratch(t)
  const deep = join(root, 'a', 'b', 'c')
  assert.equal(await makeFolders(deep), join(root, 'a'))
  assert.ok(statSync(deep).isDirectory())
  assert.equal(await makeFolders(deep), undefined)
  assert.equal(await makeFolders(join(deep, 'd')), join(deep, 'd'))
  const many = await Promise.all(Array.from({length: 8}, () => makeFolders(join(root, 'x', 'y'))))
  assert.ok(many.some(first => first !== undefined) && statSync(join(root, 'x', 'y')).isDirectory())
  makeFoldersSync(join(root, 'p', 'q'), 0o700)
  makeFoldersSync(join(root, 'p', 'q'))
  assert.equal(statSync(join(root, 'p', 'q')).mode & 0o777, 0o700)
})

test('a file in the place of a folder is an error', async t => {
  const root = await scratch(t)
  const file = join(root, 'file')
  await writeFile(file, '')
  await assert.rejects(makeFolders(file), {code: 'EEXIST'})
  await assert.rejects(makeFolders(join(file, 'a', 'b')), {code: 'ENOTDIR'})
  assert.throws(() => makeFoldersSync(file), {code: 'EEXIST'})
  assert.throws(() => makeFoldersSync(join(file, 'a', 'b')), {code: 'ENOTDIR'})
})

test('where the system says that what is there is missing, it ends', {skip: !existsSync('/proc/self')}, async () => {
  await assert.rejects(makeFolders('/proc/nobody/a/b'), {code: 'ENOENT'})
  assert.throws(() => makeFoldersSync('/proc/nobody/a/b'), {code: 'ENOENT'})
})
