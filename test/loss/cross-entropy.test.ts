/** Cross-entropies with soft targets: against the tape on a reference implementation, and in pieces as at once. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {columnLoss, crossEntropy, prototypeLoss} from '../../src/loss/cross-entropy.js'
import type {PrototypeLoss, SegmentChunk} from '../../src/loss/cross-entropy.js'
import {dinoLossReference, ibotLossReference} from '../../src/loss/dino-reference.js'
import {denseLogits} from '../../src/loss/logits.js'
import type {Targets} from '../../src/loss/targets.js'
import {cast} from '../../src/tensor/ops/precision.js'
import {RowSum} from '../../src/tensor/ops/row-sum.js'
import {
  add,
  concat,
  dispose,
  div,
  exp,
  gather,
  logSoftmax,
  matMul,
  mul,
  neg,
  reshape,
  slice,
  softmax,
  sub,
  sum,
  tidy,
  zeros
} from '../../src/tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D, Tensor3D} from '../../src/tensor/tf.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take, whole, type Values} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

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

/** Known targets as scores that are their logarithms, at temperature one; all their tensors besides. */
function known(values: Values<readonly [number, number]>): {targets: Targets; tensors: Tensor[]} {
  const scores: Tensor2D = put({...values, data: Float32Array.from(values.data, Math.log)})
  const [rows, columns] = values.shape.map(size => zeros([size])) as [Tensor1D, Tensor1D]
  return {
    targets: {logits: denseLogits(scores), logRowScale: rows, logColumnScale: columns, temperature: 1},
    tensors: [scores, rows, columns]
  }
}

type All = PrototypeLoss & {dw: Tensor2D}

/** Losses and both gradients of rows with two teachers each, but for the last three, which have one. */
function against(z: Tensor2D, w: Tensor2D, width: number, hold = false): All {
  const {targets: of, tensors} = known(targets)
  const sum = new RowSum([K, D])
  const rows = teachers.map(row => [put(whole([...row.data].slice(0, R - 3))), put(whole([...row.data].slice(R - 3)))] as const)
  const by = put(weights)
  const segments = [
    {rows: R - 3, targets: of, teachers: [rows[0]![0], rows[1]![0]] as const},
    {rows: 3, targets: of, teachers: [rows[0]![1]] as const}
  ]
  const found = prototypeLoss(z, w, segments, by, temperature, {width, cacheLogits: hold, onPrototypes: (start, dw) => sum.add(start, dw)})
  dispose([...tensors, ...rows.flat(), by])
  return {...found, dw: sum.take()!}
}

test('rows against prototypes: losses and both gradients', () =>
  checkOp({
    inputs: {z: normal('z', [R, D]), w: normal('w', [K, D])},
    forward: ({z, w}) => {
      const {losses, dz, dw} = against(z, w, 6)
      return {y: losses, dz, dw}
    },
    plain: ({z, w}) => {
      const [first, second] = teachers.map(rows => gather(put(targets), put(rows))) as [Tensor2D, Tensor2D]
      const twice = put({shape: [R, 1], data: Float32Array.from({length: R}, (_, i) => (i < R - 3 ? 1 : 0))})
      return plain(matMul(z, w, false, true), add(first, mul(second, twice)), put(weights))
    },
    backward: (_, _inputs, {dz, dw}) => ({z: dz!.clone(), w: dw!.clone()}),
    ones: true,
    limits: {slope: 2e-2, gradient: 5e-5}
  }))

test('in pieces of any size, held or not, the result is that of all at once, and no tensor stays', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = {tensors: counted(), bytes: held()}
    const [z, w] = [put(normal('z', [R, D])), put(normal('w', [K, D]))]
    const at = async (width: number, hold: boolean): Promise<Values[]> => {
      const before = counted()
      const {losses, dz, dw} = against(z, w, width, hold)
      assert.equal(counted() - before, 3)
      return [await take(losses), await take(dz), await take(dw)]
    }
    const together = await at(K, false)
    for (const width of [1, 2, 3, 7, K - 1, K, K + 1, 1000]) {
      const [again, held] = [await at(width, false), await at(width, true)]
      again.forEach((part, i) => assert.ok(apart(part, together[i]!) < 4e-6, `pieces of ${width}`))
      assert.deepEqual(held, again, 'what is held is what would be computed')
    }
    dispose([z, w])
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  }
})

test('a piece of columns: the kernel is its reference; rows with one teacher, with two, and each with its own', async () => {
  const given = {
    s: normal('s', [R + n, K], 0.4),
    lse: normal('lse', [R + n], 1, 6),
    t: normal('t', [n, K], 0.1),
    u: normal('u', [n], 1, 1),
    v: normal('v', [K], 1, 1),
    weights: positive('weights', R + n)
  }
  const teacherTemperature = 0.05
  await checkOp({
    inputs: given,
    forward: ({s, lse, t, u, v, weights}) =>
      tidy(() => {
        const of = {s: t, u, v, temperature: teacherTemperature}
        const [one, two] = teachers.map(rows => put(rows)) as [Tensor1D, Tensor1D]
        const segments: SegmentChunk[] = [
          {...of, rows: 4, teachers: [slice(one, [0], [4]), slice(two, [0], [4])]},
          {...of, rows: R - 4, teachers: [slice(one, [4], [R - 4])]},
          {...of, rows: n}
        ]
        const {gradient, along} = columnLoss(s, lse, weights, segments, temperature)
        return {y: gradient, along}
      }),
    plain: ({s, lse, t, u, v, weights}) =>
      tidy(() => {
        const chance = exp(sub(sub(div(t, teacherTemperature), v), reshape(u, [-1, 1]))) as Tensor2D
        const [one, two] = teachers.map(rows => gather(chance, put(rows))) as [Tensor2D, Tensor2D]
        const twice = put({shape: [R, 1], data: Float32Array.from({length: R}, (_, i) => (i < 4 ? 1 : 0))})
        const target = concat([add<Tensor2D>(one, mul(two, twice)), chance])
        const mass = put({shape: [R + n, 1], data: Float32Array.from({length: R + n}, (_, i) => (i < 4 ? 2 : 1))})
        const p = mul(exp(sub(div(s, temperature), reshape(lse, [-1, 1]))), mass)
        return mul(sub(p, target), div(reshape(weights, [-1, 1]), temperature))
      })
  })
})

test('prototypes in bf16: losses within 1 %, gradients float32 and near', async () => {
  await onTorch()
  const [z, w] = [put(normal('z', [R, D], 1 / Math.sqrt(D))), put(normal('w', [K, D], 1 / Math.sqrt(D)))]
  const low = cast(w, 'bf16')
  const [exact, near] = [against(z, w, 8), against(z, low, 8)]
  for (const [name, limit] of [
    ['losses', 0.01],
    ['dz', 0.03],
    ['dw', 0.03]
  ] as const)
    assert.ok(apart(await take(near[name]), await take(exact[name])) < limit, name)
  dispose([z, w, low])
})

test('DINO: every student crop against every teacher crop, each by hand', async () => {
  const [m, g, B] = [3, 2, 4]
  const [student, teacher] = [normal('student', [m * B, K]), chances('teacher', [g, B, K])]
  await checkOp({
    inputs: {student},
    forward: ({student}) =>
      tidy(() => {
        const {loss, gradient} = dinoLossReference(student, put(teacher) as Tensor3D, temperature)
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
        const {loss, gradient} = ibotLossReference(student, put(teacher), put(weights), 8, temperature)
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
