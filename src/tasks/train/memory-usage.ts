/**
 * What a training run's memory is made of, in bytes: the state, the copies of weights that enter products, what a step
 * needs besides, and all that is not tensors.
 *
 * Measured, but for the copies, which are counted: the first three are tensors, the last is the process without them
 * (engine, JavaScript, images under way).
 */
import {readFileSync} from 'node:fs'
import type {ParamMap} from '../../optim/adamw.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {memory} from '../../tensor/tf.js'
import type {TrainState} from './step-types.js'

export type MemoryParts = {
  /** Parameters of student and teacher, and moments. */
  readonly state: number
  /** Copies of weights and prototypes that live at the same time as what follows; none in fp32 but the prototypes. */
  readonly copies: number
  /**
   * At the peak: what the backward pass was kept, gradients, crops, scratch. Undefined where the engine does not tell.
   */
  readonly activations: number | undefined
  /** The rest of the process at its peak; undefined where the system does not tell. */
  readonly base: number | undefined
  /** Peak of all tensors. */
  readonly tensors: number | undefined
  /** Peak of the process. */
  readonly process: number | undefined
}

/** Most memory that this process ever had, in bytes; undefined where the system does not tell. */
function peakOfProcess(): number | undefined {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
    return line ? Number(line[1]) * 1024 : undefined
  } catch {
    return undefined
  }
}

const bytesOf = (named: ParamMap): number => [...named.values()].reduce((sum, leaf) => sum + 4 * leaf.size, 0)

/** Bytes of a state, float32. */
export const stateBytes = ({student, teacher, moments, centers}: TrainState): number =>
  [student, teacher, moments.m, moments.v, new Map(Object.entries(centers ?? {}))].reduce((sum, named) => sum + bytesOf(named), 0)

/** Bytes of the student's compute copies: linear layers where they are narrower than the state, and prototypes. */
function castBytes(student: ParamMap, precision: Precision): number {
  let bytes = 0
  for (const [name, {size}] of student) {
    const linear = /\.(qkv|proj|fc1|fc2|w12|w3)\.|_head\.mlp\./.test(name)
    if (name.endsWith('last_layer.weight_v')) bytes += bytesOfNumber(precision) * size
    else if (linear && bytesOfNumber(precision) === 2) bytes += 2 * size
  }
  return bytes
}

/** The parts, at the highest point so far. */
export function memoryParts(state: TrainState, precision: Precision): MemoryParts {
  const {peak} = memory() as {peak?: number}
  const [own, copies, whole] = [stateBytes(state), castBytes(state.student, precision), peakOfProcess()]
  return {
    state: own,
    copies,
    activations: peak === undefined ? undefined : Math.max(0, peak - own - copies),
    base: whole === undefined || peak === undefined ? undefined : Math.max(0, whole - peak),
    tensors: peak,
    process: whole
  }
}
