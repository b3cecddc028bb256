/** Rows of an interrupted prediction: read back for the images that they are of, and for no others. */
import assert from 'node:assert/strict'
import {mkdtemp, readFile, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import type {ImageRef} from '../../../../src/data/sources/image-ref.js'
import {PredictedRows} from '../../../../src/tasks/eval/shared/predicted-rows.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'predicted-'))))
after(() => rm(dir, {recursive: true, force: true}))

const image = (id: string, fields: object = {}, path = `photos/${id}.png`): ImageRef => ({id, path, fields: {...fields}})
const open = (name: string): Promise<PredictedRows> =>
  PredictedRows.open({path: join(dir, name), output: name, head: 'a released head', options: {top: 1}, resume: true})

test('an image whose label or file has changed since is predicted again, one in another folder is not', async () => {
  const first = await open('rows')
  first.begin('model')
  for (const id of ['a', 'b', 'c', 'd']) await first.addOf(image(id, {label: 'x'}), {id, label: 'x', class: 'cat'})
  await first.close()

  const second = await open('rows')
  second.begin('model')
  assert.deepEqual(second.earlier(image('a', {label: 'x'})), {id: 'a', label: 'x', class: 'cat'})
  assert.deepEqual(second.earlier(image('b', {label: 'x'}, 'elsewhere/b.png')), {id: 'b', label: 'x', class: 'cat'})
  assert.equal(second.earlier(image('c', {label: 'y'})), undefined)
  assert.equal(second.earlier(image('d', {label: 'x'}, 'photos/other.png')), undefined)
  assert.equal(second.earlier(image('e')), undefined)
  await second.addOf(image('c', {label: 'y'}), {id: 'c', label: 'y', class: 'dog'})
  await second.close()

  const third = await open('rows')
  assert.deepEqual(third.earlier(image('c', {label: 'y'})), {id: 'c', label: 'y', class: 'dog'})
  await third.close()
  const text = await readFile(join(dir, 'rows'), 'utf8')
  assert.equal(text.trim().split('\n').length, 6, 'what it was made with, four rows, one row again')
})

test('rows of an earlier version, which say nothing of their images, are taken', async () => {
  await writeFile(join(dir, 'old'), `${JSON.stringify({predicted_with: {}})}\n${JSON.stringify({id: 'a', class: 'cat'})}\n`)
  const rows = await open('old')
  assert.deepEqual(rows.earlier(image('a', {label: 'anything'})), {id: 'a', class: 'cat'})
  await rows.close()
})

test('a kept row counts while its file is there and is its own', async () => {
  const [own, shared] = [join(dir, 'own.png'), join(dir, 'shared.png')]
  const withFiles = (): Promise<PredictedRows> =>
    PredictedRows.open({path: join(dir, 'files'), output: 'files', head: 'a released head', options: {}, file: 'mask', resume: true})
  const first = await withFiles()
  first.begin('model')
  for (const [id, mask] of [
    ['a', own],
    ['b', shared],
    ['c', shared]
  ] as const) {
    await writeFile(mask, id)
    await first.addOf(image(id), {id, mask})
  }
  await first.close()
  const valid = async (): Promise<string[]> => {
    const rows = await withFiles()
    const found = ['a', 'b', 'c'].filter(id => rows.earlier(image(id)) !== undefined)
    await rows.close()
    return found
  }
  assert.deepEqual(await valid(), ['a', 'c'], 'the file of b is that of c by now')
  await rm(own)
  assert.deepEqual(await valid(), ['c'])
})
