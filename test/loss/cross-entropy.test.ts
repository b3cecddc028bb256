/** Cross-entropies with soft targets: against the tape on a plain twin, and in pieces as at once. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {crossEntropy, prototypeLoss} from '../../src/loss/cross-entropy.js'
import type {Share} from '../../src/loss/cross-entropy.js'
import {dinoLoss, ibotLoss} from '../../src/loss/dino.js'
import {cast} from '../../src/tensor/ops/precision.js'
import {add, concat, dispose, div, gather, logSoftmax, matMul, mul, neg, reshape, slice, softmax, sum, tidy} from '../../src/tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor3D} from '../../src/tensor/tf.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take, whole, type Values} from '../engine-for-tests.js'
import {checkOp} from '../tensor/check-op.js'

const [R, n, D, K] = [11, 7, 6, 20]
const temperature = 0.1

/** Chances by row. */
function chances<const S extends readonly number[]>(name: string, shape: S): Values<S> {
  const {data} = normal(name, shape)
  const columns = shape.at(-1)!
  const values = Float32Array.from(data, Math.exp)
  for (let at = 0; at < values.length; at += columns) {
    const row = values.subarray(at, at + columns)
    const total = row.reduce((a, b) => a + b, 0)
    row.forEach((x, i) => (row[i] = x / total))
  }
  return {shape, data: values}
}
const positive = (name: string, size: number): Values<readonly [number]> => ({shape: [size], data: normal(name, [size]).data.map(Math.abs)})

/** −weight·Σₖ tₖ·log softmax(s/τ)ₖ of each row. */
const plain = (scores: Tensor2D, targets: Tensor2D, weights: Tensor1D): Tensor1D =>
  mul(neg(sum<Tensor1D>(mul(targets, logSoftmax(div<Tensor2D>(scores, temperature))), 1)), weights)

test('rows: value and gradient, also where targets do not sum to one', async () => {
  for (const scale of [1, 3]) {
    const targets = chances('targets', [R, K])
    const others = {targets: {...targets, data: targets.data.map(x => x * scale)}, weights: positive('weights', R)}
    const given = <T>(f: (targets: Tensor2D, weights: Tensor1D) => T): T => {
      const [t, w] = [put(others.targets), put(others.weights)]
      try {
        return f(t, w)
      } finally {
        dispose([t, w])
      }
    }
    await checkOp({
      inputs: {scores: normal('scores', [R, K])},
      forward: ({scores}) =>
        given((targets, weights) => {
          const {losses, gradient} = crossEntropy(scores, targets, weights, temperature)
          return {y: losses, gradient}
        }),
      plain: ({scores}) => plain(scores, put(others.targets), put(others.weights)),
      backward: (_, _inputs, {gradient}) => ({scores: gradient!.clone()}),
      ones: true,
      limits: {slope: 2e-2}
    })
  }
})

test('large scores do not overflow', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const [scores, targets, weights] = [put(normal('scores', [R, K], 1000)), put(chances('t', [R, K])), put(positive('w', R))]
    const {losses, gradient} = crossEntropy(scores, targets, weights, 0.04)
    for (const found of [await take(losses), await take(gradient)]) assert.ok(found.data.every(Number.isFinite))
    dispose([scores, targets, weights])
  }
})

const teachers = [whole([0, 6, 2, 2, 1, 5, 4, 3, 0, 1, 6]), whole([3, 3, 1, 0, 2, 6, 5, 4, 4, 0, 2])]
const targets = chances('targets', [n, K])
const weights = positive('weights', R)

/** Rows 0 … 5 with two targets each, and rows 6 … 10 with one, from a table of their own. */
const split = 6
const others = chances('others', [n, K])
const part = (values: Values, start: number, end: number): Values<readonly [number]> => ({
  shape: [end - start],
  data: values.data.slice(start, end)
})
const sharesOf = (): Share[] => [
  {
    ...{rows: split, targets: put(targets), weights: put(part(weights, 0, split))},
    first: put(part(teachers[0]!, 0, split)),
    second: put(part(teachers[1]!, 0, split))
  },
  {rows: R - split, targets: put(others), weights: put(part(weights, split, R)), first: put(part(teachers[0]!, split, R))}
]
const letGo = (shares: Share[]): void => {
  for (const {targets: t, first, second, weights: w} of shares) dispose([t, first, w, ...(second ? [second] : [])])
}

test('rows against prototypes: losses and both gradients', () =>
  checkOp({
    inputs: {z: normal('z', [R, D]), w: normal('w', [K, D])},
    forward: ({z, w}) =>
      tidy(() => {
        const {losses, dz, dw} = prototypeLoss(z, w, sharesOf(), temperature, 4)
        return {y: losses, dz, dw}
      }),
    plain: ({z, w}) => {
      const [both, single] = sharesOf()
      const target = concat([
        add<Tensor2D>(gather(both!.targets, both!.first), gather(both!.targets, both!.second!)),
        gather(single!.targets, single!.first)
      ])
      return plain(matMul(z, w, false, true), target, put(weights))
    },
    backward: (_, _inputs, {dz, dw}) => ({z: dz!.clone(), w: dw!.clone()}),
    ones: true,
    limits: {slope: 2e-2, gradient: 5e-5}
  }))

test('in pieces of any size the result is that of all at once, and no tensor stays', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = {tensors: counted(), bytes: held()}
    const [z, w] = [put(normal('z', [R, D])), put(normal('w', [K, D]))]
    const shares = sharesOf()
    const at = async (chunk?: number): Promise<Values[]> => {
      const before = counted()
      const {losses, dz, dw} = prototypeLoss(z, w, shares, temperature, chunk)
      assert.equal(counted() - before, 3)
      return [await take(losses), await take(dz), await take(dw)]
    }
    const together = await at()
    for (const chunk of [1, 2, 3, 5, R - 1, R, R + 1, 1000])
      (await at(chunk)).forEach((part, i) => assert.ok(apart(part, together[i]!) < 2e-6, `pieces of ${chunk}`))
    dispose([z, w])
    letGo(shares)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  }
})

test('prototypes in bf16: losses within 1 %, gradients float32 and near', async () => {
  await onTorch()
  const unit = normal('z', [R, D], 1 / Math.sqrt(D))
  const [z, w] = [put(unit), put(normal('w', [K, D], 1 / Math.sqrt(D)))]
  const shares = sharesOf()
  const low = cast(w, 'bf16')
  const [exact, near] = [prototypeLoss(z, w, shares, temperature), prototypeLoss(z, low, shares, temperature)]
  for (const [name, limit] of [
    ['losses', 0.01],
    ['dz', 0.03],
    ['dw', 0.03]
  ] as const)
    assert.ok(apart(await take(near[name]), await take(exact[name])) < limit, name)
  dispose([z, w, low])
  letGo(shares)
})

test('DINO: every student crop against every teacher crop, each by hand', async () => {
  const [m, g, B] = [3, 2, 4]
  const [student, teacher] = [normal('student', [m * B, K]), chances('teacher', [g, B, K])]
  await checkOp({
    inputs: {student},
    forward: ({student}) =>
      tidy(() => {
        const {loss, gradient} = dinoLoss(student, put(teacher) as Tensor3D, temperature)
        return {y: loss, gradient}
      }),
    plain: ({student}) => {
      const log = logSoftmax(div<Tensor2D>(student, temperature))
      const pairs = [0, 1, 2].flatMap(s =>
        [0, 1].map(t => sum(mul(slice(log, [s * B, 0], [B, K]), reshape(slice(put(teacher) as Tensor3D, [t, 0, 0], [1, B, K]), [B, K]))))
      )
      return div(neg(pairs.reduce((a, b) => add(a, b))), B)
    },
    backward: (_, _inputs, {gradient}) => ({student: gradient!.clone()}),
    ones: true,
    limits: {slope: 2e-2}
  })
})

test('iBOT: masked patches by their weights, over all images', async () => {
  const [student, teacher] = [normal('student', [R, K]), chances('teacher', [R, K])]
  await checkOp({
    inputs: {student},
    forward: ({student}) =>
      tidy(() => {
        const {loss, gradient} = ibotLoss(student, put(teacher), put(weights), 8, temperature)
        return {y: loss, gradient}
      }),
    plain: ({student}) => div(sum(plain(student, put(teacher), put(weights))), 8),
    backward: (_, _inputs, {gradient}) => ({student: gradient!.clone()}),
    ones: true,
    limits: {slope: 2e-2}
  })
})

test('a student that knows the targets has their entropy as its loss, and no gradient', async () => {
  await onTorch()
  const scores = put(normal('scores', [R, K]))
  const found = tidy(() =>
    crossEntropy(
      scores,
      softmax(div<Tensor2D>(scores, temperature)),
      put({shape: [R] as const, data: new Float32Array(R).fill(1)}),
      temperature
    )
  )
  const {data} = await take(found.gradient)
  assert.ok(data.every(x => Math.abs(x) < 1e-5))
  assert.ok((await take(found.losses)).data.every(x => x >= 0 && x < Math.log(K)))
  scores.dispose()
})
