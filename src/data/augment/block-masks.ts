/**
 * Which patches of the large crops are hidden from the student: blocks, as in BEiT, and their assignment to the images
 * of a batch.
 *
 * Follows the published training code in rule: the ladder of ratios in single precision, Python's half-even rounding
 * of rectangle sides, rectangles strictly smaller than the grid, ten tries, never more than the target. In shape
 * comments: B images, N patches of a large crop.
 */
import type {Rng} from '../../tensor/random.js'
import {roundHalfEven} from '../image/geometry.js'

export type MaskSettings = {
  /** Patches down and across a large crop. */
  readonly rows: number
  readonly columns: number
  /** Part of the large crops that get a mask at all; 0.5 in all shipped configurations. */
  readonly probability: number
  /** Least and most part of the patches that is hidden in such a crop; [0.1, 0.5]. */
  readonly ratio: readonly [number, number]
  /** Most patches of one block; see `maxPatches`. */
  readonly maxPatches: number
  /** Fewest patches a block aims at; 4 if absent. */
  readonly minPatches?: number
  /** Narrowest shape of a block (height over width; its inverse is the widest); 0.3 if absent. */
  readonly minAspect?: number
}

/** Masks of a batch, flat, ready for gathers. */
export type Masks = {
  /** 1 where a patch is hidden: [2B, N], crop-major. */
  readonly masks: Uint8Array
  /** Flat places of the ones in `masks`, ascending: [M]. */
  readonly indices: Int32Array
  /** For each of them 1 / (hidden patches of its crop): [M]. */
  readonly weights: Float32Array
  /** No batch of these settings and this size has more: for buffers of one size. */
  readonly upperbound: number
}

/**
 * Most patches of one block: 0.5 · size // patch · size // patch from left to right, as the training code says it (128
 * at 224/14, 98 at 224/16).
 */
export const maxPatches = (size: number, patch: number): number => Math.floor((Math.floor((0.5 * size) / patch) * size) / patch)

/** The settings of square crops of `size` pixels and patches of `patch`. */
export const maskSettings = (size: number, patch: number, probability: number, ratio: readonly [number, number]): MaskSettings => ({
  rows: Math.floor(size / patch),
  columns: Math.floor(size / patch),
  probability,
  ratio,
  maxPatches: maxPatches(size, patch)
})

/**
 * Hides blocks until `target` patches are hidden, or ten tries in a row fail; never more than `target`. Writes ones to
 * `mask` [rows · columns], which must be zeros, and returns how many.
 */
export function blockMask(
  random: Rng,
  target: number,
  {rows, columns, maxPatches, minPatches = 4, minAspect = 0.3}: MaskSettings,
  mask: Uint8Array
): number {
  const [narrow, wide] = [Math.log(minAspect), Math.log(1 / minAspect)]
  let count = 0
  while (count < target) {
    const limit = Math.min(target - count, maxPatches)
    const before = count
    for (let attempt = 0; attempt < 10 && count === before; attempt++) {
      const area = random.uniform(minPatches, limit) // runs downwards where the limit is the smaller: so does the original
      const aspect = Math.exp(random.uniform(narrow, wide))
      const h = roundHalfEven(Math.sqrt(area * aspect))
      const w = roundHalfEven(Math.sqrt(area / aspect))
      if (w >= columns || h >= rows) continue
      const top = random.int(rows - h + 1)
      const left = random.int(columns - w + 1)
      let fresh = 0
      for (let y = top; y < top + h; y++) for (let x = left; x < left + w; x++) fresh += 1 - mask[y * columns + x]!
      if (fresh === 0 || fresh > limit) continue
      for (let y = top; y < top + h; y++) mask.fill(1, y * columns + left, y * columns + left + w)
      count += fresh
    }
    if (count === before) break
  }
  return count
}

/**
 * `steps` numbers from first to last at even distances, in single precision as `torch.linspace` computes them (from
 * both ends towards the middle, each rounded once).
 */
export function ladder(first: number, last: number, steps: number): Float32Array {
  const f = Math.fround
  const [a, b] = [f(first), f(last)]
  const step = steps > 1 ? f(f(b - a) / (steps - 1)) : 0
  return Float32Array.from({length: steps}, (_, i) => (i < Math.floor(steps / 2) ? f(a + step * i) : f(b - step * (steps - 1 - i))))
}

/**
 * Masks for `crops` (2B) large crops: floor(crops · probability) of them get one, whose targets climb the ladder of
 * ratios, each drawn evenly between two rungs; which crops is shuffled. Spec: masking of a batch in the paper's
 * training code; weights as the iBOT loss wants them.
 */
export function collateMasks(random: Rng, crops: number, settings: MaskSettings): Masks {
  const patches = settings.rows * settings.columns
  const masked = Math.floor(crops * settings.probability)
  const rungs = ladder(settings.ratio[0], settings.ratio[1], masked + 1)
  const drawn: Uint8Array[] = []
  let upperbound = 0
  for (let i = 0; i < crops; i++) {
    const mask = new Uint8Array(patches)
    if (i < masked) {
      const ratio = Math.fround(random.uniform(rungs[i], rungs[i + 1]))
      blockMask(random, Math.trunc(Math.fround(patches * ratio)), settings, mask)
      upperbound += Math.trunc(Math.fround(patches * rungs[i + 1]!))
    }
    drawn.push(mask)
  }
  random.shuffle(drawn)
  const masks = new Uint8Array(crops * patches) // [2B, N]
  const indices: number[] = []
  const weights: number[] = []
  for (const [i, mask] of drawn.entries()) {
    masks.set(mask, i * patches)
    const count = mask.reduce((a, b) => a + b, 0)
    for (let j = 0; j < patches; j++)
      if (mask[j]) {
        indices.push(i * patches + j)
        weights.push(1 / count)
      }
  }
  return {masks, indices: Int32Array.from(indices), weights: Float32Array.from(weights), upperbound}
}

/**
 * The masks of one of several equal shares of a batch of B images: images rank · B/size and on, of both crops; the
 * masks are the same as in the whole batch.
 */
export function shareOfMasks(all: Masks, {rank, size}: {readonly rank: number; readonly size: number}): Masks {
  if (size === 1) return all
  const half = all.masks.length / 2
  const own = half / size
  const masks = new Uint8Array(2 * own)
  for (const crop of [0, 1]) masks.set(all.masks.subarray(crop * half + rank * own, crop * half + (rank + 1) * own), crop * own)
  const indices: number[] = []
  const weights: number[] = []
  all.indices.forEach((at, i) => {
    const crop = at < half ? 0 : 1
    const place = at - crop * half - rank * own
    if (place < 0 || place >= own) return
    indices.push(crop * own + place)
    weights.push(all.weights[i]!)
  })
  return {masks, indices: Int32Array.from(indices), weights: Float32Array.from(weights), upperbound: all.upperbound}
}
