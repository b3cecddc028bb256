/**
 * Depth heads and losses against tensors recorded from PyTorch formulas (`test/golden/make_depth.py`), the quick order
 * against the published one, gradients and leaks.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {openPth} from '../../src/files/checkpoint/pth.js'
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {binDepths, depthBackward, depthForward, plainDepth, type DepthBins} from '../../src/heads/depth-head.js'
import {gradientLoss, sigLoss} from '../../src/heads/depth-loss.js'
import {dptForward, dptOf, dptShapes} from '../../src/heads/dpt.js'
import {clipByValue, concat, memory, mul, reshape, tensor, tidy, tile, transpose} from '../../src/tensor/tf.js'
import type {Rank, Tensor, Tensor1D, Tensor3D, Tensor4D} from '../../src/tensor/tf.js'
import {resizeForward} from '../../src/tensor/ops/resize.js'
import {disposeTree} from '../../src/tensor/tree.js'
import {apart, onPlain, onTorch, take, type Values} from '../support/engine.js'
import {golden} from '../support/scratch.js'

const engines = [
  ['torch', onTorch],
  ['plain', onPlain]
] as const

/** All recorded tensors as values. */
async function recorded(): Promise<Map<string, Values>> {
  const file = await openSafetensors(golden('depth.safetensors'))
  const found = new Map<string, Values>()
  for (const [name, entry] of file.tensors) found.set(name, {shape: entry.shape, data: await entry.readFloat32()})
  await file.close()
  return found
}
const record = await recorded()
const made = (name: string): Tensor => {
  const {shape, data} = record.get(name)!
  return tensor(data.slice(), [...shape])
}
/** [B, C, h, w] as [B, h, w, C]. */
const last = (name: string): Tensor4D => tidy(() => transpose(made(name) as Tensor4D, [0, 2, 3, 1]))
/** [B, 1, H, W] as values [B, H, W, 1], which is the same order. */
const channelLast = (name: string): Values => {
  const {shape, data} = record.get(name)!
  return {shape: [shape[0]!, shape[2]!, shape[3]!, 1], data}
}
/** Features of blocks joined as the backbone gives them: of each block its patches and its class token. */
const features = (blocks: readonly number[]): Tensor4D =>
  tidy(() =>
    concat(
      blocks.flatMap(i => {
        const patches = last(`patches.${i}`)
        const [B, h, w, C] = patches.shape
        return [patches, tile(reshape<Rank.R4>(made(`cls.${i}`), [B, 1, 1, C]), [1, h, w, 1])]
      }),
      3
    )
  )

const bins: DepthBins = {min: 0.001, max: 10, count: 16, spacing: 'uniform'}
const judge = (found: Values, wanted: Values, name: string, limit = 2e-5): void => {
  const off = apart(found, wanted)
  assert.ok(off < limit, `${name} is off by ${off} of its largest entry`)
}

for (const [engine, start] of engines)
  test(`linear heads of one and four blocks, on ${engine}: depth, gradients, shown size, both orders`, async () => {
    await start()
    const before = memory().numTensors
    for (const [name, blocks] of [
      ['lin1', [3]],
      ['lin4', [0, 1, 2, 3]]
    ] as const) {
      const x = features(blocks)
      const weight = tidy(() => reshape<Rank.R2>(made(`${name}.weight`), [16, x.shape[3]]))
      const head = {conv_depth: {weight, bias: made(`${name}.bias`) as Tensor1D}}
      const count = memory().numTensors
      const saved = depthForward(x, head, bins)
      assert.equal(memory().numTensors - count, 3)
      const dy = tidy(() => reshape<Rank.R4>(made(`${name}.dy`), channelLast(`${name}.dy`).shape as [number, number, number, number]))
      const grads = depthBackward(dy, saved, head, bins)
      const shown = tidy(() => resizeForward(clipByValue(saved.depth, 0.5, 5.5), [37, 50]))
      judge(await take(plainDepth(x, head, bins)), channelLast(`${name}.depth`), `${name}: depth in the published order`)
      judge(await take(shown), channelLast(`${name}.shown`), `${name}: depth at the size of the image`)
      judge(await take(saved.depth), channelLast(`${name}.depth`), `${name}: depth`)
      const wanted = record.get(`${name}.grad.weight`)!
      judge(await take(grads.conv_depth.weight), {shape: wanted.shape.slice(0, 2), data: wanted.data}, `${name}: gradient of the weight`)
      judge(await take(grads.conv_depth.bias), record.get(`${name}.grad.bias`)!, `${name}: gradient of the bias`)
      assert.throws(() => depthForward(x, head, {...bins, count: 17}), /17/)
      for (const leaf of [x, dy, weight, head.conv_depth.bias, saved.logits, saved.total]) leaf.dispose()
    }
    assert.equal(memory().numTensors, before)
  })

test('bins: uniform as torch.linspace, logarithmic with both ends', async () => {
  await onPlain()
  judge(
    await take(binDepths({min: 1, max: 3, count: 5, spacing: 'uniform'})),
    {shape: [5], data: Float32Array.of(1, 1.5, 2, 2.5, 3)},
    'uniform',
    1e-6
  )
  judge(
    await take(binDepths({min: 1, max: 16, count: 5, spacing: 'log'})),
    {shape: [5], data: Float32Array.of(1, 2, 4, 8, 16)},
    'log',
    1e-6
  )
})

for (const [engine, start] of engines)
  test(`SigLoss, its warm-up and the gradient loss, on ${engine}: values and gradients`, async () => {
    await start()
    const flat = (name: string): Values => {
      const {shape, data} = record.get(name)!
      return {shape: [shape[0]!, shape[2]!, shape[3]!], data}
    }
    const put = (name: string): Tensor3D => tensor(flat(name).data.slice(), flat(name).shape as [number, number, number])
    const before = memory().numTensors
    const [pred, truth] = [put('loss.pred'), put('loss.truth')]
    for (const [name, made] of [
      ['sig', () => sigLoss(pred, truth, {max: 10})],
      ['warm', () => sigLoss(pred, truth, {max: 10, warmUp: true})],
      ['slopes', () => gradientLoss(pred, truth, {max: 10})]
    ] as const) {
      const {loss, gradient} = made()
      judge({...(await take(loss)), shape: [1]}, record.get(`loss.${name}`)!, name)
      judge(await take(gradient), flat(`loss.${name}.grad`), `${name}: gradient`)
    }
    // Nothing known: nothing to learn, and no NaN.
    const none = mul<Tensor3D>(truth, 0)
    for (const {loss, gradient} of [sigLoss(pred, none), gradientLoss(pred, none)]) {
      assert.equal((await take(loss)).data[0], 0)
      assert.ok((await take(gradient)).data.every(value => value === 0))
    }
    for (const leaf of [pred, truth, none]) leaf.dispose()
    assert.equal(memory().numTensors, before)
  })

for (const [engine, start] of engines)
  test(`DPT from an mmcv checkpoint, on ${engine}`, async () => {
    await start()
    const before = memory().numTensors
    const file = await openPth(golden('depth_dpt_mmcv.pth'), {tolerant: true})
    const shapes = dptShapes(8, 8)
    const named: [string, Tensor][] = []
    for (const [name, entry] of file.roots.get('state_dict')!) {
      if (!name.startsWith('decode_head.')) continue
      const short = name.slice('decode_head.'.length)
      assert.deepEqual(entry.shape, shapes.get(short), short)
      named.push([short, tensor(await entry.readFloat32(), [...entry.shape])])
    }
    await file.close()
    assert.deepEqual(named.map(([name]) => name).sort(), [...shapes.keys()].sort())
    const head = dptOf(named)
    const x = features([0, 1, 2, 3])
    judge(await take(dptForward(x, head, 0.001)), channelLast('dpt.depth'), 'depth')
    assert.throws(() => tidy(() => dptForward(features([0, 1]), head, 0.001)), /64 channels/)
    disposeTree(head)
    x.dispose()
    assert.equal(memory().numTensors, before)
  })
