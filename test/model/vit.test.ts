/**
 * The vision transformer as a whole: what must hold whatever the weights are. Agreement with the reference is in
 * `test/golden`.
 */
import assert from 'node:assert/strict'
import {before, test} from 'node:test'
import {backwardTrain, castParams, forward, forwardTrain, castForInference, intermediateLayers, normedTokens} from '../../src/model/vit.js'
import type {ImageView, Vit} from '../../src/model/vit.js'
import type {VitConfig} from '../../src/model/config.js'
import {add, concat, dispose, gather, reshape, slice, tensor, tensor1d, tidy, transpose, zerosLike} from '../../src/tensor/tf.js'
import type {Tensor, Tensor2D, Tensor4D} from '../../src/tensor/tf.js'
import {count, flatten, disposeTree} from '../../src/tensor/tree.js'
import {rng} from '../../src/tensor/random.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take} from '../support/engine.js'
import {configs, smallVit} from '../support/small-vit.js'

before(onTorch)

const images = (name: string, B: number, H: number, W = H): Tensor4D => put(normal(name, [B, H, W, 3]))
const masksFor = (B: number, N: number): Tensor2D => {
  const random = rng(4, 'masks')
  return tensor(
    Float32Array.from({length: B * N}, () => Number(random.chance(0.4))),
    [B, N]
  )
}
const optionsFor = ({depth, heads}: VitConfig): {heads: number}[] => Array.from({length: depth}, () => ({heads}))
const near = async (what: string, computed: Tensor, expected: Tensor, limit = 1e-5): Promise<void> => {
  const off = apart(await take(computed), await take(expected))
  assert.ok(off <= limit, `${what} differs by ${off} of its largest entry`)
}

for (const [kind, config] of Object.entries(configs))
  test(`${kind}: packed views are separate passes, in values and summed gradients; nothing is left behind`, async () => {
    const start = {tensors: counted(), bytes: held()}
    const params = smallVit(config)
    const views: ImageView[] = [
      {images: images('a', 2, 12), masks: masksFor(2, 9)},
      {images: images('b', 3, 8)},
      {images: images('c', 1, 16, 8)}
    ]
    const options = optionsFor(config)
    const ready = counted()
    const packed = forwardTrain(params, views, config, options)
    const dy = put(normal('dy', packed.y.shape as [number, number]))
    const grads = backwardTrain(dy, params, packed.trace, config)
    assert.equal(counted() - ready, 2 + flatten(grads).size, 'the tokens, their gradient, and those of the parameters')
    let at = 0
    let total: Map<string, Tensor> | undefined
    for (const view of views) {
      const {y, trace} = forwardTrain(params, [view], config, options)
      const rows = y.shape[0]
      const alone = await take(y)
      const part = await take(tidy(() => slice(packed.y, [at, 0], [rows, config.width])))
      assert.ok(apart(part, alone) < 1e-5)
      const own = tidy(() => slice(dy, [at, 0], [rows, config.width]))
      const found = flatten(backwardTrain(own, params, trace, config))
      own.dispose()
      if (total === undefined) total = found
      else
        for (const [name, leaf] of found) {
          const sum = add(total.get(name)!, leaf)
          dispose([total.get(name)!, leaf])
          total.set(name, sum)
        }
      at += rows
    }
    assert.equal(at, packed.y.shape[0])
    const named = flatten(grads)
    assert.deepEqual([...total!.keys()].sort(), [...named.keys()].sort())
    for (const [name, leaf] of named) await near(name, leaf, total!.get(name)!, 5e-5)
    dispose([packed.y, dy, ...views.flatMap(({images, masks}) => [images, ...(masks ? [masks] : [])])])
    disposeTree(params)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  })

for (const [kind, config] of Object.entries(configs))
  test(`${kind}: every parameter gets a gradient of its own shape`, async () => {
    const params = smallVit(config)
    const view: ImageView = {images: images('a', 2, 12), masks: masksFor(2, 9)}
    const {y, trace} = forwardTrain(params, [view], config, optionsFor(config))
    const dy = put(normal('dy', y.shape as [number, number]))
    const grads = flatten(backwardTrain(dy, params, trace, config))
    assert.deepEqual([...grads.keys()].sort(), [...flatten(params).keys()].sort())
    for (const [name, leaf] of flatten(params)) {
      const {shape, data} = await take(grads.get(name)!)
      assert.deepEqual(shape, leaf.shape, name)
      assert.ok(Math.max(...data.map(Math.abs)) > 1e-4, `${name} gets nothing`)
      assert.ok(data.every(Number.isFinite), name)
    }
    dispose([y, dy, view.images, view.masks!])
    disposeTree(params)
  })

test('training, inference, features and the last block agree', async () => {
  const start = {tensors: counted(), bytes: held()}
  for (const config of Object.values(configs)) {
    const params = smallVit(config)
    const [x, masks] = [images('a', 2, 12, 16), masksFor(2, 12)]
    const {y, trace} = forwardTrain(params, [{images: x, masks}], config, optionsFor(config))
    disposeTree([
      ...flatten(trace.blocks as unknown as Tensor[]).values(),
      ...trace.pixels,
      trace.last.x,
      trace.last.stats.mean,
      trace.last.stats.rstd
    ])
    const inferred = normedTokens(params, {images: x, masks}, config)
    const features = forward(params, x, config, {masks})
    const joined = tidy(() => concat([features.cls.expandDims(1), features.registers, features.patches] as never, 1) as Tensor)
    assert.deepEqual(features.registers.shape, [2, config.registers, config.width])
    assert.deepEqual(features.prenorm.shape, [2, 13 + config.registers, config.width])
    await near('features', reshape(joined, y.shape), y.clone())
    await near('tokens', inferred, y)
    const plainFeatures = forward(params, x, config)
    const [last, ...rest] = intermediateLayers(params, x, config, {n: 1})
    assert.equal(rest.length, 0)
    await near('last block: cls', last!.cls, plainFeatures.cls)
    await near('last block: patches', last!.patches, plainFeatures.patches)
    dispose([joined, plainFeatures.registers, plainFeatures.prenorm, x, masks])
    dispose(features)
    disposeTree(params)
  }
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})

test('without positions, permuted patches give permuted features and the same class token', async () => {
  const config = {...configs.registers, grid: 4}
  const params = smallVit(config)
  const bare: Vit = {...params, pos_embed: zerosLike(params.pos_embed)}
  const [B, S, P] = [2, 4, config.patch]
  const order = [...rng(6, 'order').permutation(S * S)]
  const x = images('a', B, S * P)
  // The squares of the image, put in another order.
  const mixed = tidy(() => {
    const squares = reshape(transpose(reshape(x, [B, S, P, S, P, 3]), [0, 1, 3, 2, 4, 5]), [B, S * S, P * P * 3])
    const moved = reshape(gather(squares, tensor1d(order, 'int32'), 1), [B, S, S, P, P, 3])
    return reshape(transpose(moved, [0, 1, 3, 2, 4, 5]), [B, S * P, S * P, 3]) as Tensor4D
  })
  const [one, other] = [forward(bare, x, config), forward(bare, mixed, config)]
  await near(
    'patches',
    other.patches,
    tidy(() => gather(one.patches, tensor1d(order, 'int32'), 1))
  )
  await near('cls', other.cls, one.cls)
  await near('registers', other.registers, one.registers)
  // With positions it must not hold.
  const [placed, moved] = [forward(params, x, config), forward(params, mixed, config)]
  assert.ok(apart(await take(moved.cls), await take(placed.cls)) > 1e-3)
  for (const {patches, prenorm} of [one, other, placed, moved]) [patches, prenorm].filter(t => !t.isDisposed).forEach(t => t.dispose())
  ;[placed, moved].forEach(({registers}) => registers.dispose())
  dispose([x, mixed, bare.pos_embed])
  disposeTree(params)
})

test('a batch is its images one by one; a mask hides all that a patch shows', async () => {
  const config = configs.plain
  const params = smallVit(config)
  const x = images('a', 3, 12)
  const all = forward(params, x, config)
  for (let i = 0; i < 3; i++) {
    const one = tidy(() => forward(params, slice(x, [i, 0, 0, 0], [1, 12, 12, 3]), config).patches)
    await near(
      'patches',
      one,
      tidy(() => slice(all.patches, [i, 0, 0], [1, 9, config.width]))
    )
  }
  const everything = tensor(new Float32Array(27).fill(1), [3, 9]) as Tensor2D
  const [hidden, others] = [images('a', 3, 12), images('b', 3, 12)].map(own => {
    const found = tidy(() => forward(params, own, config, {masks: everything}).prenorm)
    own.dispose()
    return found
  })
  await near('hidden images', hidden!, others!, 0)
  dispose([...Object.values(all), x, everything])
  disposeTree(params)
})

test('LayerScale multiplied into the weights once changes nothing but the last digits', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = counted()
    for (const config of Object.values(configs)) {
      const params = smallVit(config)
      const x = images('a', 2, 8)
      const {params: folded, owned} = castForInference(params, 'fp32')
      assert.ok(folded.blocks.every(block => !block.ls1 && !block.ls2))
      const {params: copied, owned: copies} = castParams(params, 'fp32')
      for (const copy of [folded, copied])
        await near(
          'cls',
          tidy(() => forward(copy, x, config).cls),
          tidy(() => forward(params, x, config).cls)
        )
      dispose([...owned, ...copies, x])
      disposeTree(params)
    }
    assert.equal(counted(), start)
  }
})

test('bf16 weights: the features point the same way', async () => {
  await onTorch()
  const start = {tensors: counted(), bytes: held()}
  for (const config of Object.values(configs)) {
    const params = smallVit(config)
    const x = images('a', 4, 12)
    const {params: low, owned} = castParams(params, 'bf16')
    const exact = await take(tidy(() => forward(params, x, config).cls))
    for (const streamed of ['fp32', 'bf16'] as const) {
      const {data} = await take(tidy(() => forward(low, x, config, {stream: streamed}).cls))
      const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((sum, v, i) => sum + v * b[i]!, 0)
      const cosine = dot(data, exact.data) / Math.sqrt(dot(data, data) * dot(exact.data, exact.data))
      assert.ok(cosine > 0.999 && cosine < 1, `${cosine}`)
    }
    dispose([...owned, x])
    disposeTree(params)
  }
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
})

test('sizes that do not fit are refused in a sentence, and blocks that are not there', async () => {
  await onTorch()
  const config = configs.plain
  const params = smallVit(config)
  const start = counted()
  const [odd, x] = [images('a', 1, 12, 13), images('a', 1, 12)]
  assert.throws(() => forward(params, odd, config), /multiples of the patch \(4 px\) but received 12 × 13/)
  assert.throws(() => intermediateLayers(params, x, config, {n: [0, 2]}), /blocks between 0 and 1 but received 2/)
  assert.throws(() => intermediateLayers(params, x, config, {n: 3}), RangeError)
  dispose([odd, x])
  assert.equal(counted(), start)
  assert.equal(
    count(params),
    [...flatten(params).values()].reduce((sum, leaf) => sum + leaf.size, 0)
  )
  disposeTree(params)
  assert.equal(counted(), 0)
})
