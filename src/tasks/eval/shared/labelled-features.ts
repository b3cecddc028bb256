/**
 * Rows with labels, as evaluations want them: vectors of images by a model, their pixels, or rows of files of
 * embeddings, each with its class.
 *
 * Three baselines show what a score is worth: raw pixels (32 × 32, normalized as for the network), a histogram of
 * colours, and the model's own architecture with fresh weights, which shows what the architecture alone contributes.
 */
import {imagePath} from '../../../data/sources/packed-images.js'
import {UserError} from '../../../config/errors.js'
import {pixelBatches} from '../../../data/loader/pixel-batches.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {ImageSpool} from '../../../data/sources/image-spool.js'
import {LABEL_HINT, folderOf, labelIn, labelOf, listImages, noImages, type ImageRef, type SourceNote} from '../../../data/sources/source.js'
import type {EngineInfo} from '../../../engine/start.js'
import {openAll, type EmbeddingMeta, type Fields} from '../../../files/embeddings/embeddings.js'
import {imageMean, imageStd} from '../../../tensor/ops/patches.js'
import {embed, embedderOf, defaultBatch, type Embedder, type FeatureSettings} from '../../embed/embedder.js'
import {untrainedBackbone} from '../../embed/image-features.js'
import {colorHistogram, histogramDim} from './color-histogram.js'

export type Baseline = 'pixels' | 'histogram' | 'untrained'
/** The baselines that need no network. */
export type PixelBaseline = Exclude<Baseline, 'untrained'>

/** How rows are made, whatever is done with them. */
export type RowOptions = {
  readonly nul?: boolean
  readonly stdin?: AsyncIterable<Uint8Array>
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  /** Of `baselineRows`: letter-box bars are cut off first, as the model's transform says for the others. */
  readonly cropBorders?: boolean
  readonly toolVersion: string
  readonly signal?: AbortSignal
}

/** Some rows: vectors [n, D] one after the other, with what is known of each. */
export type RowBatch = {
  readonly ids: readonly string[]
  readonly labels: readonly (string | undefined)[]
  readonly fields: readonly Fields[]
  readonly vectors: Float32Array
}
export type Rows = AsyncGenerator<RowBatch>

const decoding = ({workers, maxPixels}: RowOptions): {workers?: number; maxPixels?: number} => ({
  ...(workers === undefined ? {} : {workers}),
  ...(maxPixels === undefined ? {} : {maxPixels})
})

/** Vectors of images by a model. */
export async function* modelRows(
  refs: AsyncIterable<ImageRef>,
  embedder: Embedder,
  options: RowOptions,
  {device}: Pick<EngineInfo, 'device'>,
  onRejected: (bad: RejectedImage) => void
): Rows {
  const batch = options.batch ?? defaultBatch(embedder.config, embedder.transform, device)
  const {signal} = options
  for await (const {ids, vectors, fields} of embed(refs, embedder, {batch, onRejected, ...decoding(options), signal}))
    yield {ids, vectors, fields, labels: fields.map(labelIn)}
}

/** How a baseline turns the middle square of an image, bytes [side², 3], into a vector [D]. */
const baselines: Readonly<
  Record<PixelBaseline, {readonly side: number; readonly dim: number; readonly vectorOf: (pixels: Uint8Array) => Float32Array}>
> = {
  // less ImageNet's mean, over its deviation
  pixels: {
    side: 32,
    dim: 3 * 32 * 32,
    vectorOf: pixels => Float32Array.from(pixels, (byte, i) => (byte / 255 - imageMean[i % 3]!) / imageStd[i % 3]!)
  },
  histogram: {side: 64, dim: histogramDim, vectorOf: colorHistogram}
}

/** The vectors of a baseline that needs no network. */
export async function* baselineRows(
  baseline: PixelBaseline,
  refs: AsyncIterable<ImageRef>,
  options: RowOptions,
  onRejected: (bad: RejectedImage) => void
): Rows {
  const {side, dim, vectorOf} = baselines[baseline]
  for await (const {refs: some, pixels} of pixelBatches(refs, {
    batch: 256,
    transform: {resize: side, crop: side, cropBorders: options.cropBorders},
    onRejected,
    ...decoding(options)
  })) {
    options.signal?.throwIfAborted()
    const size = 3 * side * side
    const vectors = new Float32Array(some.length * dim) // [n, D]
    for (let i = 0; i < some.length; i++) vectors.set(vectorOf(pixels.subarray(i * size, (i + 1) * size)), i * dim)
    yield {ids: some.map(({id}) => id), labels: some.map(labelOf), fields: some.map(({fields}) => fields as Fields), vectors}
  }
}

/** The model's architecture with fresh weights, as an embedder. */
export const untrainedEmbedder = ({config, transform}: Embedder, features: FeatureSettings, toolVersion: string, seed: number): Embedder =>
  embedderOf(untrainedBackbone(config, seed), {...features, transform, toolVersion}, 'the untrained model')

/** Images of a set, in the order of its inputs. */
const refsOf = (inputs: readonly string[], {nul}: RowOptions, onSkipped?: (note: SourceNote) => void): AsyncIterable<ImageRef> =>
  listImages(inputs, {nul, onSkipped})

/**
 * The same for several passes over one set: what stdin names is kept, since it can be read once. Each call begins a
 * pass; one must end before the next.
 */
export function repeatableRefs(
  inputs: readonly string[],
  options: RowOptions,
  onSkipped?: (note: SourceNote) => void
): () => AsyncIterable<ImageRef> {
  let passes = 0
  const kept: ImageRef[] = []
  const spool = new ImageSpool()
  return async function* () {
    if (passes++ > 0 && inputs.includes('-')) return yield* kept
    for await (const ref of refsOf(inputs, options, passes === 1 ? onSkipped : undefined)) {
      if (inputs.includes('-')) kept.push(spool.keep(ref))
      yield ref
    }
  }
}

export function throwUnlabelled(id: string): never {
  throw new UserError(`${id} has no label.`, {
    exit: 2,
    code: 'NO_LABEL',
    hint: LABEL_HINT
  })
}

/**
 * Rows of files of embeddings, with what the files say of themselves; `close` when done. Throws a `UserError` where
 * they hold patch tokens. Labels are the label field, else the folder of the id.
 */
export async function embeddingRows(
  sources: readonly string[],
  {stdin, signal}: RowOptions
): Promise<{name: string; meta: EmbeddingMeta; rows: Rows; close(): Promise<void>}> {
  const source = await openAll(sources, {stdin, ignoreLength: true})
  const {meta, name} = source
  if (meta.pooling === 'patch') {
    await source.close()
    throw new UserError(`${name} holds patch tokens; an image is judged by one vector.`, {
      exit: 2,
      code: 'PATCH_TOKENS',
      hint: 'Embed them by dinov2 embed --pool cls, or mean.'
    })
  }
  const rows = async function* (): Rows {
    for await (const {ids, vectors, fields} of source.rows) {
      signal?.throwIfAborted()
      yield {ids, vectors, fields, labels: ids.map((id, i) => labelIn(fields[i]!) ?? folderOf(id))}
    }
  }
  return {name, meta, rows: rows(), close: () => source.close()}
}

/** A whole set in memory. */
export type LabelledSet = {
  readonly x: Float32Array /* [n, D] */
  readonly dim: number
  readonly ids: readonly string[]
  readonly labels: readonly string[]
  /** Where each image lies; its id where the list does not say. */
  readonly paths: readonly string[]
}

/**
 * Gathers rows; yields their number so far. Throws a `UserError`: no row (exit 3), or one without a label (exit 2).
 * Rows are finite: files are checked where they are read, features where they leave the model.
 */
export async function* gatherRows(
  rows: Rows,
  inputs: readonly string[],
  {signal}: {readonly signal?: AbortSignal | undefined} = {}
): AsyncGenerator<number, LabelledSet> {
  const parts: Float32Array[] = []
  const [ids, labels, paths]: [string[], string[], string[]] = [[], [], []]
  for await (const {ids: some, labels: own, fields, vectors} of rows) {
    signal?.throwIfAborted()
    parts.push(vectors)
    for (const [i, id] of some.entries()) {
      ids.push(id)
      labels.push(own[i] ?? throwUnlabelled(id))
      paths.push(imagePath(id, fields[i]))
    }
    yield ids.length
  }
  signal?.throwIfAborted()
  if (ids.length === 0) throw noImages(inputs)
  const x = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    x.set(part, at)
    at += part.length
  }
  return {x, dim: x.length / ids.length, ids, labels, paths}
}

/** Rows `picked` of a set, in that order. */
export function pickRows({x, dim, ids, labels, paths}: LabelledSet, picked: Int32Array): LabelledSet {
  const own = new Float32Array(picked.length * dim)
  for (const [i, row] of picked.entries()) own.set(x.subarray(row * dim, (row + 1) * dim), i * dim)
  const pick = (list: readonly string[]): string[] => Array.from(picked, row => list[row]!)
  return {x: own, dim, ids: pick(ids), labels: pick(labels), paths: pick(paths)}
}
