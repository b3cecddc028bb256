/**
 * tfjs's WebAssembly backend in Node: nothing to install, one thread, float32; and tfjs's plain JavaScript backend,
 * for tests of reference implementations.
 *
 * WebAssembly's threads need a browser's workers, so Node runs the SIMD build on one thread. Numbers are float32
 * throughout.
 */
import {createRequire} from 'node:module'
import {dirname, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {findBackend, setBackend, version_core} from '../../tensor/tf.js'
import {registerBorrowedKernels} from './borrowed.js'

/** The version of the wasm backend's package; read from its package.json, nothing is loaded. */
export const wasmVersion = (): string =>
  (createRequire(import.meta.url)('@tensorflow/tfjs-backend-wasm/package.json') as {version: string}).version

/** Makes `wasm` the current backend. Error of status 5 when WebAssembly does not come up. */
export async function startWasm(): Promise<{version: string}> {
  const {setWasmPaths} = await import('@tensorflow/tfjs-backend-wasm')
  const folder = join(dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json')), 'dist')
  setWasmPaths(`${folder}/`)
  quietPlainBackend()
  const restore = keepErrorHandlers()
  const started = await setBackend('wasm').finally(restore)
  if (!started)
    throw new UserError('The WebAssembly engine did not start', {
      exit: 5,
      code: 'NO_ENGINE',
      hint: 'check that node runs without --jitless; `dinov2 engine list` shows the others'
    })
  registerBorrowedKernels()
  return {version: wasmVersion()}
}

/**
 * Emscripten's start-up code adds process-wide handlers that throw every uncaught error anew, which ends the process
 * with status 7 before the command can report it. → a function that takes away what was added since.
 */
function keepErrorHandlers(): () => void {
  const events = ['uncaughtException', 'unhandledRejection'] as const
  const before = new Map(events.map(event => [event, new Set(process.rawListeners(event))]))
  return () => {
    for (const event of events)
      for (const listener of process.rawListeners(event))
        if (!before.get(event)!.has(listener)) process.removeListener(event, listener as () => void)
  }
}

/** Makes tfjs's plain JavaScript backend the current one. */
export async function startPlain(): Promise<{version: string}> {
  quietPlainBackend()
  if (!(await setBackend('cpu'))) throw new Error('The plain backend of tfjs did not start')
  return {version: version_core}
}

/**
 * The plain backend greets its first use with an advertisement on stderr; users of `--engine wasm` have been told
 * already.
 */
function quietPlainBackend(): void {
  const plain = findBackend('cpu') as {firstUse?: boolean} | null
  if (plain) plain.firstUse = false
}
