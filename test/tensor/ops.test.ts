/**
 * The fused operations of the model, each with its reference implementation: `checkOp` holds value, gradient, number
 * of tensors and memory together.
 *
 * T rows, C channels, I inputs, O outputs; groups of unlike lengths stand for packed crops of unlike sizes.
 */
import assert from 'node:assert/strict'
import {describe, test} from 'node:test'
import {torch} from '../../src/engine/torch/binding.js'
import {attention, attentionBackward, attentionForward, attentionReference, totalRows} from '../../src/tensor/ops/attention.js'
import {gelu, geluBackward, geluForward, geluReference, swigluReference, swigluBackward, swigluForward} from '../../src/tensor/ops/gelu.js'
import {layerNorm, layerNormBackward, layerNormForward, layerNormReference} from '../../src/tensor/ops/layer-norm.js'
import {
  linear,
  linearBackward,
  linearForward,
  linearReference,
  scaledBackward,
  scaledResidual,
  scaleRows
} from '../../src/tensor/ops/linear.js'
import {cast} from '../../src/tensor/ops/precision.js'
import {imageMean, imageStd, normalizePixels, patchRows} from '../../src/tensor/ops/patches.js'
import {addRows, takeRows} from '../../src/tensor/ops/rows.js'
import {
  add,
  concat,
  dispose,
  gather,
  mul,
  reshape,
  slice,
  square,
  tensor2d,
  tidy,
  unsortedSegmentSum,
  zerosLike
} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {rng} from '../../src/tensor/random.js'
import {apart, normal, onPlain, onTorch, put, take, whole, counted} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'
import type {OpCheck} from '../support/check-op.js'

const [T, I, O] = [37, 24, 40]
const layer = {weight: normal('weight', [O, I], 0.3), bias: normal('bias', [O])}
const x = normal('x', [T, I])

describe('checkOp notices', () => {
  const inputs = {x: normal('x', [4, 3])}
  const right = {inputs, forward: ({x}: {x: Tensor2D}) => square(x), plain: ({x}: {x: Tensor2D}) => square(x)}
  const slope = (dy: Tensor2D, x: Tensor2D, by: number): Tensor2D => tidy(() => mul(mul(dy, x), by))
  const lies: Record<string, [Partial<OpCheck<typeof inputs>>, RegExp]> = {
    'a wrong value': [{plain: ({x}) => mul(square(x), 1.001)}, /value differs by/],
    'a wrong gradient': [{backward: (dy, {x}) => ({x: slope(dy, x, 2.001)})}, /gradient of x differs by/],
    'a gradient that is wrong on the tape as well': [
      // To the tape, what is read out and put in again is a constant.
      {plain: ({x}) => mul(x, tensor2d(x.dataSync(), [4, 3])), backward: (dy, {x}) => ({x: slope(dy, x, 1)})},
      /central differences are off by/
    ],
    'a missing gradient': [{backward: () => ({})}, /every float input has a gradient/],
    'a tensor left behind': [{forward: ({x}) => square(x.clone())}, /tensors after the forward half/],
    'one left by the backward half': [{backward: (dy, {x}) => ({x: mul(mul(dy, x), 2)})}, /tensors after the backward half/]
  }
  for (const [what, [change, message]] of Object.entries(lies)) test(what, () => assert.rejects(checkOp({...right, ...change}), message))
  test('nothing where all is well', () => checkOp({...right, backward: (dy, {x}) => ({x: slope(dy, x, 2)})}))
})

describe('linear', () => {
  test('x·Wᵀ + b', () =>
    checkOp({
      inputs: {x, ...layer},
      forward: ({x, weight, bias}) => linearForward(x, {weight, bias}),
      plain: ({x, weight, bias}) => linearReference(x, {weight, bias}),
      backward: (dy, {x, weight}) => linearBackward(dy, x, weight),
      taped: ({x, weight, bias}) => linear(x, {weight, bias})
    }))

  test('without a bias', () =>
    checkOp({
      inputs: {x, weight: layer.weight},
      forward: ({x, weight}) => linearForward(x, {weight}),
      plain: ({x, weight}) => linearReference(x, {weight}),
      backward: (dy, {x, weight}) => {
        const {x: dx, weight: dw, bias} = linearBackward(dy, x, weight)
        bias.dispose()
        return {x: dx, weight: dw}
      }
    }))

  test('with GELU, with a residual, and with both', async () => {
    const inputs = {x, ...layer, residual: normal('residual', [T, O])}
    for (const activation of [undefined, 'gelu'] as const) {
      const options = activation ? {activation} : {}
      await checkOp({
        inputs,
        forward: ({x, weight, bias, residual}) => linearForward(x, {weight, bias}, {...options, residual}),
        plain: ({x, weight, bias, residual}) => linearReference(x, {weight, bias}, {...options, residual})
      })
      await checkOp({
        inputs: {x, ...layer},
        forward: ({x, weight, bias}) => linearForward(x, {weight, bias}, options),
        plain: ({x, weight, bias}) => linearReference(x, {weight, bias}, options)
      })
    }
  })

  test('a branch scaled by γ onto the stream: LayerScale folded into the weights', () =>
    checkOp({
      inputs: {stream: normal('stream', [T, O]), a: x, ...layer, gamma: normal('gamma', [O])},
      forward: ({stream, a, weight, bias, gamma}) => scaledResidual(stream, a, {weight, bias}, gamma),
      plain: ({stream, a, weight, bias, gamma}) => add(stream, mul(linearReference(a, {weight, bias}), gamma)),
      backward: (dy, {a, weight, bias, gamma}) => ({stream: dy.clone(), ...scaledBackward(dy, a, {weight, bias}, gamma)}),
      limits: {gradient: 5e-5} // γ's gradient is a sum over rows of products that cancel
    }))

  test('the same without γ', () =>
    checkOp({
      inputs: {stream: normal('stream', [T, O]), a: x, ...layer},
      forward: ({stream, a, weight, bias}) => scaledResidual(stream, a, {weight, bias}, undefined),
      plain: ({stream, a, weight, bias}) => add(stream, linearReference(a, {weight, bias})),
      backward: (dy, {a, weight, bias}) => {
        const {gamma, ...found} = scaledBackward(dy, a, {weight, bias}, undefined)
        assert.equal(gamma, undefined)
        return {stream: dy.clone(), ...found}
      }
    }))

  test('γ by rows of W, and on b', () =>
    checkOp({
      inputs: {...layer, gamma: normal('gamma', [O])},
      forward: ({weight, bias, gamma}) => {
        const scaled = scaleRows({weight, bias}, gamma)
        return {y: scaled.weight, bias: scaled.bias}
      },
      plain: ({weight, gamma}) => mul(weight, gamma.expandDims(1))
    }))

  test('one row, one output', () =>
    checkOp({
      inputs: {x: normal('x', [1, I]), weight: normal('weight', [1, I]), bias: normal('bias', [1])},
      forward: ({x, weight, bias}) => linearForward(x, {weight, bias}),
      plain: ({x, weight, bias}) => linearReference(x, {weight, bias}),
      backward: (dy, {x, weight}) => linearBackward(dy, x, weight)
    }))
})

describe('activations', () => {
  test('GELU is x·Φ(x), far out as well', async () => {
    await checkOp({
      inputs: {x: normal('x', [T, I], 2)},
      forward: ({x}) => geluForward(x),
      plain: ({x}) => geluReference(x),
      backward: (dy, {x}) => ({x: geluBackward(dy, x)}),
      taped: ({x}) => gelu(x)
    })
    // Φ at whole numbers, from a table.
    const points = {shape: [5], data: Float32Array.of(-30, -1, 0, 1, 30)}
    const expected = {shape: [5], data: Float32Array.of(0, -0.15865525, 0, 0.84134475, 30)}
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const at = put(points)
      assert.ok(apart(await take(geluForward(at)), expected) < 1e-6)
      at.dispose()
    }
  })

  test('SwiGLU is SiLU of the first half times the second', () =>
    checkOp({
      inputs: {ab: normal('ab', [T, 2 * I], 2)},
      forward: ({ab}) => swigluForward(ab),
      plain: ({ab}) => swigluReference(ab),
      backward: (dy, {ab}) => ({ab: swigluBackward(dy, ab)})
    }))
})

describe('layer norm', () => {
  const inputs = {x: normal('x', [T, I], 3, 5), weight: normal('weight', [I], 1, 1), bias: normal('bias', [I])}

  test('value, statistics and gradients', () =>
    checkOp({
      inputs,
      forward: ({x, weight, bias}) => layerNormForward(x, {weight, bias}),
      plain: ({x, weight, bias}) => layerNormReference(x, {weight, bias}).y,
      backward: (dy, {x, weight, bias}, {mean, rstd}) => layerNormBackward(dy, x, {mean, rstd}, {weight, bias}),
      taped: ({x, weight, bias}) => layerNorm(x, {weight, bias})
    }))

  test('the gradient of a residual path is added on the way', () =>
    checkOp({
      inputs,
      // The stream goes two ways, through the norm and past it; the gradient of the second is what `onto` stands for.
      forward: ({x, weight, bias}) =>
        tidy(() => {
          const {y, mean, rstd} = layerNormForward(x, {weight, bias})
          return {y: concat([y, x], 1), mean, rstd}
        }),
      plain: ({x, weight, bias}) => concat([layerNormReference(x, {weight, bias}).y, x], 1),
      backward: (dy, {x, weight, bias}, {mean, rstd}) =>
        tidy(() => {
          const [through, onto] = [slice(dy, [0, 0], [T, I]), slice(dy, [0, I], [T, I])]
          return layerNormBackward(through, x, {mean: mean as Tensor2D, rstd: rstd as Tensor2D}, {weight, bias}, onto)
        })
    }))

  test('a row of equal numbers becomes the bias', async () => {
    const equal = {shape: [2, I] as const, data: new Float32Array(2 * I).fill(4)}
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const [x, weight, bias] = [put(equal), put(inputs.weight), put(inputs.bias)]
      const y = await take(tidy(() => layerNormForward(x, {weight, bias}).y))
      assert.ok(apart(y, {shape: [2, I], data: Float32Array.from([...inputs.bias.data, ...inputs.bias.data])}) < 1e-5)
      dispose([x, weight, bias])
    }
  })
})

describe('attention', () => {
  test('sequences too long for all their weights at once go in pieces, and each comes out as it does alone', async () => {
    await onTorch()
    // 8 heads of 1,100 tokens: the weights of one sequence are 37 MiB, so that each is a piece of its own; the short
    // ones go together.
    const groups = [
      {count: 3, length: 1100},
      {count: 5, length: 7}
    ]
    const [qkv, dy] = [put(normal('long', [totalRows(groups), 48])), put(normal('slopes', [totalRows(groups), 16]))]
    const before = counted()
    const [y, dx] = [attentionForward(qkv, groups, 8), attentionBackward(dy, qkv, groups, 8)]
    const [whole, slope] = [await take(y), await take(dx)]
    for (const [start, length] of [
      [0, 1100],
      [2200, 1100],
      [3314, 7]
    ] as const) {
      const one = [{count: 1, length}]
      const alone = tidy(() => {
        const rows = slice(qkv, [start, 0], [length, 48])
        return {y: attentionForward(rows, one, 8), dx: attentionBackward(slice(dy, [start, 0], [length, 16]), rows, one, 8)}
      })
      const part = (all: Float32Array, width: number): Float32Array => all.subarray(start * width, (start + length) * width)
      assert.ok(apart(await take(alone.y), {shape: [length, 16], data: part(whole.data as Float32Array, 16)}) < 1e-6)
      assert.ok(apart(await take(alone.dx), {shape: [length, 48], data: part(slope.data as Float32Array, 48)}) < 2e-6)
      alone.y.dispose()
      alone.dx.dispose()
    }
    y.dispose()
    dx.dispose()
    assert.equal(counted(), before)
    qkv.dispose()
    dy.dispose()
  })

  for (const [what, groups, heads, width] of [
    ['one sequence, one head', [{count: 1, length: 5}], 1, 8],
    ['several groups and heads', [{count: 3, length: 7}, {count: 5, length: 4}, {count: 1, length: 1}], 3, 4], // prettier-ignore
    ['as in a model', [{count: 2, length: 26}, {count: 4, length: 10}], 2, 16] // prettier-ignore
  ] as const)
    test(what, () =>
      checkOp({
        inputs: {qkv: normal('qkv', [totalRows(groups), 3 * heads * width])},
        forward: ({qkv}) => attentionForward(qkv, groups, heads),
        plain: ({qkv}) => attentionReference(qkv, groups, heads),
        backward: (dy, {qkv}) => ({qkv: attentionBackward(dy, qkv, groups, heads)}),
        taped: ({qkv}) => attention(qkv, groups, heads)
      })
    )

  test('no sequence sees another', async () => {
    const groups = [
      {count: 2, length: 6},
      {count: 3, length: 4}
    ]
    const qkv = normal('qkv', [24, 24])
    await onTorch()
    const whole = put(qkv)
    const all = await take(attentionForward(whole, groups, 2))
    for (let i = 0, start = 0; i < 5; i++) {
      const length = i < 2 ? 6 : 4
      const own = tidy(() => attentionForward(slice(whole, [start, 0], [length, 24]), [{count: 1, length}], 2))
      const expected = {shape: [length, 8], data: all.data.slice(start * 8, (start + length) * 8)}
      assert.ok(apart(await take(own), expected) < 1e-6)
      start += length
    }
    whole.dispose()
  })

  test('a sequence whose weights do not fit is attended to in pieces: the same numbers, no more memory', async () => {
    const groups = [{count: 1, length: 5000}] // 25 million weights, above the 16.8 million that may exist at once
    await onTorch()
    const rows = put(normal('qkv', [5000, 12]))
    const before = torch().memory().held
    torch().resetPeak()
    const y = attentionForward(rows, groups, 1)
    const peak = torch().memory().peak - before
    const written = attentionReference(rows, groups, 1)
    assert.ok(apart(await take(y), await take(written)) < 1e-6)
    assert.ok(peak < 5000 * 5000 * 4 * 2, `${peak} bytes beside the input`) // scores and softmax of all at once take twice that
    rows.dispose()
  })

  test('large scores do not overflow', async () => {
    const qkv = normal('qkv', [10, 24], 40)
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const rows = put(qkv)
      const dy = put(normal('dy', [10, 8]))
      const [y, dx] = [attentionForward(rows, [{count: 2, length: 5}], 2), attentionBackward(dy, rows, [{count: 2, length: 5}], 2)]
      for (const found of [await take(y), await take(dx)]) assert.ok(found.data.every(Number.isFinite))
      rows.dispose()
      dy.dispose()
    }
  })
})

describe('rows', () => {
  const rows = whole([4, 0, 11, 7, 36])
  test('taken', () =>
    checkOp({
      inputs: {x, rows},
      forward: ({x, rows}) => takeRows(x, rows),
      plain: ({x, rows}) => gather(x, rows),
      backward: (dy, {x, rows}) => ({x: tidy(() => addRows(zerosLike(x), rows, dy))})
    }))

  test('added with one factor', () =>
    checkOp({
      inputs: {x, rows, y: normal('y', [5, I])},
      forward: ({x, rows, y}) => addRows(x, rows, y, 1.75),
      plain: ({x, rows, y}) => add(x, mul(unsortedSegmentSum(y, rows, T), 1.75)),
      backward: (dy, {rows}) => ({x: dy.clone(), y: tidy(() => mul(takeRows(dy, rows), 1.75))})
    }))

  test('added with a factor for each', () =>
    checkOp({
      inputs: {x, rows, y: normal('y', [5, I])},
      forward: ({x, rows, y}) => tidy(() => addRows(x, rows, y, put(normal('factor', [5, 1])))),
      plain: ({x, rows, y}) => add(x, unsortedSegmentSum(mul(y, put(normal('factor', [5, 1]))), rows, T)),
      backward: (dy, {rows}) => ({x: dy.clone(), y: tidy(() => mul(takeRows(dy, rows), put(normal('factor', [5, 1]))))})
    }))
})

describe('pixels', () => {
  const [B, H, W, P] = [2, 6, 9, 3]
  const random = rng(1, 'bytes')
  const bytes = Uint8Array.from({length: B * H * W * 3}, () => random.int(256))

  test('are normalized by channel', async () => {
    const expected = {
      shape: [B, H, W, 3],
      data: Float32Array.from(bytes, (byte, i) => (byte / 255 - imageMean[i % 3]!) / imageStd[i % 3]!)
    }
    for (const engine of [onPlain, onTorch]) {
      await engine()
      assert.ok(apart(await take(normalizePixels(bytes, [B, H, W])), expected) < 1e-6)
    }
    assert.throws(() => normalizePixels(bytes, [B, H, W + 1]), /expected 360 bytes for 2 images of 6 × 10 but received 324/)
  })

  test('are cut into patches: grid by rows, each patch by channel, y and x', async () => {
    const values = Float32Array.from(bytes, (_, i) => i)
    const expected = new Float32Array(values.length)
    let at = 0
    for (let b = 0; b < B; b++)
      for (let row = 0; row < H / P; row++)
        for (let column = 0; column < W / P; column++)
          for (let c = 0; c < 3; c++)
            for (let y = 0; y < P; y++)
              for (let x = 0; x < P; x++) expected[at++] = values[((b * H + row * P + y) * W + column * P + x) * 3 + c]!
    for (const engine of [onPlain, onTorch]) {
      await engine()
      const images = put({shape: [B, H, W, 3] as const, data: values})
      assert.deepEqual(await take(patchRows(images, P)), {shape: [(B * H * W) / P / P, 3 * P * P], data: expected})
      images.dispose()
    }
  })

  test('patches carry gradients back to their pixels', () =>
    checkOp({
      inputs: {images: normal('images', [B, H, W, 3])},
      forward: ({images}) => patchRows(images, P),
      plain: ({images}) => reshape(patchRows(images, P), [(B * H * W) / P / P, 3 * P * P]),
      taped: ({images}) => patchRows(images, P)
    }))
})

describe('native loops in bf16, beside float32 on the same numbers', () => {
  // More rows than one piece of a sum, widths that fill no vector.
  const [rows, width, taken] = [131, 39, 50]
  const places = whole(
    Array.from({length: rows}, (_, i) => i)
      .filter(i => (i * 7) % 13 < 5)
      .slice(0, taken)
  )
  const n = places.shape[0]
  const low = <X extends Tensor2D>(x: X): X => tidy(() => cast(x, 'bf16'))
  const wide = (x: Tensor2D): Tensor2D => cast(x, 'fp32')

  test('layer normalization of bf16 rows into bf16, and its gradient added to picked rows', async () => {
    await onTorch()
    const all = tidy(() => {
      const [x, onto] = [low(put(normal('x', [n, width], 2, 1))), put(normal('onto', [rows, width]))]
      const p = {weight: put(normal('weight', [width])), bias: put(normal('bias', [width]))}
      const dy = low(put(normal('dy', [n, width])))
      const near = layerNormForward(x, p, x)
      const exact = layerNormReference(wide(x), p)
      const at = put(places)
      const found = layerNormBackward(dy, x, near, p, onto, at)
      const grads = layerNormBackward(wide(dy), wide(x), exact, p)
      return {y: near.y, exact: exact.y, ...found, dx: addRows(onto, at, grads.x), dw: grads.weight, db: grads.bias}
    })
    assert.ok(apart(await take(all.y), await take(all.exact)) < 5e-3)
    assert.ok(apart(await take(all.x), await take(all.dx)) < 1e-5)
    assert.ok(apart(await take(all.weight), await take(all.dw)) < 1e-5)
    assert.ok(apart(await take(all.bias), await take(all.db)) < 1e-5)
  })

  test('rows picked with a factor into bf16, and bf16 rows added', async () => {
    await onTorch()
    for (const factor of [1.25, normal('factor', [n, 1])]) {
      const all = tidy(() => {
        const [x, at, by] = [put(normal('x', [rows, width])), put(places), typeof factor === 'number' ? factor : put(factor)]
        const picked = takeRows(x, at, by, low(x))
        return {picked, exact: takeRows(x, at, by), added: addRows(x, at, picked, by), reference: addRows(x, at, wide(picked), by)}
      })
      assert.ok(apart(await take(all.picked), await take(all.exact)) < 4e-3)
      assert.ok(apart(await take(all.added), await take(all.reference)) < 1e-6)
    }
  })

  test('GELU and its gradient: nothing but the rounding of the result, far out as well', async () => {
    await onTorch()
    const values = {shape: [1, 4001], data: Float32Array.from({length: 4001}, (_, i) => (i - 2000) / 100)} as const
    const all = tidy(() => {
      const x = low(put(values))
      const dy = low(put({shape: [1, 4001], data: new Float32Array(4001).fill(1)} as const))
      return {y: geluForward(x), exact: geluReference(wide(x)), dx: geluBackward(dy, x), slope: geluBackward(wide(dy), wide(x))}
    })
    for (const [found, expected] of [
      [await take(all.y), await take(all.exact)],
      [await take(all.dx), await take(all.slope)]
    ] as const)
      expected.data.forEach((value, i) =>
        assert.ok(Math.abs(found.data[i]! - value) <= Math.abs(value) / 250 + 1e-5, `${i}: ${found.data[i]} for ${value}`)
      )
  })

  test('attention and its gradient, for sequences shorter and longer than a vector and heads of several widths', async () => {
    await onTorch()
    const groups = [
      {count: 2, length: 1},
      {count: 2, length: 5},
      {count: 3, length: 16},
      {count: 2, length: 33},
      {count: 1, length: 70}
    ]
    for (const [heads, size] of [
      [2, 16],
      [3, 64],
      [1, 80]
    ] as const) {
      const all = tidy(() => {
        const qkv = low(put(normal('qkv', [totalRows(groups), 3 * heads * size])))
        const dy = low(put(normal('dy', [totalRows(groups), heads * size])))
        return {
          y: attentionForward(qkv, groups, heads),
          exact: attentionReference(wide(qkv), groups, heads),
          dx: attentionBackward(dy, qkv, groups, heads),
          slope: attentionBackward(wide(dy), wide(qkv), groups, heads)
        }
      })
      for (const [name, found, expected] of [
        ['value', await take(all.y), await take(all.exact)],
        ['gradient', await take(all.dx), await take(all.slope)]
      ] as const) {
        assert.ok(apart(found, expected) < 0.01, `${name} at ${heads} × ${size}: ${apart(found, expected)}`)
        const [a, b] = [found.data as Float32Array, expected.data as Float32Array]
        const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, value, i) => sum + value * y[i]!, 0)
        assert.ok(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)) > 0.99998, name)
      }
    }
  })

  test('gradients of a linear layer: sums over bf16 rows, and LayerScale', async () => {
    await onTorch()
    const all = tidy(() => {
      const [dy, a, weight] = [low(put(normal('dy', [rows, width]))), low(put(normal('a', [rows, 24]))), low(put(normal('w', [width, 24])))]
      const [bias, gamma] = [put(normal('bias', [width])), put(normal('gamma', [width]))]
      const near = scaledBackward(dy, a, {weight, bias}, gamma)
      const exact = scaledBackward(wide(dy), wide(a), {weight: wide(weight), bias}, gamma)
      return {near, exact}
    })
    assert.ok(apart(await take(all.near.bias), await take(all.exact.bias)) < 1e-5)
    for (const name of ['weight', 'gamma', 'a'] as const)
      assert.ok(apart(await take(all.near[name]!), await take(all.exact[name]!)) < 0.02, name)
  })

  test('rows that are named twice, or lie outside, are refused', async () => {
    await onTorch()
    const [x, y] = [put(normal('x', [4, 3])), put(normal('y', [2, 3]))]
    for (const wrong of [whole([1, 1]), whole([0, 4]), whole([-1, 2])]) {
      const at = put(wrong)
      assert.throws(() => addRows(x, at, y), /rows must be different ones of 4/)
      at.dispose()
    }
    dispose([x, y])
  })
})
