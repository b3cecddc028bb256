/**
 * What can compute on this machine, and why the rest cannot: the facts behind `dinov2 engine list`.
 *
 * Nothing is loaded or compiled: versions come from files, devices from the system.
 */
import {UserError} from '../config/errors.js'
import {cpuDevice, cudaDevices, type Device} from './machine.js'
import {ENGINES, ENGINE_TITLES, INSTALL_COMMANDS, type EngineName, type Precision} from './registry.js'
import {privateWheel, searchTensorflow} from './tensorflow/find.js'
import {builtAddon} from './torch/build.js'
import {searchTorch} from './torch/find.js'
import {wasmVersion} from './wasm/start.js'

export type EngineDescription = {
  readonly engine: EngineName
  readonly title: string
  /** Whether `--engine` of this name would start. */
  readonly available: boolean
  readonly version: string | null
  /** The folder or file it is taken from. */
  readonly where: string | null
  /** Devices it would run on, each with what `--precision auto` means there. */
  readonly devices: readonly (Device & {readonly auto: Precision})[]
  /** Why it is not available, as a sentence without a full stop. */
  readonly reason: string | null
  /** The command that makes it available, or better. */
  readonly command: string | null
  /** Remarks: a GPU that lies idle, an addon still to be compiled. */
  readonly remarks: readonly string[]
}

/** bf16 where the device multiplies it natively, else fp32; only the torch engine computes in bf16. */
export const autoPrecision = (engine: string, device: Pick<Device, 'bf16'>): Precision =>
  engine === 'torch' && device.bf16 ? 'bf16' : 'fp32'

/** Describes all engines, fastest first; the first available one is what `--engine auto` takes. */
export async function describeEngines(): Promise<EngineDescription[]> {
  const gpus = await cudaDevices()
  const cpu = cpuDevice()
  const descriptions = {torch: await describeTorch(cpu, gpus), tensorflow: describeTensorflow(cpu, gpus), wasm: describeWasm(cpu)}
  return ENGINES.map(engine => descriptions[engine])
}

const onDevices = (engine: EngineName, devices: readonly Device[]): EngineDescription['devices'] =>
  devices.map(device => ({...device, auto: autoPrecision(engine, device)}))

const absent = (engine: EngineName, reason: string, remarks: readonly string[] = []): EngineDescription => ({
  engine,
  title: ENGINE_TITLES[engine],
  available: false,
  version: null,
  where: null,
  devices: [],
  reason,
  command: INSTALL_COMMANDS[engine] ?? null,
  remarks
})

async function describeTorch(cpu: Device, gpus: readonly Device[]): Promise<EngineDescription> {
  let search
  try {
    search = await searchTorch()
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    return {...absent('torch', error.message), command: error.hint ?? null}
  }
  const {torch, passedOver} = search
  if (!torch) return absent('torch', passedOver.length > 0 ? passedOver.join('; ') : 'no libtorch was found', [])
  const remarks = [...passedOver]
  if (!builtAddon(torch)) remarks.push('the addon is compiled at first use, in less than a minute')
  const idle = gpus.length > 0 && !torch.cuda
  if (idle) remarks.push(`${gpus[0]!.title} lies idle: this libtorch has no CUDA`)
  return {
    engine: 'torch',
    title: ENGINE_TITLES.torch,
    available: true,
    version: torch.version,
    where: torch.root,
    devices: onDevices('torch', torch.cuda ? [...gpus, cpu] : [cpu]),
    reason: null,
    command: idle ? 'dinov2 engine install torch --cuda' : null,
    remarks
  }
}

function describeTensorflow(cpu: Device, gpus: readonly Device[]): EngineDescription {
  const found = searchTensorflow()
  if (typeof found === 'string') return absent('tensorflow', found)
  const cuda = privateWheel()?.cuda ?? false
  const idle = gpus.length > 0 && !cuda && found.libtensorflow !== null
  return {
    engine: 'tensorflow',
    title: ENGINE_TITLES.tensorflow,
    available: true,
    version: found.libtensorflow
      ? `${found.libtensorflow} (tfjs-node-gpu ${found.package.version})`
      : `tfjs-node-gpu ${found.package.version}`,
    where: found.binding,
    devices: onDevices('tensorflow', idle ? [cpu] : [...gpus, cpu]),
    reason: null,
    command: idle ? 'dinov2 engine install tensorflow --cuda' : null,
    remarks: idle ? [`${gpus[0]!.title} lies idle: this libtensorflow has no CUDA`] : []
  }
}

const describeWasm = (cpu: Device): EngineDescription => ({
  engine: 'wasm',
  title: ENGINE_TITLES.wasm,
  available: true,
  version: wasmVersion(),
  where: null,
  devices: onDevices('wasm', [{...cpu, cores: 1}]),
  reason: null,
  command: null,
  remarks: []
})
