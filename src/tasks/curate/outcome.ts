/** The result of curation: the stages that ran, and what they decided on each row. */
import type {Fields} from '../../files/embeddings/embeddings.js'
import type {Pool} from './pool.js'
import type {StageName, Verdict} from './stage.js'

export type StageReport = {readonly stage: StageName; readonly before: number; readonly after: number; readonly seconds: number} & Readonly<
  Record<string, unknown>
>

/** A stage that has ended: the rows that it worked on, and its verdict. */
export type FinishedStage = {readonly stage: StageName; readonly rows: Int32Array; readonly verdict: Verdict; readonly report: StageReport}

export type CurationOutcome = {
  readonly pool: Pool
  readonly stages: readonly FinishedStage[]
  /** Rows that are kept, in order. */
  readonly kept: Int32Array
  /** The fields that stages gave a row, later ones over earlier ones; `stage` where one rejected it. */
  readonly stageFields: (row: number) => Fields
}
