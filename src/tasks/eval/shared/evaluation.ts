/**
 * What all evaluations have in common: the events they yield, the report they return, and how it is shown.
 *
 * An evaluation scores candidates (the model, raw pixels, an untrained model, the simplest answer) on sets of items.
 * `compare.ts` turns the scores of items into estimates with intervals and into paired differences; `tables.ts` turns
 * both into tables. A command hands the options over, shows the events, and writes what comes back.
 */
import type {EngineInfo} from '../../../engine/start.js'
import type {Interval} from '../../../metrics/intervals.js'
import type {ThumbnailOptions} from './thumbnails.js'

/** Where an evaluation is. */
export type EvalEvent =
  | {readonly kind: 'started'; readonly engine: EngineInfo}
  | {readonly kind: 'note'; readonly text: string}
  | EvalProgress
  /** So many inputs were accepted since the last event of this kind; `pending` ones are still to be read. */
  | {readonly kind: 'accepted'; readonly images: number; readonly pending?: number}

export type EvalProgress = {
  readonly kind: 'progress'
  readonly stage: 'reading' | 'features' | 'training' | 'scoring'
  /** The candidate it is about. */
  readonly features: string
  readonly set?: string
  readonly done: number
  /** Absent where it is not known beforehand. */
  readonly total?: number
  readonly loss?: number
}

/** What tells several scores of one candidate on one set apart, e.g. `{k: 10}` or `{alignment: 'median'}`. */
export type Variant = Readonly<Record<string, string | number | null>>

/** One candidate on one set. The figures stand beside these fields, each under its measure's name. */
export type EvalScore = {
  /** The candidate: `model` or the name of one of several models, or a baseline. */
  readonly features: string
  readonly set: string
  /** Items that were scored. */
  readonly images: number
  /** 95 % bootstrap intervals, by measure. */
  readonly intervals: Readonly<Record<string, Interval>>
}

/** How far a candidate is from another on the same items: its figure minus the other's. */
export type EvalDifference = {
  readonly features: string
  readonly over: string
  readonly set: string
  readonly measure: string
  readonly better: 'higher' | 'lower'
  readonly mean: number
  /** 95 % bootstrap interval of the paired difference. */
  readonly interval: Interval
  /** Whether the interval leaves out zero and there are enough items to say so. */
  readonly significant: boolean
}

/** The fields that every report has. */
export type EvalReport<S extends EvalScore = EvalScore, D extends EvalDifference = EvalDifference> = {
  readonly task: 'knn' | 'linear' | 'retrieval' | 'depth' | 'segmentation'
  readonly fingerprint: string | null
  readonly scores: readonly S[]
  readonly differences: readonly D[]
  readonly notes: readonly string[]
}

/** A table for terminal and page alike. */
export type Table = {
  readonly title: string
  readonly note?: string
  readonly columns: readonly TableColumn[]
  readonly rows: readonly (readonly string[])[]
}
export type TableColumn = {readonly name: string; readonly align: 'left' | 'right'}

/** The report for people: what was done in one sentence, then tables. */
export type Summary = {readonly heading: string; readonly tables: readonly Table[]}

/** What became of one item: a row of `--predictions`. */
export type ItemRow = {readonly id: string; readonly set: string; readonly features: string} & Readonly<Record<string, unknown>>

/** A page, and how many images it could not show. */
export type EvalPageText = {readonly content: string; readonly missing: number}

export type EvalResult<R extends EvalReport = EvalReport> = {
  readonly report: R
  readonly summary: Summary
  readonly items: () => Iterable<ItemRow>
  readonly page: (options: ThumbnailOptions) => Promise<EvalPageText>
}
