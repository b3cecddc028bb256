/**
 * tfjs's WebAssembly backend in Node: nothing to install, one thread, float32; and tfjs's plain JavaScript backend,
 * for tests of reference implementations.
 *
 * WebAssembly's threads need a browser's workers, so Node runs the SIMD build on one thread. Numbers are float32
 * throughout.
 */
import {fileURLToPath} from 'node:url'
import {UserError} from '../../config/errors.js'
import {findBackend, setBackend, version_core} from '../../tensor/tf.js'
import {version} from '../../tensor/tfjs/version.js'
import {registerBorrowedKernels} from './borrowed.js'
import {speedUpProducts} from './fast-products.js'
import {guardRightOperands} from './right-operands.js'

/** Makes `wasm` the current backend. Error of status 5 when WebAssembly does not come up. */
export async function startWasm(): Promise<{version: string}> {
  const {setWasmPaths} = await import('../../tensor/tfjs/wasm.js')
  setWasmPaths(fileURLToPath(new URL('../../tensor/tfjs/', import.meta.url)))
  await registerPlainBackend()
  const restore = keepErrorHandlers()
  const said: string[] = []
  const {warn} = console
  /* eslint-disable no-console -- nothing is printed */
  console.warn = (text: unknown) => void said.push(String(text)) // tfjs tells here why it failed, and nowhere else
  const started = await setBackend('wasm').finally(() => {
    console.warn = warn
    restore()
  })
  /* eslint-enable no-console */
  const why = said[1]?.split('\n')[0]
  if (!started)
    throw new UserError(`The WebAssembly engine did not start${why === undefined ? '' : ` (${why})`}`, {
      exit: 5,
      code: 'NO_ENGINE',
      hint: 'check that node runs without --jitless, and that no limit of address space (ulimit -v) stands in the way: WebAssembly reserves more than 10 GB of it; `dinov2 engine list` shows the others'
    })
  refuseFailedAllocations()
  registerBorrowedKernels()
  guardRightOperands()
  speedUpProducts()
  return {version}
}

/**
 * Where its memory cannot grow, the module's allocator gives address 0, and tfjs would write and compute there. Makes
 * that an error with the bytes that were asked for.
 */
function refuseFailedAllocations(): void {
  const {wasm} = findBackend('wasm') as unknown as {wasm: {_malloc(bytes: number): number; _free(at: number): void}}
  wasm._free(wasm._malloc(8)) // the first call of each puts the module's own function in its place
  const allocate = wasm._malloc
  wasm._malloc = bytes => {
    const at = allocate(bytes)
    if (at === 0 && bytes > 0) throw new RangeError(`not enough memory: ${bytes} bytes were asked for`)
    return at
  }
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
  await registerPlainBackend()
  if (!(await setBackend('cpu'))) throw new Error('The plain backend of tfjs did not start')
  return {version: version_core}
}

/**
 * Registers the plain backend and silences the advertisement with which it greets its first use on stderr: the engine
 * was chosen by name, or reported.
 */
async function registerPlainBackend(): Promise<void> {
  await import('../../tensor/tfjs/cpu.js')
  const plain = findBackend('cpu') as {firstUse?: boolean} | null
  if (plain) plain.firstUse = false
}
