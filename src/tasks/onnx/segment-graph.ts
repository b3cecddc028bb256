/**
 * Segmentation heads as parts of an exported graph, with the windows that slide over images larger than they were
 * trained on (`heads/segment-inference.ts`, docs/spec.md §5.5).
 *
 * In shape comments: B images, Y side of the images, n windows of y pixels a side, h = ⌈y/P⌉, D channels, K classes.
 */
import {counted} from '../../config/counted.js'
import {openSegmentHead, type OpenedSegmentHead, type SegmentHeadSpec} from '../../files/checkpoint/segment-head-file.js'
import {windowStarts} from '../../heads/segment-head.js'
import type {VitConfig} from '../../model/config.js'
import {segmentLayers} from '../eval/segmentation/head.js'
import {sizeNotes, type ExportedHead, type HeadContext} from './exported-head.js'
import type {GraphBuilder} from './graph.js'
import {asMap, join, resizeMap} from './maps.js'
import type {VitGraph} from './vit-graph.js'

/** Windows of `length` pixels a side, at these rows and, by turns, columns. */
type Windows = {readonly length: number; readonly starts: readonly number[]}

const windowsOf = ({crop, stride}: SegmentHeadSpec, side: number): Windows => {
  const length = Math.min(crop ?? side, side)
  return {length, starts: windowStarts(side, length, stride ?? length)}
}

/** Class scores of every pixel before the softmax: `segmentation_logits` [B, K, Y, Y]. */
export async function segmentation(name: string, context: HeadContext): Promise<ExportedHead> {
  const file = await openSegmentHead(name, context.fingerprint)
  const {config, side} = context
  const layers = segmentLayers(file, config, 'the model')
  const [K, D] = [file.tensors.get('conv_seg.bias')!.data.length, file.tensors.get('bn.weight')!.data.length]
  const windows = windowsOf(file.spec, side)
  return {
    task: 'segment',
    output: 'segmentation_logits',
    shape: [K, side, side],
    classes: file.spec.classes.map(({name}) => name),
    parameters: K * D + K + 4 * D,
    notes: [...sizeNotes(name, file.spec.size, side), ...wayNotes(name, file.spec, windows)],
    add(g, vit) {
      const head = {file, layers, config, length: windows.length}
      const isWhole = windows.starts.length === 1
      const scores = isWhole ? windowScores(g, vit, head) : blended(g, windowScores(g, slid(g, vit, windows, config), head), windows, side)
      g.node('Identity', [scores], {}, 'segmentation_logits')
    }
  }
}

function wayNotes(name: string, {scales, flip}: SegmentHeadSpec, {starts, length}: Windows): string[] {
  const count = starts.length ** 2
  const windows = `${name} slides ${count} windows of ${length} pixels over each image, so the backbone is computed for them too.`
  const ways = `${name} averages ${counted(scales.length, 'size')}${flip ? ' and mirror images' : ''} in prediction; the exported model looks once.`
  return [...(count > 1 ? [windows] : []), ...(scales.length > 1 || flip ? [ways] : [])]
}

/**
 * The backbone over all windows of its images, row by row, with zeros around them up to whole patches: [n·B, 3, ·, ·].
 */
function slid(g: GraphBuilder, vit: VitGraph, {length, starts}: Windows, {patch}: VitConfig): VitGraph {
  const places = starts.flatMap(top => starts.map(left => [top, left] as const))
  const all = places.map(([top, left]) =>
    g.node('Slice', [vit.pixels, g.ints([top, left]), g.ints([top + length, left + length]), g.ints([2, 3])])
  )
  const joined = join(g, all, 0) //                                                            [n·B, 3, y, y]
  const side = Math.ceil(length / patch) * patch
  const before = Math.floor((side - length) / 2)
  const after = side - length - before
  return vit.over(side === length ? joined : g.node('Pad', [joined, g.ints([0, 0, before, before, 0, 0, after, after])]), side)
}

type WindowHead = {
  readonly file: OpenedSegmentHead
  readonly layers: readonly number[]
  readonly config: VitConfig
  /** Side of the windows in pixels. */
  readonly length: number
}

/** Scores of every pixel of each window: [n·B, K, y, y]. */
function windowScores(g: GraphBuilder, vit: VitGraph, {file, layers, config, length}: WindowHead): string {
  const data = (part: string): Float32Array => file.tensors.get(part)!.data
  const [K, D] = [data('conv_seg.bias').length, data('bn.weight').length]
  const h = Math.ceil(length / config.patch)
  const parts = layers.map(block => vit.patches(vit.tokens(block, true)))
  const map = asMap(g, join(g, parts, 2), D, h)
  const bn = ['weight', 'bias', 'running_mean', 'running_var'].map(part =>
    g.weight(`segmentation.bn.${part}`, [D], () => data(`bn.${part}`))
  )
  const normal = g.node('BatchNormalization', [map, ...bn], {epsilon: {float: 1e-5}})
  const kernel = g.weight('segmentation.conv_seg.weight', [K, D, 1, 1], () => data('conv_seg.weight'))
  const bias = g.weight('segmentation.conv_seg.bias', [K], () => data('conv_seg.bias'))
  const scores = g.node('Conv', [normal, kernel, bias], {kernel_shape: {ints: [1, 1]}}) //     [n·B, K, h, h]
  return resizeMap(g, scores, h, length)
}

/** Windows laid where they were cut out, the mean where they overlap: [n·B, K, y, y] → [B, K, Y, Y]. */
function blended(g: GraphBuilder, scores: string, {length, starts}: Windows, side: number): string {
  const pieces = g.multi('Split', [scores], {axis: {int: 0}}, starts.length ** 2)
  const laid = pieces.map((piece, i) => {
    const [top, left] = [starts[Math.floor(i / starts.length)]!, starts[i % starts.length]!]
    return g.node('Pad', [piece, g.ints([0, 0, top, left, 0, 0, side - top - length, side - left - length])])
  })
  const covers = Array.from({length: side}, (_, at) => starts.filter(start => start <= at && at < start + length).length)
  const counts = Float32Array.from({length: side ** 2}, (_, i) => covers[Math.floor(i / side)]! * covers[i % side]!)
  return g.node('Div', [g.node('Sum', laid), g.weight('segmentation.counts', [1, 1, side, side], () => counts)]) // [B, K, Y, Y]
}
