/**
 * Fused operations of libtorch, each beside the plain form that it is held against.
 *
 * On a device other than the CPU a fused form is tried once on small numbers, against its reference form in float32 on
 * the host (`self-check.ts` keeps the verdict). Where the two do not agree, the reference form runs in its place.
 */
import {op, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {agrees} from '../self-check.js'
import {constantHandle} from './constants.js'
import {castTo} from './define.js'
import {onCpu} from './device.js'

const {bfloat16, float16, float32} = scalarType

/** What a form takes: tensors, lists of tensors, and none where one may be left out. */
type Operands = readonly (Handle | readonly Handle[] | undefined)[]

type Description<Tensors extends Operands, Options> = {
  readonly name: string
  /** Operators of libtorch that the fused form alone stands on. */
  readonly operators: readonly string[]
  /** Largest difference over the largest entry that is allowed, by format; `roundingLimits` where not said. */
  readonly limits?: ReadonlyMap<number, number>
  /** What it is tried on: numbers of a format on the device; of heads, their width. */
  readonly trials: (type: number, width: number) => readonly (readonly [tensors: Tensors, options: Options])[]
  readonly fused: (tensors: Tensors, options: Options) => readonly Handle[]
  /** The same by plain operators, on any device. What the fused form changes in place, this gives anew. */
  readonly reference: (tensors: Tensors, options: Options) => readonly Handle[]
}

/** A form as it is listed: what it is called, what it stands on, and whether it serves here. */
export type ListedForm = {
  readonly name: string
  readonly operators: readonly string[]
  /** Formats that it is used in, as `--precision` has them. */
  readonly formats: readonly string[]
  /** Whether it agrees with its reference form on the running device; asked once. */
  serves(type: number, width?: number): boolean
}

export type FusedForm<Tensors extends Operands, Options> = ListedForm &
  Pick<Description<Tensors, Options>, 'fused'> & {
    /** The fused form where it serves, else the reference form. `type` is the format of the tensors. */
    run(type: number, tensors: Tensors, options: Options): readonly Handle[]
  }

/** Largest difference over the largest entry: rounding of the format, and of products in it. */
const roundingLimits: ReadonlyMap<number, number> = new Map<number, number>([
  [float32, 2e-4],
  [float16, 1e-2],
  [bfloat16, 4e-2]
])
/** The same where products may be taken in TensorFloat-32, which a setting of the device decides. */
export const productLimits: ReadonlyMap<number, number> = new Map([...roundingLimits, [float32, 2e-3]])
/** Where nothing is rounded but the last digit. */
export const exactLimits: ReadonlyMap<number, number> = new Map([[float32, 1e-5]])

const formatName = (type: number): string => (type === float32 ? 'fp32' : type === bfloat16 ? 'bf16' : 'fp16')

/** A fused form and its reference; on a CPU the fused form always serves: recorded tensors are held against it. */
export function fusedForm<Tensors extends Operands, Options = undefined>({
  name,
  operators,
  limits = roundingLimits,
  trials,
  fused,
  reference
}: Description<Tensors, Options>): FusedForm<Tensors, Options> {
  const measure = (type: number, width: number): number =>
    worst(
      trials(type, width).flatMap(([tensors, options]) => {
        const expected = reference(tensors.map(moved) as unknown as Tensors, options)
        return fused(tensors, options).map((x, i) => difference(onHost(x), expected[i]!))
      })
    )
  const serves = (type: number, width = 0): boolean => {
    if (onCpu()) return true
    const of = width > 0 ? `${formatName(type)}, heads of ${width}` : formatName(type)
    return agrees({name, of, limit: limits.get(type) ?? 0}, () => scopedNumber(() => measure(type, width)))
  }
  return {
    name,
    operators,
    formats: [...limits.keys()].map(formatName),
    serves,
    fused,
    run: (type, tensors, options) => (serves(type) ? fused : reference)(tensors, options)
  }
}

/** Runs `body` and releases every handle made inside. */
function scopedNumber(body: () => number): number {
  let found = NaN
  scoped(() => {
    found = body()
    return []
  })
  return found
}

const isWhole = (type: number): boolean => type === scalarType.int32 || type === scalarType.int64

/** The numbers in the host's memory; real ones as float32. */
const onHost = (x: Handle): Handle => op('_to_copy', x, isWhole(torch().type(x)) ? torch().type(x) : float32, null, 'cpu')

const moved = (x: Operands[number]): Operands[number] => (typeof x === 'object' ? x.map(onHost) : x && onHost(x))

/** Largest difference over the largest entry, of numbers in the host's memory. */
function difference(x: Handle, expected: Handle): number {
  const largest = (y: Handle): Handle => op('amax', op('abs', op('reshape', y, [-1])), [0], false)
  const [a, b] = [castTo(x, float32), castTo(expected, float32)]
  return new Float32Array(torch().toBytes(op('div.Tensor', largest(op('sub.Tensor', a, b)), largest(b)), float32))[0]!
}

const worst = (found: readonly number[]): number => (found.some(Number.isNaN) ? NaN : Math.max(...found))

/** Numbers between −2 and 2 without a period, float32. */
export function waves(shape: readonly number[], step: number): Handle {
  const length = shape.reduce((a, b) => a * b, 1)
  return constantHandle(
    Float32Array.from({length}, (_, i) => Math.sin(step * (i + 1)) + Math.cos(0.37 * i * step)),
    shape
  )
}

/** `waves` in another format. */
export const wavesOf = (type: number, shape: readonly number[], step: number): Handle => castTo(waves(shape, step), type)

/** Numbers of rows, int32. */
export const rowNumbers = (...rows: readonly number[]): Handle => constantHandle(Int32Array.from(rows), [rows.length])
