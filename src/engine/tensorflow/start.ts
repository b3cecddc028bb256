/**
 * Loading `@tensorflow/tfjs-node-gpu`: libtensorflow as tfjs's backend, on CPU or CUDA.
 *
 * The package's own entry point looks for the binding in one place inside node_modules, which need not be writable; so
 * its parts are taken one by one: its kernels, its backend class, and the binding from wherever it lies. libtensorflow
 * reads its settings from the environment when it is loaded, so they are set before.
 */
import {createRequire} from 'node:module'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {registerBackend, setBackend} from '../../tensor/tf.js'
import type {KernelBackend} from '../../tensor/tf.js'
import {searchTensorflow} from './find.js'

export type TensorflowStart = {
  /** `auto`, `cpu`, `cuda` or `cuda:N`. */
  readonly device: string
  /** Threads of the CPU kernels; libtensorflow takes all cores by default. */
  readonly threads?: number
}

type Binding = {isUsingGpuDevice(): boolean; readonly TF_Version: string}

const INSTALL = 'run `dinov2 engine install tensorflow`'

/**
 * Makes libtensorflow the current backend; at most once in a process, since libtensorflow reads device and threads
 * when it is loaded. Errors of status 5: not installed, does not load, or the device asked for is absent.
 */
export async function startTensorflow({device, threads}: TensorflowStart): Promise<{version: string; device: string}> {
  const found = searchTensorflow()
  if (typeof found === 'string')
    throw new UserError(`The tensorflow engine is not here: ${found}`, {exit: 5, code: 'NO_ENGINE', hint: INSTALL})
  const gpu = /^cuda(?::(\d+))?$/.exec(device)
  if (!gpu && device !== 'auto' && device !== 'cpu')
    throw new UserError(`The tensorflow engine knows the devices cpu and cuda[:N], not ${device}`, {
      exit: 5,
      code: 'NO_DEVICE',
      hint: 'use --device auto'
    })
  prepareEnvironment(device, gpu?.[1], threads)
  const require = createRequire(import.meta.url)
  let binding: Binding
  try {
    binding = require(found.binding) as Binding
  } catch (cause) {
    throw new UserError(`The binding to libtensorflow (${found.binding}) does not load: ${(cause as Error).message}`, {
      exit: 5,
      code: 'NO_ENGINE',
      hint: 'run `dinov2 engine install tensorflow --force`',
      cause
    })
  }
  const usesGpu = binding.isUsingGpuDevice()
  if (gpu && !usesGpu)
    throw new UserError(`The tensorflow engine finds no CUDA device (asked for ${device})`, {
      exit: 5,
      code: 'NO_DEVICE',
      hint: 'run `dinov2 engine install tensorflow --cuda` where a GPU is, or use --device cpu'
    })
  mendNodeUtilities(require('node:util') as Record<string, unknown>)
  const {NodeJSKernelBackend} = withoutWarning(/^Platform node has already been set/, () => {
    require(join(found.package.folder, 'dist/register_all_kernels.js'))
    return require(join(found.package.folder, 'dist/nodejs_kernel_backend.js')) as {
      NodeJSKernelBackend: new (binding: Binding, name: string) => KernelBackend
    }
  })
  registerBackend('tensorflow', () => new NodeJSKernelBackend(binding, '@tensorflow/tfjs-node-gpu'), 3)
  if (!(await setBackend('tensorflow'))) throw new Error('TensorFlow.js refused the tensorflow backend')
  return {version: `${binding.TF_Version} (tfjs-node-gpu ${found.package.version})`, device: usesGpu ? (gpu ? device : 'cuda') : 'cpu'}
}

/** libtensorflow's settings, which it reads once; what the user has set stays. */
function prepareEnvironment(device: string, index: string | undefined, threads: number | undefined): void {
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '2'
  if (device === 'cpu') process.env['CUDA_VISIBLE_DEVICES'] = '-1'
  if (index !== undefined)
    process.env['CUDA_VISIBLE_DEVICES'] = (process.env['CUDA_VISIBLE_DEVICES']?.split(',') ?? [])[Number(index)] ?? index
  if (threads !== undefined) process.env['TF_NUM_INTRAOP_THREADS'] = String(threads)
}

/** tfjs-node calls two functions of node:util that Node 23 took away. */
function mendNodeUtilities(util: Record<string, unknown>): void {
  util['isNullOrUndefined'] ??= (value: unknown): boolean => value === null || value === undefined
  util['isArray'] ??= Array.isArray
}

/** Runs `load` without one warning that means nothing to users: tfjs-node puts its platform in the place of tfjs's. */
function withoutWarning<T>(warning: RegExp, load: () => T): T {
  const log: Pick<Console, 'warn'> = console
  const {warn} = log
  log.warn = (...words: unknown[]) => {
    if (!warning.test(String(words[0]))) warn(...words)
  }
  try {
    return load()
  } finally {
    log.warn = warn
  }
}
