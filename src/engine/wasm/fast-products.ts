/**
 * Matrix products of the WebAssembly backend by its quick routine.
 *
 * The backend multiplies two plain matrices by XNNPACK, and everything else (a transposed operand, several matrices at
 * once) by three nested loops, which take ten times as long; both occur in every layer of a transformer. Here operands
 * are transposed first and the matrices multiplied one by one, so that the quick routine does it all.
 */
import {broadcast_util, getKernel, registerKernel, unregisterKernel, util} from '../../tensor/tf.js'
import type {DataType, KernelBackend, KernelConfig, NamedAttrMap, TensorInfo, TypedArray} from '../../tensor/tf.js'

type Wasm = KernelBackend & {
  makeOutput(shape: number[], dtype: DataType): TensorInfo
  typedArrayFromHeap(tensor: TensorInfo): TypedArray
  disposeData(dataId: object, force?: boolean): boolean
}

/** Multiplications below which copying costs more than it saves. */
const SMALL = 1 << 15

const isFlagged = (attrs: NamedAttrMap | undefined, name: string): boolean => attrs?.[name] === true

const batchOf = (shape: readonly number[]): number => util.sizeFromShape(shape.slice(0, -2))

/** Matrix `i` of a tensor as one of its own, transposed where asked. */
function matrixOf(wasm: Wasm, tensor: TensorInfo, i: number, transposed: boolean): TensorInfo {
  const [rows, columns] = tensor.shape.slice(-2) as [number, number]
  const part = wasm.makeOutput([1, rows, columns], tensor.dtype)
  const from = i * rows * columns
  wasm.typedArrayFromHeap(part).set(wasm.typedArrayFromHeap(tensor).subarray(from, from + rows * columns))
  if (!transposed) return part
  const turned = getKernel('Transpose', 'wasm').kernelFunc({inputs: {x: part}, attrs: {perm: [0, 2, 1]}, backend: wasm}) as TensorInfo
  wasm.disposeData(part.dataId, true)
  return turned
}

/** The backend's product, called with what its quick routine takes. */
function quick(kernel: KernelConfig): KernelConfig {
  const multiply = (a: TensorInfo, b: TensorInfo, backend: object): TensorInfo =>
    kernel.kernelFunc({inputs: {a, b}, attrs: {transposeA: false, transposeB: false}, backend}) as TensorInfo
  return {
    ...kernel,
    kernelFunc({inputs, attrs, backend}) {
      const wasm = backend as Wasm
      const [a, b] = [inputs['a']!, inputs['b']!]
      const [turnA, turnB] = [isFlagged(attrs, 'transposeA'), isFlagged(attrs, 'transposeB')]
      const [batchA, batchB] = [batchOf(a.shape), batchOf(b.shape)]
      const batch = Math.max(batchA, batchB)
      const [rows, columns] = a.shape.slice(-2) as [number, number]
      const [M, K] = turnA ? [columns, rows] : [rows, columns]
      const N = b.shape.at(turnB ? -2 : -1)!
      const isPlain = !turnA && !turnB && batch === 1
      const isBroadcast = batchA !== batchB && Math.min(batchA, batchB) !== 1
      if (isPlain || isBroadcast || M * K * N < SMALL || a.dtype !== 'float32' || b.dtype !== 'float32')
        return kernel.kernelFunc({inputs, attrs, backend})
      const out = wasm.makeOutput(
        [...broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2)), M, N],
        'float32'
      )
      for (let i = 0; i < batch; i++) {
        const left = matrixOf(wasm, a, batchA === 1 ? 0 : i, turnA)
        const right = matrixOf(wasm, b, batchB === 1 ? 0 : i, turnB)
        const product = multiply(left, right, backend)
        wasm.typedArrayFromHeap(out).set(wasm.typedArrayFromHeap(product), i * M * N)
        for (const {dataId} of [left, right, product]) wasm.disposeData(dataId, true)
      }
      return out
    }
  }
}

/** Puts the quick products in the place of the backend's own. */
export function speedUpProducts(): void {
  const own = getKernel('BatchMatMul', 'wasm')
  if (!own) return
  unregisterKernel('BatchMatMul', 'wasm')
  registerKernel(quick(own))
}
