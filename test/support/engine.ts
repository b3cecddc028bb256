/**
 * The engines of tests: libtorch in float32, and TensorFlow.js's plain CPU backend, where every fused operation is its
 * reference implementation.
 *
 * libtorch has one thread: at the sizes of tests a second one only waits. DINOV2_DEVICE names another device than the
 * CPU. Both may run in one process by turns; tensors are made after the change and disposed before the next.
 */
import {startEngine} from '../../src/engine/start.js'
import {memory, setBackend, tensor} from '../../src/tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D} from '../../src/tensor/tf.js'
import {rng} from '../../src/tensor/random.js'

const started = new Set<string>()

async function use(engine: 'torch' | 'cpu' | 'wasm'): Promise<void> {
  if (started.has(engine)) await setBackend(engine)
  else {
    const threads = engine === 'torch' ? {threads: 1, device: process.env['DINOV2_DEVICE'] ?? 'cpu'} : {}
    await startEngine({engine, precision: 'fp32', note: () => undefined, ...threads})
    started.add(engine)
  }
}

/** Makes libtorch the running engine. Throws a sentence where it is absent: these tests are never skipped. */
export const onTorch = (): Promise<void> => use('torch')

/** Makes TensorFlow.js's plain CPU backend the running engine. */
export const onPlain = (): Promise<void> => use('cpu')

/** Makes TensorFlow.js's WebAssembly backend the running engine. */
export const onWasm = (): Promise<void> => use('wasm')

/** Bytes of living tensors; the torch engine alone knows. */
export const held = (): number => (memory() as unknown as {held: number}).held

/** Living tensors, as TensorFlow.js counts them. */
export const counted = (): number => memory().numTensors

type Shape = readonly number[]

/** Numbers with the shape of the tensor that they become on whichever engine runs. */
export type Values<S extends Shape = Shape> = {readonly shape: S; readonly data: Float32Array | Int32Array}

/** The tensor of a shape whose length is known. */
export type Shaped<S> = S extends readonly [number]
  ? Tensor1D
  : S extends readonly [number, number]
    ? Tensor2D
    : S extends readonly [number, number, number]
      ? Tensor3D
      : S extends readonly [number, number, number, number]
        ? Tensor4D
        : Tensor

const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1)

/** Normal draws of a stream named by `name`. */
export function normal<const S extends Shape>(name: string, shape: S, std = 1, mean = 0): Values<S> {
  const random = rng(20, name)
  return {shape, data: Float32Array.from({length: sizeOf(shape)}, () => random.normal(mean, std))}
}

/** Whole numbers as int32. */
export const whole = (values: readonly number[]): Values<readonly [number]> => ({shape: [values.length], data: Int32Array.from(values)})

/** The numbers on the running engine; the caller's to dispose. */
export const put = <S extends Shape>({shape, data}: Values<S>): Shaped<S> =>
  tensor(data.slice(), [...shape], data instanceof Int32Array ? 'int32' : 'float32') as Shaped<S>

/** The numbers of a tensor, which is disposed. */
export async function take(x: Tensor): Promise<Values> {
  const data = (await x.data()) as Float32Array
  const values = {shape: [...x.shape], data: data.slice()}
  x.dispose()
  return values
}

/**
 * Largest difference over the largest expected entry (over one where all are smaller than `floor`); infinite where
 * shapes differ.
 */
export function apart(computed: Values, expected: Values, floor = 1e-6): number {
  if (computed.shape.join() !== expected.shape.join()) return Infinity
  let [worst, largest] = [0, floor]
  for (let i = 0; i < expected.data.length; i++) {
    const difference = Math.abs(computed.data[i]! - expected.data[i]!)
    if (Number.isNaN(difference)) return NaN
    worst = Math.max(worst, difference)
    largest = Math.max(largest, Math.abs(expected.data[i]!))
  }
  return worst / largest
}
