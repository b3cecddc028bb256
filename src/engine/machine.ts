/**
 * What this machine has to compute with, read without loading an engine: processor, memory, GPUs, and whether they
 * multiply bf16 natively.
 */
import {readFileSync} from 'node:fs'
import {availableParallelism, cpus, freemem, totalmem} from 'node:os'
import {runCommand} from '../system/run-command.js'
import {getBackend, memory} from '../tensor/tf.js'

export type Device = {
  /** As `--device` takes it: `cpu`, `cuda:0`, `mps`. */
  readonly name: string
  /** The maker's name. */
  readonly title: string
  /** Bytes that a process may use. */
  readonly memory: number
  /** Processor cores this process may run on; null for a GPU. */
  readonly cores: number | null
  /** Whether it multiplies bf16 natively. */
  readonly bf16: boolean
  /** Version of a GPU's driver, where it tells. */
  readonly driver?: string | undefined
}

/** Flags of the first processor in /proc/cpuinfo (x86: `flags`, ARM: `Features`); empty elsewhere. */
export function cpuFlags(): Set<string> {
  try {
    const line = /^(?:flags|Features)[ \t]*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))
    return new Set(line?.[1]?.trim().split(/\s+/) ?? [])
  } catch {
    return new Set()
  }
}

/**
 * Whether the processor has bf16 dot products (AVX512-BF16, AMX, or ARM's). AVX-NE-CONVERT only converts and does not
 * count.
 */
export const cpuHasBf16 = (flags: ReadonlySet<string> = cpuFlags()): boolean =>
  ['avx512_bf16', 'amx_bf16', 'bf16'].some(flag => flags.has(flag))

/** The processor. Memory is the container's limit where there is one. */
export function cpuDevice(): Device {
  const limit = process.constrainedMemory()
  const memory = limit > 0 && limit < totalmem() ? limit : totalmem()
  return {name: 'cpu', title: cpus()[0]?.model.trim() ?? process.arch, memory, cores: availableParallelism(), bf16: cpuHasBf16()}
}

/**
 * NVIDIA GPUs by their driver's own tool; empty where there is none. Honours CUDA_VISIBLE_DEVICES when it lists plain
 * numbers.
 */
export async function cudaDevices(env: Readonly<Record<string, string | undefined>> = process.env): Promise<Device[]> {
  const query = ['--query-gpu=name,memory.total,compute_cap,driver_version', '--format=csv,noheader,nounits']
  const {status, stdout} = await runCommand('nvidia-smi', query, {timeout: 10_000})
  if (status !== 0) return []
  const all = stdout
    .trim()
    .split('\n')
    .filter(line => line.trim())
    .map(line => line.split(',').map(field => field.trim()))
  const visible = env['CUDA_VISIBLE_DEVICES']
  const chosen =
    visible === undefined
      ? all
      : visible.split(',').flatMap(index => (all[Number(index)] && /^\d+$/.test(index.trim()) ? [all[Number(index)]!] : []))
  return chosen.map(([title = 'GPU', megabytes = '0', capability = '0', driver], i) => ({
    name: `cuda:${i}`,
    title,
    memory: Number(megabytes) * 2 ** 20,
    cores: null,
    bf16: Number(capability) >= 8,
    driver
  }))
}

/**
 * Bytes that this process may still take in main memory. In a container that is at most its limit, and the file cache,
 * which the system counts as used there, is free: the kernel gives it back where a process needs memory.
 */
function freeMainMemory(): number {
  const available = process.availableMemory()
  const limit = process.constrainedMemory()
  if (limit <= 0 || limit >= totalmem()) return available
  return Math.min(available + fileCacheOfGroup(), freemem(), limit - process.memoryUsage.rss())
}

/** Bytes of the file cache of this process's control group (version 2, or 1); 0 where nothing tells. */
function fileCacheOfGroup(): number {
  for (const file of ['/sys/fs/cgroup/memory.stat', '/sys/fs/cgroup/memory/memory.stat'])
    try {
      const lines = readFileSync(file, 'utf8').matchAll(/^(?:in)?active_file (\d+)$/gm)
      return [...lines].reduce((sum, [, bytes]) => sum + Number(bytes), 0)
    } catch {
      continue // no such hierarchy here
    }
  return 0
}

/** Bytes that this process may still take on a device (`cpu`, `cuda:0`); undefined where nothing tells. */
export async function freeMemory(device: string): Promise<number | undefined> {
  if (device === 'cpu') return freeMainMemory()
  // The engine that runs there knows best: what it keeps for reuse is free to it alone.
  const {free: own} = getBackend() === 'torch' ? (memory() as {free?: number}) : {}
  if (own !== undefined) return own
  const number = /^cuda(?::(\d+))?$/.exec(device)?.[1] ?? '0'
  const {status, stdout} = await runCommand('nvidia-smi', ['--query-gpu=memory.free', '--format=csv,noheader,nounits', '-i', number], {
    timeout: 10_000
  })
  const free = Number(stdout.trim())
  return status === 0 && Number.isFinite(free) && stdout.trim() !== '' ? free * 2 ** 20 : undefined
}
