/**
 * Embedding: images through a frozen backbone, one vector each, in the order of the input. Holds a few batches at a
 * time, whatever the number of images.
 *
 * Worker threads decode ahead while the engine computes. What a vector is (docs/spec.md §5.2, §1.7; the final norm is
 * always applied):
 *
 *     cls        cls tokens of the chosen blocks, joined                               [n · C]
 *     mean       means over the patch tokens of the chosen blocks, joined              [n · C]
 *     cls+mean   cls tokens of the chosen blocks, then the last one's mean             [(n + 1) · C]
 *     patch      every patch token, row by row; its channels are those of the blocks   [N · n · C]
 *
 * In shape comments: B images, N patches, C width, n chosen blocks, D numbers a vector.
 */
import {counted} from '../../config/counted.js'
import {relative} from 'node:path'
import {UserError} from '../../config/errors.js'
import {pixelBatches, type PixelBatch} from '../../data/loader/pixel-batches.js'
import {changeFile} from '../../data/sources/container-names.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {Batches} from '../../data/loader/load-stats.js'
import type {Transform} from '../../data/image/geometry.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {EmbeddingBatch, EmbeddingMeta, Fields, Pooling} from '../../files/embeddings/embeddings.js'
import {assertFinite} from '../../files/embeddings/rows.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import type {VitConfig} from '../../model/config.js'
import {imageVectors} from '../../model/pooled.js'
import {noteOnStderr} from '../../system/compile.js'
import {normalizeRows} from '../../search/exact.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {repeatedPass} from '../../tensor/ops/recorded.js'
import {tidy, type Tensor, type Tensor4D} from '../../tensor/tf.js'
import {loadBackbone, type Backbone} from './load-backbone.js'
import {oneAhead} from './one-ahead.js'
import {assertPassFits} from './pass-memory.js'
import {preprocessingRecord, resolveTransform, transformNotes, type TransformRequest} from './transform.js'

/** What is taken from the model, and how images are made ready for it. */
export type FeatureSettings = {
  readonly pool: Pooling
  /** The last n blocks, or these blocks counted from 0. */
  readonly layers: number | readonly number[]
  /** Brings every vector (for `patch`: every token) to length 1. */
  readonly normalize: boolean
  /** What it leaves open comes from the model's own preprocessing. */
  readonly transform: TransformRequest
}

export const defaultFeatures: FeatureSettings = {pool: 'cls', layers: 1, normalize: false, transform: {}}

/**
 * The settings with which a file's vectors were made, so that queries can be made in the same way.
 * Throws `UserError` when the record comes from elsewhere and does not say.
 */
export function settingsOf(meta: EmbeddingMeta, name: string): FeatureSettings & {readonly transform: Transform} {
  const {resize, crop, multiple, borders} = meta.preprocessing ?? {}
  if (typeof resize !== 'number' || meta.pooling === null || meta.layers === null) {
    throw new UserError(`${name} does not say how its vectors were made, so images cannot be embedded in the same way.`, {
      exit: 2,
      code: 'UNKNOWN_MAKING',
      hint: 'Embed the images as the indexed ones were, and search with the embeddings.'
    })
  }
  const transform: Transform = {
    ...(typeof crop === 'number' ? {resize, crop} : {resize, ...(typeof multiple === 'number' ? {patch: multiple} : {})}),
    ...(borders === 'cropped' ? {cropBorders: true} : {})
  }
  return {pool: meta.pooling, layers: meta.layers, normalize: meta.normalized, transform}
}

/** A model that turns pixels into vectors. Dispose it to free its weights. */
export type Embedder = {
  readonly meta: EmbeddingMeta
  readonly config: VitConfig
  readonly transform: Transform
  /** Blocks whose outputs are kept in a pass. */
  readonly blocks: number
  /** Vectors of one batch, [B, D]. */
  vectors(batch: Pick<PixelBatch, 'pixels' | 'height' | 'width'>, count: number): Promise<Float32Array>
  [Symbol.dispose](): void
}

export type EmbedderOptions = FeatureSettings & {
  readonly precision?: Precision
  /** Version of the program, for the record. */
  readonly toolVersion: string
  /** Receives what preprocessing is in force, in sentences for the log. */
  readonly note?: (sentence: string) => void
}

const usage = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

/**
 * Loads the model at `path` into the running engine. Throws `UserError`: as `loadBackbone`, and for settings that do
 * not fit the model (exit 2).
 */
export async function loadEmbedder(path: string, {precision = 'fp32', ...options}: EmbedderOptions): Promise<Embedder> {
  const backbone = await loadBackbone(path, {precision})
  try {
    return embedderOf(backbone, options, path)
  } catch (error) {
    backbone[Symbol.dispose]()
    throw error
  }
}

/**
 * The same around a backbone that is loaded; disposing the embedder disposes it. `name` stands for it in sentences.
 */
export function embedderOf(
  backbone: Pick<Backbone, 'config' | 'params' | 'fingerprint' | 'precision'> &
    Partial<Pick<Backbone, 'preprocessing'>> & {[Symbol.dispose](): void},
  {toolVersion, note, ...given}: Omit<EmbedderOptions, 'precision'>,
  name: string
): Embedder {
  const {config, params, fingerprint, precision, preprocessing = defaultPreprocessing} = backbone
  const {pool, layers, normalize} = given
  const {patch, width: C, depth} = config
  const blocks =
    typeof layers === 'number' ? Array.from({length: layers}, (_, i) => depth - layers + i) : [...new Set(layers)].sort((a, b) => a - b)
  if (blocks.length === 0 || blocks.some(block => block < 0 || block >= depth))
    throw usage(
      `--layers ${String(layers)} does not fit ${name}, which has ${counted(depth, 'block')}.`,
      `Give a number from 1 to ${depth}, or a list of blocks from 0 to ${depth - 1}.`
    )
  const transform = resolveTransform(given.transform, preprocessing, patch)
  const {crop} = transform
  if (crop !== undefined && crop % patch !== 0) {
    const below = Math.max(patch, crop - (crop % patch))
    throw usage(
      `A crop of ${crop} pixels is not a multiple of the ${patch}-pixel patches of ${name}.`,
      `Try --crop ${below} or --crop ${below + patch}, or --no-crop.`
    )
  }
  if (crop === undefined && pool === 'patch')
    throw usage(
      'Uncropped images differ in their number of patches, but the rows of an output have one length.',
      'Give --crop, or --pool mean.'
    )
  for (const sentence of transformNotes(transform, preprocessing)) note?.(sentence)
  const n = blocks.length
  const side = crop === undefined ? 0 : crop / patch
  const dim = pool === 'patch' ? side * side * n * C : pool === 'cls+mean' ? (n + 1) * C : n * C
  const meta: EmbeddingMeta = {
    fingerprint,
    architecture: describe(config),
    preprocessing: preprocessingRecord(transform, preprocessing),
    pooling: pool,
    layers: typeof layers === 'number' ? layers : blocks,
    normalized: normalize,
    dim,
    ...(pool === 'patch' ? {shape: {rows: side, columns: side, channels: n * C}} : {}),
    precision,
    toolVersion
  }
  const vectorsOf = (images: Tensor): Tensor => imageVectors(params, images as Tensor4D, config, {pool, blocks, stream: precision})
  const pass = repeatedPass('A pass of embed', vectorsOf, noteOnStderr)
  return {
    meta,
    config,
    transform,
    blocks: n,
    async vectors({pixels, height, width}, count) {
      assertPassFits(config, {images: count, height, width, layers: n}, precision)
      const out = tidy(() => pass.run(normalizePixels(pixels, [count, height, width]))) // [B, H, W, 3] → [B, D]
      try {
        const vectors = await out.data<'float32'>()
        return normalize ? normalizeRows(vectors, pool === 'patch' ? n * C : dim) : vectors
      } finally {
        out.dispose()
      }
    },
    [Symbol.dispose]() {
      pass[Symbol.dispose]()
      backbone[Symbol.dispose]()
    }
  }
}

/** A model's shape in words. */
const describe = ({width, depth, patch, registers}: VitConfig): string =>
  `ViT ${width} wide, ${depth} deep, patch ${patch}${registers > 0 ? `, ${registers} registers` : ''}`

/**
 * How many images are computed at once where nobody says: about 4,096 tokens on a CPU, more where a device wants to be
 * filled.
 */
export function defaultBatch({patch}: VitConfig, {crop, resize}: Transform, device: string): number {
  const side = (crop ?? resize) / patch
  const images = Math.round((device.startsWith('cuda') ? 32_768 : 4096) / (side * side + 1))
  return Math.max(1, Math.min(256, images))
}

/**
 * What rides along: the list's fields; the folder as `label` where the list has none; and where the image lies when
 * its id does not say.
 */
export function fieldsOf({id, path, pathBase64, fields, folder, range, row}: ImageRef): Fields {
  const place = typeof path === 'string' && path !== id && !range ? shortest(path) : undefined
  return {
    ...fields,
    ...(folder === undefined || fields['label'] !== undefined ? {} : {label: folder}),
    ...(place === undefined || fields['path'] !== undefined ? {} : {path: place}),
    ...(row === undefined ? {} : {row}),
    ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})
  }
}

/**
 * Relative to where we are, where that is shorter: a list's own folder stays out of the output when all lies in one
 * tree.
 */
function shortest(path: string): string {
  const short = changeFile(path, file => relative('', file))
  return short === '' || short.startsWith('..') ? path : short
}

export type EmbedOptions = {
  readonly batch: number
  readonly workers?: number
  readonly maxPixels?: number
  /** Told of each image that could not be used, in order. */
  readonly onRejected?: (bad: RejectedImage) => void
  /** Once aborted, no further batch is begun. */
  readonly signal?: AbortSignal
}

/**
 * Embeds images as they come. Rows keep the order of `refs`; bad images are reported to `onRejected` and have no row.
 *
 * Yields one batch of rows for each batch of pixels. `stats` of the result says how long it waited for data.
 */
export function embed(refs: AsyncIterable<ImageRef>, embedder: Embedder, options: EmbedOptions): Batches<EmbeddingBatch> {
  const {batch, workers, maxPixels, onRejected, signal} = options
  const pixels = pixelBatches(refs, {
    batch,
    transform: embedder.transform,
    workers,
    maxPixels,
    onRejected,
    signal
  })
  const rows = oneAhead(pixels, made => rowsOf(made, embedder), signal)
  return Object.assign(rows, {stats: () => pixels.stats()})
}

async function rowsOf(made: PixelBatch, embedder: Embedder): Promise<EmbeddingBatch> {
  const vectors = await embedder.vectors(made, made.refs.length)
  const ids = made.refs.map(ref => ref.id)
  assertFinite({ids, vectors}, 'the output of the model')
  return {ids, vectors, fields: made.refs.map(fieldsOf)}
}
