/**
 * Trained heads as parts of an exported graph: linear classifiers, linear depth heads, segmentation heads. Heads
 * compute in float32.
 *
 * In shape comments: B images, Y side of the images, h = Y/P patches a side, N = h², C width, D channels of a head, K
 * classes or bins.
 */
import {UserError} from '../../config/errors.js'
import {openSegmentHead, type SegmentHeadSpec} from '../../files/checkpoint/segment-head-file.js'
import {binDepthValues, BIN_EPSILON, DEPTH_UPSAMPLE} from '../../heads/depth-head.js'
import type {VitConfig} from '../../model/config.js'
import {openClassifier} from '../eval/classification/classifier-file.js'
import {readDepthHead} from '../eval/depth/head-file.js'
import {segmentLayers} from '../eval/segmentation/head.js'
import type {HeadTask} from '../../files/checkpoint/head-file.js'
import {headTask} from '../eval/shared/head-task.js'
import type {GraphBuilder} from './graph.js'
import {transposed, type VitGraph} from './vit-graph.js'

/** What a head reads and adds. */
export type ExportedHead = {
  readonly task: HeadTask
  /** The name of its output. */
  readonly output: string
  /** Lengths of its output after the batch. */
  readonly shape: readonly number[]
  /** Names of the classes, where it tells classes. */
  readonly classes?: readonly string[]
  /** Numbers it has. */
  readonly parameters: number
  /** What its answers are otherwise than those of `predict`, in sentences. */
  readonly notes: readonly string[]
  add(g: GraphBuilder, vit: VitGraph): void
}

export type HeadContext = {
  readonly config: VitConfig
  readonly fingerprint: string
  /** Side of the images in pixels. */
  readonly side: number
  /** The range of depth, where it is given. */
  readonly minDepth?: number
  readonly maxDepth?: number
}

/**
 * Opens a head of any task for a backbone. Throws a `UserError` where the file is missing, damaged, no head, for
 * another backbone, or a DPT head, which has no exported form.
 */
export async function openExportedHead(name: string, context: HeadContext): Promise<ExportedHead> {
  switch (await headTask(name)) {
    case 'classify':
      return classifier(name, context)
    case 'depth':
      return depth(name, context)
    case 'segment':
      return segmentation(name, context)
  }
}

/** Class scores before the softmax: `logits` [B, K]. */
async function classifier(name: string, context: HeadContext): Promise<ExportedHead> {
  const {classifier: head, classes, features, transform} = await openClassifier(name, context)
  const {width, depth} = context.config
  const {start, length} = head.kind
  const blocks =
    typeof features.layers === 'number'
      ? Array.from({length: features.layers}, (_, i) => depth - (features.layers as number) + i)
      : [...features.layers].sort((a, b) => a - b)
  const [K, F] = [classes.length, head.weight.length / classes.length]
  if (width === 0 || F !== length) throw new Error(`Expected ${length} features but the weights have ${F}`)
  return {
    task: 'classify',
    output: 'logits',
    shape: [K],
    classes,
    parameters: head.weight.length + K,
    notes: sizeNotes(name, transform?.crop, context.side),
    add(g, vit) {
      const mean = (block: number): string =>
        g.node('ReduceMean', [vit.patches(vit.tokens(block, true))], {axes: {ints: [1]}, keepdims: {int: 0}}) // [B, C]
      const cls = (block: number): string => vit.cls(vit.tokens(block, true))
      const parts =
        features.pool === 'mean'
          ? blocks.map(mean)
          : features.pool === 'cls+mean'
            ? [...blocks.map(cls), mean(blocks.at(-1)!)]
            : blocks.map(cls)
      const all = join(g, parts, 1) //                                                        [B, D]
      const size = features.normalize ? g.node('ReduceL2', [all], {axes: {ints: [1]}, keepdims: {int: 1}}) : undefined
      const x = size === undefined ? all : g.node('Div', [all, size])
      const read = g.node('Slice', [x, g.ints([start]), g.ints([start + length]), g.ints([1])])
      const weight = g.weight('classifier.weight', [F, K], () => transposed(head.weight, K, F))
      const bias = g.weight('classifier.bias', [K], () => head.bias)
      g.node('Add', [g.node('MatMul', [read, weight]), bias], {}, 'logits')
    }
  }
}

/** Depth in metres of every pixel: `predicted_depth` [B, Y, Y]. */
async function depth(name: string, context: HeadContext): Promise<ExportedHead> {
  const {config, side, minDepth: min, maxDepth: max} = context
  const {dense, bins, range, size, tensors} = await readDepthHead(name, {backbone: context, min, max})
  if (!bins)
    throw new UserError(`${name} is a DPT head, which is not exported to ONNX.`, {
      exit: 2,
      code: 'UNSUPPORTED',
      hint: 'Linear depth heads are: dinov2 depth-eval … --head-out FILE'
    })
  const [nearest, farthest] = [min ?? range.min, max ?? range.max]
  if (nearest >= farthest)
    throw new UserError(`A least depth of ${nearest} m is not below a largest depth of ${farthest} m.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give other --min-depth and --max-depth.'
    })
  const h = side / config.patch
  const [weight, bias] = ['weight', 'bias'].map(part => tensors.get(`conv_depth.${part}`)!.data) as [Float32Array, Float32Array]
  const [K, D] = [bias.length, weight.length / bias.length]
  return {
    task: 'depth',
    output: 'predicted_depth',
    shape: [side, side],
    parameters: weight.length + K,
    notes: sizeNotes(name, size, side),
    add(g, vit) {
      const parts = dense.layers.flatMap(block => {
        const tokens = vit.tokens(block, dense.norm)
        const cls = (): string => g.node('Unsqueeze', [vit.cls(tokens), g.ints([1])]) //         [B, 1, C]
        return [vit.patches(tokens), ...(dense.cls ? [g.node('Expand', [cls(), g.ints([1, h * h, 1])])] : [])]
      })
      const kernel = g.weight('depth.conv_depth.weight', [D, K], () => transposed(weight, K, D))
      const offset = g.weight('depth.conv_depth.bias', [K], () => bias)
      const coarse = g.node('Add', [g.node('MatMul', [join(g, parts, 2), kernel]), offset]) //   [B, N, K]
      const fine = stretch(g, asMap(g, coarse, K, h), DEPTH_UPSAMPLE)
      const weights = g.node('Add', [g.node('Relu', [fine]), g.scalar(BIN_EPSILON)]) //          [B, K, 4h, 4h]
      const sums = g.weight('depth.bins', [2, K, 1, 1], () => Float32Array.of(...binDepthValues(bins), ...new Float32Array(K).fill(1)))
      const [top, total] = g.multi(
        'Split',
        [g.node('Conv', [weights, sums], {kernel_shape: {ints: [1, 1]}}), g.ints([1, 1])],
        {axis: {int: 1}},
        2
      )
      const clipped = g.node('Clip', [g.node('Div', [top!, total!]), g.scalar(nearest), g.scalar(farthest)]) // [B, 1, 4h, 4h]
      g.node('Squeeze', [stretch(g, clipped, config.patch / DEPTH_UPSAMPLE), g.ints([1])], {}, 'predicted_depth')
    }
  }
}

/** Class scores of every pixel before the softmax: `segmentation_logits` [B, K, Y, Y]. */
async function segmentation(name: string, context: HeadContext): Promise<ExportedHead> {
  const file = await openSegmentHead(name, context.fingerprint)
  const {config, side} = context
  const layers = segmentLayers(file, config, 'the model')
  const h = side / config.patch
  const data = (part: string): Float32Array => file.tensors.get(part)!.data
  const [K, D] = [data('conv_seg.bias').length, data('bn.weight').length]
  return {
    task: 'segment',
    output: 'segmentation_logits',
    shape: [K, side, side],
    classes: file.spec.classes.map(({name}) => name),
    parameters: K * D + K + 4 * D,
    notes: [...sizeNotes(name, file.spec.crop ?? file.spec.size, side), ...wayNotes(name, file.spec)],
    add(g, vit) {
      const parts = layers.map(block => vit.patches(vit.tokens(block, true)))
      const map = asMap(g, join(g, parts, 2), D, h)
      const bn = ['weight', 'bias', 'running_mean', 'running_var'].map(part =>
        g.weight(`segmentation.bn.${part}`, [D], () => data(`bn.${part}`))
      )
      const normal = g.node('BatchNormalization', [map, ...bn], {epsilon: {float: 1e-5}})
      const kernel = g.weight('segmentation.conv_seg.weight', [K, D, 1, 1], () => data('conv_seg.weight'))
      const bias = g.weight('segmentation.conv_seg.bias', [K], () => data('conv_seg.bias'))
      const scores = g.node('Conv', [normal, kernel, bias], {kernel_shape: {ints: [1, 1]}}) //   [B, K, h, h]
      stretch(g, scores, config.patch, 'segmentation_logits')
    }
  }
}

const sizeNotes = (name: string, size: number | undefined, side: number): string[] =>
  size === undefined || size === side ? [] : [`${name} was trained on images of ${size} pixels, and is exported for ${side}.`]

const wayNotes = (name: string, {scales, flip}: SegmentHeadSpec): string[] =>
  scales.length > 1 || flip
    ? [`${name} averages ${scales.length} sizes${flip ? ' and mirror images' : ''} in prediction; the exported model looks once.`]
    : []

const join = (g: GraphBuilder, parts: readonly string[], axis: number): string =>
  parts.length === 1 ? parts[0]! : g.node('Concat', parts, {axis: {int: axis}})

/** Rows of patches [B, h·h, D] as a map [B, D, h, h]. */
const asMap = (g: GraphBuilder, rows: string, D: number, h: number): string =>
  g.node('Reshape', [g.node('Transpose', [rows], {perm: {ints: [0, 2, 1]}}), g.ints([0, D, h, h])])

/** Bilinear resizing by a factor, edges of pixels on edges: [B, D, h, h] → [B, D, factor·h, factor·h]. */
const stretch = (g: GraphBuilder, map: string, factor: number, output?: string): string =>
  factor === 1 && output === undefined
    ? map
    : g.node(
        'Resize',
        [map, '', g.weight(`scales_${g.initializers.length}`, [4], () => Float32Array.of(1, 1, factor, factor))],
        {mode: {text: 'linear'}, coordinate_transformation_mode: {text: 'half_pixel'}},
        output
      )
