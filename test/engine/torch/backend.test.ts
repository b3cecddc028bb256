/**
 * Tensors of the torch engine: what is written is read back, whatever its type, size and number format; and what is
 * let go is free at once.
 */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {backend} from '../../../src/engine/torch/backend.js'
import {scalarType, torch} from '../../../src/engine/torch/binding.js'
import {layerNormForward} from '../../../src/tensor/ops/layer-norm.js'
import {linearBackward, linearForward} from '../../../src/tensor/ops/linear.js'
import {attentionBackward, attentionForward} from '../../../src/tensor/ops/attention.js'
import {geluBackward, geluForward, swigluBackward, swigluForward} from '../../../src/tensor/ops/gelu.js'
import {cast, castLike} from '../../../src/tensor/ops/precision.js'
import {
  add,
  concat,
  dispose,
  gather,
  keep,
  matMul,
  max,
  mul,
  ones,
  reshape,
  scalar,
  slice,
  sum,
  tensor,
  tensor1d,
  tidy,
  transpose,
  where,
  zeros
} from '../../../src/tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../../../src/tensor/tf.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take} from '../../support/engine.js'

before(onTorch)

/** How libtorch itself holds a tensor. */
const heldAs = (x: Tensor): number => torch().type(backend().handle(x))

/** The nearest bfloat16, ties to even. */
function rounded(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000
  return new Float32Array(bits.buffer)[0]!
}

test('bf16: a copy is rounded to the nearest, reads back as float32, and takes half the bytes', async () => {
  const start = held()
  const values = [0, -0, 1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -Math.PI, 1e-30, 3e38, Infinity, ...normal('values', [100], 10).data]
  const x = tensor1d(values)
  const low = cast(x, 'bf16')
  assert.equal(heldAs(low), scalarType.bfloat16)
  assert.equal(low.dtype, 'float32')
  assert.equal(held() - start, 6 * values.length)
  const read = [...(await low.data())]
  assert.deepEqual(
    read,
    values.map(value => rounded(Math.fround(value)))
  )
  assert.deepEqual([...low.dataSync()], read)
  const wide = cast(low, 'fp32')
  assert.equal(heldAs(wide), scalarType.float32)
  assert.deepEqual([...(await wide.data())], read)
  const like = castLike(x, low)
  assert.equal(heldAs(like), scalarType.bfloat16)
  dispose([x, low, wide, like])
  assert.equal(held(), start)
})

test('a copy in the precision that it has shares its data', async () => {
  const start = held()
  const x = tensor1d([1, 2, 3])
  const same = cast(x, 'fp32')
  assert.equal(held() - start, 12)
  x.dispose()
  assert.deepEqual([...(await same.data())], [1, 2, 3])
  same.dispose()
  assert.equal(held(), start)
})

test('elsewhere a cast changes nothing', async () => {
  await onPlain()
  const x = tensor1d([0.1])
  const low = cast(x, 'bf16')
  x.dispose()
  assert.deepEqual([...(await take(low)).data], [Math.fround(0.1)])
  await onTorch()
})

test('bf16: each operation is near its float32 form, and says in what its results are held', async () => {
  const [T, C, O] = [40, 32, 48]
  const [x, weight, bias] = [put(normal('x', [T, C])), put(normal('w', [O, C], 0.2)), put(normal('b', [O]))]
  const [xl, wl, bl] = [cast(x, 'bf16'), cast(weight, 'bf16'), cast(bias, 'bf16')]
  const groups = [{count: 4, length: 10}]
  const norm = {weight: put(normal('nw', [C], 1, 1)) as Tensor1D, bias: put(normal('nb', [C])) as Tensor1D}
  const dy = put(normal('dy', [T, O]))
  const residual = put(normal('residual', [T, O]))
  const wide = put(normal('qkv', [T, 3 * C]))
  const wideLow = cast(wide, 'bf16')
  const dx = put(normal('dx', [T, C]))
  const {bfloat16, float32} = scalarType
  const cases: Record<string, [low: () => Tensor, exact: () => Tensor, as: number]> = {
    linear: [() => linearForward(x, {weight: wl, bias: bl}), () => linearForward(x, {weight, bias}), bfloat16],
    'linear with GELU': [
      () => linearForward(xl, {weight: wl, bias: bl}, {activation: 'gelu'}),
      () => linearForward(x, {weight, bias}, {activation: 'gelu'}),
      bfloat16
    ],
    'linear onto a float32 stream': [
      () => linearForward(xl, {weight: wl, bias: bl}, {residual}),
      () => linearForward(x, {weight, bias}, {residual}),
      float32
    ],
    'gradient of x': [() => linearBackward(dy, xl, wl).x, () => linearBackward(dy, x, weight).x, bfloat16],
    'gradient of a weight': [() => linearBackward(dy, xl, wl).weight, () => linearBackward(dy, x, weight).weight, float32],
    'gradient of a bias': [() => linearBackward(dy, xl, wl).bias, () => linearBackward(dy, x, weight).bias, float32],
    'layer norm of a float32 stream': [() => layerNormForward(x, norm, wl).y, () => layerNormForward(x, norm).y, bfloat16],
    attention: [() => attentionForward(wideLow, groups, 4), () => attentionForward(wide, groups, 4), bfloat16],
    'gradient of attention': [() => attentionBackward(dx, wideLow, groups, 4), () => attentionBackward(dx, wide, groups, 4), bfloat16],
    GELU: [() => geluForward(xl), () => geluForward(x), bfloat16],
    'gradient of GELU': [() => geluBackward(dx, xl), () => geluBackward(dx, x), bfloat16],
    SwiGLU: [() => swigluForward(xl), () => swigluForward(x), bfloat16],
    'gradient of SwiGLU': [
      () => swigluBackward(slice(dx, [0, 0], [T, C / 2]), xl),
      () => swigluBackward(slice(dx, [0, 0], [T, C / 2]), x),
      bfloat16
    ]
  }
  for (const [what, [low, exact, as]] of Object.entries(cases)) {
    const [a, b] = [tidy(low), tidy(exact)]
    assert.equal(heldAs(a), as, what)
    const off = apart(await take(a), await take(b))
    assert.ok(off < 0.02 && off > 0, `${what} differs by ${off} of its largest entry`)
  }
  dispose([x, weight, bias, xl, wl, bl, norm.weight, norm.bias, dy, residual, wide, wideLow, dx])
})

test('whole numbers and truth values keep their type through the usual operations', async () => {
  const start = {tensors: counted(), bytes: held()}
  const big = 2 ** 24 + 1 // float32 has no such number
  const found = tidy(() => {
    const x = tensor([1, -2, big, 4, 5, 6], [2, 3], 'int32')
    const yes = tensor([1, 0, 1], [3], 'bool')
    return {
      sum: add(x, x),
      picked: gather(x, tensor1d([1, 1, 0], 'int32')),
      joined: concat([x, x], 1),
      turned: transpose(x),
      total: sum(x, 1),
      largest: max(x),
      chosen: where(yes, x, mul(x, scalar(-1, 'int32'))),
      more: x.greater(4),
      both: yes.logicalAnd(x.greater(0)),
      real: x.toFloat(),
      whole: tensor1d([1.7, -1.7]).toInt()
    }
  })
  const read = async (x: Tensor): Promise<[string, number[]]> => {
    const pair: [string, number[]] = [x.dtype, [...(await x.data())]]
    x.dispose()
    return pair
  }
  assert.deepEqual(await read(found.sum), ['int32', [2, -4, 2 * big, 8, 10, 12]])
  assert.deepEqual(await read(found.picked), ['int32', [4, 5, 6, 4, 5, 6, 1, -2, big]])
  assert.deepEqual(await read(found.joined), ['int32', [1, -2, big, 1, -2, big, 4, 5, 6, 4, 5, 6]])
  assert.deepEqual(await read(found.turned), ['int32', [1, 4, -2, 5, big, 6]])
  assert.deepEqual(await read(found.total), ['int32', [big - 1, 15]])
  assert.deepEqual(await read(found.largest), ['int32', [big]])
  assert.deepEqual(await read(found.chosen), ['int32', [1, 2, big, 4, -5, 6]])
  assert.deepEqual(await read(found.more), ['bool', [0, 0, 1, 0, 1, 1]])
  assert.deepEqual(await read(found.both), ['bool', [1, 0, 1, 1, 0, 1]])
  assert.deepEqual(await read(found.real), ['float32', [1, -2, 2 ** 24, 4, 5, 6]])
  assert.deepEqual(await read(found.whole), ['int32', [1, -1]])
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})

test('tensors of no elements go through, and are empty', async () => {
  const start = {tensors: counted(), bytes: held()}
  const found = tidy(() => {
    const none = zeros([0, 4]) as Tensor2D
    return {
      read: tensor([], [0, 4]),
      sliced: slice(ones([3, 4]), [1, 0], [0, 4]),
      picked: gather(ones([3, 4]), tensor1d([], 'int32')),
      joined: concat([none, ones([2, 4])], 0),
      shaped: reshape(none, [4, 0]),
      product: matMul(none, ones([4, 5])),
      inner: matMul(zeros([2, 0]) as Tensor2D, zeros([0, 3]) as Tensor2D),
      total: sum(none),
      columns: sum(none, 0),
      scaled: mul(none, 2),
      gelu: geluForward(none),
      layer: linearForward(none, {weight: ones([3, 4]), bias: ones([3])})
    }
  })
  const shapes = Object.fromEntries(Object.entries(found).map(([name, x]) => [name, x.shape]))
  assert.deepEqual(shapes, {
    read: [0, 4],
    sliced: [0, 4],
    picked: [0, 4],
    joined: [2, 4],
    shaped: [4, 0],
    product: [0, 5],
    inner: [2, 3],
    total: [],
    columns: [4],
    scaled: [0, 4],
    gelu: [0, 4],
    layer: [0, 3]
  })
  assert.deepEqual([...(await found.read.data())], [])
  assert.deepEqual([...(await found.joined.data())], new Array(8).fill(1))
  assert.deepEqual([...(await found.inner.data())], new Array(6).fill(0))
  assert.deepEqual([...(await found.columns.data())], [0, 0, 0, 0])
  assert.equal((await found.total.data())[0], 0)
  dispose(found)
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})

test('memory: bytes are counted as they come and go, a view holds what it looks at, the peak stays', () => {
  const start = held()
  torch().resetPeak()
  const x = ones([1000, 100])
  assert.equal(held() - start, 400_000)
  const view = reshape(x, [100, 1000])
  assert.equal(held() - start, 400_000)
  x.dispose()
  assert.equal(held() - start, 400_000)
  const small = slice(view, [0, 0], [1, 10])
  view.dispose()
  assert.equal(held() - start, 40, 'a small piece does not keep a large tensor alive')
  small.dispose()
  assert.equal(held(), start)
  assert.ok(torch().memory().peak >= start + 400_000)
})

test('an operation that fails names itself and the shapes, and leaves nothing behind', () => {
  const start = {tensors: counted(), bytes: held()}
  const [a, b] = [keep(ones([2, 3]) as Tensor2D), keep(ones([4, 5]) as Tensor2D)]
  assert.throws(() => tidy(() => linearForward(a, {weight: b})), /linear.*2, 3.*4, 5/is)
  dispose([a, b])
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})
