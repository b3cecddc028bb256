/**
 * What is on this machine and what would make the program faster: the facts of `dinov2 doctor`, and as lines for a
 * person.
 */
import {readdir, stat} from 'node:fs/promises'
import {freemem, totalmem} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {builtNative} from '../../data/augment/native-crops.js'
import {describeEngines} from '../../engine/describe.js'
import type {EngineDescription} from '../../engine/engine.js'
import {cpuDevice, cpuFlags, cudaDevices, type Device} from '../../engine/machine.js'
import type {EngineRequest} from '../../engine/start.js'
import {graphLibraryCommand, whyNoGraph} from '../../search/hnsw.js'
import {compiler} from '../../system/compile.js'
import {cacheFolder, dataFolder, packageFolder} from '../../system/paths.js'
import {runCommand} from '../../system/run-command.js'
import {measureSpeed, type Speed} from './measure.js'

/** The instructions that the native code asks the processor for, where it has them. */
const INSTRUCTIONS = ['avx2', 'fma', 'avx512f', 'avx512_bf16', 'amx_bf16', 'asimd', 'bf16']

export type Folder = {readonly path: string; readonly bytes: number}

export type Doctor = {
  readonly node: string
  readonly platform: string
  readonly cpu: Device & {readonly instructions: readonly string[]}
  readonly memory: {readonly total: number; readonly free: number}
  readonly engines: readonly EngineDescription[]
  /** The driver's version and its GPUs; a null driver where nvidia-smi is not there. */
  readonly gpu: {readonly driver: string | null; readonly devices: readonly Device[]}
  /** First lines of `--version`; null where the program is not there. */
  readonly compiler: string | null
  readonly python: string | null
  /** Whether images are cut and resized by native code, and whether graphs of indexes can be built. */
  readonly nativeImages: boolean
  readonly graphs: string | null
  readonly folders: readonly Folder[]
  /** Null where no engine starts, with the reason. */
  readonly speed: Speed | null
  readonly noSpeed: string | null
  readonly advice: readonly {readonly why: string; readonly command: string}[]
}

/** The first line of what a program says of its version; null where it cannot be started. */
async function versionOf(program: string, args: readonly string[] = ['--version']): Promise<string | null> {
  const {status, stdout, stderr} = await runCommand(program, args, {timeout: 10_000})
  return status === 0 ? ((stdout || stderr).trim().split('\n', 1)[0] ?? '') : null
}

/** Bytes of the files below a folder; links are not followed. */
async function sizeOf(folder: string): Promise<number> {
  const entries = await readdir(folder, {withFileTypes: true}).catch(() => [])
  const sizes = entries.map(async entry => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return sizeOf(path)
    return entry.isFile() ? ((await stat(path).catch(() => undefined))?.size ?? 0) : 0
  })
  return (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes, 0)
}

/** What would make this machine faster, or let it do more, each with the command. */
function adviceFor(facts: Omit<Doctor, 'advice'>): Doctor['advice'] {
  const {engines, compiler: cxx, nativeImages, graphs, gpu} = facts
  const advice: {why: string; command: string}[] = []
  const torch = engines.find(({engine}) => engine === 'torch')
  if (!cxx && (!torch?.available || !nativeImages))
    advice.push({
      why: 'without a C++ compiler the torch engine cannot be compiled',
      command: process.platform === 'darwin' ? 'xcode-select --install' : 'sudo apt install g++'
    })
  if (torch && !torch.available)
    advice.push({why: `torch is the fastest engine, and it is not here: ${torch.reason}`, command: 'dinov2 engine install torch'})
  else if (torch?.command && gpu.devices.length > 0) advice.push({why: 'a GPU lies idle', command: torch.command})
  if (!nativeImages) advice.push({why: 'images are cut and coloured in JavaScript', command: 'dinov2 engine install torch'})
  if (graphs !== null)
    advice.push({
      why: `graphs of large indexes cannot be built: ${graphs}`,
      command: `cd '${packageFolder()}' && ${graphLibraryCommand()}`
    })
  return advice
}

/** Looks at the machine and measures for `seconds`; installs and compiles nothing but an addon that is missing. */
export async function examine(request: EngineRequest, seconds: number): Promise<Doctor> {
  const cpu = cpuDevice()
  const flags = cpuFlags()
  const [engines, devices, driver, cxx, python] = await Promise.all([
    describeEngines(),
    cudaDevices(),
    versionOf('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader']),
    versionOf(compiler()),
    versionOf('python3')
  ])
  const folders = await Promise.all([cacheFolder(), dataFolder()].map(async path => ({path, bytes: await sizeOf(path)})))
  let [speed, noSpeed]: [Speed | null, string | null] = [null, null]
  if (seconds > 0)
    try {
      speed = await measureSpeed(request, seconds)
    } catch (error) {
      if (!(error instanceof UserError) || (request.engine ?? 'auto') !== 'auto') throw error
      noSpeed = error.message
    }
  const facts = {
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    cpu: {...cpu, instructions: INSTRUCTIONS.filter(name => flags.has(name))},
    memory: {total: Math.min(cpu.memory, totalmem()), free: freemem()},
    engines,
    gpu: {driver, devices},
    compiler: cxx,
    python,
    nativeImages: builtNative() !== undefined,
    graphs: whyNoGraph() ?? null,
    folders,
    speed,
    noSpeed
  }
  return {...facts, advice: adviceFor(facts)}
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** The facts as text, a line each, and at the end what to do. */
export function doctorLines(facts: Doctor): string[] {
  const {node, platform, cpu, memory, engines, gpu, folders, speed, noSpeed, advice} = facts
  const line = (name: string, text: string): string => `${name.padEnd(12)}${text}`
  return [
    line('node', `${node} on ${platform}`),
    line('processor', `${cpu.title}, cores: ${cpu.cores}${cpu.instructions.length > 0 ? `; ${cpu.instructions.join(' ')}` : ''}`),
    line('memory', `${gibibytes(memory.free)} of ${gibibytes(memory.total)} free`),
    ...(gpu.devices.length > 0
      ? gpu.devices.map(({name, title, memory: bytes}) => line('gpu', `${name} ${title}, ${gibibytes(bytes)}; driver ${gpu.driver}`))
      : [line('gpu', gpu.driver === null ? 'none: nvidia-smi is not here' : 'none that may be used')]),
    ...engines.map(({engine, available, version, reason}) => line(engine, available ? `${version}` : `not here: ${reason}`)),
    line('compiler', facts.compiler ?? 'none'),
    line('python', facts.python ?? 'none'),
    line('images', facts.nativeImages ? 'cut and resized by native code' : 'cut and resized in JavaScript'),
    line('graphs', facts.graphs ?? 'can be built'),
    ...folders.map(({path, bytes}) => line('folder', `${path}, ${gibibytes(bytes)}`)),
    ...(speed
      ? [
          line(
            'speed',
            `ViT-S/14 at 224 pixels: ${speed.imagesPerSecond.toFixed(1)} images/s on ${speed.engine}, ${speed.device}, ${speed.precision}, threads: ${speed.threads}`
          )
        ]
      : noSpeed
        ? [line('speed', noSpeed)]
        : []),
    ...advice.flatMap(({why, command}) => [line('advice', why), line('', command)])
  ]
}
