/**
 * Kernels that tfjs's WebAssembly backend lacks, borrowed from its plain JavaScript backend.
 *
 * Without them training does not run: the gradient of `gather` is UnsortedSegmentSum, that of a convolution
 * Conv2DBackpropFilter. Each borrowed kernel copies its inputs out of WebAssembly's memory, computes in JavaScript on
 * one thread, and copies the results back, so it is slow but right; numbers of type float32, int32 and bool only. Not
 * borrowed, because the WebAssembly backend cannot hold what they work on: complex numbers (Complex, ComplexAbs, Real,
 * Imag, FFT, IFFT), strings (StaticRegexReplace, RaggedTensorToTensor) and canvases (Draw).
 */
import {findBackend, getKernel, registerKernel, util} from '../../tensor/tf.js'
import type {BackendValues, DataType, KernelBackend, KernelConfig, NamedTensorInfoMap, TensorInfo, TypedArray} from '../../tensor/tf.js'

const BORROWED = [
  'Conv2DBackpropFilter',
  'DepthwiseConv2dNativeBackpropFilter',
  'DepthwiseConv2dNativeBackpropInput',
  'Einsum',
  'UnsortedSegmentSum'
] as const

/** The part of the two tfjs backends that copying needs. */
type Plain = KernelBackend & {
  makeTensorInfo(shape: number[], dtype: DataType, values?: BackendValues): TensorInfo
  disposeData(dataId: object, force?: boolean): boolean
}
type Wasm = KernelBackend & {makeOutput(shape: number[], dtype: DataType): TensorInfo; typedArrayFromHeap(tensor: TensorInfo): TypedArray}

/** Takes one kernel of the `cpu` backend and gives the same kernel for `wasm`. */
function borrow(kernelName: string): KernelConfig {
  return {
    kernelName,
    backendName: 'wasm',
    kernelFunc({inputs, attrs, backend}) {
      const here = backend as Wasm
      const plain = findBackend('cpu') as Plain
      const owned: TensorInfo[] = []
      const copyIn = (tensor: TensorInfo): TensorInfo => {
        const copy = plain.makeTensorInfo(tensor.shape, tensor.dtype, here.readSync(tensor.dataId))
        owned.push(copy)
        return copy
      }
      const copyOut = (tensor: TensorInfo): TensorInfo => {
        owned.push(tensor)
        const output = here.makeOutput(tensor.shape, tensor.dtype)
        if (util.sizeFromShape(tensor.shape) > 0) here.typedArrayFromHeap(output).set(plain.readSync(tensor.dataId) as TypedArray)
        return output
      }
      try {
        // Einsum's inputs are an array, and its kernel counts them.
        const copies = (Array.isArray(inputs) ? [] : {}) as NamedTensorInfoMap
        for (const [name, tensor] of Object.entries(inputs)) if (tensor) copies[name] = copyIn(tensor)
        const result = getKernel(kernelName, 'cpu').kernelFunc({inputs: copies, attrs, backend: plain})
        return Array.isArray(result) ? result.map(copyOut) : copyOut(result)
      } finally {
        for (const tensor of owned) plain.disposeData(tensor.dataId, true)
      }
    }
  }
}

/** Registers every borrowed kernel that this version of the wasm backend does not bring itself. */
export function registerBorrowedKernels(): string[] {
  const missing = BORROWED.filter(name => !getKernel(name, 'wasm') && getKernel(name, 'cpu'))
  for (const name of missing) registerKernel(borrow(name))
  return missing
}
