/** What became of a pool: the stages it went through, and what they say of each row. */
import type {Fields} from '../../files/embeddings/embeddings.js'
import type {Pool} from './pool.js'
import type {StageName, Verdict} from './stage.js'

export type StageReport = {readonly stage: StageName; readonly before: number; readonly after: number; readonly seconds: number} & Readonly<
  Record<string, unknown>
>

/** A stage that is over: the rows that it was given, and what it said. */
export type Done = {readonly stage: StageName; readonly rows: Int32Array; readonly verdict: Verdict; readonly report: StageReport}

/** What became of the pool. */
export type CurationOutcome = {
  readonly pool: Pool
  readonly stages: readonly Done[]
  /** Rows that are kept, in order. */
  readonly kept: Int32Array
  /** All that stages said of a row, later ones over earlier ones; `stage` where it was rejected. */
  said(row: number): Fields
}
