/** Kernels of the trainer that change tensors in place (see `tensor/ops/in-place.ts`). */
import {registerKernel} from '../../../tensor/tf.js'
import type {KernelConfig, Tensor} from '../../../tensor/tf.js'
import {inPlace, op, ops, run, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {agrees} from '../self-check.js'
import {constantHandle} from './constants.js'
import {waves, worstOf} from './checked.js'
import {define, handleOf} from './define.js'
import {deviceName, onCpu} from './device.js'

const {float32} = scalarType

type Attrs = {lists: Record<string, Tensor[]>; answer: {declined?: boolean}} & Record<string, number>

/** Registers a kernel over lists; it answers false where it cannot serve, and then has changed nothing. */
function defineInPlace(name: string, body: (lists: Record<string, Handle[]>, attrs: Record<string, number>) => boolean | void): void {
  registerKernel({
    kernelName: name,
    backendName: 'torch',
    kernelFunc: ({attrs}: {attrs?: unknown}) => {
      const {lists, answer, ...numbers} = attrs as Attrs
      const handles = Object.fromEntries(Object.entries(lists).map(([key, list]) => [key, list.map(handleOf)]))
      scoped(() => {
        answer.declined = body(handles, numbers as Record<string, number>) === false
        return []
      })
      return []
    }
  } as unknown as KernelConfig)
}

/**
 * `scale` and `skip` are numbers of the device that the host has not read: what gradients are divided by, and 1 where
 * the step is left out.
 */
defineInPlace('Dinov2AdamW', ({params, grads, m, v, steps, scale, skip}, numbers) => {
  if (!agreesWithAdamW()) return false
  fusedAdamW([params!, grads!, m!, v!], steps![0]!, numbers, scale?.[0] ?? null, skip?.[0] ?? null)
})

function fusedAdamW(
  [params, grads, m, v]: readonly [Handle[], Handle[], Handle[], Handle[]],
  steps: Handle,
  {lr, wd, b1, b2, eps}: Record<string, number>,
  scale: Handle | null,
  skip: Handle | null
): void {
  const counts = params.map(() => steps)
  run('_fused_adamw_', params, grads, m, v, [], counts, lr!, b1!, b2!, wd!, eps!, false, false, scale, skip)
}

/** Three tensors of odd sizes that may be changed, for a check. */
const own = (step: number): Handle[] => [[5, 7], [33], [2, 3, 4]].map((shape, i) => op('clone', waves(shape, step + 0.1 * i), null))
const flag = (value: number): Handle => op('full', [], value, float32, null, deviceName())
const pairs = (found: readonly Handle[], expected: readonly Handle[]): (readonly [Handle, Handle])[] =>
  found.map((x, i) => [x, expected[i]!] as const)

/** Whether the fused AdamW moves as its formula says, divides gradients, and leaves out what it is to leave out. */
const agreesWithAdamW = (): boolean =>
  onCpu() ||
  agrees({name: 'fused AdamW', of: 'fp32', limit: 1e-5}, () =>
    worstOf(() => {
      const numbers = {lr: 0.01, wd: 0.1, b1: 0.9, b2: 0.999, eps: 1e-8}
      const state = (): [Handle[], Handle[], Handle[], Handle[]] => [own(0.7), own(1.1), own(0.3), own(1.9).map(x => op('square', x))]
      const [params, grads, m, v] = state()
      const moved = state()
      fusedAdamW(moved, flag(3), numbers, flag(2), flag(0))
      const expected = params.map((p, i) => {
        const g = op('mul.Scalar', grads[i]!, 0.5)
        const mean = op('add.Tensor', op('mul.Scalar', m[i]!, 0.9), op('mul.Scalar', g, 0.1), 1)
        const square = op('add.Tensor', op('mul.Scalar', v[i]!, 0.999), op('mul.Scalar', op('square', g), 0.001), 1)
        const scale = op('add.Scalar', op('div.Scalar', op('sqrt', square), Math.sqrt(1 - 0.999 ** 3)), 1e-8, 1)
        return op('sub.Tensor', op('mul.Scalar', p, 1 - 0.001), op('div.Tensor', mean, scale), 0.01 / (1 - 0.9 ** 3))
      })
      const still = state()
      fusedAdamW(still, flag(3), numbers, flag(2), flag(1))
      return [...pairs(moved[0], expected), ...pairs(still[0], params), ...pairs(still[2], m)]
    })
  )

/** Whether the average by SGD is that of its formula, and stands still where it is to. */
const agreesWithAverage = (): boolean =>
  onCpu() ||
  agrees({name: 'fused average', of: 'fp32', limit: 1e-5}, () =>
    worstOf(() => {
      const [teacher, student] = [own(0.7), own(1.3)]
      const [moved, still] = [own(0.7), own(0.7)]
      fusedAverage(moved, student, 0.75, flag(0))
      fusedAverage(still, student, 0.75, flag(1))
      const expected = teacher.map((t, i) => op('add.Tensor', op('mul.Scalar', t, 0.75), student[i]!, 0.25))
      return [...pairs(moved, expected), ...pairs(still, teacher)]
    })
  )

/** ‖all tensors together‖, which nobody has waited for. */
define('Dinov2Norm', (_, {tensors}) => {
  const each = ops('_foreach_norm.Scalar', (tensors as readonly Tensor[]).map(handleOf), 2)
  return [op('linalg_vector_norm', op('stack', each, 0), 2), 'float32']
})

/** Sets `mark` to 1 where one of the values is not finite; it stays 1 afterwards. */
defineInPlace('Dinov2MarkNotFinite', ({values, mark}) => {
  run('_amp_foreach_non_finite_check_and_unscale_', values!, mark![0]!, constantHandle(Float32Array.of(1), []))
})

defineInPlace('Dinov2Scale', ({tensors}, {factor}) => {
  run('_foreach_mul_.Scalar', tensors!, factor!)
})

/**
 * m·θₜ + (1 − m)·θₛ. Where the host has not read whether the step counts (`skip`), a step of SGD that the device
 * leaves out by itself: down the slope θₜ − θₛ, of which the decay gives the first half and the negated gradient the
 * other.
 */
defineInPlace('Dinov2Ema', ({teacher, student, skip}, {momentum}) => {
  if (skip) {
    if (!agreesWithAverage()) return false
    return fusedAverage(teacher!, student!, momentum!, skip[0]!)
  }
  run('_foreach_mul_.Scalar', teacher!, momentum!)
  run('_foreach_add_.List', teacher!, student!, 1 - momentum!)
})

function fusedAverage(teacher: Handle[], student: Handle[], momentum: number, skip: Handle): void {
  run('_fused_sgd_', teacher, student, [], 1, 0, 1 - momentum, 0, false, true, false, null, skip)
}

defineInPlace('Dinov2AddAt', ({into, piece}, {start}) => {
  const rows = torch().shape(piece![0]!)[0]!
  inPlace('add_.Tensor', op('slice.Tensor', into![0]!, 0, start!, start! + rows, 1), piece![0]!)
})

defineInPlace('Dinov2AddAll', ({into, more}) => {
  run('_foreach_add_.List', into!, more!, 1)
})
