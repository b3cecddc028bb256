/** What a training run costs, in words. */
import {counted} from '../config/counted.js'
import type {CostEstimate} from '../tasks/train/cost-estimate.js'

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`

/** A cost estimate in words: what is needed, how that is known, and what each of several processes would need. */
export function formatCostEstimate(estimate: CostEstimate, batch: number): string[] {
  const hours = estimate.seconds / 3600
  const {estimated} = estimate
  const {state, copies, activations, base} = estimate.parts
  return [
    `${counted(estimate.images, 'image')}, ${counted(estimate.steps, 'step')} of ${batch}, ${(estimate.parameters / 1e6).toFixed(1)} M parameters with heads: ` +
      `${estimate.secondsPerStep.toFixed(3)} s a step${estimated === undefined ? ` (${Math.round(100 * estimate.dataWait)} % of it waiting for images)` : ''}, ` +
      `${hours >= 1 ? `${hours.toFixed(1)} hours` : `${(estimate.seconds / 60).toFixed(1)} minutes`} in all; checkpoints of ${gib(estimate.checkpointBytes)}` +
      (estimate.processBytes === undefined
        ? estimated === undefined
          ? ''
          : `; ${gib(estimate.peakBytes!)} of memory on the device`
        : `; ${gib(estimate.processBytes)} of memory at the peak`) +
      (activations === undefined
        ? ''
        : `: state ${gib(state)}, copies of weights ${gib(copies)}, activations and gradients ${gib(activations)}` +
          (base === undefined ? '' : `, the rest of the process ${gib(base + (estimate.processBytes! - estimate.parts.process!))}`)),
    estimated === undefined
      ? `measured on ${estimate.machine}`
      : `an estimate, for no step was tried: ${estimated}. ${(estimate.flopsPerStep / 1e12).toPrecision(3)} TFLOP a step on ${estimate.machine}; waiting for images is not in it`,
    ...(estimate.several ? [wordsOfProcesses(estimate.several, batch)] : [])
  ]
}

/** Memory and bytes on the way of each of several processes; `batch` is of each. */
function wordsOfProcesses({count, ddp, fsdp}: NonNullable<CostEstimate['several']>, batch: number): string {
  const words = (kind: string, {tensors, state, sent}: typeof ddp): string =>
    `with train.parallel=${kind} tensors of ${gib(tensors)} (state ${gib(state)}) and ${(sent / 1e6).toFixed(0)} MB sent a step`
  return `each of ${count} processes of ${batch} images, counted: ${words('ddp', ddp)}; ${words('fsdp', fsdp)}. The time above is without the network`
}
