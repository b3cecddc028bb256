/**
 * Curation: a pool through one or several stages, and its outcome as rows.
 *
 * Each row of the input is either kept or rejected, with the stage and the reason. Rows keep the order of the pool, so
 * the same pool, settings and seed give the same bytes.
 */
import {counted} from '../../config/counted.js'
import type {EngineInfo} from '../../engine/start.js'
import type {FeatureStepOptions} from './feature-shard.js'
import {FeatureMaker} from './features.js'
import {materialize, type MaterializeOptions} from './materialize.js'
import {openPool} from './open-pool.js'
import type {CurationOutcome, FinishedStage, StageReport} from './outcome.js'
import {curationPage} from './page.js'
import {neededFeatures, runStage, stageFeatures, type PlannedStage} from './plan.js'
import type {Pool} from './pool.js'
import {parseSeeds} from './retrieve.js'
import type {StageEvent, StageName} from './stage.js'
import {writeRows, type RowOutput} from './write-rows.js'

export {curateShard} from './feature-shard.js'
export {parseSeeds}

export type CurateOptions = FeatureStepOptions & {
  readonly seed: number
  readonly kept: RowOutput
  /** Where rejected rows go; undefined: they are not written. */
  readonly rejected?: RowOutput
  readonly page?: {readonly write: (text: string) => Promise<void>; readonly title: string}
  readonly materialize?: MaterializeOptions
}

export type CurateEvent =
  | (StageEvent & {readonly stage: StageName | 'read'})
  | {readonly kind: 'opened'; readonly rows: number}
  | {
      readonly kind: 'finished'
      readonly stage: StageName
      readonly before: number
      readonly after: number
      readonly summary: readonly string[]
    }
  | {readonly kind: 'warning'; readonly text: string}

export type CurateReport = {
  readonly pool: number
  readonly kept: number
  readonly rejected: number
  readonly unreadable: number
  readonly repeated: number
  readonly stages: readonly StageReport[]
  readonly materialized?: object
  readonly finished: boolean
  readonly engine?: EngineInfo
}

/** The stages that have run on a pool, and the rows that are left. */
class StageRuns implements CurationOutcome {
  readonly pool: Pool
  readonly stages: FinishedStage[] = []
  kept: Int32Array
  /** The position of each row of the pool in each stage; -1 where it was not there any more. */
  readonly #positions: Int32Array[] = []

  constructor(pool: Pool) {
    this.pool = pool
    this.kept = Int32Array.from({length: pool.count}, (_, i) => i)
  }

  readonly stageFields: CurationOutcome['stageFields'] = row => {
    const fields: Record<string, unknown> = {}
    for (const [s, {stage, verdict}] of this.stages.entries()) {
      const i = this.#positions[s]![row]!
      if (i < 0) break
      Object.assign(fields, verdict.fields(i))
      if (!verdict.kept[i]) return {stage, ...fields}
    }
    return fields
  }

  /** Runs one stage on the rows that are left. */
  async *run(planned: PlannedStage, maker: FeatureMaker, options: CurateOptions): AsyncGenerator<CurateEvent, void> {
    const {stage} = planned
    const {pool, kept: rows} = this
    const {seed, signal} = options
    const {stdin, nul, onRejected, onSkipped} = options.pool
    const start = performance.now()
    const events = runStage(planned, {
      pool,
      rows,
      maker,
      seed,
      features: stageFeatures(planned, pool, options.features),
      fields: row => ({...pool.ref(row).fields, ...this.stageFields(row)}),
      signal,
      stdin,
      nul,
      onRejected,
      onSkipped
    })
    let next = await events.next()
    for (; !next.done; next = await events.next()) yield {...next.value, stage}
    signal.throwIfAborted()
    const verdict = next.value
    const after = rows.filter((_, i) => verdict.kept[i])
    const seconds = Number(((performance.now() - start) / 1000).toPrecision(3))
    const report: StageReport = {stage, before: rows.length, after: after.length, seconds, ...verdict.report}
    const positions = new Int32Array(pool.count).fill(-1)
    for (const [i, row] of rows.entries()) positions[row] = i
    this.#positions.push(positions)
    this.stages.push({stage, rows, verdict, report})
    this.kept = after
    yield {kind: 'finished', stage, before: report.before, after: report.after, summary: verdict.summary}
  }
}

/** Runs the stages and writes the outcome; yields how far it is. Throws what pool, model and stages throw. */
export async function* curate(options: CurateOptions): AsyncGenerator<CurateEvent, CurateReport> {
  const {plan, signal} = options
  const maker = new FeatureMaker(options.features)
  let pool: Pool | undefined
  try {
    pool = await openPool(options.pool, maker)
    yield {kind: 'opened', rows: pool.inputs}
    if (pool.images) for await (const event of pool.prepare(neededFeatures(plan, pool, options.features))) yield {...event, stage: 'read'}
    signal.throwIfAborted()
    const runs = new StageRuns(pool)
    for (const planned of plan) yield* runs.run(planned, maker, options)
    await options.checkRejected()
    const piped = runs.kept.filter(row => pool!.ref(row).copy && String(pool!.ref(row).path).startsWith('stdin/')).length
    if (piped > 0)
      yield {
        kind: 'warning',
        text: `${counted(piped, 'kept row comes', 'kept rows come')} out of a tar on stdin, which cannot be opened again, so the list only names them${options.materialize ? '' : '; --materialize copy --to FOLDER writes the images'}`
      }
    await writeRows(runs, options.kept, options.rejected, signal)
    const materialized = options.materialize && (await materialize(runs, options.materialize, signal))
    if (materialized && materialized.missing > 0)
      yield {kind: 'warning', text: `${materialized.missing} kept images could not be opened for ${materialized.folder}`}
    if (options.page) await options.page.write(await curationPage(runs, options.page.title))
    return reportOf(runs, materialized, maker)
  } finally {
    pool?.close()
    maker.close()
  }
}

function reportOf({pool, kept, stages}: CurationOutcome, materialized: object | undefined, maker: FeatureMaker): CurateReport {
  const unreadable = pool.refused.filter(row => row.unreadable).length
  return {
    pool: pool.inputs,
    kept: kept.length,
    rejected: pool.inputs - kept.length,
    unreadable,
    repeated: pool.refused.length - unreadable,
    stages: stages.map(({report}) => report),
    materialized,
    finished: true,
    engine: maker.engineInfo
  }
}
