/** Which backend of TensorFlow.js computes in this browser: WebGPU where it works, else WebAssembly. */
import {speedUpProducts} from '../engine/wasm/fast-products.js'
import {guardRightOperands} from '../engine/wasm/right-operands.js'
import {setThreadsCount, getThreadsCount, setWasmPaths} from '../tensor/tfjs/wasm.js'
import '../tensor/tfjs/webgpu.js'
import {setBackend} from '../tensor/tf.js'
import type {BackendName} from './protocol.js'

/** Whether a GPU that is worth using is there: a software renderer is slower than WebAssembly. */
async function hasGpu(): Promise<boolean> {
  const {gpu} = navigator as {gpu?: GPU}
  const adapter = await gpu?.requestAdapter({powerPreference: 'high-performance'}).catch(() => null)
  return (
    adapter !== null && adapter !== undefined && !(adapter as GPUAdapter & {info?: {isFallbackAdapter?: boolean}}).info?.isFallbackAdapter
  )
}

/**
 * Starts the backend asked for, or the fastest that comes up. `base` is where the WebAssembly binaries lie. Throws an
 * Error where none does.
 */
export async function startBackend(base: string, asked?: BackendName): Promise<BackendName> {
  if (asked === 'webgpu' || (asked === undefined && (await hasGpu()))) if (await setBackend('webgpu').catch(() => false)) return 'webgpu'
  setWasmPaths(base)
  if (crossOriginIsolated) setThreadsCount(Math.max(1, Math.min(8, navigator.hardwareConcurrency)))
  if (!(await setBackend('wasm').catch(() => false)))
    throw new Error('Neither WebGPU nor WebAssembly works in this browser, so it cannot run the model.')
  guardRightOperands()
  speedUpProducts()
  return 'wasm'
}

/** Threads of WebAssembly, which has several only where the server says that the page shares nothing with others. */
export const threadCount = (): number => (crossOriginIsolated ? Math.max(1, getThreadsCount()) : 1)
