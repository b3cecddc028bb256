/** hnswlib-node is loaded when a graph is built or read: everything else works without its compiled binding. */
import {strict as assert} from 'node:assert'
import {mkdir, mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {loadGraphLibrary} from '../../src/search/hnsw.js'
import {realBinary, run} from '../support/program.js'
import {clusteredRows, testMeta, writeEmbeddings} from '../support/vectors.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'graph-library-'))))
after(() => rm(dir, {recursive: true, force: true}))

test('a missing library is an error of status 5 that says how to get it', async () => {
  const missing = {exit: 5, code: 'NO_GRAPH', hint: /npm install --no-save --omit=dev hnswlib-node` in the folder of dinov2/}
  assert.throws(() => loadGraphLibrary(join(dir, 'nowhere.js')), missing)
  const uncompiled = join(dir, 'node_modules/hnswlib-node')
  await mkdir(uncompiled, {recursive: true})
  await writeFile(join(uncompiled, 'package.json'), '{"main": "index.js"}')
  await writeFile(join(uncompiled, 'index.js'), "throw new Error('no binding')")
  const plain = {exit: 5, code: 'NO_GRAPH', message: /no binding/, hint: /`npm rebuild hnswlib-node` in the folder/}
  assert.throws(() => loadGraphLibrary(join(dir, 'nowhere.js')), plain)
})

test('without the library an index asked for as a graph ends with status 5, and any other is made', async () => {
  const dim = 8
  await writeEmbeddings(join(dir, 'rows.arrow'), clusteredRows(20, 0, {dim, classes: 4, folder: 'a'}), testMeta(dim, {}), 256)
  await writeEmbeddings(join(dir, 'many.arrow'), clusteredRows(20_000, 0, {dim, classes: 4, folder: 'a'}), testMeta(dim, {}), 4096)
  const hide = join(dir, 'hide.cjs')
  await writeFile(
    hide,
    "const M = require('node:module'); const find = M._resolveFilename; M._resolveFilename = function (name, ...rest) { if (name === 'hnswlib-node') throw Object.assign(new Error('hidden'), {code: 'MODULE_NOT_FOUND'}); return find.call(this, name, ...rest) }"
  )
  const index = (...args: string[]): ReturnType<typeof run> =>
    run(realBinary, ['index', ...args], {cwd: dir, env: {NODE_OPTIONS: `--require=${hide}`}})

  const named = await index('rows.arrow', '--kind', 'hnsw', '-o', 'graph.index')
  assert.equal(named.status, 5, named.stderr)
  assert.match(named.stderr, /npm rebuild hnswlib-node/)
  const auto = await index('rows.arrow', '-o', 'auto.index')
  assert.equal(auto.status, 0, auto.stderr)
  const many = await index('many.arrow', '-o', 'many.index')
  assert.equal(many.status, 0, many.stderr)
  assert.match(many.stderr, /hnswlib-node, which does not load.*20000 rows is exact/s)
})
