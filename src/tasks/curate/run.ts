/**
 * Curation: a pool through one or several stages, and its outcome as rows.
 *
 * A row of the input is either kept or rejected, with the stage and the reason; nothing is lost. Rows keep the order
 * of the pool, so the same pool, settings and seed give the same bytes.
 */
import {dirname, isAbsolute, relative, resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {EngineInfo} from '../../engine/start.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {fieldsOf} from '../embed/embedder.js'
import {carried, clusterStage, sampleStage, type ClusterOptions, type SampleStageOptions} from './cluster.js'
import {decontaminateStage, type DecontaminateOptions} from './decontaminate.js'
import {dedupStage, type DedupOptions} from './dedup.js'
import {FeatureMaker, type FeatureKind, type Making} from './features.js'
import {filterStage, type FilterOptions} from './filter.js'
import {materialize, type MaterializeOptions} from './materialize.js'
import type {CurationOutcome, Done, StageReport} from './outcome.js'
import {curationPage} from './page.js'
import {openPool, type Pool, type PoolOptions, type Refused} from './pool.js'
import {parseSeeds, retrieveStage, type RetrieveOptions} from './retrieve.js'
import {stageNames, type Context, type Stage, type StageEvent, type StageName} from './stage.js'

export {parseSeeds}

/**
 * Which features a stage compares; `auto`: those of the model where one is named, else perceptual ones where copies
 * are looked for.
 */
type Compared = {readonly features: FeatureKind | 'auto'}

export type Plan =
  | ({readonly stage: 'filter'} & Compared & FilterOptions)
  | ({readonly stage: 'dedup'} & Compared & DedupOptions)
  | ({readonly stage: 'decontaminate'} & Compared & DecontaminateOptions)
  | ({readonly stage: 'retrieve'} & Compared & RetrieveOptions)
  | ({readonly stage: 'cluster'} & Compared & ClusterOptions)
  | ({readonly stage: 'sample'} & Compared & SampleStageOptions)

export type CurateWork = {
  readonly pool: PoolOptions
  readonly making: Making
  readonly plan: readonly Plan[]
  readonly seed: number
  /** Where the rows go: their paths are written relative to its folder; `-` is stdout. */
  readonly output: string
  readonly write: (text: string) => Promise<void>
  /** Where rejected rows go. */
  readonly rejected?: {readonly output: string; readonly write: (text: string) => Promise<void>}
  readonly page?: {readonly write: (text: string) => Promise<void>; readonly title: string}
  readonly materialize?: MaterializeOptions
  /** Asked when all is decided and nothing is written: too many bad images end the run here. */
  readonly judge: () => Promise<void>
  readonly signal: AbortSignal
}

export type CurateEvent =
  | (StageEvent & {readonly stage: StageName | 'read'})
  | {readonly kind: 'opened'; readonly rows: number}
  | {readonly kind: 'said'; readonly stage: StageName; readonly before: number; readonly after: number; readonly says: readonly string[]}
  | {readonly kind: 'note'; readonly text: string}

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

const copyStages: ReadonlySet<StageName> = new Set(['filter', 'dedup', 'decontaminate'])

/** The features of a stage. Throws `UserError` (exit 2) where only a model could serve and none is named. */
function comparedBy({stage, features}: Plan, {model}: Making): FeatureKind {
  if (features !== 'auto') return features
  if (model !== undefined) return 'model'
  if (copyStages.has(stage)) return 'perceptual'
  throw new UserError(`curate ${stage} compares what pictures show, but no model was named.`, {
    exit: 2,
    code: 'NO_MODEL',
    hint: 'Give --model, or embeddings instead of images; --features perceptual compares pictures as copies of each other only.'
  })
}

/** The kinds of features that the plan needs of a pool of images. */
function kindsOf(plan: readonly Plan[], pool: Pool, making: Making): FeatureKind[] {
  const kinds = new Set<FeatureKind>()
  const first = pool.ref(0).fields
  for (const [i, step] of plan.entries()) {
    if (step.stage === 'sample' && (plan.slice(0, i).some(({stage}) => stage === 'cluster') || carries(pool, step))) continue
    const kind = step.stage === 'filter' && step.seeds.length === 0 ? 'perceptual' : comparedBy(step, making)
    if (step.stage === 'filter' || (step.stage === 'dedup' && typeof first['width'] !== 'number')) kinds.add('perceptual') // for sizes and the rest
    kinds.add(kind)
  }
  return [...kinds].sort().reverse() // perceptual first: it is quicker, and leaves unreadable images out
}

/** Whether the rows of a list carry clusters to sample from. */
const carries = (pool: Pool, {features}: Plan): boolean =>
  features === 'auto' &&
  carried({rows: Int32Array.from({length: pool.count}, (_, i) => i), said: row => pool.ref(row).fields}) !== undefined

function begin(step: Plan, context: Context): Stage {
  switch (step.stage) {
    case 'filter':
      return filterStage(context, step)
    case 'dedup':
      return dedupStage(context, step)
    case 'decontaminate':
      return decontaminateStage(context, step)
    case 'retrieve':
      return retrieveStage(context, step)
    case 'cluster':
      return clusterStage(context, step)
    case 'sample':
      return sampleStage(context, step)
  }
}

/** Runs the stages and writes the outcome; yields how far it is. Throws what pool, model and stages throw. */
export async function* curate(work: CurateWork): AsyncGenerator<CurateEvent, CurateReport> {
  const {plan, making, seed, signal} = work
  const maker = new FeatureMaker(making)
  let pool: Pool | undefined
  try {
    pool = await openPool(work.pool, maker)
    yield {kind: 'opened', rows: pool.inputs}
    if (pool.images) for await (const event of pool.prepare(kindsOf(plan, pool, making))) yield {...event, stage: 'read'}
    signal.throwIfAborted()
    const stages: Done[] = []
    let rows = Int32Array.from({length: pool.count}, (_, i) => i)
    const place: Int32Array[] = [] // of each row in each stage
    const outcome: CurationOutcome = {
      pool,
      stages,
      get kept() {
        return rows
      },
      said(row) {
        const fields: Record<string, unknown> = {}
        for (const [s, {stage, verdict}] of stages.entries()) {
          const i = place[s]![row]!
          if (i < 0) break
          Object.assign(fields, verdict.note(i))
          if (!verdict.kept[i]) return {stage, ...fields}
        }
        return fields
      }
    }
    for (const step of plan) {
      const {stage} = step
      const begun = performance.now()
      const context: Context = {
        pool,
        rows,
        maker,
        seed,
        features:
          pool.images && !(stage === 'sample' && step.features === 'auto' && making.model === undefined)
            ? comparedBy(step, making)
            : undefined,
        said: row => ({...pool!.ref(row).fields, ...outcome.said(row)}),
        signal,
        stdin: work.pool.stdin,
        nul: work.pool.nul,
        onRejected: work.pool.onRejected,
        onSkipped: work.pool.onSkipped
      }
      const events = begin(step, context)
      let next = await events.next()
      for (; !next.done; next = await events.next()) yield {...next.value, stage}
      signal.throwIfAborted()
      const verdict = next.value
      const after = rows.filter((_, i) => verdict.kept[i])
      const report: StageReport = {
        stage,
        before: rows.length,
        after: after.length,
        seconds: Number(((performance.now() - begun) / 1000).toPrecision(3)),
        ...verdict.report
      }
      const where = new Int32Array(pool.count).fill(-1)
      for (const [i, row] of rows.entries()) where[row] = i
      place.push(where)
      stages.push({stage, rows, verdict, report})
      rows = after
      yield {kind: 'said', stage, before: report.before, after: report.after, says: verdict.says}
    }
    await work.judge()
    await write(work, outcome)
    const made = work.materialize ? await materialize(outcome, work.materialize, signal) : undefined
    if (made && made.missing > 0)
      yield {kind: 'note', text: `${made.missing} kept images could not be opened for ${work.materialize!.folder}`}
    if (work.page) await work.page.write(await curationPage(outcome, work.page.title))
    const unreadable = pool.refused.filter(({bad}) => bad).length
    return {
      pool: pool.inputs,
      kept: rows.length,
      rejected: pool.inputs - rows.length,
      unreadable,
      repeated: pool.refused.length - unreadable,
      stages: stages.map(({report}) => report),
      materialized: made,
      finished: true,
      engine: maker.engineInfo
    }
  } finally {
    pool?.close()
    maker.close()
  }
}

async function write(work: CurateWork, outcome: CurationOutcome): Promise<void> {
  const {pool, kept} = outcome
  const stays = new Uint8Array(pool.count)
  for (const row of kept) stays[row] = 1
  const [good, bad] = [new Lines(work.write), work.rejected && new Lines(work.rejected.write)]
  const places = [placing(work.output), placing(work.rejected?.output ?? '-')] as const
  for (let row = 0; row < pool.count; row++) {
    if (row % 1024 === 0) work.signal.throwIfAborted()
    if (stays[row]) await good.add(rowOf(pool.ref(row), outcome.said(row), places[0]))
    else if (bad) await bad.add(rowOf(pool.ref(row), outcome.said(row), places[1]))
  }
  if (bad) for (const {ref, stage, reason} of pool.refused) await bad.add(rowOf(ref, {stage, reason}, places[1]))
  await good.end()
  await bad?.end()
}

/** Lines in large pieces: no wait for each. */
class Lines {
  #text = ''
  constructor(readonly write: (text: string) => Promise<void>) {}
  async add(row: object): Promise<void> {
    this.#text += JSON.stringify(row) + '\n'
    if (this.#text.length > 1 << 16) await this.end()
  }
  async end(): Promise<void> {
    if (this.#text === '') return
    await this.write(this.#text)
    this.#text = ''
  }
}

/**
 * How files are named in a list: relative to its folder, so that it can be read where it lies; absolute names stay
 * where they were given so.
 */
type Place = {image(ref: ImageRef): string; beside(name: string, base: string): string}

function placing(output: string): Place {
  const folder = output === '-' || output.startsWith('/dev/') ? resolve('') : dirname(resolve(output))
  return {
    image({id, path}) {
      const name = typeof path === 'string' ? path : id
      if (name === '' || (isAbsolute(name) && isAbsolute(id))) return name
      return relative(folder, resolve(name)) || name
    },
    beside: (name, base) => (isAbsolute(name) ? name : relative(folder, resolve(base, name)))
  }
}

/** Fields that name a file beside the image. */
const files = ['depth', 'mask'] as const

/** One row of a list: what was known, then what the stages say. */
export function rowOf(ref: ImageRef, said: Fields, place: Place): object {
  const {path: _, path_base64: __, ...fields} = fieldsOf(ref)
  const moved: Record<string, string> = {}
  for (const name of files) {
    const value = fields[name]
    if (typeof value === 'string' && ref.base !== undefined) moved[name] = place.beside(value, ref.base)
  }
  return {
    id: ref.id,
    path: place.image(ref),
    ...(typeof ref.path === 'string' ? {} : {path_base64: Buffer.from(ref.path).toString('base64')}),
    ...(ref.range ? {range: [ref.range.offset, ref.range.size]} : {}),
    ...withoutSaid(fields),
    ...moved,
    ...said
  }
}

/** What an earlier run said of itself is not carried on: the reason that is written is that of this run. */
const withoutSaid = ({stage: _, reason: __, twin: ___, ...fields}: Fields): Fields => fields

export type {Refused}
export {stageNames}
