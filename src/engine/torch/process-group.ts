/**
 * The process group of the torch engine: a small addon (`native/processes`) over c10d of libtorch, compiled and loaded
 * at the first run of several processes and never otherwise.
 *
 * A process is in one group at a time. Its collectives are operators of libtorch, which the kernels registered here
 * call for `tensor/ops/collectives.ts`.
 */
import {createRequire} from 'node:module'
import {UserError} from '../../config/errors.js'
import {registerKernel} from '../../tensor/tf.js'
import type {KernelConfig, Tensor} from '../../tensor/tf.js'
import {compileAddon, type Note} from '../../system/compile.js'
import type {Launch} from '../../system/launch.js'
import type {Begun} from '../../tensor/ops/collectives.js'
import {inPlace, op, ops, run, scoped, torch} from './binding.js'
import type {Handle} from './binding.js'
import {missingCudaHeaders, NCCL_HEADERS, processesRecipe} from './build.js'
import {findTorch, type TorchInfo} from './find.js'

type Addon = {
  meet(host: string, port: number, prefix: string, rank: number, size: number, isServer: boolean, timeoutMs: number): Promise<string>
  join(device: string): Promise<string>
  await(keys: readonly string[]): Promise<string>
  exchange(text: string, room: number): Promise<string>
  put(key: string, value: string): void
  putFirst(key: string, value: string): string
  read(key: string): string | null
  failure(): string | null
  tick(): void
  beats(ranks: readonly number[]): {alive: number[]; ticks: number[]}
  close(): void
  leave(status: number): void
}

/** The processes of a run, as far as libtorch connects them. All but `join`, `await` and `exchange` answer at once. */
export type ProcessGroup = Omit<Addon, 'meet'> & {
  /** The version of libtorch. */
  readonly version: string
}

/**
 * Connects to the store in which the processes of `launch` meet; resolves when it is reached. Throws `UserError`
 * (exit 5) where no libtorch or compiler is there; what c10d throws where the store cannot be reached in time.
 */
export async function meetProcesses(launch: Launch, {timeout, note}: {timeout: number; note?: Note}): Promise<ProcessGroup> {
  const found = await findTorch()
  const addon = createRequire(import.meta.url)(await compileAddon(processesRecipe(found), note)) as Addon
  const prefix = `dinov2/${launch.id}/${launch.restart}`
  await addon.meet(launch.host, launch.port, prefix, launch.rank, launch.size, launch.keepsStore, timeout * 1000)
  return {
    version: found.version,
    join: async device => {
      if (device.startsWith('cuda')) assertNccl(found)
      const joined = await addon.join(device)
      await registerCollectives()
      return joined
    },
    await: addon.await,
    exchange: addon.exchange,
    put: addon.put,
    putFirst: addon.putFirst,
    read: addon.read,
    failure: addon.failure,
    tick: addon.tick,
    beats: addon.beats,
    close: addon.close,
    leave: addon.leave
  }
}

/** Throws (exit 5) where the addon could not be compiled with NCCL, which GPUs need. */
function assertNccl(torch: TorchInfo): void {
  const missing = missingCudaHeaders(torch, NCCL_HEADERS)
  if (missing.length === 0) return
  throw new UserError(`Processes on GPUs meet by NCCL, and headers that it needs are not here: ${missing.join(', ')}`, {
    exit: 5,
    code: 'NO_NCCL',
    hint: 'set CUDA_HOME to a CUDA toolkit, or run `pip install nvidia-nccl-cu13 nvidia-cuda-cccl` where torch is installed'
  })
}

/** Bytes that are summed at once: more would double what is held. */
const BUCKET = 64 * 2 ** 20

/** Sums tensors over all processes, in buckets: many small messages would cost their latency each. */
function sumInBuckets(tensors: readonly Handle[]): void {
  let bucket: Handle[] = []
  let bytes = 0
  const sum = (): void => {
    if (bucket.length === 0) return
    const own = bucket
    scoped(() => {
      const sizes = own.map(handle =>
        torch()
          .shape(handle)
          .reduce((a, b) => a * b, 1)
      )
      const flat = op(
        'cat',
        own.map(handle => op('reshape', handle, [-1])),
        0
      )
      run('dinov2_processes::all_reduce', flat, false)
      const parts = ops('split_with_sizes', flat, sizes, 0)
      own.forEach((handle, i) => inPlace('copy_', handle, op('view', parts[i]!, torch().shape(handle)), false))
      return []
    })
    bucket = []
    bytes = 0
  }
  for (const handle of tensors) {
    bucket.push(handle)
    bytes +=
      4 *
      torch()
        .shape(handle)
        .reduce((a, b) => a * b, 1)
    if (bytes >= BUCKET) sum()
  }
  sum()
}

let registered = false

/** Registers the kernels of `tensor/ops/collectives.ts`. */
async function registerCollectives(): Promise<void> {
  if (registered) return
  registered = true
  const {define, handleOf, track} = await import('./kernels/define.js')
  define('Dinov2AllReduce', ({x}, {largest}) => {
    const copy = op('clone', op('contiguous', handleOf(x!), 0), 0)
    run('dinov2_processes::all_reduce', copy, largest === true)
    return copy
  })
  define('Dinov2AllGather', ({x}) => op('dinov2_processes::all_gather', handleOf(x!)))
  for (const [name, operator] of [
    ['Dinov2BeginAllGather', 'begin_all_gather'],
    ['Dinov2BeginAllToAll', 'begin_all_to_all']
  ] as const)
    define(name, ({x}, attrs) => {
      const [handle, number] = run(`dinov2_processes::${operator}`, handleOf(x!)) as [Handle, bigint]
      ;(attrs as {begun: Begun}).begun.number = Number(number)
      return track(handle)
    })
  registerKernel({
    kernelName: 'Dinov2GatherNumbers',
    backendName: 'torch',
    kernelFunc: ({attrs}: {attrs?: unknown}) => {
      const {own, answer} = attrs as {own: readonly number[]; answer: {all?: readonly number[]}}
      answer.all = (run('dinov2_processes::gather_numbers', own) as (number | bigint)[]).map(Number)
      return []
    }
  } as unknown as KernelConfig)
  registerKernel({
    kernelName: 'Dinov2Wait',
    backendName: 'torch',
    kernelFunc: ({attrs}: {attrs?: unknown}) => {
      run('dinov2_processes::wait', (attrs as {number: number}).number)
      return []
    }
  } as unknown as KernelConfig)
  registerKernel({
    kernelName: 'Dinov2AllReduceAll',
    backendName: 'torch',
    kernelFunc: ({attrs}: {attrs?: unknown}) => {
      sumInBuckets((attrs as {lists: {tensors: Tensor[]}}).lists.tensors.map(handleOf))
      return []
    }
  } as unknown as KernelConfig)
}
