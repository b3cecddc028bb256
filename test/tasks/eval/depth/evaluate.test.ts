/**
 * Depth evaluation as a whole, on drawn rooms and a tiny backbone: what is learnt, what is reported, heads kept and
 * opened again, published heads, bad pairs.
 */
import assert from 'node:assert/strict'
import {copyFile, mkdir, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import type {RejectedImage} from '../../../../src/data/sources/image-ref.js'
import {encodeGrey16} from '../../../../src/data/image/encode.js'
import {depthEval, type DepthEvalOptions, type DepthReport} from '../../../../src/tasks/eval/depth/evaluate.js'
import {batchOrder, depthMomentum, depthRate} from '../../../../src/tasks/eval/depth/train.js'
import type {EvalResult} from '../../../../src/tasks/eval/shared/evaluation.js'
import {memory} from '../../../../src/tensor/tf.js'
import {onTorch} from '../../../support/engine.js'
import {golden, scratch} from '../../../support/scratch.js'
import {drawnRooms} from '../../../support/drawn-depth.js'
import {saveTiny, tiny} from '../../../support/tiny-backbone.js'

async function rooms(t: TestContext): Promise<string> {
  const root = await scratch(t)
  await drawnRooms(root, 'train', 10)
  await drawnRooms(root, 'val', 4, 20)
  await saveTiny(join(root, 'model.safetensors'))
  return root
}

const settings = (root: string, more: Partial<DepthEvalOptions> = {}): DepthEvalOptions => ({
  train: [join(root, 'images/train')],
  val: [join(root, 'images/val')],
  tests: [],
  outOfDomain: [],
  depths: join(root, 'depth'),
  model: join(root, 'model.safetensors'),
  head: 'lin1',
  norm: false,
  bins: {count: 32, spacing: 'uniform'},
  crop: 'none',
  view: {crop: {width: 42, height: 28}},
  flip: true,
  cached: true,
  cacheMemory: 2 ** 26,
  cacheDisk: 0,
  recipe: {steps: 60, batch: 4, lr: 3e-2},
  baselines: ['mean', 'mean-map', 'pixels', 'histogram', 'untrained'],
  seed: 0,
  engine: {engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: () => undefined},
  toolVersion: '0',
  ...more
})

async function run(options: DepthEvalOptions): Promise<EvalResult<DepthReport> & {events: string[]}> {
  const events: string[] = []
  const steps = depthEval(options)
  for (;;) {
    const step = await steps.next()
    if (step.done) return {...step.value, events}
    events.push(step.value.kind === 'progress' ? step.value.stage : step.value.kind)
  }
}

const scoreOf = ({scores}: DepthReport, features: string, alignment = 'none', set = 'val') =>
  scores.find(score => score.features === features && score.alignment === alignment && score.set === set)!

test('a head learns depth, beats the mean, is kept and opened again with the same scores', async t => {
  await onTorch()
  const root = await rooms(t)
  const before = memory().numTensors
  const headOut = join(root, 'head.safetensors')
  const {report, page, items, summary, events} = await run(
    settings(root, {headOut, examples: true, outOfDomain: [join(root, 'images/train')]})
  )
  assert.equal(memory().numTensors, before)
  assert.deepEqual([...new Set(events)], ['accepted', 'started', 'reading', 'training', 'scoring'])
  assert.equal(report.train, 10)
  assert.deepEqual(
    report.sets.map(({kind, images}) => [kind, images]),
    [
      ['val', 4],
      ['out-of-domain', 10]
    ]
  )
  const [model, mean] = [scoreOf(report, 'model'), scoreOf(report, 'mean')]
  assert.ok(model.rmse < 0.8 * mean.rmse, `RMSE ${model.rmse} of the model, ${mean.rmse} of the mean depth`)
  assert.ok(model.intervals['rmse']![0] <= model.rmse && model.rmse <= model.intervals['rmse']![1])
  // Fitting in depth cannot make the RMSE of any image worse; a constant fitted is the mean of the image.
  assert.ok(scoreOf(report, 'model', 'depth').rmse <= model.rmse + 1e-6)
  assert.equal(report.scores.length, 2 * 6 * 4)
  const rows = [...items()]
  assert.deepEqual([rows.length, rows[0]!.set, rows.at(-1)!.set], [4 + 10, 'val', 'out-of-domain'])
  assert.ok(Math.abs(rows.slice(0, 4).reduce((sum, row) => sum + (row['rmse'] as number) / 4, 0) - model.rmse) < 1e-9)
  const [difference] = report.differences.filter(({over, set, measure}) => over === 'mean' && set === 'val' && measure === 'rmse')
  assert.ok(difference!.mean < 0 && difference!.better === 'lower' && Math.abs(difference!.mean - (model.rmse - mean.rmse)) < 1e-9)
  assert.match(JSON.stringify(summary.tables.at(-1)), /mean depth of each position/)
  const {content} = await page({})
  assert.match(content, /Best[^]*Typical[^]*Worst/)
  assert.equal(content.split('figure class="depth"').length - 1, 4 + 9) // of four images none comes twice

  const again = (await run(settings(root, {train: [], head: headOut, baselines: []}))).report
  assert.deepEqual(scoreOf(again, 'model'), model)
  assert.equal(again.head.file, headOut)
  await saveTiny(join(root, 'other.safetensors'), 1)
  await assert.rejects(
    run(settings(root, {train: [], baselines: [], head: headOut, model: join(root, 'other.safetensors')})),
    /another backbone/
  )
  await assert.rejects(run(settings(root, {headOut})), /exists/)
  assert.equal(memory().numTensors, before)
})

test('the same seed gives the same head; features that do not fit into the cache are computed again with the same result', async t => {
  await onTorch()
  const root = await rooms(t)
  const short = {recipe: {steps: 6, batch: 4}, baselines: [] as const}
  const first = scoreOf((await run(settings(root, short))).report, 'model')
  assert.deepEqual(scoreOf((await run(settings(root, {...short, cacheMemory: 1}))).report, 'model'), first)
  assert.notDeepEqual(scoreOf((await run(settings(root, {...short, seed: 1}))).report, 'model'), first)
})

test('random views instead of kept features; four blocks; images of several sizes; no flip', async t => {
  await onTorch()
  const root = await rooms(t)
  await drawnRooms(root, 'train', 3, 40, 70, 42)
  const before = memory().numTensors
  const views = {cached: false, flip: false, size: 42, head: 'lin4', recipe: {steps: 8, batch: 3}, baselines: ['mean' as const]}
  const {report} = await run(settings(root, views))
  assert.equal(report.train, 13)
  assert.deepEqual(report.head.layers, [0, 1, 2]) // a model of three blocks has no four to read
  assert.ok(report.head.trained!.loss > 0 && scoreOf(report, 'model').rmse > 0)
  assert.equal(memory().numTensors, before)
})

test('published heads of mmcv checkpoints, linear and DPT, on a backbone of their width', async t => {
  await onTorch()
  const root = await rooms(t)
  const model = join(root, 'narrow.safetensors')
  await saveTiny(model, 2, {...tiny, width: 8, depth: 12, hidden: 16})
  const wider = join(root, 'wider.safetensors')
  await saveTiny(wider, 2, {...tiny, width: 16, depth: 12, hidden: 16})
  const before = memory().numTensors
  for (const kind of ['lin4', 'dpt']) {
    const head = join(root, `kept_nyu_${kind}.pth`)
    await copyFile(golden(`depth_${kind}_mmcv.pth`), head)
    const {report} = await run(settings(root, {train: [], baselines: [], model, head}))
    assert.deepEqual([report.head.kind, report.head.layers, report.range.max], [kind === 'dpt' ? 'dpt' : 'linear', [2, 5, 8, 11], 10])
    assert.ok(Number.isFinite(scoreOf(report, 'model').rmse))
    await assert.rejects(
      run(settings(root, {train: [], baselines: [], model: wider, head})),
      kind === 'dpt' ? /does not fit a backbone 16 wide \(wrong shape/ : /reads 64 channels/
    )
    const unnamed = join(root, `${kind}.pth`)
    await copyFile(head, unnamed)
    await assert.rejects(run(settings(root, {train: [], baselines: [], model, head: unnamed})), /neither nyu nor kitti/)
    assert.equal((await run(settings(root, {train: [], baselines: [], model, head: unnamed, max: 7}))).report.range.max, 7)
  }
  assert.equal(memory().numTensors, before)
})

test('a size is recommended where images are smaller than the model was made for', async t => {
  await onTorch()
  const root = await rooms(t)
  const model = join(root, 'recorded.safetensors')
  await saveTiny(model, 0, tiny, {resize: '98', crop: '98'})
  const recommended = async (size: number): Promise<string[]> => {
    const notes: string[] = []
    const given = settings(root, {model, size, recipe: {steps: 1, batch: 1}, baselines: []})
    await run({...given, engine: {...given.engine, note: note => notes.push(note)}})
    return notes.filter(note => note.startsWith('recommended'))
  }
  assert.match((await recommended(42)).join(), /^recommended: --size 98, for which .*recorded\.safetensors was made; [^,]*$/)
  assert.deepEqual(await recommended(98), [])
})

test('bad pairs are named once, each with its reason, and left out', async t => {
  await onTorch()
  const root = await rooms(t)
  const [image, depth] = [(name: string) => join(root, 'images/train', name), (name: string) => join(root, 'depth/train', name)]
  await rm(depth('00.png'))
  await writeFile(depth('01.png'), 'no map')
  await writeFile(depth('02.png'), await encodeGrey16(new Uint16Array(40 * 42).fill(900), {width: 40, height: 42}))
  await writeFile(depth('03.png'), await encodeGrey16(new Uint16Array(56 * 42), {width: 56, height: 42}))
  await writeFile(depth('04.png'), await encodeGrey16(new Uint16Array(56 * 42).fill(60_000), {width: 56, height: 42}))
  await writeFile(image('05.png'), 'no image')
  const bad: RejectedImage[] = []
  const {report} = await run(settings(root, {recipe: {steps: 4, batch: 2}, onRejected: image => bad.push(image)}))
  assert.equal(report.train, 4)
  assert.deepEqual(bad.map(({id}) => id.slice(-6)).sort(), ['00.png', '01.png', '02.png', '03.png', '04.png', '05.png'])
  const reasons = bad.map(({reason}) => reason).join('\n')
  for (const reason of [
    /no depth map: there is no /,
    /it is text, not an image/,
    /56 × 42, but its depth map .* is 40 × 42/,
    /no known depth/,
    /between 0\.001 and 10 metres/
  ])
    assert.match(reasons, reason)
  await mkdir(join(root, 'empty'))
  await assert.rejects(run(settings(root, {train: [join(root, 'empty')]})), /no image to work on/)
  await assert.rejects(run(settings(root, {val: []})), /No set to score/)
  await assert.rejects(run(settings(root, {train: []})), /no training pairs were named/)
})

test('schedules: warm-up on half a cosine, momentum by one cycle; batches hold images of one size, all of them each epoch', () => {
  const recipe = {steps: 300, lr: 1}
  assert.ok(depthRate(0, recipe) < 2e-3 && Math.abs(depthRate(100, recipe) - 0.75) < 1e-9 && depthRate(300, recipe) < 1e-9)
  assert.ok(Math.abs(depthRate(50, recipe) - 0.5 * (1 + Math.cos(Math.PI / 6)) * (1 - 0.5 * 0.999)) < 1e-9)
  for (const [step, wanted] of [
    [0, 0.95],
    [90, 0.85],
    [300, 0.95]
  ] as const)
    assert.ok(Math.abs(depthMomentum(step, 300) - wanted) < 1e-9)
  const order = batchOrder(
    [
      [0, 1, 2],
      [3, 4]
    ],
    2,
    7
  )
  const epoch = Array.from({length: 3}, () => order.next().value!)
  assert.deepEqual(epoch.flatMap(({images}) => images).sort(), [0, 1, 2, 3, 4])
  assert.ok(epoch.every(({epoch: at, images}) => at === 0 && new Set(images.map((i: number) => i < 3)).size === 1))
  assert.equal(order.next().value!.epoch, 1)
})
