/**
 * The pool that is curated: its images, their features, and the rows that cannot take part.
 *
 * It is made of images (folders, lists, shards), whose features are computed when they are needed, or of embeddings,
 * each row of which is an image. Every row of the input is either in the pool or in `refused` with a reason: the image
 * cannot be read, or its id was there before.
 */
import type {Readable} from 'node:stream'
import type {RowSource} from '../../curate/rows.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {Measures} from '../../data/loader/measure-images.js'
import type {ImageRef, SourceNote} from '../../data/sources/source.js'
import type {FeatureEvent, FeatureKind, PoolFeatures} from './features.js'

/** A row of the input that is not in the pool, and why. */
export type RefusedRow = {
  readonly ref: ImageRef
  readonly stage: 'read'
  readonly reason: string
  /** Whether the image cannot be read; otherwise its id is repeated. */
  readonly unreadable: boolean
}

export type PoolOptions = {
  readonly inputs: readonly string[]
  readonly stdin?: Readable
  readonly nul?: boolean
  /** A list: rows with other ids do not take part; its fields are added to theirs. */
  readonly only?: string
  /** A list of what an earlier run kept: these rows stay in every stage that removes similar images. */
  readonly since?: string
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

/** The features of a pool, with one vector for each row that is still in it. */
export type PoolVectors = PoolFeatures & {readonly source: RowSource}

export type Pool = {
  readonly name: string
  readonly count: number
  /** Rows of the input, those refused included. */
  readonly inputs: number
  ref(row: number): ImageRef
  readonly refused: readonly RefusedRow[]
  /** 1 for rows that an earlier run kept. */
  readonly fixed: Uint8Array | undefined
  /** Whether its images can be opened; otherwise there are only vectors. */
  readonly images: boolean
  /**
   * Computes vectors of these kinds, one a row. Images that cannot be read are refused and the rows numbered anew, so
   * call it for all kinds before any stage runs.
   */
  prepare(kinds: readonly FeatureKind[]): AsyncGenerator<FeatureEvent>
  features(kind: FeatureKind | undefined): PoolVectors
  /** Measures of the rows; undefined where they are not known. */
  readonly measures: readonly Measures[] | undefined
  close(): void
}
