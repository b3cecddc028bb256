/**
 * Linear evaluation as a whole: both solvers, random crops, few shots, heads, several models, embeddings; and what it
 * refuses.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {batchOf, createEmbeddings} from '../../../../src/files/embeddings/embeddings.js'
import {classifyImages, type ClassifiedImage} from '../../../../src/tasks/eval/classification/predict.js'
import {linearEval} from '../../../../src/tasks/eval/classification/linear.js'
import {slicesOf} from '../../../../src/tasks/eval/classification/linear-candidates.js'
import type {LinearEvalOptions} from '../../../../src/tasks/eval/classification/linear-options.js'
import type {LinearReport} from '../../../../src/tasks/eval/classification/linear-report.js'
import type {EvalEvent, EvalResult} from '../../../../src/tasks/eval/shared/evaluation.js'
import {linearPage} from '../../../../src/tasks/eval/classification/linear-page.js'
import {rng} from '../../../../src/tensor/random.js'
import {memory} from '../../../../src/tensor/tf.js'
import {drawnFolder, drawnImage} from '../../../support/drawn-images.js'
import {saveTiny} from '../../../support/tiny-backbone.js'

let dir: string
const at = (name: string): string => join(dir, name)
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'linear-'))
  await drawnFolder(at('train'), ['a', 'b', 'c'], 12)
  await drawnFolder(at('val'), ['a', 'b', 'c'], 6, 20)
  await writeFile(at('val/a/020.png'), await drawnImage(0, 20, 200, 150)) // larger than its place on the page
  await saveTiny(at('one.safetensors'), 0)
  await saveTiny(at('two.safetensors'), 1)
})
after(() => rm(dir, {recursive: true, force: true}))

const usual = {
  transform: {resize: 28, crop: 28},
  seed: 0,
  steps: 60,
  trainBatch: 18,
  engine: {engine: 'torch', precision: 'fp32', note: () => {}},
  toolVersion: '0',
  workers: 0
} as const

const run = async (options: Partial<LinearEvalOptions>, events: EvalEvent[] = []): Promise<LinearReport> =>
  (await result(options, events)).report
async function result(options: Partial<LinearEvalOptions>, events: EvalEvent[] = []): Promise<EvalResult<LinearReport>> {
  const work = linearEval({
    train: [at('train')],
    val: [at('val')],
    models: [at('one.safetensors')],
    ...usual,
    ...options
  })
  for (;;) {
    const {value, done} = await work.next()
    if (done) return value
    events.push(value)
  }
}
const top1 = ({scores}: LinearReport, name: string): number => scores.find(({features, set}) => features === name && set === 'val')!.top1

test('the grid beats the largest class on classes that can be separated, and says so; the page holds the pictures', async () => {
  const report = await run({cached: true, baselines: ['majority', 'pixels', 'untrained'], tests: [at('val')]})
  assert.equal(memory().numTensors, 0)
  assert.deepEqual(report.classes, ['a', 'b', 'c'])
  assert.equal(report.grid.length, 4 * 13) // 3 blocks are all that this backbone has
  assert.equal(top1(report, 'majority'), 1 / 3)
  const own = report.scores[0]!
  assert.ok(own.top1 > 0.6, `${own.top1}`)
  assert.equal(own.top1, Math.max(...report.grid.map(row => row.top1)))
  assert.ok(own.intervals['top1']![0] <= own.top1 && own.top1 <= own.intervals['top1']![1])
  assert.equal(
    report.scores.find(({features, set}) => features === own.features && set === at('val'))!.top1,
    own.top1,
    'a test set equal to val scores as val'
  )
  assert.equal(report.differences.length, 6)
  const over = report.differences.find(gain => gain.over === 'majority' && gain.set === 'val')!
  assert.ok(Math.abs(over.mean - (own.top1 - 1 / 3)) < 1e-12)
  assert.ok(over.significant && over.interval[0] > 0)
  assert.equal(
    report.confusion.flat().reduce((a, b) => a + b, 0),
    18
  )
  const {content: page} = await linearPage(report)
  assert.ok(page.includes('data:image/jpeg') && page.includes('Confusion'))
})

test('the same seed gives the same report; another one need not', async () => {
  const [one, two] = [await run({cached: true, steps: 20}), await run({cached: true, steps: 20})]
  assert.deepEqual(one, two)
})

test('random crops: trained as published, with a sentence on what that costs', async () => {
  const events: EvalEvent[] = []
  const report = await run({steps: 12}, events)
  assert.equal(report.cached, false)
  assert.equal(memory().numTensors, 0)
  assert.ok(events.some(event => event.kind === 'note' && /12 steps of 18 random crops are 6 passes over 36 images/.test(event.text)))
  assert.equal(events.filter(event => event.kind === 'progress' && event.stage === 'training').length, 12)
})

test('logistic regression, a head kept and scored again, and two models side by side', async () => {
  const head = at('head.safetensors')
  const report = await run({solver: 'lbfgs', models: [at('one.safetensors'), at('two.safetensors')], headOut: head})
  assert.equal(report.scores.length, 2)
  assert.match(report.scores[0]!.chosen, /^logistic regression, C /)
  assert.equal(report.grid.length, 45)
  const [gain] = report.differences
  assert.ok(Math.abs(gain!.mean - (report.scores[0]!.top1 - report.scores[1]!.top1)) < 1e-12)
  const {report: again, summary} = await result({head, train: []})
  assert.deepEqual([again.solver, again.cached], [undefined, undefined])
  assert.match(summary.heading, /^18 images, 3 classes; a trained classifier$/)
  await assert.rejects(run({head, train: [], baselines: ['majority']}), {exit: 2, message: /baseline majority is trained on --train/})
  assert.equal(again.scores[0]!.top1, report.scores[0]!.top1)
  await assert.rejects(run({head, train: [], models: [at('two.safetensors')]}), /another backbone/)
  assert.deepEqual((await run({head, train: [], layers: 1})).scores, again.scores, 'the head says which features it reads')
  const {transform: _, ...rest} = usual
  assert.deepEqual(
    (await run({...rest, transform: undefined as never, head, train: []})).scores,
    again.scores,
    'and how images are made ready'
  )
  await assert.rejects(run({head, train: [], val: [at('train/a')]}), /has no label|No class of val/)

  const rows: ClassifiedImage[] = []
  const bad: string[] = []
  const work = classifyImages({
    images: [at('val')],
    model: at('one.safetensors'),
    head,
    top: 2,
    engine: usual.engine,
    toolVersion: '0',
    workers: 0,
    onRejected: ({id}) => void bad.push(id)
  })
  for await (const row of work) rows.push(row)
  assert.equal(rows.length, 18)
  assert.deepEqual(bad, [])
  assert.equal(rows.filter(row => row.class === row['label']).length / 18, again.scores[0]!.top1)
  for (const {top, class: likeliest, probability} of rows) {
    assert.deepEqual(top[0], {class: likeliest, probability})
    assert.ok(top.length === 2 && top[0]!.probability >= top[1]!.probability && top[0]!.probability + top[1]!.probability <= 1.00001)
  }
  assert.equal(memory().numTensors, 0)
})

test('few shots: the mean over draws, each draw reported', async () => {
  const report = await run({solver: 'lbfgs', shots: 2, repeats: 3})
  const {repeats: tries, top1: mean} = report.scores[0]!
  assert.equal(tries!.length, 3)
  assert.ok(Math.abs(tries!.reduce((a, b) => a + b, 0) / 3 - mean) < 1e-12)
})

test('from embeddings; classes that only val has count as wrong', async () => {
  const save = async (name: string, n: number, classes: number): Promise<string> => {
    const output = await createEmbeddings(at(name), {
      meta: {
        fingerprint: 'a'.repeat(64),
        preprocessing: {resize: 1},
        pooling: 'cls',
        layers: 1,
        normalized: false,
        dim: 5,
        toolVersion: '0'
      },
      force: true
    })
    await output.write(
      batchOf(
        Array.from({length: n}, (_, i) => {
          const [random, centre] = [rng(1, name, i), rng(1, 'class', i % classes)]
          return {
            id: `${name}${i}`,
            vector: Float32Array.from({length: 5}, () => 2 * centre.normal() + 0.3 * random.normal()),
            fields: {label: `c${i % classes}`}
          }
        })
      )
    )
    await output.commit()
    return at(name)
  }
  const train = [await save('t.arrow', 40, 2)]
  const report = await run({models: [], train, val: [await save('v.arrow', 30, 3)], solver: 'lbfgs'})
  assert.equal(report.notes.length, 1)
  assert.match(report.notes[0]!, /1 class of val is not in train and counts as wrong: c2/)
  assert.ok(Math.abs(report.scores[0]!.top1 - 2 / 3) < 1e-12)
  assert.equal(memory().numTensors, 0)
})

test('rows of embeddings hold the kinds of the protocol as far as their pooling goes', () => {
  const names = (pooling: 'cls' | 'mean' | 'cls+mean', layers: number | number[], dim: number, solver: 'sgd' | 'lbfgs' = 'sgd'): string[] =>
    slicesOf({pooling, layers}, dim, solver).map(({name, start, length}) => `${name} ${start}+${length}`)
  assert.deepEqual(names('cls+mean', 4, 50), ['1 block 30+10', '1 block + mean 30+20', '4 blocks 0+40', '4 blocks + mean 0+50'])
  assert.deepEqual(names('cls', [2, 5, 8], 30), ['1 block 20+10', '3 blocks 0+30'])
  assert.deepEqual(names('cls', 1, 10), ['1 block 0+10'])
  assert.deepEqual(names('cls+mean', 1, 20), ['1 block 0+10', '1 block + mean 0+20'])
  assert.deepEqual(names('mean', 1, 10), ['embeddings 0+10'])
  assert.deepEqual(names('cls+mean', 4, 50, 'lbfgs'), ['embeddings 0+50'])
  assert.deepEqual(slicesOf({pooling: null, layers: null}, 7, 'sgd'), [{name: 'embeddings', start: 0, length: 7}])
})

test('a published head is read by its width, with the names that are given', async () => {
  const {writePth} = await import('../../../../src/files/checkpoint/pth.js')
  const [K, C] = [3, 32]
  const values = Float32Array.from({length: K * 2 * C}, (_, i) => Math.sin(i))
  const bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const path = at('published.pth')
  await writePth(path, [
    {name: 'weight', shape: [K, 2 * C], dtype: 'F32', read: async () => bytes(values)},
    {name: 'bias', shape: [K], dtype: 'F32', read: async () => bytes(new Float32Array(K))}
  ])
  const report = await run({head: path, train: [], classes: ['a', 'b', 'c']})
  assert.match(report.scores[0]!.chosen, /^1 block \+ mean of /)
  await assert.rejects(run({head: path, train: [], classes: ['a']}), /tells 3 classes apart, but 1 name was given/)
})

test('what cannot be scored is refused in a sentence', async () => {
  await assert.rejects(run({val: [at('nowhere')]}), /nowhere/)
  await drawnFolder(at('others'), ['x', 'y'], 2)
  await assert.rejects(run({val: [at('others')], cached: true}), /No class of val is in train: x, y there, a, b, c in train/)
  await writeFile(at('list.txt'), 'train/a/000.png\n')
  await assert.rejects(run({val: [at('list.txt')], cached: true}), /has no label/)
  await assert.rejects(run({models: [], train: [at('train')]}))
  assert.equal(memory().numTensors, 0)
})

test('few shots keep the classifier of the first draw, trained on so many images, and it scores again as it did', async () => {
  const head = at('shots.safetensors')
  const {report} = await result({solver: 'lbfgs', shots: 2, repeats: 3, headOut: head})
  assert.equal(report.train, 6, 'two of each of three classes')
  assert.match(report.notes.join(), /holds the classifier of the first draw/)
  assert.equal(report.head, head)
  const {report: again, summary} = await result({head, train: []})
  assert.deepEqual([again.solver, again.cached], [undefined, undefined])
  assert.match(summary.heading, /^18 images, 3 classes; a trained classifier$/)
  await assert.rejects(run({head, train: [], baselines: ['majority']}), {exit: 2, message: /baseline majority is trained on --train/})
  assert.equal(again.scores[0]!.top1, report.scores[0]!.repeats![0])
  await assert.rejects(run({solver: 'lbfgs', shots: 2, headOut: head}), {code: 'OUTPUT_EXISTS'}, 'an existing head is not replaced')
})

test('where classes have fewer images than shots, it is said', async () => {
  await drawnFolder(at('uneven'), ['a', 'b'], 2)
  await drawnFolder(at('uneven'), ['c'], 5)
  const {report} = await result({train: [at('uneven')], solver: 'lbfgs', shots: 3})
  assert.equal(report.train, 7)
  assert.match(report.notes.join(), /2 classes of train have fewer than 3 images, so all of theirs are used: a \(2\), b \(2\)/)
  assert.match(report.scores[0]!.chosen, /^up to 3 a class, 1 draw/)
})

test('one class alone cannot be separated: refused by a sentence, whatever the solver', async () => {
  await drawnFolder(at('single'), ['only'], 4)
  for (const solver of ['sgd', 'lbfgs'] as const)
    await assert.rejects(run({train: [at('single')], val: [at('single')], cached: true, solver, steps: 2}), {
      code: 'CLASSES',
      exit: 2,
      message: /of one class \(only\)/
    })
  assert.equal(memory().numTensors, 0)
})

test('two images of two classes are enough, and rows say what was predicted of each', async () => {
  await drawnFolder(at('two'), ['a', 'b'], 1)
  const {report, items} = await result({train: [at('two')], val: [at('val')], solver: 'lbfgs'})
  assert.equal(report.train, 2)
  assert.match(report.notes.join(), /1 class of val is not in train and counts as wrong: c/)
  const rows = [...items()]
  assert.equal(rows.length, 18)
  assert.equal(rows.filter(({correct}) => correct).length / 18, report.scores[0]!.top1)
  assert.ok(rows.every(({confidence}) => (confidence as number) >= 0.5 && (confidence as number) <= 1))
})
