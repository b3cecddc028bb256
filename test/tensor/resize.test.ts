/**
 * Bilinear resizing of maps: kernel, reference and gradient together, and all of them against what PyTorch recorded
 * (`test/golden/make_resize.py`).
 */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {describe, test} from 'node:test'
import {resizeReference, resizeBackward, resizeBilinear, resizeForward, type MapSize} from '../../src/tensor/ops/resize.js'
import type {Tensor4D} from '../../src/tensor/tf.js'
import {apart, normal, onPlain, onTorch, put, take} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

type Case = {source: MapSize; size: MapSize; align: boolean; x: number[]; y: number[]; dy: number[]; dx: number[]}
const golden = JSON.parse(readFileSync(new URL('../../../test/golden/resize.json', import.meta.url), 'utf8')) as {cases: Case[]}

describe('bilinear resizing', () => {
  for (const [what, from, size, alignCorners] of [
    ['larger', [3, 4], [7, 9], false],
    ['smaller, without smoothing', [9, 8], [4, 3], false],
    ['with aligned corners', [3, 4], [6, 8], true]
  ] as const)
    test(what, () =>
      checkOp({
        inputs: {x: normal('maps', [2, ...from, 3])},
        forward: ({x}) => resizeForward(x, size, {alignCorners}),
        plain: ({x}) => resizeReference(x, size, {alignCorners}),
        backward: dy => ({x: resizeBackward(dy as unknown as Tensor4D, from, {alignCorners})}),
        taped: ({x}) => resizeBilinear(x, size, {alignCorners})
      })
    )

  test('is F.interpolate, forward and backward, on both engines', async () => {
    assert.ok(golden.cases.length >= 6)
    for (const engine of [onPlain, onTorch]) {
      await engine()
      for (const {source, size, align, x, y, dy, dx} of golden.cases) {
        const [before, after] = [[2, ...source, 3] as const, [2, ...size, 3] as const]
        const input = put({shape: before, data: Float32Array.from(x)})
        const incoming = put({shape: after, data: Float32Array.from(dy)})
        const options = {alignCorners: align}
        const [found, slope] = [resizeForward(input, size, options), resizeBackward(incoming, source, options)]
        assert.ok(apart(await take(found), {shape: after, data: Float32Array.from(y)}) < 2e-6, `${source.join()} to ${size.join()}`)
        assert.ok(apart(await take(slope), {shape: before, data: Float32Array.from(dx)}) < 2e-6, `${size.join()} back to ${source.join()}`)
        input.dispose()
        incoming.dispose()
      }
    }
  })
})
