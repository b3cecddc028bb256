/**
 * Starting the engine that a command asked for.
 *
 * `auto` takes torch, then tensorflow, then wasm, and says which. An engine, device or precision asked for by name is
 * never replaced: where it is absent, the error (status 5) says why and how to get it.
 */
import {availableParallelism} from 'node:os'
import {UserError} from '../config/errors.js'
import {autoPrecision} from './describe.js'
import {cpuDevice, cudaDevices} from './machine.js'
import {ENGINES, INSTALL_COMMANDS, PRECISIONS, type AnyEngine, type Precision} from './registry.js'

export type EngineRequest = {
  readonly engine?: 'auto' | AnyEngine
  /** `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. */
  readonly device?: string
  /** `auto`, or one of the formats that flags offer. */
  readonly precision?: string
  /** Threads of the CPU kernels; one a core by default. */
  readonly threads?: number
  /** Hears what was chosen and what is being compiled; stderr by default. */
  readonly note?: (sentence: string) => void
}

export type EngineInfo = {
  readonly engine: AnyEngine
  readonly version: string
  /** The device in use, e.g. `cpu`, `cuda:0`. */
  readonly device: string
  /** The number format in which models compute. */
  readonly precision: Precision
  readonly threads: number
}

const onStderr = (sentence: string): void => void process.stderr.write(`dinov2: ${sentence}\n`)

/**
 * Starts one engine and makes it tfjs's current backend.
 * Errors of status 5: the engine, device or precision is not to be had here.
 */
export async function startEngine(request: EngineRequest = {}): Promise<EngineInfo> {
  const {engine = 'auto', note = onStderr} = request
  if (engine !== 'auto') return start(engine, request, note)
  const refusals: {engine: AnyEngine; error: UserError}[] = []
  for (const candidate of ENGINES) {
    try {
      const info = await start(candidate, request, note)
      note(
        `engine ${info.engine} ${info.version} on ${info.device}, ${info.precision}, ${info.threads} ${info.threads === 1 ? 'thread' : 'threads'}`
      )
      const faster = refusals.find(refusal => INSTALL_COMMANDS[refusal.engine as keyof typeof INSTALL_COMMANDS])
      if (faster) note(`${faster.error.message}; a faster engine: ${faster.error.hint ?? 'dinov2 engine list'}`)
      return info
    } catch (error) {
      if (!(error instanceof UserError) || error.exit !== 5) throw error
      refusals.push({engine: candidate, error})
    }
  }
  throw new UserError(`No engine serves:\n${refusals.map(({engine: name, error}) => `  ${name}: ${error.message}`).join('\n')}`, {
    exit: 5,
    code: 'NO_ENGINE',
    hint: 'see `dinov2 engine list`'
  })
}

async function start(engine: AnyEngine, request: EngineRequest, note: (sentence: string) => void): Promise<EngineInfo> {
  switch (engine) {
    case 'torch':
      return torch(request, note)
    case 'tensorflow':
      return tensorflow(request)
    case 'wasm':
    case 'cpu':
      return plain(engine, request, note)
  }
}

async function torch({device = 'auto', precision = 'auto', threads}: EngineRequest, note: (sentence: string) => void): Promise<EngineInfo> {
  checkPrecision('torch', precision)
  const {locateAddon} = await import('./torch/build.js')
  const {addon, torch: found} = await locateAddon(note)
  const wants = device === 'auto' ? (found.cuda && (await cudaDevices()).length > 0 ? 'cuda' : 'cpu') : device
  const {startTorch} = await import('./torch/backend.js')
  let running
  try {
    running = await startTorch({addon, device: wants, threads})
  } catch (cause) {
    const gpu = wants.startsWith('cuda')
    const hint =
      gpu && !found.cuda ? 'run `dinov2 engine install torch --cuda` for a libtorch with CUDA' : 'see `dinov2 engine list` for what is here'
    throw new UserError(`The torch engine does not start on ${wants}: ${firstLine(cause)}`, {exit: 5, code: 'NO_DEVICE', hint, cause})
  }
  const bf16 = running.device.startsWith('cuda') || (running.device === 'cpu' && cpuDevice().bf16)
  const chosen = precision === 'auto' ? autoPrecision('torch', {bf16}) : (precision as Precision)
  return {engine: 'torch', version: found.version, device: running.device, precision: chosen, threads: running.threads}
}

async function tensorflow({device = 'auto', precision = 'auto', threads}: EngineRequest): Promise<EngineInfo> {
  checkPrecision('tensorflow', precision)
  const {startTensorflow} = await import('./tensorflow/start.js')
  const running = await startTensorflow({device, threads})
  return {engine: 'tensorflow', ...running, precision: 'fp32', threads: threads ?? availableParallelism()}
}

async function plain(
  engine: 'wasm' | 'cpu',
  {device = 'auto', precision = 'auto', threads}: EngineRequest,
  note: (sentence: string) => void
): Promise<EngineInfo> {
  checkPrecision(engine, precision)
  if (device !== 'auto' && device !== 'cpu')
    throw new UserError(`The ${engine} engine runs on the cpu only, not on ${device}`, {
      exit: 5,
      code: 'NO_DEVICE',
      hint: 'use --engine torch for other devices'
    })
  if (threads !== undefined && threads > 1) note(`the ${engine} engine runs on one thread; --threads ${threads} changes nothing`)
  const {startPlain, startWasm} = await import('./wasm/start.js')
  const {version} = await (engine === 'wasm' ? startWasm() : startPlain())
  return {engine, version, device: 'cpu', precision: 'fp32', threads: 1}
}

/** Refuses a number format that the engine does not compute in. */
function checkPrecision(engine: AnyEngine, precision: string): void {
  const known: readonly string[] = PRECISIONS[engine]
  if (precision === 'auto' || known.includes(precision)) return
  throw new UserError(`The ${engine} engine computes in ${known.join(' or ')}, not in ${precision}`, {
    exit: 5,
    code: 'NO_PRECISION',
    hint: `use --precision auto${engine === 'torch' ? '' : ', or --engine torch for bf16'}`
  })
}

const firstLine = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]!
