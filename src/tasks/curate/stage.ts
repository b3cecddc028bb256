/** What the stages of curation have in common: what they work on, and the verdict that each returns. */
import {counted} from '../../config/counted.js'
import type {Readable} from 'node:stream'
import {engineArithmetic, plainArithmetic, type Arithmetic} from '../../curate/matmul-backend.js'
import {selectRows, type RowSource} from '../../curate/rows.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {SourceNote} from '../../data/sources/source.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import type {FeatureEvent, FeatureKind, FeatureMaker, PoolFeatures} from './features.js'
import type {Pool} from './pool.js'

export type StageName = 'filter' | 'dedup' | 'decontaminate' | 'outliers' | 'mislabelled' | 'retrieve' | 'cluster' | 'sample'

/** What a stage works on. */
export type Context = {
  readonly pool: Pool
  /** Rows of the pool that are still in. */
  readonly rows: Int32Array
  readonly maker: FeatureMaker
  readonly seed: number
  /** Which features it compares; undefined where the pool came as embeddings. */
  readonly features: FeatureKind | undefined
  readonly stdin?: Readable
  readonly nul?: boolean
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
  /** The fields of a row of the pool, with those that earlier stages gave it. */
  readonly fields: (row: number) => Fields
}

/** What a stage decides on its rows; position i is row `rows[i]` of the pool. */
export type Verdict = {
  /** 1 for rows that stay. */
  readonly kept: Uint8Array
  /** Fields that the row carries from now on, `reason` among them. */
  fields(i: number): Fields
  /** Figures for the report. */
  readonly report: Readonly<Record<string, unknown>>
  /** Sentences for stderr and the page. */
  readonly summary: readonly string[]
  /** Groups of rows that are worth seeing: positions. */
  readonly groups?: readonly {readonly title: string; readonly members: readonly number[]; readonly size: number}[]
}

export type StageEvent = FeatureEvent | {readonly kind: 'work'; readonly label: string; readonly done: number; readonly total: number}

export type Stage = AsyncGenerator<StageEvent, Verdict>

/** The rows of a stage with their vectors. */
export function vectorsOf({pool, rows, features}: Context): {features: PoolFeatures; source: RowSource} {
  const found = pool.features(features)
  return {features: found, source: rows.length === found.source.count ? found.source : selectRows(found.source, rows)}
}

/** Multiplications from which an engine saves more time than its start takes: about a second of plain loops. */
const engineWork = 1e9

/** The engine where there is enough to do, else plain loops. */
export async function arithmeticFor(multiplications: number, maker: FeatureMaker): Promise<Arithmetic> {
  if (maker.engineInfo === undefined && multiplications < engineWork) return plainArithmetic
  await maker.engine()
  return engineArithmetic
}

/** Lets the event loop run, so that signals and progress are handled between parts of long work. */
const nextTick = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** Runs work that holds the thread part by part, and reports after each how far it is. */
export async function* runInParts<E, R>(
  work: Generator<E, R>,
  toEvent: (event: E) => StageEvent,
  signal?: AbortSignal
): AsyncGenerator<StageEvent, R> {
  for (;;) {
    const {done, value} = work.next()
    if (done) return value
    yield toEvent(value)
    await nextTick()
    signal?.throwIfAborted()
  }
}

/** Six digits: as many as float32 vectors carry. */
export const roundedScore = (x: number): number => Number(x.toPrecision(6))

/** As `counted`, with commas between thousands. */
export const plural = (n: number, one: string, many?: string): string => counted(n, one, many, n.toLocaleString('en'))
