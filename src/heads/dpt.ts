/**
 * The dense prediction head of the published depth models (Ranftl et al. 2021; docs/spec.md §5.4), forward only: it is
 * loaded and scored, not trained here.
 *
 * Four blocks of the backbone are read out (class token projected into every patch), brought to four, two, one and
 * half times the patch grid, to one width, and fused from coarse to fine; two convolutions give depth. Names of
 * parameters are those of the files, under `decode_head`; convolutions keep the layout of the files, [O, I, k, k], on
 * disk and [k, k, I, O] here. B images, h × w patches, C width of the backbone, F of the fusion (256 as published).
 */
import {add, conv2d, dispose, matMul, relu, reshape, tidy, transpose} from '../tensor/tf.js'
import type {Rank, Tensor, Tensor1D, Tensor2D, Tensor4D} from '../tensor/tf.js'
import {linearForward, type Linear} from '../tensor/ops/linear.js'
import {resizeForward} from '../tensor/ops/resize.js'
import {unflatten, map} from '../tensor/tree.js'
import {blockOf} from './depth-head.js'

type Conv = {weight: Tensor4D /* [k, k, I, O] */; bias?: Tensor1D /* [O] */}
/** A convolution as mmcv wraps it. */
type ConvModule = {conv: Conv}
type ResidualUnit = {conv1: ConvModule; conv2: ConvModule}
type Fusion = {project: ConvModule; res_conv_unit1?: ResidualUnit; res_conv_unit2: ResidualUnit}

/** Rows of the map of each of the four blocks, in patches. */
export const dptScales = [4, 2, 1, 0.5] as const

/** Parameters of the head. */
export type Dpt = {
  reassemble_blocks: {
    /** C → the width of each scale. */
    projects: ConvModule[]
    /** Transposed 4 × 4 and 2 × 2 (kept [O, I, k, k]-turned, see `dptOf`), nothing, and a 3 × 3 of stride 2. */
    resize_layers: (Conv | undefined)[]
    /** Patch and class token, 2C → C. */
    readout_projects: {0: Linear}[]
  }
  convs: ConvModule[]
  fusion_blocks: Fusion[]
  project: ConvModule
  conv_depth: {head: {0: Conv; 2: Conv; 4: Conv}}
}

/**
 * Names and shapes of the head for a backbone of width C and a fusion of width F, as the files have them; the widths
 * of the scales are C/8, C/4, C/2 and C.
 */
export function dptShapes(C: number, F: number): Map<string, readonly number[]> {
  const scales = [C / 8, C / 4, C / 2, C].map(Math.floor)
  const shapes = new Map<string, readonly number[]>()
  const put = (name: string, weight: readonly number[], bias?: number): void => {
    shapes.set(`${name}.weight`, weight)
    if (bias !== undefined) shapes.set(`${name}.bias`, [bias])
  }
  scales.forEach((width, i) => {
    put(`reassemble_blocks.projects.${i}.conv`, [width, C, 1, 1], width)
    put(`reassemble_blocks.readout_projects.${i}.0`, [C, 2 * C], C)
    put(`convs.${i}.conv`, [F, width, 3, 3])
    put(`fusion_blocks.${i}.project.conv`, [F, F, 1, 1], F)
    for (const unit of i === 0 ? [2] : [1, 2])
      for (const conv of [1, 2]) put(`fusion_blocks.${i}.res_conv_unit${unit}.conv${conv}.conv`, [F, F, 3, 3])
  })
  for (const [i, side] of [
    [0, 4],
    [1, 2],
    [3, 3]
  ] as const)
    put(`reassemble_blocks.resize_layers.${i}`, [scales[i]!, scales[i]!, side, side], scales[i]!)
  put('project.conv', [F, F, 3, 3], F)
  put('conv_depth.head.0', [Math.floor(F / 2), F, 3, 3], Math.floor(F / 2))
  put('conv_depth.head.2', [32, Math.floor(F / 2), 3, 3], 32)
  put('conv_depth.head.4', [1, 32, 1, 1], 1)
  return shapes
}

/**
 * The head from tensors as the files have them, by name; consumes them. Convolutions are turned to [k, k, I, O],
 * transposed ones to [I, k, k, O].
 */
export function dptOf(named: Iterable<readonly [name: string, leaf: Tensor]>): Dpt {
  const tree = unflatten<Dpt>(named)
  return map(tree, (leaf, path) => {
    if (leaf.rank !== 4) return leaf
    const turned = transpose(leaf, /resize_layers\.[01]\.weight$/.test(path) ? [0, 2, 3, 1] : [2, 3, 1, 0])
    dispose(leaf)
    return turned
  })
}

/** A convolution that keeps the size at stride 1; at stride 2 with padding 1 it halves it, rounding up. */
const convolve = (x: Tensor4D, {weight, bias}: Conv, stride = 1): Tensor4D =>
  tidy(() => {
    const padding = (weight.shape[0] - 1) / 2
    const y = conv2d(x, weight, stride, padding)
    return bias ? add(y, bias) : y
  })

/**
 * A transposed convolution whose kernel is its stride: each pixel becomes k × k, none overlap. Weight [I, k, k, O];
 * [B, h, w, I] → [B, k·h, k·w, O].
 */
const enlargeBy = (x: Tensor4D, {weight, bias}: Conv): Tensor4D =>
  tidy(() => {
    const [B, h, w, I] = x.shape
    const [, k, , O] = weight.shape
    const flat = matMul<Tensor2D>(reshape<Rank.R2>(x, [B * h * w, I]), reshape<Rank.R2>(weight, [I, k * k * O]))
    const pieces = transpose(reshape<Rank.R6>(flat, [B, h, w, k, k, O]), [0, 1, 3, 2, 4, 5])
    return add(reshape<Rank.R4>(pieces, [B, h * k, w * k, O]), bias!)
  })

/** relu, 3 × 3, relu, 3 × 3, and the input added. */
const residual = (x: Tensor4D, {conv1, conv2}: ResidualUnit): Tensor4D =>
  tidy(() => add(convolve(relu(convolve(relu(x), conv1.conv)), conv2.conv), x))

/** One step from coarse to fine: the finer map is added, refined, and everything doubled in size (corners aligned). */
function fuse(coarse: Tensor4D, finer: Tensor4D | undefined, block: Fusion): Tensor4D {
  return tidy(() => {
    let x = coarse
    if (finer) {
      const [, height, width] = x.shape
      const fitted = finer.shape[1] === height && finer.shape[2] === width ? finer : resizeForward(finer, [height, width])
      x = add(x, residual(fitted, block.res_conv_unit1!))
    }
    x = residual(x, block.res_conv_unit2)
    return convolve(resizeForward(x, [2 * x.shape[1], 2 * x.shape[2]], {alignCorners: true}), block.project.conv)
  })
}

/**
 * Depth above `min` in metres, for features of four blocks joined, [B, h, w, 4·2C] (of each block its patches, then
 * its class token, without the final norm).
 *
 * The result is 32·⌈h/2⌉ × 32·⌈w/2⌉ and not clamped: [B, H, W, 1]. Throws a RangeError where the head is of another
 * width.
 */
export function dptForward(features: Tensor4D, head: Dpt, min: number): Tensor4D {
  const {projects, resize_layers, readout_projects} = head.reassemble_blocks
  const C = readout_projects[0]![0].weight.shape[0]
  const [B, h, w, D] = features.shape
  if (D !== 8 * C)
    throw new RangeError(`Expected features of ${8 * C} channels (four blocks of ${C}, patches and class token) but received ${D}.`)
  return tidy(() => {
    const scales = projects.map((project, i) =>
      tidy(() => {
        const both = reshape<Rank.R2>(blockOf(features, i, C), [B * h * w, 2 * C])
        const read = reshape<Rank.R4>(linearForward(both, readout_projects[i]![0], {activation: 'gelu'}), [B, h, w, C])
        const narrow = convolve(read, project.conv)
        const layer = resize_layers[i]
        const sized = layer === undefined ? narrow : i < 2 ? enlargeBy(narrow, layer) : convolve(narrow, layer, 2)
        return convolve(sized, head.convs[i]!.conv) //                              [B, ·, ·, F]
      })
    )
    let x = fuse(scales[3]!, undefined, head.fusion_blocks[0]!)
    for (let i = 1; i < 4; i++) x = fuse(x, scales[3 - i], head.fusion_blocks[i]!)
    x = relu(convolve(x, head.project.conv))
    const {0: first, 2: second, 4: last} = head.conv_depth.head
    x = convolve(x, first)
    x = relu(convolve(resizeForward(x, [2 * x.shape[1], 2 * x.shape[2]], {alignCorners: true}), second))
    return add(relu(convolve(x, last)), min)
  })
}
