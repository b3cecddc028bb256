/** Vision transformers small enough for tests, one of each kind, with weights large enough that every part matters. */
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import type {VitConfig} from '../../src/model/config.js'
import type {Vit} from '../../src/model/vit.js'
import {rng} from '../../src/tensor/random.js'
import {tensor} from '../../src/tensor/tf.js'
import type {Tensor} from '../../src/tensor/tf.js'
import {unflatten} from '../../src/tensor/tree.js'

const plain: VitConfig = {
  width: 12,
  depth: 2,
  heads: 3,
  patch: 4,
  ffn: 'mlp',
  hidden: 24,
  registers: 0,
  grid: 3,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
}

/** As the models without registers, as those with them, and one without LayerScale. */
export const configs: Readonly<Record<'plain' | 'registers' | 'unscaled', VitConfig>> = {
  plain,
  registers: {...plain, ffn: 'swiglu', hidden: 16, registers: 2, interpolateOffset: 0, interpolateAntialias: true},
  unscaled: {...plain, layerScale: false, heads: 2}
}

/** Values of one parameter by its name: near one where it multiplies, near zero elsewhere. */
export function parameter(name: string, shape: readonly number[], seed = 0): Float32Array {
  const random = rng(seed, name)
  const centre = /norm\d?\.weight$|gamma$/.test(name) ? 1 : 0
  const size = shape.reduce((a, b) => a * b, 1)
  const spread = shape.length > 1 ? 1.2 / Math.sqrt(size / shape[0]!) : 0.3
  return Float32Array.from({length: size}, () => random.normal(centre, spread))
}

/** A backbone on the running engine; the caller's to free. */
export const smallVit = (config: VitConfig, seed = 0): Vit =>
  unflatten<Vit>(
    [...expectedShapes(config)].map(([name, shape]): [string, Tensor] => [name, tensor(parameter(name, shape, seed), [...shape])])
  )
