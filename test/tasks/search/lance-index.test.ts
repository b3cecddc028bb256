/**
 * An index as a LanceDB table: the same neighbours as the index in one file, the same refusals, changes that are there
 * at once or not at all; and what is said where the optional package is missing.
 */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {existsSync} from 'node:fs'
import {cp, mkdir, mkdtemp, readdir, rm, writeFile} from 'node:fs/promises'
import {createRequire} from 'node:module'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {batchOf, type EmbeddingMeta, type Row} from '../../../src/files/embeddings/embeddings.js'
import {fileSink} from '../../../src/files/embeddings/bytes.js'
import {isLance, LanceTable, loadLibrary} from '../../../src/files/search-index/lance-table.js'
import {buildIndex} from '../../../src/tasks/search/build-index.js'
import {indexLance, subvectorCount, type LanceOptions, type LanceReport} from '../../../src/tasks/search/lance-index.js'
import {loadIndex} from '../../../src/tasks/search/search.js'
import {open} from 'node:fs/promises'
import {clusteredRows, testMeta, writeEmbeddings} from '../../support/vectors.js'

const binary = fileURLToPath(new URL('../../../../bin/run.js', import.meta.url))
let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'lance-'))))
after(() => rm(dir, {recursive: true, force: true}))

const absent = ((): string | false => {
  try {
    createRequire(import.meta.url).resolve('@lancedb/lancedb')
    return false
  } catch {
    return 'the optional package @lancedb/lancedb is not installed'
  }
})()

const D = 24
const meta = testMeta(D, {fingerprint: 'c'.repeat(64)})

const draw = (n: number, from = 0): Row[] => clusteredRows(n, from, {dim: D, classes: 40, folder: "it's"})

const embeddings = (name: string, rows: readonly Row[], change: Partial<EmbeddingMeta> = {}): Promise<string> =>
  writeEmbeddings(join(dir, name), rows, {...meta, ...change}, 256)

async function finish<T>(events: AsyncGenerator<unknown, T>): Promise<T> {
  for (;;) {
    const {value, done} = await events.next()
    if (done) return value
  }
}
const lance = async (name: string, options: Omit<LanceOptions, 'target'>): Promise<{path: string; report: LanceReport}> => {
  const path = join(dir, name)
  return {path, report: await finish(indexLance({...options, target: path}))}
}
async function fileIndex(name: string, source: string, metric: 'cosine' | 'ip' | 'l2'): Promise<string> {
  const built = await finish(buildIndex({sources: [source], metric, kind: 'exact'}))
  const handle = await open(join(dir, name), 'w')
  await built.write(fileSink(handle))
  await handle.close()
  return join(dir, name)
}
async function* list(...ids: string[]): AsyncGenerator<string> {
  yield* ids
}
/** Fields without the prototype that one reader gives them and another does not. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

describe('a LanceDB table', {skip: absent}, () => {
  for (const metric of ['cosine', 'ip', 'l2'] as const) {
    test(`searched exactly by ${metric}, it answers as the index in one file does, copies and zeros included`, async () => {
      const rows = draw(300)
      // Equal rows, which only their ids put in order, and one that points nowhere.
      for (let i = 0; i < 20; i++) rows.push({id: `copy/${(i * 7) % 20}`, vector: rows[11]!.vector, fields: {}})
      rows.push({id: 'zero', vector: new Float32Array(D), fields: {label: 'none'}})
      const source = await embeddings(`same-${metric}.arrow`, rows)
      const {path, report} = await lance(`same-${metric}.lance`, {sources: [source], metric})
      assert.equal(report.kind, 'exact')
      assert.deepEqual(report.recall, {k: 10, value: 1, queries: 0})
      const [one, other] = [await loadIndex(path), await loadIndex(await fileIndex(`same-${metric}.index`, source, metric))]
      for (const options of [{k: 1}, {k: 7}, {k: 12, skipSelf: true}, {k: 1000}]) {
        const queries = rows.slice(0, 40)
        assert.deepEqual(
          plain(await one.search(batchOf(queries), options)),
          plain(await other.search(batchOf(queries), options)),
          JSON.stringify(options)
        )
      }
      assert.deepEqual(one.header.meta, other.header.meta)
    })
  }

  test('adding, replacing and removing equal building anew', async () => {
    const rows = draw(90)
    const whole = await lance('whole.lance', {sources: [await embeddings('w.arrow', rows)]})
    const grown = await lance('grown.lance', {sources: [await embeddings('f.arrow', rows.slice(0, 60))]})
    const changed = {...rows[3]!, vector: rows[4]!.vector, fields: {label: 'new'}}
    const added = await finish(
      indexLance({
        sources: [await embeddings('s.jsonl', [...rows.slice(60), changed])],
        base: grown.path,
        target: grown.path,
        replace: true
      })
    )
    assert.deepEqual([added.rows, added.added, added.replaced], [90, 31, 1])
    const back = await finish(
      indexLance({sources: [await embeddings('b.arrow', [rows[3]!])], base: grown.path, target: grown.path, replace: true})
    )
    assert.deepEqual([back.rows, back.replaced], [90, 1])
    const ask = async (path: string): Promise<unknown> => plain(await (await loadIndex(path)).search(batchOf(draw(30)), {k: 9}))
    assert.deepEqual(await ask(grown.path), await ask(whole.path))

    const gone = [rows[3]!.id, rows[77]!.id]
    const fewer = await lance('fewer.lance', {sources: [], base: grown.path, remove: list(...gone)})
    assert.deepEqual([fewer.report.rows, fewer.report.removed], [88, 2])
    assert.deepEqual(await ask(grown.path), await ask(whole.path), 'the index that was copied stays')
    const left = await lance('left.lance', {
      sources: [
        await embeddings(
          'l.arrow',
          rows.filter(({id}) => !gone.includes(id))
        )
      ]
    })
    assert.deepEqual(await ask(fewer.path), await ask(left.path))
  })

  test('an id twice, an unknown id, another model, another measure, a number that is not finite: refused, and nothing changes', async () => {
    const rows = draw(50)
    const source = await embeddings('t.arrow', rows)
    const {path} = await lance('t.lance', {sources: [source]})
    const change = (options: Partial<LanceOptions>): Promise<LanceReport> =>
      finish(indexLance({sources: [], base: path, target: path, ...options}))
    await assert.rejects(lance('x.lance', {sources: [source, source]}), {code: 'DUPLICATE_ID', exit: 2, message: /it's\/0\.jpg/})
    assert.ok(!existsSync(join(dir, 'x.lance')))
    await assert.rejects(change({sources: [await embeddings('u.arrow', [draw(1, 90)[0]!, rows[8]!])]}), {
      code: 'DUPLICATE_ID',
      message: /it's\/8\.jpg/
    })
    await assert.rejects(change({remove: list(rows[1]!.id, 'nobody')}), {code: 'UNKNOWN_ID', message: /nobody/})
    const other = await embeddings('o.arrow', draw(3, 60), {fingerprint: 'd'.repeat(64)})
    await assert.rejects(change({sources: [other]}), {code: 'MIXED_EMBEDDINGS', message: /cccccccccccc.*dddddddddddd/s})
    await assert.rejects(change({sources: [await embeddings('v.arrow', draw(3, 60))], metric: 'l2'}), {code: 'METRIC'})
    const broken = {...draw(1, 70)[0]!, vector: new Float32Array(D).fill(NaN)}
    await assert.rejects(change({sources: [await embeddings('n.arrow', [broken])]}), {code: 'NOT_FINITE'})
    await assert.rejects(lance('t.lance', {sources: [source]}), {code: 'OUTPUT_EXISTS', exit: 2})
    await assert.rejects(lance('few.lance', {sources: [source], kind: 'ivf-pq'}), {code: 'TOO_FEW_ROWS', exit: 2})
    const searcher = await loadIndex(path)
    assert.throws(() => searcher.check({name: 'q', meta: {...meta, preprocessing: {resize: 64, crop: 56}}}), {code: 'MIXED_EMBEDDINGS'})
    await assert.rejects(searcher.search(batchOf(draw(1)), {k: 3, probes: 4}), {code: 'USAGE', message: /--probes/})
    // After all that was refused, the rows are those that were there.
    const [found] = await searcher.search(batchOf(rows.slice(1, 2)), {k: 1000})
    assert.equal(found!.length, 50)
    assert.equal((await change({remove: list(rows[1]!.id)})).rows, 49)
    assert.deepEqual(
      (await readdir(dir)).filter(name => name.startsWith('.')),
      []
    )
  })

  test('a change that was stopped before its end is not seen, and the next one sets it aside', async () => {
    const rows = draw(40)
    const {path} = await lance('stopped.lance', {sources: [await embeddings('st.arrow', rows)]})
    const table = await LanceTable.open(path)
    await table.beginChange()
    await table.remove([rows[0]!.id, rows[1]!.id])
    table.close() // as if the process had ended here: no header was written
    assert.equal((await (await loadIndex(path)).search(batchOf([rows[0]!]), {k: 1}))[0]![0]!.id, rows[0]!.id)
    const report = await finish(indexLance({sources: [], base: path, target: path, remove: list(rows[5]!.id)}))
    assert.equal(report.rows, 39)
  })

  test('rows of another index, and another number of rows, are not taken for its own', async () => {
    const [one, other] = [join(dir, 'one.lance'), join(dir, 'other.lance')]
    for (const [name, from] of [
      ['one', 0],
      ['other', 50]
    ] as const)
      await lance(`${name}.lance`, {sources: [await embeddings(`${name}.arrow`, draw(50, from))]})
    const swapped = join(dir, 'swapped.lance')
    for (const [rows, about] of [
      [one, other],
      [other, one]
    ] as const) {
      await rm(swapped, {recursive: true, force: true})
      await cp(rows, swapped, {recursive: true})
      await rm(join(swapped, 'about.lance'), {recursive: true})
      await cp(join(about, 'about.lance'), join(swapped, 'about.lance'), {recursive: true})
      await assert.rejects(loadIndex(swapped), {code: 'INDEX_DAMAGED', message: /those of another index/})
    }
    const table = await LanceTable.open(one)
    await table.writeHeader({...table.header!, rows: 49})
    table.close()
    await assert.rejects(loadIndex(one), {code: 'INDEX_DAMAGED', message: /counts 49 rows, and there are 50/})
    // A copy is its own, and may be changed beside the first.
    const copy = join(dir, 'copy.lance')
    await cp(other, copy, {recursive: true})
    const report = await finish(indexLance({sources: [], base: copy, target: copy, remove: list(draw(1, 50)[0]!.id)}))
    assert.equal(report.rows, 49)
    assert.equal((await LanceTable.open(copy)).header!.rows, 49)
  })

  test('inverted lists: recall is measured on rows held back, and stays through adding and removing', async () => {
    const rows = draw(1500)
    const {path, report} = await lance('lists.lance', {sources: [await embeddings('li.arrow', rows.slice(0, 1200))], kind: 'ivf-pq'})
    assert.equal(report.kind, 'ivf-pq')
    assert.equal(report.recall!.queries, 120)
    assert.ok(report.recall!.value >= 0.95, `recall ${report.recall!.value}`)
    assert.equal(report.lists!.partitions, 35)
    const added = await finish(indexLance({sources: [await embeddings('la.arrow', rows.slice(1200))], base: path, target: path}))
    assert.equal(added.kind, 'ivf-pq')
    assert.equal(added.rows, 1500)
    assert.ok(added.recall!.value >= 0.95, `recall ${added.recall!.value}`)
    await finish(indexLance({sources: [], base: path, target: path, remove: list(rows[1300]!.id)}))
    const lists = await loadIndex(path)
    const exact = await loadIndex((await lance('exact.lance', {sources: [], base: path, kind: 'exact', remove: list(rows[2]!.id)})).path)
    assert.equal(exact.header.kind, 'exact')
    const queries = rows.slice(1250, 1400)
    const [a, b] = [await lists.search(batchOf(queries), {k: 5}), await exact.search(batchOf(queries), {k: 5})]
    let agree = 0
    for (const [q, found] of a.entries()) {
      assert.ok(!found.some(({id}) => id === rows[1300]!.id))
      agree += found.filter(({id}) => b[q]!.some(other => other.id === id)).length
    }
    assert.ok(agree / (5 * queries.length) >= 0.95, `agreement ${agree / (5 * queries.length)}`)
    const [wide] = await lists.search(batchOf(queries.slice(0, 1)), {k: 5, probes: 1000, refine: 100})
    const [truth] = await exact.search(batchOf(queries.slice(0, 1)), {k: 5})
    assert.deepEqual(plain(wide), plain(truth), 'all lists and all candidates are the exact answer')
    await assert.rejects(lists.search(batchOf(queries), {k: 5, ef: 64}), {code: 'USAGE', message: /--ef/})
  })

  test('no rows make an index too; an index that is none is named', async () => {
    const {path, report} = await lance('none.lance', {sources: [await embeddings('none.arrow', [])]})
    assert.equal(report.rows, 0)
    assert.deepEqual(await (await loadIndex(path)).search(batchOf(draw(1)), {k: 5}), [[]])
    assert.ok(await isLance(path))
    assert.ok(!(await isLance(dir)) && !(await isLance(join(dir, 'absent'))))
    await assert.rejects(LanceTable.open(join(dir, 'absent')), {code: 'NO_INPUT', exit: 3})
    await mkdir(join(dir, 'hollow.lance', 'about.lance'), {recursive: true})
    await assert.rejects(LanceTable.open(join(dir, 'hollow.lance')), {code: /NO_INPUT|NOT_AN_INDEX|LANCE/})
  })

  test('on the command line: made, searched, changed and refused', async () => {
    await embeddings('cli.arrow', draw(60))
    await embeddings('more.arrow', draw(5, 60))
    const run = (...args: string[]): Promise<{status: number; stdout: string; stderr: string}> =>
      new Promise(done =>
        execFile(process.execPath, [binary, ...args], {cwd: dir}, (error, stdout, stderr) =>
          done({status: error ? Number(error.code) : 0, stdout, stderr})
        )
      )
    const made = await run('index', 'cli.arrow', '--backend', 'lance', '-o', 'cli.lance', '--json')
    assert.equal(made.status, 0, made.stderr)
    assert.equal((JSON.parse(made.stdout) as {backend: string}).backend, 'lance')
    assert.doesNotMatch(made.stderr, /WARN/)
    const found = await run('search', 'cli.lance', 'cli.arrow', '-k', '1')
    assert.equal(found.status, 0, found.stderr)
    assert.equal(found.stdout.trim().split('\n').length, 60)
    assert.match((await run('index', '-o', 'cli.lance', '--add', 'more.arrow')).stderr, /65 rows of 24 numbers \(5 added\); exact search/)
    for (const [args, pattern] of [
      [['index', 'cli.arrow', '--backend', 'lance', '-o', 'cli.lance'], /exists/],
      [['index', 'cli.arrow', '--backend', 'lance'], /stdout/],
      [['index', 'cli.arrow', '--kind', 'ivf-pq', '-o', 'y.index'], /--backend lance/],
      [['index', 'cli.arrow', '--backend', 'lance', '--kind', 'hnsw', '-o', 'y.lance'], /one file/],
      [['index', 'cli.arrow', '--probes', '4', '-o', 'y.index'], /--probes/],
      [['index', 'cli.arrow', '--backend', 'lance', '--ef', '4', '-o', 'y.lance'], /--ef/],
      [['index', '-o', 'cli.lance', '--backend', 'file', '--add', 'more.arrow'], /LanceDB table/]
    ] as const) {
      const {status, stderr} = await run(...args)
      assert.equal(status, 2, `${args.join(' ')}: ${stderr}`)
      assert.match(stderr, pattern)
    }
  })
})

test('vectors are cut into pieces that divide them', () => {
  assert.deepEqual([384, 768, 24, 7, 1, 100].map(subvectorCount), [48, 96, 3, 1, 1, 10])
})

test('where the package is missing, a sentence says so with status 5', async () => {
  assert.throws(() => loadLibrary(join(dir, 'nowhere.js')), {code: 'NO_LANCE', exit: 5, message: /not installed/, hint: /npm install/})
  await embeddings('missing.arrow', draw(3))
  await writeFile(
    join(dir, 'hide.cjs'),
    "const Module = require('node:module'); const find = Module._resolveFilename; Module._resolveFilename = function (name, ...rest) { if (name === '@lancedb/lancedb') throw Object.assign(new Error('hidden'), {code: 'MODULE_NOT_FOUND'}); return find.call(this, name, ...rest) }"
  )
  const {status, stderr} = await new Promise<{status: unknown; stderr: string}>(done =>
    execFile(
      process.execPath,
      ['--require', join(dir, 'hide.cjs'), binary, 'index', 'missing.arrow', '--backend', 'lance', '-o', 'missing.lance'],
      {cwd: dir},
      (error, _, text) => done({status: error?.code ?? 0, stderr: text})
    )
  )
  assert.equal(status, 5, stderr)
  assert.match(stderr, /optional package @lancedb\/lancedb.*not installed/)
  assert.ok(!existsSync(join(dir, 'missing.lance')))
})
