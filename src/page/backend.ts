/** The backends of TensorFlow.js that compute in a browser: WebGPU and WebAssembly. */
import {speedUpProducts} from '../engine/wasm/fast-products.js'
import {guardRightOperands} from '../engine/wasm/right-operands.js'
import {setThreadsCount, getThreadsCount, setWasmPaths} from '../tensor/tfjs/wasm.js'
import '../tensor/tfjs/webgpu.js'
import type {VitConfig} from '../model/config.js'
import {dispose, findBackendFactory, matMul, registerBackend, removeBackend, setBackend, zeros, type Rank} from '../tensor/tf.js'
import type {BackendName} from './protocol.js'

/** Whether a GPU that is worth using is there: a software renderer is slower than WebAssembly. */
export async function hasGpu(): Promise<boolean> {
  const {gpu} = navigator as {gpu?: GPU}
  const adapter = await gpu?.requestAdapter({powerPreference: 'high-performance'}).catch(() => null)
  return (
    adapter !== null && adapter !== undefined && !(adapter as GPUAdapter & {info?: {isFallbackAdapter?: boolean}}).info?.isFallbackAdapter
  )
}

/**
 * Starts WebAssembly on so many threads. Throws an Error where it does not come up. The backend takes half the number
 * that it is given, which counts up to the number of cores, and four at most.
 */
async function startWasm(threads: number): Promise<void> {
  const factory = findBackendFactory('wasm')!
  if (isWasmUp) {
    removeBackend('wasm')
    registerBackend('wasm', factory)
  }
  setThreadsCount(2 * threads)
  isWasmUp = await setBackend('wasm').catch(() => false)
  if (!isWasmUp) throw new Error('WebAssembly does not work in this browser, so it cannot run the model.')
}

let isWasmUp = false

/** Seconds of the product that a block of a model is mostly made of; the least of several. */
async function productSeconds({width, hidden}: VitConfig): Promise<number> {
  const x = zeros<Rank.R2>([TOKENS, width])
  const w = zeros<Rank.R2>([width, hidden])
  let least = Infinity
  for (let i = 0; i < REPEATS; i++) {
    const begun = performance.now()
    const y = matMul(x, w)
    await y.data()
    y.dispose()
    least = Math.min(least, (performance.now() - begun) / 1000)
  }
  dispose([x, w])
  return least
}

/** Tokens of an image, and how often a product is timed. */
const TOKENS = 320
const REPEATS = 7

/** By how much several threads must be faster than one: where other programs keep the cores busy they are slower. */
const GAIN = 1.1

/** Threads that the backend can use: half of the cores, four at most; one where the server does not allow several. */
const mostThreads = (): number => (crossOriginIsolated ? Math.max(1, Math.min(4, Math.floor(navigator.hardwareConcurrency / 2))) : 1)

/**
 * Starts a backend for a model; of WebAssembly, on `threads`, or on as many as are faster than one here. `base` is
 * where the WebAssembly binaries lie. Throws an Error where it does not come up.
 */
export async function startBackend(
  backend: BackendName,
  {base, config, threads}: {readonly base: string; readonly config: VitConfig; readonly threads?: number}
): Promise<void> {
  if (backend === 'webgpu') {
    if (!(await setBackend('webgpu'))) throw new Error('it does not start')
    return
  }
  setWasmPaths(base)
  const most = Math.min(threads ?? Infinity, mostThreads())
  if (most > 1 && threads === undefined) {
    await startWasm(1)
    const alone = await productSeconds(config)
    await startWasm(most)
    if ((await productSeconds(config)) * GAIN > alone) await startWasm(1)
  } else await startWasm(most)
  guardRightOperands()
  speedUpProducts()
}

/** Threads of WebAssembly, which has several only where the server says that the page shares nothing with others. */
export const threadCount = (): number => (crossOriginIsolated ? Math.max(1, getThreadsCount()) : 1)
