/**
 * Batches as a step takes them, and the parts in which they go through the networks. B images, b of them in a part,
 * G and S the sides of global and local crops, m local crops an image, N patches of a global crop, n masked patches.
 */
import type {VitConfig} from '../../model/config.js'
import {gridOf} from '../../model/vit.js'
import type {ImageView} from '../../model/vit.js'
import {concat, dispose, keep, slice, tensor1d, tidy} from '../../tensor/tf.js'
import type {Tensor1D, Tensor2D, Tensor4D} from '../../tensor/tf.js'

/** One collated batch (docs/spec.md §4.2); crops are normalized and crop-major. */
export type StepBatch = {
  readonly globals: Tensor4D /* [2B, G, G, 3] */
  readonly locals?: Tensor4D /* [m·B, S, S, 3] */
  readonly masks: Tensor2D /* [2B, N], one where hidden */
  /** Flat numbers of the masked patches, ascending. */
  readonly indices: Int32Array /* [n] */
  /** One over the masked patches of the image, for each of them. */
  readonly weights: Float32Array /* [n] */
}

/** Makes the crops of the images `from` to `to` (exclusive) of a batch, crop-major. The tensor is the caller's. */
export type CropLoader = (from: number, to: number) => Tensor4D

/**
 * The same with crops that are made when they are needed, so that the pixels of a large batch need not exist at once.
 */
export type LazyBatch = Omit<StepBatch, 'globals' | 'locals'> & {
  readonly globals: CropLoader
  readonly locals?: CropLoader
  /** Local crops of an image, m. */
  readonly localCount: number
}

/** Part of a batch: what goes through the networks at once. */
export type BatchPart = {
  /** Images. */
  readonly b: number
  /** Local crops of an image, m. */
  readonly m: number
  readonly globals: () => Tensor4D /* [2b, G, G, 3]; the caller's */
  readonly locals?: () => Tensor4D /* [m·b, S, S, 3]; the caller's */
  readonly masks: Tensor2D /* [2b, N] */
  readonly indices: Int32Array
  readonly weights: Float32Array
  /**
   * Rows of the masked patches among the packed tokens of the global crops, int32 [n]; undefined where none is masked.
   * The part's own, for `freeParts`: teacher and student ask for the same.
   */
  readonly patchRows: (vit: VitConfig) => Tensor1D | undefined
  readonly freeRows: () => void
}

/** The crops of the images `from` to `to` of B: crop-major, so one piece of each crop. */
function cropsOf(crops: Tensor4D | CropLoader, B: number, from: number, to: number): Tensor4D {
  if (typeof crops === 'function') return crops(from, to)
  if (to - from === B) return crops.clone()
  const each = crops.shape[0] / B
  const [, height, width, channels] = crops.shape
  const own = (crop: number): Tensor4D => slice(crops, [crop * B + from, 0, 0, 0], [to - from, height, width, channels])
  return tidy(() => concat(Array.from({length: each}, (_, crop) => own(crop))))
}

/** Local crops of an image. */
const localCrops = (batch: StepBatch | LazyBatch): number =>
  'localCount' in batch ? batch.localCount : batch.locals ? batch.locals.shape[0] / (batch.masks.shape[0] / 2) : 0

/**
 * A batch in `count` parts, whose numbers of images differ by one at most. What is new of them, the masks, is the
 * caller's.
 */
export function splitBatch(batch: StepBatch | LazyBatch, count: number): BatchPart[] {
  const [twoB, N] = batch.masks.shape
  const B = twoB / 2
  if (count > B) throw new RangeError(`expected at most ${B} parts, one an image, but received ${count}`)
  return Array.from({length: count}, (_, i) => {
    const [from, to] = [Math.floor((i * B) / count), Math.floor(((i + 1) * B) / count)]
    const b = to - from
    const indices: number[] = []
    const weights: number[] = []
    batch.indices.forEach((at, j) => {
      const [row, patch] = [Math.trunc(at / N), at % N]
      const image = row % B
      if (image < from || image >= to) return
      indices.push(((row < B ? 0 : b) + image - from) * N + patch)
      weights.push(batch.weights[j]!)
    })
    const {globals, locals, masks} = batch
    return {
      b,
      m: localCrops(batch),
      globals: () => cropsOf(globals, B, from, to),
      ...(locals ? {locals: () => cropsOf(locals, B, from, to)} : {}),
      masks: tidy(() => (b === B ? masks.clone() : concat([slice(masks, [from, 0], [b, N]), slice(masks, [B + from, 0], [b, N])]))),
      indices: Int32Array.from(indices),
      weights: Float32Array.from(weights),
      ...rowsOfPatches(Int32Array.from(indices), N)
    }
  })
}

/** `patchRows` of a part, whose tensors are made when they are first asked for, and how they are let go. */
function rowsOfPatches(indices: Int32Array, N: number): Pick<BatchPart, 'patchRows'> & {readonly freeRows: () => void} {
  const made = new Map<number, Tensor1D>()
  return {
    patchRows: ({registers}) => {
      if (indices.length === 0) return undefined
      const rows = made.get(registers) ?? keep(tensor1d(patchTokens(indices, N, registers), 'int32'))
      made.set(registers, rows)
      return rows
    },
    freeRows: () => dispose([...made.values()])
  }
}

/** Lets go what is new of the parts of a batch. */
export function freeParts(parts: readonly BatchPart[]): void {
  for (const {masks, freeRows} of parts) {
    dispose(masks)
    freeRows()
  }
}

/** Rows of patches, by their flat numbers, among packed tokens: behind cls token and registers of each crop. */
const patchTokens = (indices: Int32Array, N: number, registers: number): Int32Array =>
  indices.map(at => Math.trunc(at / N) * (1 + registers + N) + 1 + registers + (at % N))

/** Numbers of the rows of cls tokens and of masked patches in the packed tokens of a view. */
export function tokenRows(view: ImageView, vit: VitConfig, indices: Int32Array): {cls: Int32Array; patches: Int32Array; rows: number} {
  const {count, rows, columns} = gridOf(view, vit)
  const N = rows * columns
  const S = 1 + vit.registers + N
  return {
    cls: Int32Array.from({length: count}, (_, i) => i * S),
    patches: patchTokens(indices, N, vit.registers),
    rows: count * S
  }
}

/**
 * A batch in which nothing is masked and the patch loss is taken on all patches alike, as a student learns from a
 * frozen teacher.
 */
export function withAllPatchesInLoss<T extends {readonly indices: Int32Array; readonly weights: Float32Array}>(
  batch: T,
  crops: number,
  patches: number
): T {
  return {
    ...batch,
    indices: Int32Array.from({length: crops * patches}, (_, i) => i),
    weights: new Float32Array(crops * patches).fill(1 / patches)
  }
}
