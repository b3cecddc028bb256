/**
 * Fresh parameters, drawn as the reference draws them (docs/spec.md §1.5 and §2.1), from a seed and the parameter's
 * own name.
 */
import {tensor} from '../tensor/tf.js'
import type {Tensor} from '../tensor/tf.js'
import type {Linear} from '../tensor/ops/linear.js'
import {rng} from '../tensor/random.js'
import {unflatten} from '../tensor/tree.js'
import type {VitConfig} from './config.js'
import type {Head} from './head.js'
import type {Vit} from './vit.js'

type Draw = 'zeros' | 'ones' | {normal: number} | {truncated: number} | {uniform: number} | {constant: number}

/**
 * Values of one parameter; each name has a stream of draws of its own, so that a size changed elsewhere changes
 * nothing here.
 */
function draw(seed: number, name: string, shape: readonly number[], how: Draw): Tensor {
  const size = shape.reduce((a, b) => a * b, 1)
  const values = new Float32Array(size)
  if (how === 'ones') values.fill(1)
  else if (how !== 'zeros') {
    const random = rng(seed, 'init', name)
    if ('constant' in how) values.fill(how.constant)
    else if ('uniform' in how) for (let i = 0; i < size; i++) values[i] = (2 * random.uniform() - 1) * how.uniform
    else if ('normal' in how) for (let i = 0; i < size; i++) values[i] = random.normal() * how.normal
    else
      for (let i = 0; i < size; i++) {
        let value = random.normal() * how.truncated
        while (Math.abs(value) > 2) value = random.normal() * how.truncated // bounds are absolute in the reference
        values[i] = value
      }
  }
  return tensor(values, shape as number[])
}

/**
 * A backbone of this size; `layerScale` is where LayerScale starts (1e-5 in Meta's recipes), read where the
 * configuration has it.
 */
export function initVit(config: VitConfig, seed: number, layerScale = 1e-5): Vit {
  const {width: C, depth, patch: P, hidden, registers: R, grid: M} = config
  const named: [string, Tensor][] = []
  const put = (name: string, shape: readonly number[], how: Draw): void =>
    void named.push([name, draw(seed, `backbone.${name}`, shape, how)])
  const layer = (name: string, out: number, into: number): void => {
    put(`${name}.weight`, [out, into], {truncated: 0.02})
    put(`${name}.bias`, [out], 'zeros')
  }
  const norm = (name: string): void => {
    put(`${name}.weight`, [C], 'ones')
    put(`${name}.bias`, [C], 'zeros')
  }
  put('cls_token', [1, 1, C], {normal: 1e-6})
  put('pos_embed', [1, 1 + M * M, C], {truncated: 0.02})
  if (R > 0) put('register_tokens', [1, R, C], {normal: 1e-6})
  put('mask_token', [1, C], 'zeros')
  const bound = 1 / Math.sqrt(3 * P * P)
  put('patch_embed.proj.weight', [C, 3, P, P], {uniform: bound})
  put('patch_embed.proj.bias', [C], {uniform: bound})
  for (let i = 0; i < depth; i++) {
    const at = `blocks.${i}`
    norm(`${at}.norm1`)
    layer(`${at}.attn.qkv`, 3 * C, C)
    layer(`${at}.attn.proj`, C, C)
    if (config.layerScale) put(`${at}.ls1.gamma`, [C], {constant: layerScale})
    norm(`${at}.norm2`)
    if (config.ffn === 'swiglu') {
      layer(`${at}.mlp.w12`, 2 * hidden, C)
      layer(`${at}.mlp.w3`, C, hidden)
    } else {
      layer(`${at}.mlp.fc1`, hidden, C)
      layer(`${at}.mlp.fc2`, C, hidden)
    }
    if (config.layerScale) put(`${at}.ls2.gamma`, [C], {constant: layerScale})
  }
  norm('norm')
  return unflatten<Vit>(named)
}

export type HeadShape = {
  /** Input width. */
  readonly width: number
  readonly hidden: number
  readonly bottleneck: number
  readonly prototypes: number
  readonly layers: number
}

/** A projection head; `name` (`dino_head`, `ibot_head`) tells the streams of two heads apart. */
export function initHead({width, hidden, bottleneck, prototypes, layers}: HeadShape, seed: number, name: string): Head {
  const named: [string, Tensor][] = []
  const put = (key: string, shape: readonly number[], how: Draw): void => void named.push([key, draw(seed, `${name}.${key}`, shape, how)])
  const count = Math.max(1, layers)
  for (let i = 0; i < count; i++) {
    const at = count === 1 ? 'mlp' : `mlp.${2 * i}`
    const [into, out] = [i === 0 ? width : hidden, i === count - 1 ? bottleneck : hidden]
    put(`${at}.weight`, [out, into], {truncated: 0.02})
    put(`${at}.bias`, [out], 'zeros')
  }
  put('last_layer.weight_g', [prototypes, 1], 'ones')
  put('last_layer.weight_v', [prototypes, bottleneck], {uniform: 1 / Math.sqrt(bottleneck)})
  return unflatten<Head>(named)
}

/** A linear layer that brings rows of `from` numbers to `to` numbers, drawn as the layers of a head are. */
export const initProjector = (from: number, to: number, seed: number, name: string): Linear => ({
  weight: draw(seed, `${name}.weight`, [to, from], {truncated: 0.02}) as Linear['weight'],
  bias: draw(seed, `${name}.bias`, [to], 'zeros') as Linear['bias']
})
