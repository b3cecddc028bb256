/**
 * The evaluation as a whole: against counting by hand, with groups by field, folder, prefix and pattern, baselines,
 * and the page.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {batchOf, createEmbeddings, type Row} from '../../../../src/files/embeddings/embeddings.js'
import {defaultFeatures} from '../../../../src/tasks/embed/embedder.js'
import {retrievalEval, type RetrievalOptions, type RetrievalResult} from '../../../../src/tasks/eval/retrieval/evaluate.js'
import {groupOf, queriesOf} from '../../../../src/tasks/eval/retrieval/groups.js'
import {estimateItems} from '../../../../src/tasks/eval/shared/compare.js'
import {pickQueries, retrievalPage} from '../../../../src/tasks/eval/retrieval/page.js'
import {memory} from '../../../../src/tensor/tf.js'
import {onPlain} from '../../../support/engine.js'
import {drawnFolder, drawnImage} from '../../../support/drawn-images.js'
import {saveTiny} from '../../../support/tiny-backbone.js'
import {testMeta} from '../../../support/vectors.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'retrieval-'))))
after(() => rm(dir, {recursive: true, force: true}))

const meta = testMeta(2, {preprocessing: {resize: 1}})
const near = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`)

/** Vectors in the plane, by their angle in degrees: nearer is more similar. */
const at = (id: string, degrees: number, fields: Row['fields'] = {}): Row => {
  const angle = (degrees * Math.PI) / 180
  return {id, vector: Float32Array.of(3 * Math.cos(angle), 3 * Math.sin(angle)), fields}
}
async function save(name: string, rows: readonly Row[]): Promise<string> {
  const output = await createEmbeddings(join(dir, name), {meta, force: true})
  await output.write(batchOf(rows))
  await output.commit()
  return join(dir, name)
}
async function run(options: Partial<RetrievalOptions>): Promise<RetrievalResult> {
  const events = retrievalEval({
    inputs: [],
    features: defaultFeatures,
    query: 'first',
    seed: 0,
    engine: {engine: 'wasm', note: () => {}},
    toolVersion: '0',
    workers: 0,
    ...options
  })
  for (;;) {
    const {value, done} = await events.next()
    if (done) return value
  }
}

/** Two groups and one image alone. */
const plane = [
  at('1000_a.jpg', 0),
  at('1001_a.jpg', 10),
  at('1002_a.jpg', 40),
  at('2000_b.jpg', 90),
  at('2001_b.jpg', 21),
  at('3000_c.jpg', 85)
]

test('mAP, recall and hits of a set that can be counted by hand; the query is not in its own list', async () => {
  const inputs = [await save('plane.arrow', plane)]
  const {report, queries} = await run({inputs, groups: {prefix: 1}, k: [1, 2, 4]})
  // Lists: 1000 → 1001, 2001, 1002, …: right at 0 and 2. 2000 → 3000, 1002, 2001: right at 2.
  assert.deepEqual(
    queries.map(({query, ranks}) => [query, ranks]),
    [
      ['1000_a.jpg', [1, 3]],
      ['2000_b.jpg', [3]]
    ]
  )
  const [first, second] = [(1 + (1 / 2 + 2 / 3) / 2) / 2, (0 + 1 / 3) / 2]
  const {map, recall, hits} = report.scores[0]!
  near(map, (first + second) / 2)
  assert.deepEqual(recall, {1: 0.25, 2: 0.25, 4: 1})
  assert.deepEqual(hits, {1: 0.5, 2: 0.5, 4: 1})
  assert.deepEqual([report.images, report.groups, report.queries], [6, 3, 2])
  assert.match(report.notes[0]!, /1 of 3 groups has one image/)
  const step = await run({inputs, groups: {prefix: 1}, precision: 'step'})
  near(step.report.scores[0]!.map, ((1 + 2 / 3) / 2 + 1 / 3) / 2)
})

test('every image may ask, and an engine’s products give the same', async () => {
  await onPlain()
  const options: Partial<RetrievalOptions> = {inputs: [await save('plane.csv', plane)], groups: {prefix: 1}, query: 'all'}
  const {report, queries} = await run(options)
  assert.deepEqual(
    queries.map(({ranks}) => ranks),
    [[1, 3], [1, 3], [2, 3], [3], [5]]
  )
  const before_ = memory().numTensors
  assert.deepEqual((await run({...options, engineWork: 0})).report, report)
  assert.equal(memory().numTensors, before_)
})

test('the group is the field, else the label, else part of the name; an image without one is named', async () => {
  assert.equal(groupOf('x/y.jpg', {group: 7}, 'label', undefined), '7')
  assert.equal(groupOf('x/y.jpg', {}, 'label', undefined), 'label')
  assert.equal(groupOf('x/1234-5.jpg', {group: 'g'}, 'label', {prefix: 4}), '1234')
  assert.equal(groupOf('x/site12_b.jpg', {}, undefined, {pattern: /^([^_]+)_/u}), 'site12')
  assert.equal(groupOf('x/site12_b.jpg', {}, undefined, {pattern: /\d+/u}), '12')
  assert.throws(() => groupOf('x/site.jpg', {}, 'label', {pattern: /\d+/u}), {code: 'NO_GROUP', exit: 2})
  assert.throws(() => groupOf('y.jpg', {}, undefined, undefined), {code: 'NO_GROUP', exit: 2})
  await assert.rejects(run({inputs: [await save('alone.arrow', plane)], groups: {prefix: 4}}), {code: 'NO_GROUPS', exit: 2})
  assert.deepEqual(queriesOf(['a', 'b', 'a', 'b', 'b', 'c'], 'first'), [
    {row: 0, relevant: [2]},
    {row: 1, relevant: [3, 4]}
  ])
  assert.equal(queriesOf(['a', 'b', 'a', 'b', 'b', 'c'], 'all').length, 5)
})

test('intervals draw groups, not queries: copies of a query make them no narrower', () => {
  const values = [0, 1, 0.2, 0.9, 0.5, 0.7, 0.1, 1]
  const groups = values.map((_, i) => i)
  const estimate = (items: readonly number[], own: readonly number[]): ReturnType<typeof estimateItems> =>
    estimateItems({items, groups: own}, drawn => drawn.reduce((sum, item) => sum + items[item]!, 0) / drawn.length, 0)
  const once = estimate(values, groups)
  const thrice = estimate([...values, ...values, ...values], [...groups, ...groups, ...groups])
  near(once.mean, thrice.mean)
  near(once.interval[0], thrice.interval[0])
  near(once.interval[1], thrice.interval[1])
})

test('from images with both baselines, and the page with its pictures', async () => {
  const paths = await drawnFolder(join(dir, 'photos'), ['one', 'two', 'three'], 5)
  const model = join(dir, 'tiny.safetensors')
  await saveTiny(model)
  const options: Partial<RetrievalOptions> = {
    inputs: [join(dir, 'photos')],
    model,
    baselines: ['pixels', 'untrained'],
    features: {...defaultFeatures, transform: {resize: 40, crop: 28}},
    batch: 8,
    query: 'all'
  }
  const made = await run(options)
  const before_ = memory().numTensors
  const again = await run(options)
  assert.deepEqual([again.report, again.queries], [made.report, made.queries])
  assert.equal(memory().numTensors, before_)
  const {report, queries} = made
  assert.deepEqual(
    report.scores.map(({features}) => features),
    ['model', 'untrained', 'pixels', 'chance']
  )
  assert.deepEqual(
    report.differences.map(({over}) => over),
    ['untrained', 'pixels', 'chance']
  )
  const score = (name: string): number => report.scores.find(({features}) => features === name)!.map
  near(report.differences[2]!.mean, score('model') - score('chance'))
  assert.ok(score('model') > score('chance') + 0.1 && score('chance') < 0.6)
  assert.equal(queries.length, 15)
  assert.ok(queries.every(({path}) => paths.includes(path)))

  const {best, typical, worst} = pickQueries(queries)
  assert.equal(new Set([...best, ...typical, ...worst]).size, 12)
  assert.ok(best.at(-1)!.averagePrecision >= typical[0]!.averagePrecision && typical.at(-1)!.averagePrecision >= worst[0]!.averagePrecision)
  const page = await retrievalPage(made)
  assert.equal(page.missing, 0)
  assert.equal(page.content.match(/data:image\/jpeg;base64/g)?.length, 12 * 7)
  assert.doesNotMatch(page.content, /(src|href)="(?!data:|#)/)
  assert.ok((await retrievalPage({report, queries: queries.map(query => ({...query, path: 'gone'}))})).missing > 0)

  await assert.rejects(run({...options, model: undefined as never}), {code: 'NO_MODEL', exit: 2})
})

test('an image that cannot be decoded is reported once and left out of all features alike', async () => {
  await drawnFolder(join(dir, 'bad'), ['one', 'two'], 3)
  await writeFile(join(dir, 'bad', 'one', 'zero.png'), (await drawnImage(1, 1)).subarray(0, 60))
  const bad: string[] = []
  const {report} = await run({
    inputs: [join(dir, 'bad')],
    baselines: ['pixels'],
    features: {...defaultFeatures, transform: {resize: 40, crop: 28}},
    onRejected: ({id}) => void bad.push(id)
  })
  assert.equal(report.images, 6)
  assert.equal(bad.length, 1)
  assert.match(bad[0]!, /zero\.png$/)
})
