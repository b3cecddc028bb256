/** Where new tensors of the torch engine go, and which loops of the addon serve there. */
import {run, torch} from '../binding.js'

let device: string | undefined

/** The current device as libtorch writes it: `cpu`, `cuda:0`. Asked for by nearly every kernel, so remembered until `forgetDevice`. */
export const deviceName = (): string => (device ??= torch().describe().device)

/** To be called when the device changes. */
export function forgetDevice(): void {
  device = undefined
  ready.clear()
}

export const onCpu = (): boolean => deviceName() === 'cpu'

const ready = new Map<string, boolean>()

/**
 * Whether the addon's own loops of a family (`dinov2::<family>_ready`) serve here: on a CPU that has the instructions they want. Elsewhere kernels compose
 * libtorch's operators. `args` is what the family asks about, e.g. the width of a head.
 */
export function hasOwn(family: string, ...args: number[]): boolean {
  if (!onCpu()) return false
  const key = [family, ...args].join()
  let answer = ready.get(key)
  if (answer === undefined) ready.set(key, (answer = run(`dinov2::${family}_ready`, ...args) as boolean))
  return answer
}
