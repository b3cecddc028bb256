/**
 * The features by which a pool is curated: computed from images, by a model or without one, or given as embeddings.
 *
 * Perceptual features (`data/stats`) find copies, and say nothing of what an image shows; they are compared as they
 * are. Features of models are brought to length 1. A folder named by --cache keeps what was computed
 * (`feature-cache.ts`).
 */
import {startEngineFor} from '../embed/load-backbone.js'
import {UserError} from '../../config/errors.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import {measureImages, type Measures} from '../../data/loader/measure-images.js'
import type {ImageList} from '../../data/sources/image-table.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'
import type {EmbeddingMeta, Shard} from '../../files/embeddings/embeddings.js'
import {MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {normalizeRows} from '../../search/exact.js'
import {defaultBatch, embed, loadEmbedder, type Embedder, type FeatureSettings} from '../embed/embedder.js'
import {openFeatureFile, writeFeatureFile} from './feature-cache.js'
import {perceptualMeta} from './feature-meta.js'

export type FeatureKind = 'perceptual' | 'model'

/** Vectors of a set of images, row by row. */
export type PoolFeatures = {
  readonly kind: FeatureKind | 'given'
  readonly meta: EmbeddingMeta
  readonly rows: MatrixRows
}

/** How features are computed. */
export type FeatureMakerOptions = {
  readonly model?: string
  readonly vectors: FeatureSettings
  readonly engine: EngineRequest
  readonly toolVersion: string
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  /** Bytes that vectors may take in memory before they go to a temporary file. */
  readonly memory: number
  readonly cache?: string
  readonly signal?: AbortSignal
}

export type FeatureEvent = {
  readonly kind: 'features'
  readonly of: FeatureKind
  readonly done: number
  readonly total: number
  readonly known: number
}

/** Features of a set of images. */
export type DescribedRows = {
  readonly features: PoolFeatures
  /** Numbers of the images that could be read: row i is of image `good[i]`. */
  readonly good: Int32Array
  /** Measures of the rows, for perceptual features. */
  readonly measures: readonly Measures[] | undefined
}

/** Computes features, with one engine and one model for all sets of a run; `close` frees the model. */
export class FeatureMaker {
  readonly options: FeatureMakerOptions
  #embedder: Embedder | undefined
  #engine: EngineInfo | undefined

  constructor(options: FeatureMakerOptions) {
    this.options = options
  }

  /** Starts the engine where it is not running. */
  async engine(): Promise<EngineInfo> {
    return (this.#engine ??= await startEngineFor([this.options.model], this.options.engine))
  }

  get engineInfo(): EngineInfo | undefined {
    return this.#engine
  }

  /** The model, loaded at first use. Throws `UserError` (exit 2) where none was named. */
  async embedder(): Promise<Embedder> {
    if (this.#embedder) return this.#embedder
    const {model, vectors, toolVersion} = this.options
    if (model === undefined)
      throw new UserError('Features of a model are needed, but no model was named.', {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model (starter is always here), or --features perceptual where copies are looked for.'
      })
    const {precision} = await this.engine()
    return (this.#embedder = await loadEmbedder(model, {...vectors, precision, toolVersion, note: this.options.engine.note}))
  }

  async meta(kind: FeatureKind): Promise<EmbeddingMeta> {
    return kind === 'perceptual' ? perceptualMeta(this.options.toolVersion) : (await this.embedder()).meta
  }

  /** Images that are computed at once. */
  async batch(kind: FeatureKind): Promise<number> {
    if (kind === 'perceptual') return 1
    const {config, transform} = await this.embedder()
    const {device} = await this.engine()
    return this.options.batch ?? defaultBatch(config, transform, device)
  }

  /**
   * Computes features of `images`, row by row. Images that cannot be read go to `onRejected` and have no row; `good`
   * holds the numbers of the others. Where they are those of a shard, only its file of the cache is read and written.
   */
  async *describe(
    images: ImageList,
    kind: FeatureKind,
    onRejected: (bad: RejectedImage) => void,
    shard?: Shard
  ): AsyncGenerator<FeatureEvent, DescribedRows> {
    const {memory, cache, signal} = this.options
    const meta = await this.meta(kind)
    const cached = cache === undefined ? undefined : await openFeatureFile(cache, meta, memory / 4, shard)
    const fresh = new MatrixBuilder(meta.dim, memory / 4)
    const freshMeasures: Measures[] = []
    const freshRow = new Map<number, number>()
    const total = images.length
    const cachedRow = new Int32Array(total).fill(-1)
    let done = 0
    const missing = async function* (): AsyncGenerator<ImageRef> {
      for (let i = 0; i < total; i++) {
        const ref = images.at(i)!
        const row = cached?.find(ref)
        if (row !== undefined) {
          cachedRow[i] = row
          done++
        } else yield {...ref, fields: {...ref.fields, [numberKey]: i}}
      }
    }
    const refuse = (image: RejectedImage): void => {
      done++
      onRejected(image)
    }
    for await (const {refs, vectors, measures} of this.#compute(missing(), kind, refuse)) {
      fresh.append(vectors)
      for (const [j, {fields}] of refs.entries()) {
        freshRow.set(fields[numberKey] as number, freshRow.size)
        if (measures) freshMeasures.push(measures[j]!)
      }
      done += refs.length
      yield {kind: 'features', of: kind, done, total, known: cached?.count ?? 0}
      if (signal?.aborted) break
    }
    const freshRows = fresh.finish()
    const builder = new MatrixBuilder(meta.dim, memory / 2)
    const good: number[] = []
    const measures: Measures[] = []
    for (let i = 0; i < total; i++) {
      const isCached = cachedRow[i]! >= 0
      const row = isCached ? cachedRow[i]! : freshRow.get(i)
      if (row === undefined) continue
      good.push(i)
      builder.append((isCached ? cached!.rows : freshRows).gather([row]))
      if (kind === 'perceptual') measures.push(isCached ? cached!.measures(row) : freshMeasures[row]!)
    }
    freshRows.close()
    cached?.close()
    const described = {
      features: {kind, meta, rows: builder.finish()},
      good: Int32Array.from(good),
      measures: kind === 'perceptual' ? measures : undefined
    }
    if (cache !== undefined && (freshRow.size > 0 || shard) && !signal?.aborted)
      await writeFeatureFile(
        cache,
        meta,
        {images, good: described.good, rows: described.features.rows, measures: described.measures},
        shard
      )
    return described
  }

  /** Vectors of images as they come, ready to be compared. */
  async *#compute(
    refs: AsyncIterable<ImageRef>,
    kind: FeatureKind,
    onRejected: (bad: RejectedImage) => void
  ): AsyncGenerator<{refs: readonly ImageRef[]; vectors: Float32Array; measures?: readonly Measures[]}> {
    const {workers, maxPixels, signal} = this.options
    const decoding = {workers, maxPixels, onRejected}
    if (kind === 'perceptual') {
      for await (const {refs: measured, measures, descriptors} of measureImages(refs, decoding))
        yield {refs: measured, vectors: descriptors, measures}
      return
    }
    const embedder = await this.embedder()
    const batch = await this.batch(kind)
    for await (const {ids, vectors, fields} of embed(refs, embedder, {batch, ...decoding, signal}))
      yield {refs: ids.map((id, i) => ({id, path: id, fields: fields[i]!})), vectors: normalizeRows(vectors, embedder.meta.dim)}
  }

  close(): void {
    this.#embedder?.[Symbol.dispose]()
    this.#embedder = undefined
  }
}

/** The field that carries an image's number in its set; no list can hold a field of this name. */
const numberKey = '\0number'
