/** What the checks of libtorch's kernels share: numbers to try them on, and how far results lie apart. */
import {op, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {constantHandle} from './constants.js'
import {castTo} from './define.js'

const {bfloat16, float16, float32} = scalarType

/** The format's name, as `--precision` has it. */
export const formatName = (type: number): string => (type === float32 ? 'fp32' : type === bfloat16 ? 'bf16' : 'fp16')

/** Largest difference over the largest entry: rounding of the format, and of products in it. */
export const roundingLimits: ReadonlyMap<number, number> = new Map<number, number>([
  [float32, 2e-4],
  [float16, 1e-2],
  [bfloat16, 4e-2]
])

/** Numbers between −2 and 2 without a period, float32. */
export function waves(shape: readonly number[], step: number): Handle {
  const length = shape.reduce((a, b) => a * b, 1)
  return constantHandle(
    Float32Array.from({length}, (_, i) => Math.sin(step * (i + 1)) + Math.cos(0.37 * i * step)),
    shape
  )
}

function difference(x: Handle, expected: Handle): number {
  const largest = (y: Handle): Handle => op('amax', op('abs', op('reshape', y, [-1])), [0], false)
  const [a, b] = [castTo(x, float32), castTo(expected, float32)]
  return new Float32Array(torch().toBytes(op('div.Tensor', largest(op('sub.Tensor', a, b)), largest(b)), float32))[0]!
}

/** The worst of some pairs of a result and what it should be; NaN where one is no number. */
export function worstOf(make: () => readonly (readonly [Handle, Handle])[]): number {
  let worst = 0
  scoped(() => {
    const found = make().map(([x, expected]) => difference(x, expected))
    worst = found.some(Number.isNaN) ? NaN : Math.max(...found)
    return []
  })
  return worst
}
