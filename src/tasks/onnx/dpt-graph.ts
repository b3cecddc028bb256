/**
 * A DPT depth head (`heads/dpt.ts`, docs/spec.md §5.4) as part of an exported graph. Every size in it is known when it
 * is written.
 *
 * In shape comments: B images, h patches a side, N = h², C width of the backbone, F of the fusion.
 */
import type {HeadTensors} from '../../files/checkpoint/head-file.js'
import {dptScales} from '../../heads/dpt.js'
import type {GraphBuilder} from './graph.js'
import {asMap, scaleMap, resizeMap} from './maps.js'
import {geluNodes, transposed} from './vit-graph.js'

/** Rows of the depth that the head gives for h patches a side. */
export const dptSide = (h: number): number => 32 * Math.ceil(h / 2)

type DptOptions = {
  readonly width: number
  /** Patches a side. */
  readonly patches: number
  /** Added to what the last layer gives, metres. */
  readonly min: number
}

type Context = {readonly g: GraphBuilder; readonly tensors: HeadTensors}

/** A tensor of the head as a weight of the graph, shaped as in the file, which is as ONNX has convolutions. */
const weight = ({g, tensors}: Context, name: string): string => {
  const {shape, data} = tensors.get(name)!
  return g.weight(`depth.${name}`, shape, () => data)
}

/** A convolution that keeps the size at stride 1; at stride 2 it halves it, rounding up. */
function convolve(context: Context, x: string, name: string, stride = 1): string {
  const {g, tensors} = context
  const side = tensors.get(`${name}.weight`)!.shape[2]!
  const bias = tensors.has(`${name}.bias`) ? [weight(context, `${name}.bias`)] : []
  return g.node('Conv', [x, weight(context, `${name}.weight`), ...bias], {
    kernel_shape: {ints: [side, side]},
    pads: {ints: Array<number>(4).fill((side - 1) / 2)},
    strides: {ints: [stride, stride]}
  })
}

/** relu, 3 × 3, relu, 3 × 3, and the input added. */
function residual(context: Context, x: string, name: string): string {
  const {g} = context
  const once = convolve(context, g.node('Relu', [x]), `${name}.conv1.conv`)
  return g.node('Add', [convolve(context, g.node('Relu', [once]), `${name}.conv2.conv`), x])
}

/** One block of the backbone, patches and class token [B, N, 2C], read out and brought to its scale: [B, F, ·, ·]. */
function reassemble(context: Context, tokens: string, i: number, {width: C, patches: h}: DptOptions): string {
  const {g, tensors} = context
  const read = `reassemble_blocks.readout_projects.${i}.0`
  const kernel = g.weight(`depth.${read}.weight`, [2 * C, C], () => transposed(tensors.get(`${read}.weight`)!.data, C, 2 * C))
  const both = g.node('Add', [g.node('MatMul', [tokens, kernel]), weight(context, `${read}.bias`)]) // [B, N, C]
  const narrow = convolve(context, asMap(g, geluNodes(g, both, 'float32'), C, h), `reassemble_blocks.projects.${i}.conv`)
  const layer = `reassemble_blocks.resize_layers.${i}`
  const factor = dptScales[i]!
  const turned = (): string =>
    g.node('ConvTranspose', [narrow, weight(context, `${layer}.weight`), weight(context, `${layer}.bias`)], {
      kernel_shape: {ints: [factor, factor]},
      strides: {ints: [factor, factor]}
    })
  const sized = factor > 1 ? turned() : factor === 1 ? narrow : convolve(context, narrow, layer, 1 / factor)
  return convolve(context, sized, `convs.${i}.conv`)
}

/** Depth [B, 1, `dptSide`(h), ·] from four blocks, [B, N, 2C] each, not clamped. */
export const dptDepth =
  (tensors: HeadTensors, options: DptOptions) =>
  (g: GraphBuilder, blocks: readonly string[]): string => {
    const context = {g, tensors}
    const maps = blocks.map((tokens, i) => reassemble(context, tokens, i, options))
    let [x, side] = [maps[3]!, Math.ceil(options.patches / 2)]
    for (let i = 0; i < 4; i++) {
      const block = `fusion_blocks.${i}`
      const finer = dptScales[3 - i]! * options.patches
      if (i > 0) x = g.node('Add', [x, residual(context, resizeMap(g, maps[3 - i]!, finer, side), `${block}.res_conv_unit1`)])
      x = residual(context, x, `${block}.res_conv_unit2`)
      x = convolve(context, scaleMap(g, x, 2, {alignCorners: true}), `${block}.project.conv`) // [B, F, 2·side, 2·side]
      side *= 2
    }
    x = g.node('Relu', [convolve(context, x, 'project.conv')])
    x = scaleMap(g, convolve(context, x, 'conv_depth.head.0'), 2, {alignCorners: true})
    x = g.node('Relu', [convolve(context, x, 'conv_depth.head.2')])
    return g.node('Add', [g.node('Relu', [convolve(context, x, 'conv_depth.head.4')]), g.scalar(options.min)])
  }
