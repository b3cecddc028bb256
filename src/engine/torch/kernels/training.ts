/** Kernels of the trainer that change tensors in place (see `tensor/ops/in-place.ts`). */
import {registerKernel} from '../../../tensor/tf.js'
import type {KernelConfig, Tensor} from '../../../tensor/tf.js'
import {inPlace, op, ops, run, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {deviceName} from './device.js'
import {handleOf} from './define.js'

type Attrs = {lists: Record<string, Tensor[]>; answer: {value?: number}} & Record<string, number>

/** Registers a kernel over lists; what it returns becomes the answer. */
function defineInPlace(name: string, body: (lists: Record<string, Handle[]>, attrs: Record<string, number>) => number | void): void {
  registerKernel({
    kernelName: name,
    backendName: 'torch',
    kernelFunc: ({attrs}: {attrs?: unknown}) => {
      const {lists, answer, ...numbers} = attrs as Attrs
      const handles = Object.fromEntries(Object.entries(lists).map(([key, list]) => [key, list.map(handleOf)]))
      scoped(() => {
        const value = body(handles, numbers as Record<string, number>)
        if (value !== undefined) answer.value = value
        return []
      })
      return []
    }
  } as unknown as KernelConfig)
}

defineInPlace('Dinov2AdamW', ({params, grads, m, v}, {lr, wd, b1, b2, eps, step}) => {
  const count = op('full', [], step!, scalarType.float32, null, deviceName())
  run(
    '_fused_adamw_',
    params!,
    grads!,
    m!,
    v!,
    [],
    params!.map(() => count),
    lr!,
    b1!,
    b2!,
    wd!,
    eps!,
    false,
    false
  )
})

defineInPlace('Dinov2GlobalNorm', ({grads}) => {
  if (grads!.length === 0) return 0
  const each = ops('_foreach_norm.Scalar', grads!, 2)
  return run('item', op('linalg_vector_norm', op('stack', each, 0), 2)) as number
})

defineInPlace('Dinov2Scale', ({tensors}, {factor}) => {
  run('_foreach_mul_.Scalar', tensors!, factor!)
})

defineInPlace('Dinov2Ema', ({teacher, student}, {momentum}) => {
  run('_foreach_mul_.Scalar', teacher!, momentum!)
  run('_foreach_add_.List', teacher!, student!, 1 - momentum!)
})

defineInPlace('Dinov2AddAt', ({into, piece}, {start}) => {
  const rows = torch().shape(piece![0]!)[0]!
  inPlace('add_.Tensor', op('slice.Tensor', into![0]!, 0, start!, start! + rows, 1), piece![0]!)
})

defineInPlace('Dinov2AddAll', ({into, more}) => {
  run('_foreach_add_.List', into!, more!, 1)
})
