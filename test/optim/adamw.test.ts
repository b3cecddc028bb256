/**
 * AdamW, clipping and the teacher's average: kernels in place against reference implementations, closed forms, and
 * fixed points.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {adamw, clipGradients, ema, globalNorm, type ParamMap} from '../../src/optim/adamw.js'
import {dispose, scalar, zerosLike} from '../../src/tensor/tf.js'
import {apart, counted, held, normal, onPlain, onTorch, put, type Values} from '../support/engine.js'

const shapes: Record<string, readonly number[]> = {'a.weight': [5, 7], 'a.bias': [5], 'b.gamma': [11], 'b.still': [3]}
const build = (seed: string, names = Object.keys(shapes)): ParamMap =>
  new Map(names.map(name => [name, put(normal(`${seed}.${name}`, shapes[name]!))]))
const read = async (named: ParamMap): Promise<Record<string, Values>> => {
  const out: Record<string, Values> = {}
  for (const [name, leaf] of named) out[name] = {shape: leaf.shape, data: (await leaf.data()).slice() as Float32Array}
  return out
}
const letGo = (...maps: ParamMap[]): void => maps.forEach(named => dispose([...named.values()]))
const moving = ['a.weight', 'a.bias', 'b.gamma']
const rates = (name: string): {lr: number; wd: number} => ({lr: name.startsWith('a') ? 0.01 : 0.002, wd: name.endsWith('weight') ? 0.3 : 0})

/** Parameters and moments after some steps on the running engine. */
async function steps(count: number): Promise<Record<string, Record<string, Values>>> {
  const start = {tensors: counted(), bytes: held()}
  const params = build('params')
  const zero = (): ParamMap => new Map([...params].map(([name, leaf]) => [name, zerosLike(leaf)]))
  const moments = {m: zero(), v: zero()}
  const living = counted()
  for (let step = 1; step <= count; step++) {
    const grads = build(`grads ${step}`, moving)
    adamw(params, grads, moments, {betas: [0.9, 0.99], eps: 1e-8, step, rates})
    letGo(grads)
    assert.equal(counted(), living)
  }
  const found = {params: await read(params), m: await read(moments.m), v: await read(moments.v)}
  letGo(params, moments.m, moments.v)
  assert.deepEqual({tensors: counted(), bytes: held()}, start)
  return found
}

test('AdamW in place is its reference implementation, group by group; a parameter without a gradient stays', async () => {
  await onPlain()
  const reference = await steps(4)
  await onTorch()
  const kernel = await steps(4)
  for (const [part, named] of Object.entries(reference))
    for (const [name, expected] of Object.entries(named)) assert.ok(apart(kernel[part]![name]!, expected) < 2e-6, `${part} ${name}`)
  assert.deepEqual(kernel['params']!['b.still'], {...normal('params.b.still', [3]), shape: [3]})
})

test('the first step is θ·(1 − lr·wd) − lr·sign(g), in double precision by hand', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const {params} = await steps(1)
    for (const name of moving) {
      const {lr, wd} = rates(name)
      const [before, grads] = [normal(`params.${name}`, shapes[name]!), normal(`grads 1.${name}`, shapes[name]!)]
      const expected = Float32Array.from(
        before.data,
        (x, i) => x * (1 - lr * wd) - (lr * grads.data[i]!) / (Math.abs(grads.data[i]!) + 1e-8)
      )
      assert.ok(apart(params![name]!, {shape: shapes[name]!, data: expected}) < 1e-6, name)
    }
  }
})

test('the norm of all gradients, of none, and what clipping leaves', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = {tensors: counted(), bytes: held()}
    const expected = Math.hypot(...moving.flatMap(name => [...normal(`g.${name}`, shapes[name]!).data]))
    const grads = build('g', moving)
    assert.ok(Math.abs(globalNorm(grads.values()) / expected - 1) < 1e-6)
    assert.equal(globalNorm([]), 0)
    assert.equal(clipGradients(new Map(), 3), 0)
    const before = await read(grads)
    // Not above the limit: not a bit changes.
    for (const most of [Infinity, expected * 1.01]) assert.ok(Math.abs(clipGradients(grads, most) / expected - 1) < 1e-6)
    assert.deepEqual(await read(grads), before)
    assert.ok(Math.abs(clipGradients(grads, 0.5) / expected - 1) < 1e-6)
    assert.ok(Math.abs(globalNorm(grads.values()) - 0.5) < 1e-5)
    for (const [name, {shape, data}] of Object.entries(await read(grads)))
      assert.ok(apart({shape, data}, {shape, data: (before[name]!.data as Float32Array).map(x => (x * 0.5) / (expected + 1e-6))}) < 1e-6)
    // NaN is reported, not hidden.
    grads.set('bad', scalar(NaN))
    assert.ok(Number.isNaN(clipGradients(grads, 3)))
    letGo(grads)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  }
})

test('the average: kernel as reference; a teacher that is the student stays; momentum one moves nothing, zero copies', async () => {
  const found: Record<string, Values>[] = []
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = {tensors: counted(), bytes: held()}
    const [teacher, student] = [build('teacher'), build('student')]
    ema(teacher, student, 0.9)
    const moved = await read(teacher)
    found.push(moved)
    for (const [name, {data}] of Object.entries(moved)) {
      const [t, s] = [normal(`teacher.${name}`, shapes[name]!), normal(`student.${name}`, shapes[name]!)]
      assert.ok(apart({shape: [], data}, {shape: [], data: Float32Array.from(data, (_, i) => 0.9 * t.data[i]! + 0.1 * s.data[i]!)}) < 1e-6)
    }
    ema(teacher, student, 1)
    assert.deepEqual(await read(teacher), moved)
    ema(teacher, student, 0)
    const copied = await read(teacher)
    assert.deepEqual(copied, await read(student))
    for (let i = 0; i < 20; i++) ema(teacher, student, 0.996)
    for (const [name, values] of Object.entries(await read(teacher))) assert.ok(apart(values, copied[name]!) < 3e-6)
    letGo(teacher, student)
    assert.deepEqual({tensors: counted(), bytes: held()}, start)
  }
  for (const [name, values] of Object.entries(found[0]!)) assert.ok(apart(found[1]![name]!, values) < 1e-6)
})
