/**
 * Trained heads as parts of an exported graph: linear classifiers, depth heads (DPT: `dpt-graph.ts`), segmentation
 * heads (`segment-graph.ts`). Heads compute in float32.
 *
 * In shape comments: B images, Y side of the images, h = Y/P patches a side, N = h², C width, D channels of a head, K
 * classes or bins.
 */
import {UserError} from '../../config/errors.js'
import {binDepthValues, BIN_EPSILON, DEPTH_UPSAMPLE, type DepthBins} from '../../heads/depth-head.js'
import {openClassifier} from '../eval/classification/classifier-file.js'
import {readDepthHead} from '../eval/depth/head-file.js'
import type {HeadTensors} from '../../files/checkpoint/head-file.js'
import {headTask} from '../eval/shared/head-task.js'
import type {GraphBuilder} from './graph.js'
import {dptDepth, dptSide} from './dpt-graph.js'
import {sizeNotes, type ExportedHead, type HeadContext} from './exported-head.js'
import {asMap, scaleMap, join, resizeMap} from './maps.js'
import {segmentation} from './segment-graph.js'
import {transposed} from './vit-graph.js'

/**
 * Opens a head of any task for a backbone. Throws a `UserError` where the file is missing, damaged, no head, or for
 * another backbone.
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
  const [nearest, farthest] = [min ?? range.min, max ?? range.max]
  if (nearest >= farthest)
    throw new UserError(`A least depth of ${nearest} m is not below a largest depth of ${farthest} m.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give other --min-depth and --max-depth.'
    })
  const h = side / config.patch
  const answer = bins ? linearDepth(tensors, bins) : dptDepth(tensors, {width: config.width, patches: h, min: range.min})
  const count = [...tensors.values()].reduce((sum, {data}) => sum + data.length, 0)
  return {
    task: 'depth',
    output: 'predicted_depth',
    shape: [side, side],
    parameters: count,
    notes: sizeNotes(name, size, side),
    add(g, vit) {
      const blocks = dense.layers.map(block => {
        const tokens = vit.tokens(block, dense.norm)
        const cls = (): string => g.node('Unsqueeze', [vit.cls(tokens), g.ints([1])]) //         [B, 1, C]
        return join(g, [vit.patches(tokens), ...(dense.cls ? [g.node('Expand', [cls(), g.ints([1, h * h, 1])])] : [])], 2)
      })
      const coarse = answer(g, blocks, h) //                                                    [B, 1, ·, ·]
      const clipped = g.node('Clip', [coarse, g.scalar(nearest), g.scalar(farthest)])
      g.node('Squeeze', [resizeMap(g, clipped, bins ? DEPTH_UPSAMPLE * h : dptSide(h), side), g.ints([1])], {}, 'predicted_depth')
    }
  }
}

/** Depth [B, 1, 4h, 4h] of a linear head from the blocks that it reads, [B, N, ·] each. */
const linearDepth =
  (tensors: HeadTensors, bins: DepthBins) =>
  (g: GraphBuilder, blocks: readonly string[], h: number): string => {
    const [weight, bias] = ['weight', 'bias'].map(part => tensors.get(`conv_depth.${part}`)!.data) as [Float32Array, Float32Array]
    const [K, D] = [bias.length, weight.length / bias.length]
    const kernel = g.weight('depth.conv_depth.weight', [D, K], () => transposed(weight, K, D))
    const offset = g.weight('depth.conv_depth.bias', [K], () => bias)
    const coarse = g.node('Add', [g.node('MatMul', [join(g, blocks, 2), kernel]), offset]) //    [B, N, K]
    const fine = scaleMap(g, asMap(g, coarse, K, h), DEPTH_UPSAMPLE)
    const weights = g.node('Add', [g.node('Relu', [fine]), g.scalar(BIN_EPSILON)]) //            [B, K, 4h, 4h]
    const sums = g.weight('depth.bins', [2, K, 1, 1], () => Float32Array.of(...binDepthValues(bins), ...new Float32Array(K).fill(1)))
    const both = g.node('Conv', [weights, sums], {kernel_shape: {ints: [1, 1]}}) //             [B, 2, 4h, 4h]
    const [top, total] = g.multi('Split', [both, g.ints([1, 1])], {axis: {int: 1}}, 2)
    return g.node('Div', [top!, total!])
  }
