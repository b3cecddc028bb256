/**
 * Maps of patches in a graph, and their bilinear resizing as `tensor/ops/resize.ts` does it.
 *
 * In shape comments: B images, h patches a side, D channels.
 */
import {bilinearWeights, type ResizeOptions} from '../../tensor/ops/resize.js'
import type {GraphBuilder} from './graph.js'
import {transposed} from './vit-graph.js'

export const join = (g: GraphBuilder, parts: readonly string[], axis: number): string =>
  parts.length === 1 ? parts[0]! : g.node('Concat', parts, {axis: {int: axis}})

/** Rows of patches [B, h·h, D] as a map [B, D, h, h]. */
export const asMap = (g: GraphBuilder, rows: string, D: number, h: number): string =>
  g.node('Reshape', [g.node('Transpose', [rows], {perm: {ints: [0, 2, 1]}}), g.ints([0, D, h, h])])

/**
 * Resizing to `factor` times as many rows and columns, [B, D, h, h] → [B, D, factor·h, factor·h]: the outermost
 * pixels' centres fall on each other with `alignCorners`, their outer edges otherwise.
 */
export const scaleMap = (g: GraphBuilder, map: string, factor: number, {alignCorners = false}: ResizeOptions = {}): string =>
  factor === 1
    ? map
    : g.node('Resize', [map, '', g.weight(`scales_${factor}`, [4], () => Float32Array.of(1, 1, factor, factor))], {
        mode: {text: 'linear'},
        coordinate_transformation_mode: {text: alignCorners ? 'align_corners' : 'half_pixel'}
      })

/**
 * Resizing to a size that need not be a multiple, [B, D, from, from] → [B, D, to, to]: two products, because Resize
 * takes either a factor, whose product with the size is rounded, or the length of the batch.
 */
export function resizeMap(g: GraphBuilder, map: string, from: number, to: number): string {
  if (to % from === 0) return scaleMap(g, map, to / from)
  const name = `resize_${from}_${to}`
  const rows = g.weight(`${name}.rows`, [to, from], () => bilinearWeights(from, to))
  const columns = g.weight(`${name}.columns`, [from, to], () => transposed(bilinearWeights(from, to), to, from))
  return g.node('MatMul', [g.node('MatMul', [rows, map]), columns])
}
