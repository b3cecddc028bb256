/**
 * One call that checks an operation: the kernel against its reference implementation, the backward half against
 * central differences and against TensorFlow.js's tape, the number of tensors before and after, and the memory that
 * the engine holds.
 */
import assert from 'node:assert/strict'
import {grads, tidy} from '../../src/tensor/tf.js'
import type {Tensor, Tensor2D} from '../../src/tensor/tf.js'
import {rng} from '../../src/tensor/random.js'
import {apart, counted, held, normal, onPlain, onTorch, put, take} from './engine.js'
import type {Shaped, Values} from './engine.js'

type Given = Readonly<Record<string, Values>>
type Tensors<I extends Given> = {[K in keyof I]: Shaped<I[K]['shape']>}
type Outputs = Record<string, Tensor>

export type OpCheck<I extends Given, O extends Tensor | Outputs = Tensor | Outputs> = {
  /** Float inputs are differentiated, int32 ones are not. */
  readonly inputs: I
  /** The operation as the project calls it: a tensor, or tensors by name of which `y` is differentiated. */
  readonly forward: (inputs: Tensors<I>) => O
  /** The same in plain TensorFlow.js operations, differentiable by the tape. */
  readonly plain: (inputs: Tensors<I>) => Tensor
  /** The backward half: gradients of Σ y·dy by name of input. */
  readonly backward?: (dy: Tensor2D, inputs: Tensors<I>, outputs: O extends Tensor ? {y: O} : O) => Record<string, Tensor | undefined>
  /** The form with a gradient on the tape, where there is one. */
  readonly taped?: (inputs: Tensors<I>) => Tensor
  /** The gradient that comes in is all ones: for losses. */
  readonly ones?: boolean
  /** Largest difference over the largest entry; 1e-5 and 2e-5 if absent. */
  readonly limits?: {readonly value?: number; readonly gradient?: number; readonly slope?: number}
}

type Found = {values: Record<string, Values>; grads: Record<string, Values>; taped?: {y: Values; grads: Record<string, Values>}}

const build = <I extends Given>(inputs: I): Tensors<I> =>
  Object.fromEntries(Object.entries(inputs).map(([name, values]) => [name, put(values)])) as Tensors<I>
const named = (outputs: Tensor | Outputs): Outputs => ('dataId' in outputs ? {y: outputs as Tensor} : outputs)
const floats = (inputs: Given): string[] => Object.keys(inputs).filter(name => inputs[name]!.data instanceof Float32Array)
const letGo = (tensors: Readonly<Record<string, Tensor>>): void => Object.values(tensors).forEach(x => x.dispose())

async function takeAll(tensors: Record<string, Tensor | undefined>): Promise<Record<string, Values>> {
  const out: Record<string, Values> = {}
  for (const [name, leaf] of Object.entries(tensors)) if (leaf) out[name] = await take(leaf)
  return out
}

/** Gradients by the tape of the running engine. */
async function byTape<I extends Given>(f: (inputs: Tensors<I>) => Tensor, inputs: I, incoming: Values): Promise<Record<string, Values>> {
  const tensors: Outputs = build(inputs)
  const dy = put(incoming)
  const names = floats(inputs)
  const found = tidy(() =>
    grads((...xs: Tensor[]) => f({...tensors, ...Object.fromEntries(names.map((name, i) => [name, xs[i]!]))} as Tensors<I>))(
      names.map(name => tensors[name]!),
      dy
    )
  )
  dy.dispose()
  letGo(tensors)
  return takeAll(Object.fromEntries(names.map((name, i) => [name, found[i]])))
}

/** Values and gradients on the running engine; asserts that nothing is left behind. */
async function compute<I extends Given>(check: OpCheck<I>, where: string, incoming?: Values): Promise<Found & {incoming: Values}> {
  const {forward, backward, taped, ones} = check
  const before = {tensors: counted(), bytes: held()}
  const inputs = build(check.inputs)
  const ready = counted()
  const outputs = named(forward(inputs))
  const shape = outputs['y']!.shape
  assert.equal(counted() - ready, Object.keys(outputs).length, `${where}: tensors after the forward half`)
  const come = incoming ?? (ones ? {shape, data: new Float32Array(outputs['y']!.size).fill(1)} : normal('dy', shape))
  let gradients: Record<string, Values> = {}
  if (backward) {
    const dy = put(come) as Tensor2D
    const start = counted()
    const found = backward(dy, inputs, outputs as {y: Tensor})
    assert.equal(counted() - start, Object.values(found).filter(Boolean).length, `${where}: tensors after the backward half`)
    gradients = await takeAll(found)
    dy.dispose()
  }
  const values = await takeAll(outputs)
  letGo(inputs)
  const onTape = taped && {
    y: await take(
      tidy(() => {
        const again = build(check.inputs)
        return taped(again)
      })
    ),
    grads: await byTape(taped, check.inputs, come)
  }
  assert.equal(counted(), before.tensors, `${where}: tensors in the end`)
  assert.equal(held(), before.bytes, `${where}: bytes held in the end`)
  return {values, grads: gradients, incoming: come, ...(onTape ? {taped: onTape} : {})}
}

/** Σ y·dy with input `name` moved by h along `along`, summed in double precision. */
async function moved<I extends Given>(
  {inputs, forward}: OpCheck<I>,
  name: string,
  along: Float32Array,
  h: number,
  {data: dy}: Values
): Promise<number> {
  const at = inputs[name]!
  const tensors = build({...inputs, [name]: {shape: at.shape, data: Float32Array.from(at.data, (x, i) => x + h * along[i]!)}})
  const outputs = named(forward(tensors))
  const y = await outputs['y']!.data()
  let total = 0
  for (let i = 0; i < dy.length; i++) total += y[i]! * dy[i]!
  letGo(outputs)
  letGo(tensors)
  return total
}

/**
 * Central differences along a random direction of signs, against the gradient; the step is a hundredth of the input's
 * own size.
 */
async function slopes<I extends Given>(
  check: OpCheck<I>,
  {incoming, grads: found}: Found & {incoming: Values},
  limit: number
): Promise<void> {
  for (const [name, gradient] of Object.entries(found)) {
    const data = gradient.data as Float32Array
    const random = rng(21, name)
    const along = Float32Array.from({length: data.length}, () => (random.chance(0.5) ? 1 : -1))
    const input = check.inputs[name]!.data as Float32Array
    const h = 0.01 * (Math.sqrt(input.reduce((sum, x) => sum + x * x, 0) / input.length) || 1)
    const up = await moved(check, name, along, h, incoming)
    const down = await moved(check, name, along, -h, incoming)
    const expected = data.reduce((sum, g, i) => sum + g * along[i]!, 0)
    const size = Math.sqrt(data.reduce((sum, g) => sum + g * g, 0)) // how large such a sum is by chance
    const off = Math.abs((up - down) / (2 * h) - expected) / size
    assert.ok(off <= limit, `${name}: central differences are off by ${off} of the gradient's norm`)
  }
}

/**
 * Checks an operation on libtorch and on the plain backend. Throws an AssertionError that names what differs and by
 * how much. Leaves libtorch running.
 */
export async function checkOp<I extends Given, O extends Tensor | Outputs>(given: OpCheck<I, O>): Promise<void> {
  const check = given as unknown as OpCheck<I>
  const {value = 1e-5, gradient = 2e-5, slope = 5e-3} = check.limits ?? {}
  const near = (what: string, computed: Values | undefined, expected: Values, limit: number): void => {
    const off = computed ? apart(computed, expected) : NaN
    assert.ok(off <= limit, `${what} differs by ${off} of its largest entry, expected at most ${limit}`)
  }
  await onPlain()
  const reference = await compute(check, 'plain')
  const written = tidy(() => {
    const inputs = build(check.inputs)
    return check.plain(inputs)
  })
  near('the reference on the plain engine: value', reference.values['y'], await take(written), value)
  const tape = check.backward || check.taped ? await byTape(check.plain, check.inputs, reference.incoming) : {}

  await onTorch()
  const kernel = await compute(check, 'torch', reference.incoming)
  assert.deepEqual(Object.keys(kernel.values), Object.keys(reference.values))
  for (const [name, expected] of Object.entries(reference.values)) near(`kernel: ${name}`, kernel.values[name], expected, value)
  for (const [where, {grads: found, taped}] of [
    ['plain', reference],
    ['kernel', kernel]
  ] as const) {
    if (check.backward) assert.deepEqual(Object.keys(found).sort(), floats(check.inputs).sort(), 'every float input has a gradient')
    for (const [name, computed] of Object.entries(found)) near(`${where}: gradient of ${name}`, computed, tape[name]!, gradient)
    if (taped) {
      near(`${where}: value on the tape`, taped.y, reference.values['y']!, value)
      for (const name of floats(check.inputs)) near(`${where}: gradient of ${name} by the tape`, taped.grads[name], tape[name]!, gradient)
    }
  }
  await slopes(check, kernel, slope)
}
