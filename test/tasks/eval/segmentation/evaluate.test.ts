/**
 * Segmentation from pairs to scores, heads, masks and pages, on drawn scenes and a tiny backbone; and the published
 * head's file.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {readMask} from '../../../../src/data/targets/depth-and-mask-files.js'
import type {Raster} from '../../../../src/data/image/decode.js'
import {encodeImage} from '../../../../src/data/image/encode.js'
import {resample} from '../../../../src/data/image/resample.js'
import {openSegmentHead, vocColour} from '../../../../src/files/checkpoint/segment-head-file.js'
import {writePth} from '../../../../src/files/checkpoint/pth.js'
import {float32Bytes} from '../../../../src/files/checkpoint/tensor-entry.js'
import {windowStarts} from '../../../../src/heads/segment-head.js'
import {maskPath, assertDistinctMask, segmentImages, segmentRow} from '../../../../src/tasks/eval/segmentation/predict.js'
import {segEval, type SegEvalOptions, type SegReport} from '../../../../src/tasks/eval/segmentation/evaluate.js'
import type {EvalResult} from '../../../../src/tasks/eval/shared/evaluation.js'
import {resizedSize} from '../../../../src/data/image/dense-input.js'
import {predictClasses} from '../../../../src/tasks/eval/segmentation/inference.js'
import {pixelMaps} from '../../../../src/tasks/embed/image-features.js'
import {visualizeSegment} from '../../../../src/tasks/visualize/segmentation.js'
import {normalizePixels} from '../../../../src/tensor/ops/patches.js'
import {memory, tensor, tidy} from '../../../../src/tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor4D} from '../../../../src/tensor/tf.js'
import {normal, onTorch, put} from '../../../support/engine.js'
import {drawnScene, drawnScenes} from '../../../support/drawn-masks.js'
import {saveTiny, tiny} from '../../../support/tiny-backbone.js'

const engine = {engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: () => undefined} as const
let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'segment-'))
  await saveTiny(join(folder, 'tiny.safetensors'))
  await drawnScenes(folder, 'train', 8)
  await drawnScenes(folder, 'val', 5, 100)
  await writeFile(join(folder, 'masks', 'classes.txt'), '0 sky\n1 ground\n2 box #ff8000\n9 unlabelled\n')
})
after(() => rm(folder, {recursive: true}))

const options = (more: Partial<SegEvalOptions> = {}): SegEvalOptions => ({
  model: join(folder, 'tiny.safetensors'),
  train: [join(folder, 'images', 'train')],
  val: [join(folder, 'images', 'val')],
  masks: join(folder, 'masks'),
  classes: {ignore: [255], reduceZero: false},
  kind: 'linear',
  protocol: {size: 56},
  cached: true,
  steps: 60,
  trainBatch: 4,
  lr: 0.02,
  baselines: [],
  seed: 1,
  engine,
  toolVersion: 'test',
  ...more
})

async function run(given: SegEvalOptions): Promise<EvalResult<SegReport> & {bad: string[]}> {
  const bad: string[] = []
  const events = segEval({...given, onRejected: ({id, reason}) => bad.push(`${id.split('/').at(-1)}: ${reason}`)})
  let next = await events.next()
  while (!next.done) next = await events.next()
  return {...next.value, bad}
}

describe('seg-eval', () => {
  it('recommends a size where images are smaller than the model was made for', async () => {
    const model = join(folder, 'recorded.safetensors')
    await saveTiny(model, 0, tiny, {resize: '96', crop: '96'})
    const notes: string[] = []
    await run(options({model, steps: 1, engine: {...engine, note: note => notes.push(note)}}))
    const recommended = notes.filter(note => note.startsWith('recommended'))
    assert.equal(recommended.length, 1)
    assert.match(recommended[0]!, /^recommended: --size 96, for which .*recorded\.safetensors was made; features of smaller images/)
  })

  it('trains on cached features, scores with baselines, keeps the head, and draws a page', async () => {
    const headOut = join(folder, 'head.safetensors')
    const result = await run(
      options({headOut, baselines: ['pixels', 'histogram', 'untrained'], test: [join(folder, 'images', 'train')], examples: 1})
    )
    const {report, bad} = result
    assert.deepEqual(bad, [])
    assert.deepEqual(
      report.classes.map(({name}) => name),
      ['sky', 'ground', 'box']
    )
    assert.equal(report.scores.length, 10) // five candidates on two sets
    const score = (features: string, set = 'val') => report.scores.find(one => one.features === features && one.set === set)!
    assert.ok(score('model').miou > 0.35, `model ${score('model').miou}`)
    assert.ok(score('pixels').miou > 0.5, `pixels ${score('pixels').miou}`)
    // The commonest class everywhere: its own IoU, and nothing for the other two.
    const {miou, pixelAccuracy, classes} = score('majority')
    const shares = classes.map(({pixels}) => pixels / classes.reduce((sum, one) => sum + one.pixels, 0))
    assert.ok(Math.abs(pixelAccuracy - shares[0]!) < 1e-12 || Math.abs(pixelAccuracy - shares[1]!) < 1e-12)
    assert.ok(Math.abs(miou - pixelAccuracy / 3) < 1e-12)
    assert.deepEqual(
      report.differences.filter(({set}) => set === 'val').map(({over}) => over),
      ['majority', 'pixels', 'histogram', 'untrained']
    )
    const over = report.differences.find(one => one.over === 'majority' && one.set === 'val')!
    assert.ok(over.mean > 0 && over.interval[0] > 0 && !over.significant, 'five images are too few to call a difference significant')
    const rows = [...result.items()]
    assert.deepEqual([rows.length, rows[0]!.set, rows.at(-1)!.set], [5 + 8, 'val', 'test'])
    assert.ok(rows.every(row => (row['miou'] as number) >= 0 && (row['miou'] as number) <= 1))

    const again = await run(options({headOut: join(folder, 'again.safetensors')}))
    assert.deepEqual(again.report.scores[0], score('model'), 'the same inputs and seed give the same scores')
    assert.deepEqual((await openSegmentHead(join(folder, 'again.safetensors'))).tensors, (await openSegmentHead(headOut)).tensors)

    const {content: page} = await result.page({})
    for (const word of ['sky', 'Best', 'Worst', 'Typical', 'data:image/jpeg', 'raw pixels']) assert.ok(page.includes(word), word)

    const {train: _, ...scoring} = options({head: headOut})
    const scored = await run(scoring)
    assert.ok(Math.abs(scored.report.scores[0]!.miou - score('model').miou) < 1e-9)
    assert.deepEqual(scored.report.differences, [])

    // Masks of predict: ids and palette as the training masks have them.
    const before = memory().numTensors
    const predicted = []
    for await (const event of segmentImages({
      images: [join(folder, 'images', 'val', '100.png')],
      model: options().model,
      head: headOut,
      engine
    }))
      if (event.kind === 'image') predicted.push(await segmentRow(event, {folder: join(folder, 'out')}))
    assert.equal(memory().numTensors, before)
    const [row] = predicted
    assert.ok(row && Math.abs(Object.values(row.classes).reduce((a, b) => a + b, 0) - 1) < 1e-4 && row.confidence > 1 / 3)
    const mask = await readMask({path: row.mask!})
    assert.deepEqual([mask.width, mask.height], [70, 56])
    assert.ok(mask.ids.every(id => id <= 2))
    assert.deepEqual([...mask.palette!.subarray(6, 9)], [255, 128, 0])
    const share = [...mask.ids].filter(id => id === 0).length / mask.ids.length
    assert.ok(Math.abs(share - (row.classes['sky'] ?? 0)) < 1e-4)
    const sheet = await visualizeSegment({
      images: [join(folder, 'images', 'val')],
      model: options().model,
      head: headOut,
      engine,
      format: 'html',
      limit: 2
    })
    assert.equal(sheet.report.images, 2)
    assert.match(sheet.content as string, /ground/)

    await saveTiny(join(folder, 'other.safetensors'), 5)
    await assert.rejects(
      run({...scoring, model: join(folder, 'other.safetensors')}),
      /trained on features of another backbone: [0-9a-f]{12}/
    )
  })

  it('trains on random views, tests in windows at several scales and mirrored', async () => {
    const {report} = await run(options({kind: 'ms', cached: false, steps: 25, protocol: {size: 56, crop: 42, scales: [1, 1.3], layers: 2}}))
    assert.deepEqual(report.protocol['layers'], [1, 2])
    assert.equal(report.protocol['stride'], 21)
    assert.equal(report.protocol['flip'], true)
    assert.ok(report.scores[0]!.miou > 0.3, String(report.scores[0]!.miou))
  })

  it('names bad pairs with their reasons and goes on without them', async () => {
    const other = await mkdtemp(join(tmpdir(), 'segment-bad-'))
    await drawnScenes(other, 'train', 6)
    await rm(join(other, 'masks', 'train', '1.png'))
    const {encodeMask} = await import('../../../../src/data/image/png-write.js')
    const mask = (ids: Uint8Array, width: number, height: number): Uint8Array =>
      encodeMask(ids, {width, height, palette: new Uint8Array(30)})
    await writeFile(join(other, 'masks', 'train', '2.png'), mask(new Uint8Array(40 * 30), 40, 30))
    const {ids} = drawnScene(3)
    ids[7] = 5
    await writeFile(join(other, 'masks', 'train', '3.png'), mask(ids, 70, 56))
    await writeFile(join(other, 'masks', 'train', '4.png'), mask(new Uint8Array(70 * 56).fill(9), 70, 56))
    await writeFile(join(other, 'images', 'train', '5.png'), Buffer.from('nothing'))
    await writeFile(join(other, 'classes.txt'), 'sky\nground\nbox\n')
    const {report, bad} = await run(
      options({
        train: [join(other, 'images', 'train')],
        val: [join(other, 'images', 'train')],
        masks: join(other, 'masks'),
        classes: {ignore: [9], reduceZero: false},
        steps: 2
      })
    )
    assert.equal(report.train, 1)
    const reported = [...new Set(bad)].sort().join('\n')
    assert.match(reported, /1\.png: it has no mask/)
    assert.match(reported, /2\.png: it is 70 × 56 pixels, but its mask is 40 × 30/)
    assert.match(reported, /3\.png: its mask holds the id 5 \(1 pixels\), which is no class; classes are 0–2, left out 9/)
    assert.match(reported, /4\.png: no pixel of its mask counts/)
    assert.match(reported, /5\.png: /)
    await rm(other, {recursive: true})
  })

  it('gives the reason why no mask can be used, where classes are to be found in them', async () => {
    const other = await mkdtemp(join(tmpdir(), 'segment-form-'))
    await drawnScenes(other, 'train', 3)
    const given = {train: [join(other, 'images', 'train')], val: [join(other, 'images', 'train')], masks: join(other, 'masks'), steps: 2}
    const bad: string[] = []
    const attempt = async (): Promise<unknown> => {
      const events = segEval({...options(given), onRejected: ({reason}) => bad.push(reason)})
      for (let next = await events.next(); !next.done; next = await events.next());
      return undefined
    }
    const header = "{'descr': '|u1', 'fortran_order': False, 'shape': (56, 70, 3), }".padEnd(117) + '\n'
    const npy = Buffer.concat([Buffer.from([0x93, ...Buffer.from('NUMPY'), 1, 0, 118, 0]), Buffer.from(header), Buffer.alloc(56 * 70 * 3)])
    const picture = await encodeImage(
      Uint8Array.from({length: 70 * 56 * 3}, (_, i) => (i * 37) % 251),
      {width: 70, height: 56}
    )
    for (const [ending, bytes, reason] of [
      ['png', picture, /None of the 3 masks of the train set can be used.*0\.png: its mask cannot be used: .*picture in colou?rs/],
      [
        'npy',
        npy,
        /None of the 3 masks of the train set can be used.*0\.png: its mask cannot be used: .*\(56, 70, 3\)|its mask cannot be used: .*56.*70.*3/
      ]
    ] as const) {
      bad.length = 0
      for (const i of [0, 1, 2]) {
        await rm(join(other, 'masks', 'train', `${i}.png`), {force: true})
        await writeFile(join(other, 'masks', 'train', `${i}.${ending}`), bytes)
      }
      await assert.rejects(attempt(), (error: Error & {exit?: number}) => reason.test(error.message) && error.exit === 3)
      assert.equal(bad.length, 3)
    }
    await rm(join(other, 'masks'), {recursive: true})
    bad.length = 0
    await assert.rejects(attempt(), /No image of the train set has a mask/)
    assert.equal(bad.length, 6) // three of train, and the same three of val
    await rm(other, {recursive: true})
  })

  it('needs two classes, and says how many masks were looked through', async () => {
    const other = await mkdtemp(join(tmpdir(), 'segment-one-'))
    await drawnScenes(other, 'train', 2)
    const {encodeMask} = await import('../../../../src/data/image/png-write.js')
    for (const i of [0, 1])
      await writeFile(
        join(other, 'masks', 'train', `${i}.png`),
        encodeMask(new Uint8Array(70 * 56).fill(i === 0 ? 4 : 255), {width: 70, height: 56, palette: new Uint8Array(30)})
      )
    const given = {train: [join(other, 'images', 'train')], val: [join(other, 'images', 'train')], masks: join(other, 'masks')}
    await assert.rejects(
      run(options(given)),
      /There is one class \(class 4\) in the 2 masks that can be used, of 2; two are needed \(left out: ids 255\)/
    )
    await rm(other, {recursive: true})
  })

  it('finds ids where nothing names classes, and shifts them where 0 does not count', async () => {
    const other = await mkdtemp(join(tmpdir(), 'segment-ids-'))
    await drawnScenes(other, 'train', 3)
    const given = {train: [join(other, 'images', 'train')], val: [join(other, 'images', 'train')], masks: join(other, 'masks'), steps: 2}
    const found = await run(options({...given, classes: {ignore: [9], reduceZero: false}}))
    assert.deepEqual(
      found.report.classes.map(({id}) => id),
      [0, 1, 2]
    )
    const {content} = await found.page({})
    for (const color of ['rgb(0,0,255)', 'rgb(0,255,0)', 'rgb(255,0,0)']) assert.ok(content.includes(color), `${color}, that of the masks`)
    const reduced = await run(options({...given, classes: {ignore: [9], reduceZero: true}}))
    assert.deepEqual(
      reduced.report.classes.map(({id}) => id),
      [1, 2]
    )
    await rm(other, {recursive: true})
  })
})

describe('the published heads', () => {
  it('are read from mmsegmentation checkpoints, and nothing else of them is', async () => {
    const [K, D] = [150, 2 * tiny.width]
    const shapes: Record<string, number[]> = {
      'decode_head.bn.weight': [D],
      'decode_head.bn.bias': [D],
      'decode_head.bn.running_mean': [D],
      'decode_head.bn.running_var': [D],
      'decode_head.conv_seg.weight': [K, D, 1, 1],
      'decode_head.conv_seg.bias': [K]
    }
    const write = (path: string, leave = ''): Promise<void> =>
      writePth(
        path,
        Object.entries(shapes)
          .filter(([name]) => name !== leave)
          .map(([name, shape]) => {
            const data = normal(name, shape, 0.1, name.endsWith('var') ? 1 : 0).data as Float32Array
            return {name, dtype: 'F32' as const, shape, read: () => float32Bytes(data)}
          }),
        {root: 'state_dict', force: true}
      )
    const path = join(folder, 'dinov2_vits14_ade20k_ms_head.pth')
    await write(path)
    const head = await openSegmentHead(path)
    assert.deepEqual([head.spec.kind, head.spec.size, head.spec.stride, head.spec.flip, head.spec.layers], ['ms', 640, 320, true, null])
    assert.deepEqual([head.spec.classes.length, head.spec.classes[0]!.id, head.spec.ignored], [150, 1, [0]])
    assert.deepEqual(head.tensors.get('conv_seg.weight')!.shape, [K, D])
    assert.deepEqual(head.tensors.get('bn.bias')!.data, normal('decode_head.bn.bias', [D], 0.1, 0).data)
    const rows = []
    for await (const event of segmentImages({
      images: [join(folder, 'images', 'val', '100.png')],
      model: join(folder, 'tiny.safetensors'),
      head: path,
      engine,
      size: 56
    }))
      if (event.kind === 'image') rows.push(event.prediction)
    assert.equal(rows.length, 1) // two blocks by its width
    await write(path, 'decode_head.bn.running_var')
    await assert.rejects(openSegmentHead(path), /no segmentation head: it lacks decode_head.bn.running_var/)
    assert.deepEqual([vocColour(1), vocColour(2), vocColour(15)], [[128, 0, 0], [0, 128, 0], [192, 128, 128]]) // prettier-ignore
  })
})

describe('prediction', () => {
  it('averages windows that overlap, then stretches to the picture, then decides', async () => {
    await onTorch()
    const {pixels} = drawnScene(3)
    const photo: Raster = {width: 70, height: 56, data: pixels}
    const features = pixelMaps({patch: 8})
    const K = 3
    const head = {weight: put(normal('w', [K, features.dim], 0.2)) as Tensor2D, bias: put(normal('b', [K])) as Tensor1D}
    const [crop, stride] = [30, 17]
    const {labels, confidence} = await predictClasses(photo, features, head, {
      layers: [],
      size: 42,
      crop,
      stride,
      scales: [1],
      flip: false
    })
    // Written out: every window through the same features, interpolated by hand.
    const to = resizedSize(photo, 42)
    assert.deepEqual(to, {width: 52, height: 42})
    const image = normalizePixels(resample(photo, to), [1, to.height, to.width])
    const all = await image.data<'float32'>()
    const sum = new Float64Array(to.width * to.height * K)
    const count = new Float64Array(to.width * to.height)
    for (const top of windowStarts(to.height, crop, stride))
      for (const left of windowStarts(to.width, crop, stride)) {
        const part = new Float32Array(crop * crop * 3)
        for (let y = 0; y < crop; y++)
          part.set(all.subarray(((top + y) * to.width + left) * 3, ((top + y) * to.width + left + crop) * 3), y * crop * 3)
        const maps = tidy(() => features.compute(tensor(part, [1, crop, crop, 3]) as Tensor4D))
        const [, h, w, D] = maps.shape
        const data = await maps.data<'float32'>()
        maps.dispose()
        const [weights, bias] = [normal('w', [K, D], 0.2).data, normal('b', [K]).data]
        const scores = Float64Array.from({length: h * w * K}, (_, i) => {
          let value = bias[i % K]!
          for (let d = 0; d < D; d++) value += data[Math.floor(i / K) * D + d]! * weights[(i % K) * D + d]!
          return value
        })
        const stretched = bilinear(scores, h, w, crop, crop, K)
        for (let y = 0; y < crop; y++)
          for (let x = 0; x < crop; x++) {
            const at = (top + y) * to.width + left + x
            count[at]!++
            for (let k = 0; k < K; k++) sum[at * K + k]! += stretched[(y * crop + x) * K + k]!
          }
      }
    const final = bilinear(
      sum.map((value, i) => value / count[Math.floor(i / K)]!),
      to.height,
      to.width,
      56,
      70,
      K
    )
    let [unlike, mean] = [0, 0]
    for (let i = 0; i < 56 * 70; i++) {
      const own = [...final.subarray(i * K, (i + 1) * K)]
      const best = own.indexOf(Math.max(...own))
      mean += 1 / own.reduce((total, value) => total + Math.exp(value - own[best]!), 0) / (56 * 70)
      if (best !== labels[i]) unlike++
    }
    assert.ok(unlike <= 2, `${unlike} pixels differ`) // ties by rounding
    assert.ok(Math.abs(mean - confidence) < 1e-4)
    image.dispose()
    head.weight.dispose()
    head.bias.dispose()
  })

  it('gives masks places inside their folder, one for each image', () => {
    assert.equal(maskPath('out', '../photos/a/b.jpg'), join('out', 'photos', 'a', 'b.png'))
    assert.equal(maskPath('out', 's.tar/Track 0.1', true), join('out', 's.tar', 'Track 0.1.png'))
    assert.equal(maskPath('out', '/data/x.tif'), join('out', 'data', 'x.png'))
    const seen = new Map<string, string>()
    assertDistinctMask(seen, maskPath('out', 'a.jpg'), 'a.jpg')
    assert.throws(() => assertDistinctMask(seen, maskPath('out', 'a.png'), 'a.png'), /The masks of a.jpg and a.png would both be/)
  })
})

/** Bilinear interpolation, corners not aligned, by its formula; [h, w, K] → [y, x, K]. */
function bilinear(values: Float64Array, h: number, w: number, y: number, x: number, K: number): Float64Array {
  const out = new Float64Array(y * x * K)
  const place = (i: number, from: number, to: number): [number, number, number] => {
    const at = Math.max(0, ((i + 0.5) * from) / to - 0.5)
    const low = Math.min(from - 1, Math.floor(at))
    return [low, Math.min(from - 1, low + 1), at - low]
  }
  for (let i = 0; i < y; i++)
    for (let j = 0; j < x; j++) {
      const [top, bottom, v] = place(i, h, y)
      const [left, right, u] = place(j, w, x)
      for (let k = 0; k < K; k++) {
        const at = (row: number, column: number): number => values[(row * w + column) * K + k]!
        out[(i * x + j) * K + k] =
          (1 - v) * ((1 - u) * at(top, left) + u * at(top, right)) + v * ((1 - u) * at(bottom, left) + u * at(bottom, right))
      }
    }
  return out
}
