/**
 * The linear segmentation head against PyTorch (`test/golden/make_segment_head.py`): scores, loss, gradients, running
 * statistics and three steps of training.
 */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {describe, test} from 'node:test'
import {adamw} from '../../src/optim/adamw.js'
import {pixelLoss, plainPixelLoss} from '../../src/heads/pixel-loss.js'
import {
  foldSegmentHead,
  initSegmentHead,
  polyLearningRate,
  setTrainable,
  segmentBackward,
  segmentForward,
  trainable,
  windowStarts,
  type SegmentHead
} from '../../src/heads/segment-head.js'
import {linearForward} from '../../src/tensor/ops/linear.js'
import {resizeBackward, resizeForward, type MapSize} from '../../src/tensor/ops/resize.js'
import {dispose, mul, reshape, tensor, tidy, zerosLike} from '../../src/tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor4D} from '../../src/tensor/tf.js'
import {flatten, disposeTree, unflatten} from '../../src/tensor/tree.js'
import {apart, counted, normal, onPlain, onTorch, put, take, whole} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

type State = Record<string, number[]>
type Step = {x: number[]; labels: number[]; scores: number[]; loss: number; lr: number; grads: State; after: State}
type Golden = {
  sizes: [number, number, number, number, number]
  size: MapSize
  before: State
  steps: Step[]
  eval: {x: number[]; scores: number[]}
}
const golden = JSON.parse(readFileSync(new URL('../../../test/golden/segment_head.json', import.meta.url), 'utf8')) as Golden
const [D, K, B, H, W] = golden.sizes

const headOf = (state: State): SegmentHead =>
  unflatten<SegmentHead>(
    Object.entries(state).map(([name, data]) => [name, tensor(data, name === 'conv_seg.weight' ? [K, D] : [data.length])] as const)
  )
const near = async (what: string, found: Tensor2D | Tensor1D | Tensor4D, expected: readonly number[], limit: number): Promise<void> => {
  const values = await take(found)
  const off = apart(values, {shape: values.shape, data: Float32Array.from(expected)})
  assert.equal(values.data.length, expected.length, what)
  assert.ok(off <= limit, `${what} is off by ${off}`)
}

describe('the linear segmentation head', () => {
  for (const [name, engine] of [
    ['plain', onPlain],
    ['torch', onTorch]
  ] as const)
    test(`trains as PyTorch's (${name})`, async () => {
      await engine()
      const before = counted()
      const head = headOf(golden.before)
      const zeros = () => new Map([...trainable(head)].map(([key, leaf]) => [key, zerosLike(leaf)]))
      const moments = {m: zeros(), v: zeros()}
      assert.equal(golden.steps.length, 3)
      for (const [i, step] of golden.steps.entries()) {
        const x = tensor(step.x, [B * H * W, D]) as Tensor2D
        const {scores, trace} = segmentForward(x, head)
        const labels = tensor(step.labels, [step.labels.length], 'int32') as Tensor1D
        const made = tidy(() => {
          const maps = resizeForward(reshape(scores, [B, H, W, K]), golden.size) //                 [B, Y, X, K]
          const {loss, gradient} = pixelLoss(reshape(maps, [-1, K]), labels, 255)
          const slope = mul(reshape(gradient, maps.shape), 1 / step.labels.length) as Tensor4D
          return {loss: mul(loss, 1 / step.labels.length), dy: reshape(resizeBackward(slope, [H, W]), [-1, K]) as Tensor2D}
        })
        await near(`step ${i}: loss`, made.loss as unknown as Tensor1D, [step.loss], 1e-5)
        const grads = segmentBackward(made.dy, trace, head)
        for (const [key, grad] of grads) await near(`step ${i}: gradient of ${key}`, grad.clone() as Tensor1D, step.grads[key]!, 2e-5)
        const lr = polyLearningRate(1e-2, i, 5, 2)
        assert.ok(Math.abs(lr - step.lr) < 1e-12, `step ${i}: learning rate ${lr}`)
        const named = trainable(head)
        adamw(named, grads, moments, {betas: [0.9, 0.999], eps: 1e-8, step: i + 1, rates: () => ({lr, wd: 1e-4})})
        setTrainable(head, named)
        await near(`step ${i}: scores`, scores, step.scores, 2e-5)
        for (const [key, leaf] of flatten(head)) await near(`step ${i}: ${key}`, leaf.clone() as Tensor1D, step.after[key]!, 5e-5)
        dispose([x, labels, made.dy, trace.normal, ...grads.values()])
      }
      const folded = foldSegmentHead(head)
      const x = tensor(golden.eval.x, [H * W, D]) as Tensor2D
      await near('prediction', linearForward(x, folded), golden.eval.scores, 5e-5)
      dispose([x, folded.weight, folded.bias, ...moments.m.values(), ...moments.v.values()])
      disposeTree(head)
      assert.equal(counted(), before)
    })

  test('begins as mmsegmentation draws it, the same for the same seed', async () => {
    await onPlain()
    const [head, again] = [initSegmentHead(50, 40, 1), initSegmentHead(50, 40, 1)]
    const [weight, loaded] = [await take(head.conv_seg.weight.clone()), await take(again.conv_seg.weight.clone())]
    assert.deepEqual(weight, loaded)
    const deviation = Math.sqrt((weight.data as Float32Array).reduce((sum, v) => sum + v * v, 0) / weight.data.length)
    assert.ok(Math.abs(deviation - 0.01) < 0.001)
    disposeTree(head)
    disposeTree(again)
  })
})

describe('cross-entropy of pixels', () => {
  test('kernel and reference, with ignored pixels', () =>
    checkOp({
      inputs: {scores: normal('scores', [9, 5], 2), labels: whole([0, 4, 255, 2, 1, 255, 3, 3, 0])},
      forward: ({scores, labels}) => {
        const {loss, gradient} = pixelLoss(scores, labels, 255)
        return {y: loss, gradient}
      },
      plain: ({scores, labels}) => plainPixelLoss(scores, labels, 255).loss,
      backward: (dy, _, {gradient}) => ({scores: tidy(() => mul(gradient, dy))}),
      ones: true
    }))

  test('nothing but ignored pixels costs nothing', async () => {
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const [scores, labels] = [put(normal('scores', [3, 4])), put(whole([9, 9, 9]))]
      const {loss, gradient} = pixelLoss(scores, labels, 9)
      assert.equal(Math.abs((await take(loss)).data[0]!), 0)
      assert.ok((await take(gradient)).data.every(value => value === 0))
      dispose([scores, labels])
    }
  })
})

describe('windows of a sliding test', () => {
  test('step by the stride, the last one to the edge, as mmsegmentation does', () => {
    assert.deepEqual(windowStarts(512, 512, 341), [0])
    assert.deepEqual(windowStarts(300, 512, 341), [0])
    assert.deepEqual(windowStarts(683, 512, 341), [0, 171])
    assert.deepEqual(windowStarts(853, 512, 341), [0, 341])
    assert.deepEqual(windowStarts(854, 512, 341), [0, 341, 342])
    assert.deepEqual(windowStarts(1195, 512, 341), [0, 341, 682, 683])
  })
})
