/**
 * The features by which a pool is curated: vectors that were made before, or made here from images, by a model or
 * without one.
 *
 * Perceptual features (`data/measures.ts`) know copies and nothing of what a picture shows; they are compared as they
 * are. All others are brought to length 1. A folder named as cache keeps what was computed, one file of embeddings a
 * kind, and is asked first: an image counts as the same while its id and its length in bytes are.
 */
import {mkdir, stat} from 'node:fs/promises'
import {statSync} from 'node:fs'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {RejectedImage} from '../../data/loader/batches.js'
import {measureImages, perceptualDim, perceptualThreshold, type Measures} from '../../data/loader/measure-images.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {ImageList} from '../../data/sources/image-table.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../engine/start.js'
import {
  createEmbeddings,
  provenanceDifferences,
  openEmbeddings,
  type EmbeddingBatch,
  type EmbeddingMeta,
  type Fields
} from '../../files/embeddings/embeddings.js'
import {MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {normalizeRows} from '../../search/exact.js'
import {embed, loadEmbedder, defaultBatch, type Embedder, type FeatureSettings} from '../embed/embedder.js'

export type FeatureKind = 'perceptual' | 'model'

/** Vectors of a set of images, row by row. */
export type PoolFeatures = {
  readonly kind: FeatureKind | 'given'
  readonly meta: EmbeddingMeta
  readonly rows: MatrixRows
}

/** How features are made. */
export type Making = {
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

const perceptualName = 'perceptual-dct-1'

/** The record of perceptual features. */
const perceptualMeta = (toolVersion: string): EmbeddingMeta => ({
  fingerprint: perceptualName,
  architecture: 'no model: low frequencies of the grey picture',
  preprocessing: {grey: 32, frequencies: 16},
  pooling: null,
  layers: null,
  normalized: false,
  dim: perceptualDim,
  toolVersion
})

export const isPerceptual = ({fingerprint}: EmbeddingMeta): boolean => fingerprint === perceptualName

/**
 * Inner product above which two vectors mean copies, where nobody says: measured for perceptual features; for models a
 * guess to be calibrated.
 */
export const defaultThreshold = (meta: EmbeddingMeta): number => (isPerceptual(meta) ? perceptualThreshold : 0.95)

/** Brings vectors to length 1, unless their length means something. */
export const comparable = (vectors: Float32Array, meta: EmbeddingMeta): Float32Array =>
  isPerceptual(meta) ? vectors : normalizeRows(vectors, meta.dim)

const measureNames = ['width', 'height', 'contrast', 'entropy', 'sharpness', 'noise', 'hash'] as const

/** Measures out of the fields of a row, where all are there. */
export function measuresOf(fields: Fields): Measures | undefined {
  for (const name of measureNames) if (typeof fields[name] !== (name === 'hash' ? 'string' : 'number')) return undefined
  return Object.fromEntries(measureNames.map(name => [name, fields[name]])) as unknown as Measures
}

/** Length of an image in bytes; -1 where its file is gone. */
export const byteLengthOf = ({path, range}: ImageRef): number => {
  try {
    return range?.size ?? statSync(path).size
  } catch {
    return -1
  }
}

/** One engine and one model for all sets of a run; `close` lets go of the model. */
export class FeatureMaker {
  readonly making: Making
  #embedder: Embedder | undefined
  #engine: EngineInfo | undefined

  constructor(making: Making) {
    this.making = making
  }

  /** Starts the engine where it is not running. */
  async engine(): Promise<EngineInfo> {
    return (this.#engine ??= await startEngine(this.making.engine))
  }

  get engineInfo(): EngineInfo | undefined {
    return this.#engine
  }

  /** The model, loaded at first use. Throws `UserError` (exit 2) where none was named. */
  async embedder(): Promise<Embedder> {
    if (this.#embedder) return this.#embedder
    const {model, vectors, toolVersion} = this.making
    if (model === undefined)
      throw new UserError('Features of a model are asked for, but no model was named.', {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model, or --features perceptual where copies are looked for.'
      })
    const {precision} = await this.engine()
    return (this.#embedder = await loadEmbedder(model, {...vectors, precision, toolVersion, note: this.making.engine.note}))
  }

  async meta(kind: FeatureKind): Promise<EmbeddingMeta> {
    return kind === 'perceptual' ? perceptualMeta(this.making.toolVersion) : (await this.embedder()).meta
  }

  /**
   * Features of `images`, row by row; those that cannot be read are told to `onRejected` and left out: `good` are the
   * numbers of the others. `measures` are there for perceptual features alone.
   */
  async *describe(
    images: ImageList,
    kind: FeatureKind,
    onRejected: (bad: RejectedImage) => void
  ): AsyncGenerator<FeatureEvent, {readonly features: PoolFeatures; readonly good: Int32Array; readonly measures: Measures[] | undefined}> {
    const {memory, cache, signal} = this.making
    const meta = await this.meta(kind)
    const known = cache === undefined ? undefined : await openCache(cache, meta, memory / 4)
    const fresh = new MatrixBuilder(meta.dim, memory / 4)
    const freshOf = new Map<number, number>()
    const measured: Measures[] = []
    const total = images.length
    let done = 0
    const old = new Int32Array(total).fill(-1)
    const missing = async function* (): AsyncGenerator<ImageRef> {
      for (let i = 0; i < total; i++) {
        const ref = images.at(i)!
        const row = known?.find(ref)
        if (row !== undefined) {
          old[i] = row
          done++
        } else yield {...ref, fields: {...ref.fields, [numberKey]: i}}
      }
    }
    const bad = new Set<string>()
    const refused = (image: RejectedImage): void => {
      done++
      bad.add(image.id)
      onRejected(image)
    }
    for await (const {refs, vectors, measures} of this.#compute(missing(), kind, refused)) {
      fresh.append(vectors)
      for (const [j, {fields}] of refs.entries()) {
        freshOf.set(fields[numberKey] as number, freshOf.size)
        if (measures) measured.push(measures[j]!)
      }
      done += refs.length
      yield {kind: 'features', of: kind, done, total, known: known?.count ?? 0}
      if (signal?.aborted) break
    }
    const made = fresh.finish()
    const builder = new MatrixBuilder(meta.dim, memory / 2)
    const good: number[] = []
    const all: Measures[] = []
    for (let i = 0; i < total; i++) {
      const row = old[i]! >= 0 ? old[i]! : freshOf.get(i)
      if (row === undefined) continue
      good.push(i)
      builder.append(old[i]! >= 0 ? known!.rows.gather([row]) : made.gather([row]))
      if (kind === 'perceptual') all.push(old[i]! >= 0 ? known!.measures(row) : measured[row]!)
    }
    made.close()
    known?.close()
    const rows = builder.finish()
    const numbers = Int32Array.from(good)
    if (cache !== undefined && freshOf.size > 0 && !signal?.aborted)
      await writeCache(cache, meta, images, numbers, rows, kind === 'perceptual' ? all : undefined)
    return {features: {kind, meta, rows}, good: numbers, measures: kind === 'perceptual' ? all : undefined}
  }

  /** Vectors of images as they come, ready to be compared. */
  async *#compute(
    refs: AsyncIterable<ImageRef>,
    kind: FeatureKind,
    onRejected: (bad: RejectedImage) => void
  ): AsyncGenerator<{refs: readonly ImageRef[]; vectors: Float32Array; measures?: readonly Measures[]}> {
    const {workers, maxPixels, signal} = this.making
    const decoding = {...(workers === undefined ? {} : {workers}), ...(maxPixels === undefined ? {} : {maxPixels}), onRejected}
    if (kind === 'perceptual') {
      for await (const {refs: some, measures, descriptors} of measureImages(refs, decoding))
        yield {refs: some, vectors: descriptors, measures}
      return
    }
    const embedder = await this.embedder()
    const {device} = await this.engine()
    const batch = this.making.batch ?? defaultBatch(embedder.config, embedder.transform, device)
    for await (const {ids, vectors, fields} of embed(refs, embedder, {batch, ...decoding, signal}))
      yield {refs: ids.map((id, i) => ({id, path: id, fields: fields[i]!})), vectors: normalizeRows(vectors, embedder.meta.dim)}
  }

  close(): void {
    this.#embedder?.[Symbol.dispose]()
    this.#embedder = undefined
  }
}

/** An image's number in its set travels with it under this name, which no list can hold. */
const numberKey = '\0number'

const cacheFile = (folder: string, {fingerprint}: EmbeddingMeta): string =>
  join(folder, `${fingerprint === perceptualName ? 'perceptual' : (fingerprint ?? 'unknown').slice(0, 16)}.arrow`)

type Cache = {
  readonly rows: MatrixRows
  readonly count: number
  find(ref: ImageRef): number | undefined
  measures(row: number): Measures
  close(): void
}

/**
 * Opens what was kept; undefined where there is nothing. Throws `UserError` (exit 2) where the file was made in
 * another way.
 */
async function openCache(folder: string, meta: EmbeddingMeta, budget: number): Promise<Cache | undefined> {
  const path = cacheFile(folder, meta)
  if (!(await stat(path).catch(() => undefined))) return undefined
  const source = await openEmbeddings(path)
  const parts = provenanceDifferences(source.meta, {...meta, normalized: meta.fingerprint !== perceptualName}, {ignoreLength: true})
  if (parts.length > 0) {
    await source.close()
    throw new UserError(`${path} keeps features that were made in another way (${parts.join(', ')}).`, {
      exit: 2,
      code: 'CACHE_DIFFERS',
      hint: 'Name another folder with --cache, or remove that file.'
    })
  }
  const builder = new MatrixBuilder(meta.dim, budget)
  const rowOf = new Map<string, {row: number; bytes: number}>()
  const measures: (Measures | undefined)[] = []
  for await (const {ids, vectors, fields} of source.rows) {
    for (const [i, id] of ids.entries()) {
      rowOf.set(id, {row: builder.count + i, bytes: Number(fields[i]!['bytes'])})
      if (meta.fingerprint === perceptualName) measures.push(measuresOf(fields[i]!))
    }
    builder.append(vectors)
  }
  const rows = builder.finish()
  return {
    rows,
    count: rows.count,
    find(ref) {
      const found = rowOf.get(ref.id)
      if (!found || (meta.fingerprint === perceptualName && !measures[found.row])) return undefined
      return found.bytes === byteLengthOf(ref) ? found.row : undefined
    },
    measures: row => measures[row]!,
    close: () => rows.close()
  }
}

async function writeCache(
  folder: string,
  meta: EmbeddingMeta,
  images: ImageList,
  good: Int32Array,
  rows: MatrixRows,
  measures: readonly Measures[] | undefined
): Promise<void> {
  await mkdir(folder, {recursive: true})
  const output = await createEmbeddings(cacheFile(folder, meta), {
    meta: {...meta, normalized: meta.fingerprint !== perceptualName},
    force: true
  })
  for (let at = 0; at < good.length; at += 256) {
    const some = good.subarray(at, at + 256)
    const refs = Array.from(some, i => images.at(i)!)
    const batch: EmbeddingBatch = {
      ids: refs.map(({id}) => id),
      vectors: Float32Array.from(rows.block(at, some.length)),
      fields: refs.map((ref, i) => ({bytes: byteLengthOf(ref), ...measures?.[at + i]}))
    }
    await output.write(batch)
  }
  await output.commit()
}
