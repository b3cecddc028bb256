/**
 * What a run costs each of n processes (docs/scale.md): memory of its tensors, and bytes that it sends to the others,
 * for both kinds of `train.parallel`. Counted, as `cost-counts.ts`.
 *
 * P parameters of the student, of which P_b in L blocks and P_h in heads, embedding and norm. Gradients that are
 * summed, sizes and losses besides are a few numbers a prototype, and left out.
 */
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {countCost} from './cost-counts.js'
import type {TeacherCost} from './cost-counts.js'

/** Bytes of one process. */
export type ProcessCost = {
  /** Student, its average and two moments, as far as this process keeps them. */
  readonly state: number
  /** What a step needs besides at its highest point: gradients, activations, what is gathered or on its way. */
  readonly step: number
  /** Both, with copies of weights in the precision of products. */
  readonly tensors: number
  /** Sent to other processes in a step. */
  readonly sent: number
}

export type ProcessesCost = {readonly count: number; readonly ddp: ProcessCost; readonly fsdp: ProcessCost}

/** Gradients are summed in buckets of so many bytes. */
const BUCKET = 64 * 2 ** 20
/** Blocks under way at once: two gathered, one with gradients, and pieces of two on the wire. */
const BLOCKS_UNDER_WAY = 5

/** What each of `count` processes needs, each with the images that the settings give one. */
export function costOfProcesses(
  settings: Settings,
  plan: Derived,
  precision: Precision,
  count: number,
  teacher?: TeacherCost
): ProcessesCost {
  const counts = countCost(settings, plan, precision, teacher)
  const {parameters, blocks, products, state, copies, heads, backward} = counts
  const outside = parameters - blocks
  const others = (count - 1) / count // share of every tensor that lies elsewhere
  const cost = (own: number, step: number, sent: number): ProcessCost => ({state: own, step, tensors: own + copies + step, sent})
  const ddp = cost(state, Math.max(heads, backward + 4 * parameters) + Math.min(BUCKET, 4 * parameters), 2 * others * 4 * parameters)
  const underWay = (BLOCKS_UNDER_WAY * 4 * blocks) / plan.vit.depth
  const block = others * (bytesOfNumber(precision) * products + 4 * (blocks - products)) // all blocks, once over the wire
  const [gathers, outsideGathers] = teacher ? [2, 1] : [3, 2] // a frozen teacher is whole in each process
  const fsdp = cost(
    state / count,
    Math.max(heads, backward + (4 * parameters) / count + 4 * outside) + 4 * outside + underWay,
    (gathers + 1) * block + (outsideGathers + 1) * others * 4 * outside
  )
  return {count, ddp, fsdp}
}
