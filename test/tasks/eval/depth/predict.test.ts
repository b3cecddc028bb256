/** Depth maps and pictures of depth from a head: what is written, that it reads back, and what is refused. */
import assert from 'node:assert/strict'
import {copyFile, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import sharp from 'sharp'
import type {RejectedImage} from '../../../../src/data/sources/image-ref.js'
import {readDepth} from '../../../../src/data/targets/depth-and-mask-files.js'
import {predictDepths, defaultScale, type DepthRow, type PredictDepthOptions} from '../../../../src/tasks/eval/depth/predict.js'
import {visualizeDepth} from '../../../../src/tasks/visualize/depth.js'
import {memory} from '../../../../src/tensor/tf.js'
import {onTorch} from '../../../support/engine.js'
import {golden, scratch} from '../../../support/scratch.js'
import {drawnRooms} from '../../../support/drawn-depth.js'
import {saveTiny, tiny} from '../../../support/tiny-backbone.js'

async function place(t: TestContext): Promise<{root: string; bad: RejectedImage[]; options: PredictDepthOptions}> {
  const root = await scratch(t)
  await drawnRooms(root, 'a/deep', 2)
  await drawnRooms(root, 'b', 1, 5)
  await saveTiny(join(root, 'model.safetensors'), 2, {...tiny, width: 8, depth: 12, hidden: 16})
  await copyFile(golden('depth_lin4_mmcv.pth'), join(root, 'nyu.pth'))
  const bad: RejectedImage[] = []
  const options: PredictDepthOptions = {
    images: [join(root, 'images')],
    model: join(root, 'model.safetensors'),
    head: join(root, 'nyu.pth'),
    output: join(root, 'out'),
    flip: true,
    colour: true,
    force: false,
    engine: {engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: () => undefined},
    onRejected: image => bad.push(image)
  }
  return {root, bad, options}
}

async function all(options: PredictDepthOptions): Promise<DepthRow[]> {
  const rows: DepthRow[] = []
  for await (const row of predictDepths(options)) rows.push(row)
  return rows
}

test('maps of 16 bits under the relative paths of the images, and rows that say what they hold', async t => {
  await onTorch()
  const {root, bad, options} = await place(t)
  await writeFile(join(root, 'images/b/broken.png'), 'nothing')
  await copyFile(join(root, 'images/b/05.png'), join(root, 'images/b/05.tif'))
  const before = memory().numTensors
  const rows = await all(options)
  assert.equal(memory().numTensors, before)
  assert.deepEqual(
    rows.map(({predicted}) => predicted.slice(root.length)),
    ['/out/a/deep/00.png', '/out/a/deep/01.png', '/out/b/05.png']
  )
  assert.match(
    bad.map(({path, reason}) => `${path.slice(root.length)}: ${reason}`).join('\n'),
    /b\/05\.tif: its map would be .*05\.png, which is that of .*05\.png\n\/images\/b\/broken\.png: it is text/
  )
  for (const row of rows) {
    const {width, height, metres, known} = await readDepth({path: row.predicted})
    assert.deepEqual([width, height, known, row.scale], [row.width, row.height, width * height, 0.001])
    const sorted = metres.slice().sort()
    for (const [reported, at] of [
      [row.min, 0],
      [row.median, sorted.length >> 1],
      [row.max, sorted.length - 1]
    ] as const)
      assert.ok(Math.abs(reported - sorted[at]!) < 1e-3)
    assert.ok(row.min >= 0.001 && row.max <= 10 && row.max > row.min)
    assert.deepEqual((await sharp(row.colour).metadata()).channels, 3)
  }
  await assert.rejects(all(options), /exists/)
  assert.equal((await all({...options, force: true, colour: false})).length, 3)
  await assert.rejects(all({...options, force: true, scale: 1e-4}), /does not fit into 16 bits/)
  await assert.rejects(all({...options, images: [join(root, 'out2')]}), /no file or folder/)
  assert.equal(defaultScale(80), 1 / 256)
})

test('pictures: image, prediction, truth and error where truth is known, a sheet or a page', async t => {
  await onTorch()
  const {root, bad, options} = await place(t)
  const before = memory().numTensors
  const reported = await visualizeDepth({...options, limit: 2, format: 'png'})
  assert.equal(reported.report.images, 2)
  assert.equal(reported.report.shown[0]!.errors, undefined)
  const plain = await sharp(reported.content as Uint8Array).metadata()
  assert.deepEqual([plain.width, plain.height], [320 + 2 * 16, 16 + 2 * (10 + 10 + 42 + 24 + 16)])
  await rm(join(root, 'depth/b/05.png'))
  const {content, report} = await visualizeDepth({...options, depths: join(root, 'depth'), limit: 9, format: 'html'})
  assert.equal(memory().numTensors, before)
  assert.deepEqual(
    report.shown.map(({errors}) => errors !== undefined),
    [true, true, false]
  )
  assert.match(bad[0]!.reason, /no depth map/)
  assert.ok(report.shown[0]!.errors!.rmse > 0 && report.shown[0]!.high > report.shown[0]!.low)
  assert.equal(String(content).split('alt="truth of').length - 1, 2)
})
