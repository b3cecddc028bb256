/**
 * The projection head of DINO and iBOT (docs/spec.md §2.1): an MLP with exact GELU, L2 normalization, then a
 * weight-normalized linear layer onto K prototypes without bias.
 *
 * The last product is left to the losses, which take it in pieces, so that the K-wide logits of all rows need not
 * exist at once. R rows, C input width, D bottleneck width, K prototypes.
 */
import {div, maximum, mul, norm, slice, sub, sum, tidy} from '../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {geluBackward, geluForward} from '../tensor/ops/gelu.js'
import {callKernel} from '../tensor/ops/kernel.js'
import {linearBackward, linearForward} from '../tensor/ops/linear.js'
import type {Linear} from '../tensor/ops/linear.js'
import {cast} from '../tensor/ops/precision.js'
import type {Precision} from '../tensor/ops/precision.js'
import {rowNorms} from '../tensor/ops/rows.js'

/** Parameters of a head; `mlp` has layers at its even places (GELU stands between), or is one layer. */
export type Head = {
  mlp: (Linear | undefined)[] | Linear
  last_layer: {weight_g: Tensor2D /* [K, 1] */; weight_v: Tensor2D /* [K, D] */}
}

const isSingle = (mlp: Head['mlp']): mlp is Linear => 'weight' in mlp
const layersOf = (mlp: Head['mlp']): Linear[] => (isSingle(mlp) ? [mlp] : mlp.filter((layer): layer is Linear => layer !== undefined))
const asMlp = (like: Head['mlp'], layers: Linear[]): Head['mlp'] => {
  if (isSingle(like)) return layers[0]!
  const out: (Linear | undefined)[] = []
  layers.forEach((layer, i) => (out[2 * i] = layer))
  return out
}

export type HeadSaved = {inputs: Tensor2D[]; pres: Tensor2D[]; raw: Tensor2D}

const normalizeEps = 1e-12

/** Rows brought to length one, x / max(‖x‖, 1e-12); x [R, D]. */
export const l2Normalize = (x: Tensor2D): Tensor2D => tidy(() => div<Tensor2D>(x, maximum(rowNorms(x), normalizeEps)))

/** x [R, C] → unit vectors z [R, D] (float32) and what the backward half needs. */
export function headForward(x: Tensor2D, {mlp}: Head): {z: Tensor2D; saved: HeadSaved} {
  return tidy(() => {
    const layers = layersOf(mlp)
    const inputs: Tensor2D[] = []
    const pres: Tensor2D[] = []
    let value: Tensor2D = x
    layers.forEach((layer, i) => {
      inputs.push(i === 0 ? value.clone() : value)
      value = linearForward(value, layer)
      if (i === layers.length - 1) return
      pres.push(value)
      value = geluForward(value)
    })
    const raw = cast(value, 'fp32') //                                      [R, D]
    return {z: l2Normalize(raw), saved: {inputs, pres, raw}}
  })
}

/** dz [R, D] → gradient of the input [R, C] and of the MLP. */
export function headBackward(dz: Tensor2D, {inputs, pres, raw}: HeadSaved, {mlp}: Head): {dx: Tensor2D; mlp: Head['mlp']} {
  return tidy(() => {
    const layers = layersOf(mlp)
    const length = maximum(rowNorms(raw), normalizeEps) //               [R, 1]
    const z = div<Tensor2D>(raw, length)
    let grad: Tensor2D = div(sub(dz, mul(z, sum(mul(dz, z), 1, true))), length)
    const grads: Linear[] = []
    for (let i = layers.length - 1; i >= 0; i--) {
      const step = linearBackward(grad, inputs[i]!, layers[i]!.weight)
      grads[i] = {weight: step.weight, bias: step.bias}
      grad = i > 0 ? geluBackward(step.x, pres[i - 1]!) : step.x
    }
    return {dx: grad, mlp: asMlp(mlp, grads)}
  })
}

/** The prototypes g·v/‖v‖ [K, D] (weight normalization, Salimans and Kingma 2016), held in `precision`. */
export const prototypes = ({last_layer: {weight_g, weight_v}}: Head, precision: Precision = 'fp32'): Tensor2D =>
  (callKernel('Dinov2Prototypes', {v: weight_v, g: weight_g}, {precision})?.[0] ??
    tidy(() => cast(mul<Tensor2D>(weight_v, div(weight_g, norm(weight_v, 2, 1, true))), precision))) as Tensor2D

/** The prototypes `start` to `start + count` of a last layer, copied. */
export const slicePrototypes = ({weight_g, weight_v}: Head['last_layer'], start: number, count: number): Head['last_layer'] => ({
  weight_g: slice(weight_g, [start, 0], [count, 1]),
  weight_v: slice(weight_v, [start, 0], [count, weight_v.shape[1]])
})

/** Gradient [K, D] of the prototypes → gradients of gain and direction. */
export function prototypesBackward(dw: Tensor2D, {last_layer: {weight_g, weight_v}}: Pick<Head, 'last_layer'>): Head['last_layer'] {
  const fused = callKernel('Dinov2PrototypesGrad', {dw, v: weight_v, g: weight_g})
  if (fused) return {weight_g: fused[0] as Tensor2D, weight_v: fused[1] as Tensor2D}
  return tidy(() => {
    const length = norm(weight_v, 2, 1, true) //                            [K, 1]
    const direction = div<Tensor2D>(weight_v, length)
    const projection: Tensor2D = sum(mul(dw, direction), 1, true) //             [K, 1]
    return {weight_g: projection, weight_v: mul<Tensor2D>(div(weight_g, length), sub(dw, mul(direction, projection)))}
  })
}

/** All logits at once, z·Wᵀ [R, K]: for tests and small heads. */
export const headLogits = (x: Tensor2D, head: Head): Tensor2D =>
  tidy(() => linearForward(headForward(x, head).z, {weight: prototypes(head)}))

/** The copy of a head whose MLP enters matrix products in `precision`. */
export function castMlp(head: Head, precision: Precision): {head: Head; owned: Tensor[]} {
  const owned: Tensor[] = []
  const castTensor = <T extends Tensor2D | Tensor1D>(x: T): T => {
    const copy = cast(x, precision)
    owned.push(copy)
    return copy
  }
  const layers = layersOf(head.mlp).map(({weight, bias}): Linear => ({weight: castTensor(weight), bias: castTensor(bias)}))
  return {head: {mlp: asMlp(head.mlp, layers), last_layer: head.last_layer}, owned}
}
