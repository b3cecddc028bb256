/**
 * How a kernel of the torch engine is written: inputs as handles in, one handle (or several) out.
 *
 * `define` registers a kernel with TensorFlow.js. Its body runs in a scope of its own, so temporaries need no care,
 * and returns the handle to keep with the type TensorFlow.js is to believe.
 */
import {registerKernel} from '../../../tensor/tf.js'
import type {DataType, KernelConfig, NamedTensorInfoMap, TensorInfo} from '../../../tensor/tf.js'
import {backend, storedAs} from '../backend.js'
import {op, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'

/** A result: its handle, and its TensorFlow.js type where that is not the first input's. */
export type Result = Handle | [handle: Handle, dtype: DataType]

type Inputs = Record<string, TensorInfo>
type Attributes = Record<string, unknown>

/** The handle of an input. Throws on strings, which the backend keeps but cannot compute with. */
export function handleOf(info: TensorInfo): Handle {
  storedAs(info.dtype)
  return backend().handle(info)
}

/** True for int32 and bool. */
export const isIntegral = (info: TensorInfo): boolean => info.dtype === 'int32' || info.dtype === 'bool'

/** The scalar type in which numbers of a precision are held. */
export const typeOfPrecision = (precision: unknown): number =>
  precision === 'bf16' ? scalarType.bfloat16 : precision === 'fp16' ? scalarType.float16 : scalarType.float32

/** A copy in another scalar type; the tensor itself where it has that type already. */
export const castTo = (handle: Handle, type: number): Handle => op('to.dtype', handle, type, false, false)

/** As float: bfloat16 and float32 stay, whole numbers become float32. */
export const asFloat = (info: TensorInfo): Handle => (isIntegral(info) ? castTo(handleOf(info), scalarType.float32) : handleOf(info))

/** A float32 tensor on the device from values, under the care of the current scope. */
export function fromFloats(values: Float32Array, shape: readonly number[]): Handle {
  return track(torch().fromBytes(values, scalarType.float32, shape))
}

/** An int64 vector on the device, under the care of the current scope. */
export function fromIndices(values: readonly number[]): Handle {
  return castTo(track(torch().fromBytes(Int32Array.from(values), scalarType.int32, [values.length])), scalarType.int64)
}

/** Brings a handle made outside `op` under the care of the current scope. */
export function track(handle: Handle): Handle {
  const alias = op('alias', handle)
  torch().release(handle)
  return alias
}

const firstOf = (inputs: Inputs): TensorInfo => {
  const value = Object.values(inputs)[0]
  if (!value) throw new Error('a kernel without inputs must name the type of its result')
  return Array.isArray(value) ? (value as unknown as TensorInfo[])[0]! : value
}

function add(name: string, kernelFunc: (inputs: Inputs, attrs: Attributes) => TensorInfo | TensorInfo[]): void {
  registerKernel({
    kernelName: name,
    backendName: 'torch',
    kernelFunc: ({inputs, attrs}: {inputs: NamedTensorInfoMap; attrs?: unknown}) =>
      kernelFunc(inputs as Inputs, (attrs ?? {}) as Attributes)
  } as KernelConfig)
}

/** Registers a kernel with one result. */
export function define(name: string, body: (inputs: Inputs, attrs: Attributes) => Result): void {
  add(name, (inputs, attrs) => {
    let dtype: DataType | undefined
    const handle = scoped(() => {
      const result = body(inputs, attrs)
      if (typeof result === 'number') return result
      dtype = result[1]
      return result[0]
    })
    return backend().adopt(handle, dtype ?? firstOf(inputs).dtype)
  })
}

/** Registers a kernel with several results. */
export function defineMany(name: string, body: (inputs: Inputs, attrs: Attributes) => Result[]): void {
  add(name, (inputs, attrs) => {
    let dtypes: (DataType | undefined)[] = []
    const handles = scoped(() => {
      const results = body(inputs, attrs)
      dtypes = results.map(result => (typeof result === 'number' ? undefined : result[1]))
      return results.map(result => (typeof result === 'number' ? result : result[0]))
    })
    return handles.map((handle, i) => backend().adopt(handle, dtypes[i] ?? firstOf(inputs).dtype))
  })
}

/** Registers a kernel that hands its input on under one more reference (no copy). */
export function defineAlias(name: string): void {
  add(name, ({x}) => {
    backend().incRef(x!.dataId)
    return {dataId: x!.dataId, shape: x!.shape, dtype: x!.dtype}
  })
}
