/**
 * Indexing and searching as steps: what is added and removed equals what is rebuilt, bytes repeat, and nothing unfit
 * gets in.
 */
import assert from 'node:assert/strict'
import {mkdtemp, open, readFile, rm, truncate, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {batchOf, type EmbeddingMeta, type Row} from '../../../src/files/embeddings/embeddings.js'
import {fileSink} from '../../../src/files/embeddings/bytes.js'
import {isIndex, openIndex} from '../../../src/files/search-index/vector-index.js'
import {buildIndex, type IndexOptions, type IndexReport} from '../../../src/tasks/search/build-index.js'
import {loadIndex} from '../../../src/tasks/search/search.js'
import {clusteredRows, testMeta, writeEmbeddings} from '../../support/vectors.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'index-'))))
after(() => rm(dir, {recursive: true, force: true}))

const D = 16
const meta = testMeta(D, {fingerprint: 'c'.repeat(64)})

const draw = (n: number, from = 0): Row[] => clusteredRows(n, from, {dim: D, classes: 12, folder: 'p'})

const embeddings = (name: string, rows: readonly Row[], change: Partial<EmbeddingMeta> = {}): Promise<string> =>
  writeEmbeddings(join(dir, name), rows, {...meta, ...change}, 64)

async function index(name: string, options: IndexOptions): Promise<{path: string; report: IndexReport}> {
  const built = await finish(buildIndex(options))
  const path = join(dir, name)
  const handle = await open(path, 'w')
  await built.write(fileSink(handle))
  await handle.close()
  return {path, report: built.report}
}
async function finish<T>(events: AsyncGenerator<unknown, T>): Promise<T> {
  for (;;) {
    const {value, done} = await events.next()
    if (done) return value
  }
}
async function* list(...ids: string[]): AsyncGenerator<string> {
  yield* ids
}
const same = async (a: string, b: string): Promise<void> => assert.deepEqual(await readFile(a), await readFile(b))

test('an index keeps ids, fields and making, and repeats to the byte', async () => {
  const rows = draw(100)
  const source = await embeddings('a.arrow', rows)
  const a = await index('a.index', {sources: [source]})
  const b = await index('b.index', {sources: [await embeddings('a.npy', rows)]})
  await same(a.path, b.path)
  assert.deepEqual(a.report, {
    kind: 'exact',
    metric: 'cosine',
    dim: D,
    rows: 100,
    added: 100,
    replaced: 0,
    removed: 0,
    fingerprint: meta.fingerprint,
    recall: {k: 10, value: 1, queries: 0}
  })
  assert.ok(await isIndex(a.path))
  assert.ok(!(await isIndex(source)) && !(await isIndex(dir)) && !(await isIndex(join(dir, 'absent'))))
  const file = await openIndex(a.path)
  assert.deepEqual({...file.rows.at(41)!.fields}, {label: 'c5', odd: [41]})
  assert.deepEqual(file.header.meta, {
    ...file.header.meta,
    fingerprint: meta.fingerprint,
    normalized: true,
    preprocessing: {crop: 224, resize: 256}
  })
  await file.close()
})

test('exact: adding and removing equals building anew, to the byte', async () => {
  const rows = draw(90)
  const [first, second] = [await embeddings('f.arrow', rows.slice(0, 60)), await embeddings('s.jsonl', rows.slice(60))]
  const whole = await index('whole.index', {sources: [await embeddings('w.parquet', rows)]})
  const part = await index('part.index', {sources: [first]})
  const added = await index('added.index', {sources: [second], base: part.path})
  await same(added.path, whole.path)
  assert.equal(added.report.added, 30)
  await same((await index('both.index', {sources: [first, second]})).path, whole.path)

  const gone = new Set(['p/3.jpg', 'p/77.jpg'])
  const without = await index('without.index', {
    sources: [
      await embeddings(
        'wo.arrow',
        rows.filter(({id}) => !gone.has(id))
      )
    ]
  })
  const removed = await index('removed.index', {sources: [], base: whole.path, remove: list(...gone)})
  await same(removed.path, without.path)
  assert.equal(removed.report.removed, 2)

  const changed = {...rows[3]!, vector: rows[4]!.vector, fields: {label: 'new'}}
  const replaced = await index('replaced.index', {sources: [await embeddings('c.arrow', [changed])], base: whole.path, replace: true})
  assert.equal(replaced.report.replaced, 1)
  await same(
    replaced.path,
    (await index('moved.index', {sources: [await embeddings('m.arrow', [...rows.filter(({id}) => id !== 'p/3.jpg'), changed])]})).path
  )
})

test('an id twice, an unknown id to remove, a number that is not finite: refused', async () => {
  const rows = draw(10)
  const source = await embeddings('t.arrow', rows)
  await assert.rejects(index('x', {sources: [source, source]}), {code: 'DUPLICATE_ID', exit: 2, message: /p\/0\.jpg/})
  assert.equal((await index('x', {sources: [source, source], replace: true})).report.rows, 10)
  const {path} = await index('y', {sources: [source]})
  await assert.rejects(index('z', {sources: [], base: path, remove: list('p/1.jpg', 'nobody')}), {code: 'UNKNOWN_ID', message: /nobody/})
  await assert.rejects(index('z', {sources: [await embeddings('nan.arrow', [{...rows[0]!, vector: new Float32Array(D).fill(NaN)}])]}), {
    code: 'NOT_FINITE',
    message: /p\/0\.jpg/
  })
  await assert.rejects(index('z', {sources: []}), {code: 'NO_INPUT', exit: 3})
})

test('two models do not meet in an index, nor in a search', async () => {
  const {path} = await index('one.index', {sources: [await embeddings('one.arrow', draw(20))]})
  const other = await embeddings('other.arrow', draw(20, 20), {fingerprint: 'd'.repeat(64)})
  await assert.rejects(index('x', {sources: [other], base: path}), {code: 'MIXED_EMBEDDINGS', message: /cccccccccccc.*dddddddddddd/s})
  const searcher = await loadIndex(path)
  assert.throws(() => searcher.check({name: 'q', meta: {...meta, preprocessing: {resize: 64, crop: 56}}}), {
    code: 'MIXED_EMBEDDINGS',
    message: /two preprocessings/
  })
  searcher.check({name: 'q', meta})
})

test('a search gives ranks, similarities and fields; a query may leave itself out', async () => {
  const rows = draw(60)
  const searcher = await loadIndex((await index('s.index', {sources: [await embeddings('s.arrow', rows)]})).path)
  const [own] = await searcher.search(batchOf([rows[7]!]), {k: 3})
  assert.deepEqual(
    {...own![0]!, fields: {...own![0]!.fields}},
    {query: 'p/7.jpg', rank: 1, id: 'p/7.jpg', similarity: 1, fields: {label: 'c7', odd: [7]}}
  )
  assert.deepEqual(
    own!.map(({rank}) => rank),
    [1, 2, 3]
  )
  const [others] = await searcher.search(batchOf([rows[7]!]), {k: 3, skipSelf: true})
  assert.deepEqual(others!.map(({id}) => id).slice(0, 2), own!.map(({id}) => id).slice(1))
  assert.deepEqual(
    others!.map(({rank}) => rank),
    [1, 2, 3]
  )
})

test('l2 gives distances', async () => {
  const rows = draw(30)
  const {path} = await index('l2.index', {sources: [await embeddings('l2.arrow', rows)], metric: 'l2'})
  const [found] = await (await loadIndex(path)).search(batchOf([rows[2]!]), {k: 2})
  assert.equal(found![0]!.distance, 0)
  const expected = Math.hypot(...rows[2]!.vector.map((x, d) => x - rows.find(({id}) => id === found![1]!.id)!.vector[d]!))
  assert.ok(Math.abs(found![1]!.distance! - expected) < 1e-5)
  await assert.rejects(index('x', {sources: [await embeddings('m.arrow', draw(3, 40))], base: path, metric: 'cosine'}), {code: 'METRIC'})
})

test('a graph: recall is measured and high, bytes repeat, adding, replacing and removing hold', async () => {
  const rows = draw(700)
  const source = await embeddings('g.arrow', rows.slice(0, 600))
  const a = await index('ga.index', {sources: [source], kind: 'hnsw'})
  await same(a.path, (await index('gb.index', {sources: [source], kind: 'hnsw'})).path)
  assert.equal(a.report.recall!.queries, 60)
  assert.ok(a.report.recall!.value >= 0.98, `recall ${a.report.recall!.value}`)
  const added = await index('gc.index', {
    sources: [await embeddings('g2.arrow', [...rows.slice(600), {...rows[9]!, fields: {label: 'again'}}])],
    base: a.path,
    replace: true
  })
  assert.equal(added.report.kind, 'hnsw')
  assert.equal(added.report.rows, 700)
  const removed = await index('gd.index', {sources: [], base: added.path, remove: list('p/650.jpg')})
  const exact = await loadIndex((await index('ge.index', {sources: [], base: removed.path, kind: 'exact'})).path)
  const graph = await loadIndex(removed.path)
  assert.equal(exact.header.kind, 'exact')
  let agree = 0
  for (const query of rows) {
    const [x] = await exact.search(batchOf([query]), {k: 5})
    const [g] = await graph.search(batchOf([query]), {k: 5})
    assert.ok(!g!.some(({id}) => id === 'p/650.jpg'))
    agree += x!.filter(({id}) => g!.some(found => found.id === id)).length
  }
  assert.ok(agree / (5 * 700) >= 0.97, `agreement ${agree / 3500}`)
  assert.deepEqual({...(await graph.search(batchOf([rows[9]!]), {k: 1}))[0]![0]!.fields}, {label: 'again'})

  // Once more than half of the nodes are stepping stones only, the graph is built anew from what is left.
  const few = await index('gf.index', {sources: [], base: removed.path, remove: list(...rows.slice(100, 500).map(({id}) => id))})
  const file = await openIndex(few.path)
  assert.equal(file.header.rows, 299)
  await file.close()
})

test('no rows make an index too, and finding nothing is no failure', async () => {
  const {path, report} = await index('none.index', {sources: [await embeddings('none.arrow', [])]})
  assert.equal(report.rows, 0)
  assert.deepEqual(await (await loadIndex(path)).search(batchOf(draw(1)), {k: 5}), [[]])
})

test('what is no index, or half of one, is named', async () => {
  const {path} = await index('h.index', {sources: [await embeddings('h.arrow', draw(20))]})
  await truncate(path, 900)
  await assert.rejects(openIndex(path), {code: 'INDEX_DAMAGED'})
  await writeFile(path, 'nothing')
  await assert.rejects(openIndex(path), {code: 'NOT_AN_INDEX', exit: 2})
  await assert.rejects(openIndex(join(dir, 'absent')), {code: 'NO_INPUT', exit: 3})
  await assert.rejects(openIndex(dir), {message: /is a folder, but a file was expected/})
})

test('vectors whose distances do not fit into float32 are refused by a graph, as rows and as queries', async () => {
  const rows = draw(30)
  const long: Row = {...rows[3]!, id: 'long', vector: new Float32Array(D).fill(3e38)}
  for (const metric of ['l2', 'ip'] as const) {
    const source = await embeddings('long.arrow', [...rows, long])
    await assert.rejects(index('long.index', {sources: [source], kind: 'hnsw', metric}), {code: 'NOT_FINITE', message: /vector of long/})
    const exact = await loadIndex((await index('exact.index', {sources: [source], kind: 'exact', metric})).path)
    const graph = await loadIndex(
      (await index('graph.index', {sources: [await embeddings('short.arrow', rows)], kind: 'hnsw', metric})).path
    )
    const query = batchOf([long])
    const [found] = await exact.search(query, {k: 31})
    assert.ok(found!.every(({distance, similarity}) => Number.isFinite(distance ?? similarity)))
    await assert.rejects(graph.search(query, {k: 1}), {code: 'NOT_FINITE', message: /vector of long/})
  }
  const angles = await index('angles.index', {sources: [await embeddings('angles.arrow', [...rows, long])], kind: 'hnsw'})
  assert.equal(angles.report.rows, 31)
})
