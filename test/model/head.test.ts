/**
 * The projection head: one to three layers against a reference implementation, prototypes and their gradients, and the
 * loss over them in pieces.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {headBackward, castMlp, headForward, headLogits, prototypes, prototypesBackward, l2Normalize} from '../../src/model/head.js'
import type {Head, HeadSaved} from '../../src/model/head.js'
import {initHead} from '../../src/model/init.js'
import {geluReference} from '../../src/tensor/ops/gelu.js'
import {linearReference} from '../../src/tensor/ops/linear.js'
import {dispose, div, mul, sqrt, square, sum, tensor2d} from '../../src/tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../../src/tensor/tf.js'
import {flatten, disposeTree, unflatten} from '../../src/tensor/tree.js'
import {apart, counted, normal, onPlain, onTorch, put, take, type Values} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'

const [R, C, H, D, K] = [9, 12, 16, 6, 20]

const lengthOne = (x: Tensor): Tensor2D => div<Tensor2D>(x, sqrt(sum(square(x), 1, true)))

/** Layers of a head by Meta's names, and its input. */
function inputsOf(layers: number): Record<string, Values> {
  const named: Record<string, Values> = {x: normal('x', [R, C])}
  for (let i = 0; i < layers; i++) {
    const [into, out] = [i === 0 ? C : H, i === layers - 1 ? D : H]
    const at = layers === 1 ? 'mlp' : `mlp.${2 * i}`
    named[`${at}.weight`] = normal(`${at}.weight`, [out, into], 0.4)
    named[`${at}.bias`] = normal(`${at}.bias`, [out], 0.4)
  }
  return named
}
const headOf = ({x: _, ...named}: Record<string, Tensor>): Head =>
  ({...unflatten<{mlp: Head['mlp']}>(Object.entries(named)), last_layer: undefined}) as unknown as Head

for (const layers of [1, 2, 3])
  test(`${layers} ${layers === 1 ? 'layer' : 'layers'}: value, gradients, and all that is saved counted`, () =>
    checkOp({
      inputs: inputsOf(layers),
      forward: inputs => {
        const {z, saved} = headForward(inputs['x'] as Tensor2D, headOf(inputs))
        assert.equal(saved.inputs.length, layers)
        assert.equal(saved.pres.length, layers - 1)
        return {y: z, ...Object.fromEntries(flatten(saved))}
      },
      plain: inputs => {
        let x = inputs['x'] as Tensor2D
        for (let i = 0; i < layers; i++) {
          const at = layers === 1 ? 'mlp' : `mlp.${2 * i}`
          if (i > 0) x = geluReference(x)
          x = linearReference(x, {weight: inputs[`${at}.weight`] as Tensor2D, bias: inputs[`${at}.bias`] as Tensor1D})
        }
        return lengthOne(x)
      },
      backward: (dy, inputs, {y: _, ...saved}) => {
        const given = {...unflatten<HeadSaved>(Object.entries(saved))}
        given.pres ??= []
        const {dx, mlp} = headBackward(dy, given, headOf(inputs))
        return {x: dx, ...Object.fromEntries([...flatten({mlp})])}
      },
      limits: {gradient: 5e-5}
    }))

test('prototypes are g·v/‖v‖; the gradient of a direction is across it', async () => {
  const last = (g: Tensor2D, v: Tensor2D): Head => ({mlp: [], last_layer: {weight_g: g, weight_v: v}})
  await checkOp({
    inputs: {g: normal('g', [K, 1], 0.3, 1), v: normal('v', [K, D])},
    forward: ({g, v}) => prototypes(last(g, v)),
    plain: ({g, v}) => mul(g, lengthOne(v)),
    backward: (dy, {g, v}) => {
      const {weight_g, weight_v} = prototypesBackward(dy, last(g, v))
      return {g: weight_g, v: weight_v}
    }
  })
  const [g, v, dw] = [put(normal('g', [K, 1])), put(normal('v', [K, D])), put(normal('dw', [K, D]))]
  const {weight_g, weight_v} = prototypesBackward(dw, last(g, v))
  const {data} = await take(weight_v)
  const across = normal('v', [K, D]).data
  for (let k = 0; k < K; k++) {
    let dot = 0
    for (let d = 0; d < D; d++) dot += data[k * D + d]! * across[k * D + d]!
    assert.ok(Math.abs(dot) < 1e-5)
  }
  dispose([g, v, dw, weight_g])
})

test('a fresh head: scores are cosines, and a copy in bf16 is near', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    const start = counted()
    const head = initHead({width: C, hidden: H, bottleneck: D, prototypes: K, layers: 3}, 1, 'dino_head')
    const x = put(normal('x', [R, C], 30))
    const exact = await take(headLogits(x, head))
    assert.ok(exact.data.every(score => Math.abs(score) <= 1 + 1e-6))
    const {head: low, owned} = castMlp(head, 'bf16')
    assert.ok(apart(await take(headLogits(x, low)), exact) < 0.05)
    dispose([...owned, x])
    disposeTree(head)
    assert.equal(counted(), start)
  }
})

test('a row of zeros stays zero', async () => {
  await onTorch()
  const x = tensor2d([0, 0, 3, 4], [2, 2])
  assert.deepEqual([...(await take(l2Normalize(x))).data], [0, 0, Math.fround(0.6), Math.fround(0.8)])
  x.dispose()
})
