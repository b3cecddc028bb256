/**
 * Patch features as colours: the foreground is separated from the background by the first principal component, and
 * its parts are separated by the next three (DINOv2 paper, section 7.5 and figure 1). In shape comments: N patches of
 * all images together, C columns.
 */
import {pca, project} from './pca.js'

/** The patches of one image: rows × columns of them, [rows·columns, C]. */
export type PatchGrid = {readonly rows: number; readonly columns: number; readonly features: Float32Array}

export type Colouring = {
  /** Red, green and blue of each patch of each image, [rows·columns, 3]; black where it lies behind. */
  readonly colours: readonly Uint8Array[]
  /** One where a patch counts as standing in front. */
  readonly front: readonly Uint8Array[]
  /** Share of the variance of the coloured patches that each of red, green and blue shows. */
  readonly explained: readonly number[]
}

/** Rows from which components are computed, at most; evenly spread over all. */
const FITTED = 4096

/** Every so many rows, so that no more than FITTED remain. */
function sample(rows: Float32Array, width: number): Float32Array {
  const n = rows.length / width
  if (n <= FITTED) return rows
  const out = new Float32Array(FITTED * width)
  for (let i = 0; i < FITTED; i++) {
    const from = Math.floor((i * n) / FITTED) * width
    out.set(rows.subarray(from, from + width), i * width)
  }
  return out
}

/** The value below which a share of the numbers lies. */
function quantile(values: Float32Array, share: number): number {
  const sorted = Float32Array.from(values).sort()
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))]!
}

/** How near to the middle of its image each patch lies: 1 in the middle, 0 in a corner. */
function centrality({rows, columns}: PatchGrid): Float32Array {
  const out = new Float32Array(rows * columns)
  for (let i = 0; i < out.length; i++) {
    const y = (2 * (Math.floor(i / columns) + 0.5)) / rows - 1
    const x = (2 * ((i % columns) + 0.5)) / columns - 1
    out[i] = 1 - Math.sqrt((x * x + y * y) / 2)
  }
  return out
}

/**
 * Which patches stand in front: those whose first component, over all images together, is positive. A component has no
 * sign of its own; it is turned so that its values grow towards the middle of the images, where what a picture is of
 * mostly stands.
 */
export function foreground(grids: readonly PatchGrid[], width: number): Uint8Array[] {
  const all = concatRows(grids, width) // [N, C]
  const score = project(all, pca(sample(all, width), width, 1)) // [N]
  const near = new Float32Array(score.length)
  let at = 0
  for (const grid of grids) {
    near.set(centrality(grid), at)
    at += grid.rows * grid.columns
  }
  const mean = near.reduce((sum, value) => sum + value, 0) / near.length
  let lean = 0
  for (let i = 0; i < score.length; i++) lean += score[i]! * (near[i]! - mean)
  const sign = lean < 0 ? -1 : 1
  at = 0
  return grids.map(({rows, columns}) => Uint8Array.from({length: rows * columns}, () => (sign * score[at++]! > 0 ? 1 : 0)))
}

/**
 * Colours the patches of several images by one scale: red, green and blue are the first three components of the
 * patches in front (of all patches where `separate` is false), each stretched from its 1st to its 99th percentile.
 *
 * Throws a `RangeError` when there are fewer than four patches to colour.
 */
export function colourPatches(grids: readonly PatchGrid[], width: number, {separate = true}: {separate?: boolean} = {}): Colouring {
  const front = separate ? foreground(grids, width) : grids.map(({rows, columns}) => new Uint8Array(rows * columns).fill(1))
  const chosen = grids.flatMap(({features}, g) => {
    const rows: Float32Array[] = []
    for (let i = 0; i < front[g]!.length; i++) if (front[g]![i]) rows.push(features.subarray(i * width, (i + 1) * width))
    return rows
  })
  if (chosen.length < 4 || width < 3)
    throw new RangeError(`Expected at least four patches of three numbers to colour but received ${chosen.length} of ${width}.`)
  const rows = new Float32Array(chosen.length * width)
  for (const [i, row] of chosen.entries()) rows.set(row, i * width)
  const axes = pca(sample(rows, width), width, 3)
  const scores = project(rows, axes) // [n, 3]
  const limits = [0, 1, 2].map(k => {
    const column = Float32Array.from({length: chosen.length}, (_, i) => scores[3 * i + k]!)
    return {low: quantile(column, 0.01), high: quantile(column, 0.99)}
  })
  let at = 0
  const colours = front.map(mask => {
    const out = new Uint8Array(mask.length * 3)
    for (let i = 0; i < mask.length; i++) {
      if (!mask[i]) continue
      for (const [k, {low, high}] of limits.entries()) {
        const share = high > low ? (scores[3 * at + k]! - low) / (high - low) : 0.5
        out[3 * i + k] = Math.round(255 * Math.min(1, Math.max(0, share)))
      }
      at++
    }
    return out
  })
  return {colours, front, explained: Array.from(axes.variances, variance => (axes.total > 0 ? variance / axes.total : 0))}
}

function concatRows(grids: readonly PatchGrid[], width: number): Float32Array {
  const out = new Float32Array(grids.reduce((sum, {rows, columns}) => sum + rows * columns, 0) * width)
  let at = 0
  for (const {features} of grids) {
    out.set(features, at)
    at += features.length
  }
  return out
}
