/**
 * The evaluation as a whole: against counting by hand, with limited train sets, baselines, and images in place of
 * embeddings.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {batchOf, createEmbeddings, type EmbeddingMeta, type Row} from '../../../../src/files/embeddings/embeddings.js'
import {defaultFeatures} from '../../../../src/tasks/embed/embedder.js'
import {knnEval, type KnnOptions} from '../../../../src/tasks/eval/classification/knn.js'
import type {KnnReport} from '../../../../src/tasks/eval/classification/knn-report.js'
import type {EvalEvent, EvalResult} from '../../../../src/tasks/eval/shared/evaluation.js'
import {knnPage} from '../../../../src/tasks/eval/classification/knn-page.js'
import {rng} from '../../../../src/tensor/random.js'
import {memory} from '../../../../src/tensor/tf.js'
import {onPlain} from '../../../support/engine.js'
import {drawnFolder} from '../../../support/drawn-images.js'
import {saveTiny} from '../../../support/tiny-backbone.js'
import {testMeta, writeEmbeddings} from '../../../support/vectors.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'knn-'))))
after(() => rm(dir, {recursive: true, force: true}))

const D = 6
const meta = testMeta(D, {preprocessing: {resize: 1}})

/** Rows of three overlapping classes; the label is a field for the even ones and the folder for the others. */
const draw = (n: number, key: string): Row[] =>
  Array.from({length: n}, (_, i) => {
    const [random, centre] = [rng(2, key, i), rng(2, 'class', i % 3)]
    const vector = Float32Array.from({length: D}, () => centre.normal() + 1.2 * random.normal())
    return {id: `x/c${i % 3}/${key}${i}.jpg`, vector, fields: i % 2 ? {} : {label: `c${i % 3}`}}
  })
const save = (name: string, rows: readonly Row[], change: Partial<EmbeddingMeta> = {}): Promise<string> =>
  writeEmbeddings(join(dir, name), rows, {...meta, ...change}, rows.length)
const run = async (options: Partial<KnnOptions>): Promise<KnnReport> => (await result(options)).report
async function result(options: Partial<KnnOptions>, seen: EvalEvent[] = []): Promise<EvalResult<KnnReport>> {
  const events = knnEval({
    train: [],
    features: defaultFeatures,
    seed: 0,
    engine: {engine: 'wasm', note: () => {}},
    toolVersion: '0',
    workers: 0,
    ...options
  })
  for (;;) {
    const {value, done} = await events.next()
    if (done) return value
    seen.push(value)
  }
}

/** The protocol in the fewest words: cosine, the k nearest, exp(sim / 0.07) summed per class. */
function byHand(train: readonly Row[], val: readonly Row[], k: number, leaveOut = false): number {
  const unit = ({vector}: Row): number[] => [...vector].map(x => x / Math.hypot(...vector))
  const label = ({id}: Row): string => id.split('/')[1]!
  const right = val.filter((query, q) => {
    const near = train
      .map((row, r) => ({
        label: label(row),
        similarity: leaveOut && r === q ? -Infinity : unit(row).reduce((sum, x, d) => sum + x * unit(query)[d]!, 0)
      }))
      .sort((a, b) => b.similarity - a.similarity)
      .slice(0, k)
    const sums: Record<string, number> = {}
    for (const {label: name, similarity} of near) sums[name] = (sums[name] ?? 0) + Math.exp(similarity / 0.07)
    return Object.entries(sums).sort(([, a], [, b]) => b - a)[0]![0] === label(query)
  })
  return right.length / val.length
}

test('from embeddings: the shares that counting by hand gives, at every k, in every format', async () => {
  const [train, val] = [draw(90, 'train'), draw(45, 'val')]
  const report = await run({train: [await save('t.arrow', train)], val: [await save('v.csv', val)], k: [1, 5, 20]})
  assert.deepEqual(
    report.scores.map(({k, top1}) => [k, top1]),
    [1, 5, 20].map(k => [k, byHand(train, val, k)])
  )
  assert.ok(
    report.scores.every(({top1, intervals, top5}) => {
      const [low, high] = intervals['top1']!
      return low <= top1 && top1 <= high && low < high && top5 >= top1
    })
  )
  assert.deepEqual([report.train, report.val, report.classes, report.leaveOneOut, report.notes], [90, 45, 3, false, []])
  const mean = Object.values(report.perClass).reduce((sum, {images, top1}) => sum + (images / 45) * top1['5']!, 0)
  assert.ok(Math.abs(mean - report.scores[1]!.top1) < 1e-12)
})

test('an engine’s matrix product gives the same shares and leaves no tensor', async () => {
  await onPlain()
  const options = {train: [await save('t.arrow', draw(90, 'train'))], val: [await save('v.arrow', draw(45, 'val'))], k: [1, 5, 20]}
  const plain = await run(options)
  const before_ = memory().numTensors
  const {examples: _, ...rest} = plain // sureness has the last bits of the engine's sums
  const {examples: __, ...through} = await run({...options, engineWork: 0})
  assert.deepEqual(through, rest)
  assert.equal(memory().numTensors, before_)
})

test('leaving one out equals counting by hand, and k is limited to what is left', async () => {
  const train = draw(60, 'loo')
  const report = await run({train: [await save('loo.arrow', train)], k: [3, 10, 200]})
  assert.deepEqual(
    report.scores.map(({k, top1}) => [k, top1]),
    [3, 10, 59].map(k => [k, byHand(train, train, k, true)])
  )
  assert.deepEqual(report.notes, ['k is limited to the 59 train images there are'])
  assert.ok(report.leaveOneOut)
})

test('the largest class of train, the confusion at the best k, and images to look at', async () => {
  const [train, val] = [draw(91, 'train'), draw(45, 'val')] // c0 has one more train row than the others
  const options = {train: [await save('t.arrow', train)], val: [await save('v.arrow', val)], k: [1, 20], baselines: ['majority'] as const}
  const report = await run(options)
  const [one, twenty, majority] = report.scores
  assert.deepEqual([majority!.features, majority!.k, majority!.top1, majority!.top5], ['majority', null, 1 / 3, 1])
  assert.deepEqual(
    report.differences.map(({over, k}) => `${over} ${k}`),
    ['majority 1', 'majority 20']
  )
  assert.ok(Math.abs(report.differences[0]!.mean - (one!.top1 - 1 / 3)) < 1e-12)
  const {confusion, examples} = report
  const best = twenty!.top1 > one!.top1 ? twenty! : one!
  assert.equal(confusion!.k, best.k)
  assert.deepEqual(
    confusion!.counts.map(row => row.reduce((a, b) => a + b)),
    [15, 15, 15]
  )
  assert.ok(Math.abs(confusion!.counts.reduce((sum, row, k) => sum + row[k]!, 0) / 45 - best.top1) < 1e-12)
  assert.ok(examples!.worst.length > 0 && examples!.worst.every(({label, predicted}) => label !== predicted))
  assert.ok(examples!.best.every(({label, predicted, path}) => label === predicted && path.includes(`/${label}/`)))
  assert.ok(examples!.best.every(({confidence}, i) => i === 0 || confidence <= examples!.best[i - 1]!.confidence))
  const {content: page} = await knnPage(report)
  assert.match(page, /most frequent class.*Confusion/s)
})

test('a few train rows of each class: a mean over draws, repeatable, rising towards all', async () => {
  const [train, val] = [await save('t.arrow', draw(300, 'train')), await save('v.arrow', draw(60, 'val'))]
  const options = {train: [train], val: [val], k: [5], perClass: [2, undefined], repeats: 4}
  const report = await run(options)
  assert.deepEqual(await run(options), report)
  const [few, full] = report.scores
  assert.equal(few!.perClass, 2)
  assert.equal(few!.repeats!.length, 4)
  assert.ok(Math.abs(few!.repeats!.reduce((a, b) => a + b) / 4 - few!.top1) < 1e-12)
  assert.ok(full!.perClass === null && full!.top1 >= few!.top1)
  assert.ok(!report.notes.some(note => note.includes('fewer than')))
  const {notes} = await run({...options, perClass: [101, undefined]})
  assert.match(notes.join(), /3 classes of train have fewer than 101 images, so all of theirs are used: \w+ \(100\)/)
})

test('two models, and rows without a label, are refused', async () => {
  const train = await save('t.arrow', draw(9, 'train'))
  const val = await save('v.arrow', draw(9, 'val'), {fingerprint: 'b'.repeat(64)})
  await assert.rejects(run({train: [train], val: [val]}), {code: 'MIXED_EMBEDDINGS', exit: 2})
  const bare = await save(
    'b.arrow',
    draw(3, 'b').map(row => ({...row, id: 'alone', fields: {}}))
  )
  await assert.rejects(run({train: [bare]}), {code: 'NO_LABEL', exit: 2})
})

test('a class that train does not know counts as wrong and is named', async () => {
  const val = draw(9, 'val').map(row => ({...row, fields: {label: 'new'}}))
  const report = await run({train: [await save('t.arrow', draw(30, 'train'))], val: [await save('v.arrow', val)], k: [5]})
  assert.equal(report.scores[0]!.top1, 0)
  assert.match(report.notes[0]!, /1 class of val is not in train and counts as wrong: new/)
})

test('from images, with both baselines and no tensor left', async () => {
  const classes = ['one', 'two', 'three']
  await drawnFolder(join(dir, 'train'), classes, 8)
  await drawnFolder(join(dir, 'val'), classes, 4, 100)
  const model = join(dir, 'tiny.safetensors')
  await saveTiny(model)
  const options: Partial<KnnOptions> = {
    train: [join(dir, 'train')],
    val: [join(dir, 'val')],
    model,
    baselines: ['pixels', 'histogram', 'untrained'],
    features: {...defaultFeatures, transform: {resize: 40, crop: 28}},
    k: [1, 5],
    batch: 8
  }
  const report = await run(options)
  const before_ = memory().numTensors
  assert.deepEqual(await run(options), report)
  assert.equal(memory().numTensors, before_)
  assert.deepEqual(
    report.scores.map(({features, k}) => `${features} ${k}`),
    ['model 1', 'model 5', 'untrained 1', 'untrained 5', 'pixels 1', 'pixels 5', 'histogram 1', 'histogram 5']
  )
  assert.deepEqual(
    report.differences.map(({over, k}) => `${over} ${k}`),
    ['untrained 1', 'untrained 5', 'pixels 1', 'pixels 5', 'histogram 1', 'histogram 5']
  )
  const score = (name: string, k: number): number => report.scores.find(({features, k: at}) => features === name && at === k)!.top1
  assert.ok(Math.abs(report.differences[0]!.mean - (score('model', 1) - score('untrained', 1))) < 1e-12)
  const {content: page} = await knnPage(report)
  assert.ok(page.includes('data:image/jpeg') && /untrained model.*raw pixels/s.test(page))
  assert.match(page, /Differences in points of top-1.*(not significant|significant, (better|worse))/s)
  // Stripes of three directions and colours are separated by any features at all.
  assert.ok(score('pixels', 5) > 0.6 && score('model', 5) > 0.6)
  await assert.rejects(run({...options, model: undefined as never}), {code: 'NO_MODEL', exit: 2})
  await assert.rejects(run({...options, train: [join(dir, 'train', 'one', '000.png')]}), {code: 'NO_LABEL'})
})

test('test sets are scored each by itself, and every image has a row of what was predicted', async () => {
  const [train, val, other] = [draw(60, 'train'), draw(30, 'val'), draw(21, 'other')]
  const otherPath = await save('o.arrow', other)
  const seen: EvalEvent[] = []
  const {report, items} = await result(
    {train: [await save('t.arrow', train)], val: [await save('v.arrow', val)], tests: [otherPath], k: [5], baselines: ['majority']},
    seen
  )
  assert.deepEqual(report.sets, [
    {name: 'val', images: 30},
    {name: otherPath, images: 21}
  ])
  assert.deepEqual(
    report.scores.map(({features, set, images, top1}) => [features, set, images, features === 'model' ? top1 : 0]),
    [
      ['model', 'val', 30, byHand(train, val, 5)],
      ['model', otherPath, 21, byHand(train, other, 5)],
      ['majority', 'val', 30, 0],
      ['majority', otherPath, 21, 0]
    ]
  )
  assert.deepEqual(
    report.differences.map(({features, over, set, measure, k}) => [features, over, set, measure, k]),
    [
      ['model', 'majority', 'val', 'top1', 5],
      ['model', 'majority', otherPath, 'top1', 5]
    ]
  )
  const rows = [...items()]
  assert.equal(rows.length, 51)
  assert.equal(rows.filter(({set, correct}) => set === 'val' && correct).length / 30, report.scores[0]!.top1)
  assert.ok(rows.every(({label, predicted, correct}) => (label === predicted) === correct))
  assert.deepEqual([...new Set(seen.map(({kind}) => kind))], ['progress'])
  // A test set alone is no leave-one-out.
  assert.ok(!(await run({train: [await save('t.arrow', train)], tests: [otherPath], k: [1]})).leaveOneOut)
})

test('one class, one image, no neighbour: said, not guessed', async () => {
  const one = await save(
    'one.arrow',
    draw(9, 'one').map(row => ({...row, fields: {label: 'all'}}))
  )
  const report = await run({train: [one], k: [3]})
  assert.match(report.notes.join(), /one class only/)
  await assert.rejects(run({train: [await save('single.arrow', draw(1, 'single'))]}), {code: 'TOO_FEW', exit: 2})
  const pair = await run({
    train: [await save('pair.arrow', draw(2, 'pair'))],
    val: [await save('q.arrow', draw(1, 'q'))],
    baselines: ['majority']
  })
  assert.match(pair.notes.join(), /k is limited to the 2 train images there are/)
  assert.deepEqual([...new Set(pair.differences.map(({significant}) => significant))], [false], 'one image shows nothing')
})

test('a row with a number that is not finite is refused by its name', async () => {
  const rows = draw(9, 'nan')
  rows[4]!.vector[2] = NaN
  const columns = await createEmbeddings(join(dir, 'nan.npy'), {meta, force: true})
  await columns.write(batchOf(rows))
  await columns.commit()
  await assert.rejects(run({train: [join(dir, 'nan.npy')], k: [1]}), {code: 'NOT_FINITE', message: /nan4\.jpg/})
})
