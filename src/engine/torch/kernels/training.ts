/** Kernels of the trainer that change tensors in place (see `tensor/ops/in-place.ts`). */
import {registerKernel} from '../../../tensor/tf.js'
import type {KernelConfig, Tensor} from '../../../tensor/tf.js'
import {inPlace, op, scalarType, scoped, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {constantHandle} from './constants.js'
import {define, handleOf} from './define.js'
import {adamWForm, averageForm, finiteForm, normForm, scaleForm, skippableAverageForm, sumForm} from './fused-updates.js'

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
defineInPlace('Dinov2AdamW', ({params, grads, m, v, steps, scale, skip}, {lr, wd, b1, b2, eps}) => {
  if (!adamWForm.serves(float32)) return false
  adamWForm.fused([params!, grads!, m!, v!, steps![0]!, scale?.[0], skip?.[0]], {lr: lr!, wd: wd!, b1: b1!, b2: b2!, eps: eps!})
})

/** ‖all tensors together‖, which nobody has waited for. */
define('Dinov2Norm', (_, {tensors}) => [normForm.run(float32, [(tensors as readonly Tensor[]).map(handleOf)], undefined)[0]!, 'float32'])

/** Sets `mark` to 1 where one of the values is not finite; it stays 1 afterwards. */
defineInPlace('Dinov2MarkNotFinite', ({values, mark}) => {
  if (!finiteForm.serves(float32)) return false
  finiteForm.fused([values!, mark![0]!, constantHandle(Float32Array.of(1), [])], undefined)
})

defineInPlace('Dinov2Scale', ({tensors}, {factor}) => {
  if (!scaleForm.serves(float32)) return false
  scaleForm.fused([tensors!], factor!)
})

defineInPlace('Dinov2Ema', ({teacher, student, skip}, {momentum}) => {
  if (!(skip ? skippableAverageForm : averageForm).serves(float32)) return false
  if (skip) skippableAverageForm.fused([teacher!, student!, skip[0]!], momentum!)
  else averageForm.fused([teacher!, student!], momentum!)
})

defineInPlace('Dinov2AddAt', ({into, piece}, {start}) => {
  const rows = torch().shape(piece![0]!)[0]!
  inPlace('add_.Tensor', op('slice.Tensor', into![0]!, 0, start!, start! + rows, 1), piece![0]!)
})

defineInPlace('Dinov2AddAll', ({into, more}) => {
  if (!sumForm.serves(float32)) return false
  sumForm.fused([into!, more!], undefined)
})
