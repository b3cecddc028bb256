/**
 * The simulated device (`test/native/sim.cc`): compiled once into the cache, like the addons of the program, and made
 * known by DINOV2_TEST_SIM, in whose presence alone `--device sim` exists.
 */
import {createRequire} from 'node:module'
import {torchFlags} from '../../src/engine/torch/build.js'
import {findTorch} from '../../src/engine/torch/find.js'
import {startEngine, type EngineInfo} from '../../src/engine/start.js'
import {compileAddon} from '../../src/system/compile.js'

export type SimCounts = {
  /** Copies from the host, to the host, and from one tensor of the device to another. */
  readonly toDevice: number
  readonly toHost: number
  readonly within: number
  /** Operators that ran on the device: on a GPU a launch each, at least. */
  readonly operators: number
  /** Bytes of living tensors. */
  readonly bytes: number
  /** How often each operator ran. */
  readonly calls: Readonly<Record<string, number>>
  /** Copies as they were asked for, and where the host waited for the device or found a copy done, in order. */
  readonly trace: readonly ('to the device' | 'to the host' | 'the host waits' | 'the host finds it done')[]
}

export type Sim = {
  counts(): SimCounts
  /** Sets the counts back to zero. */
  reset(): void
  /** Bytes of memory from now on; 0 for as good as endless. */
  setLimit(bytes: number): void
  /** Multiplies all that an operator of ATen gives or changes in place from now on, as a wrong kernel; 1 ends it. */
  falsify(operator: string, factor: number): void
  /**
   * From now on streams or the host do not wait for events, or the allocator is not told which streams use memory, as
   * in a program that forgets to, or half of a recorded pass is not repeated; an empty name ends it.
   */
  forget(who: 'streams' | 'host' | 'allocator' | 'graphs' | ''): void
  /** Operators of libtorch that give views and that the device cannot run. */
  uncoveredViews(): string[]
}

/** The path of the compiled device, also put into the environment of this process and its children. */
export async function simAddon(): Promise<string> {
  const torch = await findTorch()
  const addon = await compileAddon(
    {
      what: 'the simulated device',
      folder: 'test/native',
      tag: `sim-${torch.version}-abi${torch.cxx11abi}`,
      ...torchFlags(torch),
      starting: 'compiling the simulated device',
      hint: 'expected the same compiler as for the torch engine'
    },
    () => undefined
  )
  process.env['DINOV2_TEST_SIM'] = addon
  return addon
}

/** Makes the simulated device the running one. */
export async function onSim(precision: 'fp32' | 'tf32' | 'bf16' | 'fp16' = 'fp32'): Promise<{sim: Sim; info: EngineInfo}> {
  const addon = await simAddon()
  const info = await startEngine({engine: 'torch', device: 'sim', precision, threads: 1, note: () => undefined})
  return {sim: createRequire(import.meta.url)(addon) as Sim, info}
}
