/** The library entry: its types are as declared, its example runs, and its vectors are those of `embed`. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {promisify} from 'node:util'
import type * as Declared from '../../src/tasks/dinov2.js'
import * as library from '../../src/tasks/library.js'
import {drawnFolder, drawnImage} from '../support/drawn-images.js'
import {realBinary, run} from '../support/program.js'
import {projectFolder} from '../support/scratch.js'

const api: typeof Declared = library
const dir = mkdtempSync(join(tmpdir(), 'dinov2-library-'))
after(() => rmSync(dir, {recursive: true, force: true}))

test('it gives what is declared, and nothing else', () => {
  assert.deepEqual(Object.keys(library).sort(), ['UserError', 'embedImages', 'openIndex', 'openModel', 'searchIndex'])
})

test('the example runs as a program of a user; vectors are those of the command; an index is searched', async () => {
  const paths = await drawnFolder(join(dir, 'photos'), ['a', 'b'], 3)
  const env = {...process.env, ENGINE: 'wasm'}
  const example = (...args: string[]): Promise<{stdout: string}> =>
    promisify(execFile)(process.execPath, [join(projectFolder(), 'examples/library/search.js'), ...args], {env})
  const {stdout} = await example(join(dir, 'photos'), paths[0]!)
  const lines = stdout.trim().split('\n')
  assert.equal(lines.length, 3)
  assert.equal(lines[0], `1.000 ${paths[0]}`)

  const made = await run(realBinary, [
    'embed',
    join(dir, 'photos'),
    '--model',
    'starter',
    '--engine',
    'wasm',
    '--normalize',
    '-o',
    join(dir, 'v.jsonl')
  ])
  assert.equal(made.status, 0, made.stderr)
  assert.equal((await run(realBinary, ['index', join(dir, 'v.jsonl'), '-o', join(dir, 'v.index')])).status, 0)
  assert.equal((await example(join(dir, 'photos'), paths[0]!, join(dir, 'v.index'))).stdout, stdout)

  const model = await api.openModel('starter', {engine: 'wasm', normalize: true})
  const rows: Declared.EmbeddedImage[] = []
  const refused: string[] = []
  const images = [
    {id: 'x', bytes: await drawnImage(0, 0)},
    {id: 'bad', bytes: Buffer.from('no image')}
  ]
  for await (const row of api.embedImages(images, model, {onRefused: ({id, reason}) => refused.push(`${id}: ${reason}`)})) rows.push(row)
  assert.deepEqual(refused, ['bad: it is text, not an image'])
  assert.deepEqual(
    rows.map(({id, vector}) => [id, vector.length]),
    [['x', model.dim]]
  )
  const index = await api.openIndex(join(dir, 'v.index'))
  const [found] = await api.searchIndex(index, rows, 1)
  assert.equal(found![0]!.id, paths[0])
  assert.ok(found![0]!.similarity! > 0.9999)
  await assert.rejects(api.searchIndex(index, [{id: 'short', vector: new Float32Array(3)}]), /The vector of short has 3 numbers/)
  model.close()
  await assert.rejects(
    api.embedImages(paths, model).next(),
    (error: unknown) => error instanceof api.UserError && error.code === 'MODEL_CLOSED'
  )
  await assert.rejects(api.openModel('no-such-model'), api.UserError)
})
