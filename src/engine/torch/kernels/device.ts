/** Where new tensors of the torch engine go, and which loops of the addon serve there. */
import {run, scalarType, torch} from '../binding.js'

let device: string | undefined

/**
 * The current device as libtorch writes it: `cpu`, `cuda:0`. Asked for by nearly every kernel, so remembered until
 * `forgetDevice`.
 */
export const deviceName = (): string => (device ??= torch().describe().device)

/** To be called when the device changes. */
export function forgetDevice(): void {
  device = undefined
  ready.clear()
}

export const onCpu = (): boolean => deviceName() === 'cpu'

const ready = new Map<string, boolean>()

/**
 * Whether the addon's own loops of a family (`dinov2::<family>_ready`) serve here: on a CPU that has the instructions
 * they want. Elsewhere kernels compose libtorch's operators. `args` is what the family asks about, e.g. the width of a
 * head.
 */
export function hasNativeKernel(family: string, ...args: number[]): boolean {
  if (!onCpu()) return false
  const key = [family, ...args].join()
  let answer = ready.get(key)
  if (answer === undefined) ready.set(key, (answer = run(`dinov2::${family}_ready`, ...args) as boolean))
  return answer
}

/**
 * Whether oneDNN's linear layer takes operands of this type here. It multiplies bfloat16 only on processors with
 * AVX-512 (or AVX2-VNNI-2, AMX, SVE); elsewhere it refuses, and the caller takes libtorch's own product.
 */
export function onednnTakes(type: number): boolean {
  if (!onCpu()) return false
  const check = {[scalarType.bfloat16]: 'mkldnn::_is_mkldnn_bf16_supported', [scalarType.float16]: 'mkldnn::_is_mkldnn_fp16_supported'}[
    type
  ]
  if (!check) return true
  let answer = ready.get(check)
  if (answer === undefined) ready.set(check, (answer = run(check) as boolean))
  return answer
}
