/**
 * Matrix products whose right operand changes its shape.
 *
 * The WebAssembly backend keeps the right operand of a product in a packed form, found again by the identity of its
 * data alone. A tensor and its `reshape` share their data, so a vector that was multiplied as a column [N, 1] and then
 * as a row [1, N] met the packed column, and the product read memory that is not its own. Here an operand that comes
 * in another shape than before is copied first.
 */
import {getKernel, registerKernel, unregisterKernel, util} from '../../tensor/tf.js'
import type {DataType, KernelBackend, KernelConfig, TensorInfo, TypedArray} from '../../tensor/tf.js'

type Wasm = KernelBackend & {
  makeOutput(shape: number[], dtype: DataType): TensorInfo
  typedArrayFromHeap(tensor: TensorInfo): TypedArray
  disposeData(dataId: object, force?: boolean): boolean
}

/** The shape in which each right operand was first multiplied; it goes with the data. */
const shapes = new WeakMap<object, string>()

function guarded(kernel: KernelConfig): KernelConfig {
  return {
    ...kernel,
    kernelFunc({inputs, attrs, backend}) {
      const wasm = backend as Wasm
      const b = inputs['b']!
      const shape = b.shape.slice(-2).join('×')
      const known = shapes.get(b.dataId)
      if (known === undefined) shapes.set(b.dataId, shape)
      if (known === undefined || known === shape) return kernel.kernelFunc({inputs, attrs, backend})
      const copy = wasm.makeOutput(b.shape, b.dtype)
      try {
        if (util.sizeFromShape(b.shape) > 0) wasm.typedArrayFromHeap(copy).set(wasm.typedArrayFromHeap(b))
        return kernel.kernelFunc({inputs: {...inputs, b: copy}, attrs, backend})
      } finally {
        wasm.disposeData(copy.dataId, true)
      }
    }
  }
}

/** Puts the guarded products in the place of the backend's own. */
export function guardRightOperands(): void {
  for (const name of ['BatchMatMul', '_FusedMatMul']) {
    const own = getKernel(name, 'wasm')
    if (!own) continue
    unregisterKernel(name, 'wasm')
    registerKernel(guarded(own))
  }
}
