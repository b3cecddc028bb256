/**
 * The candidates of an evaluation of vectors: the model, the same architecture untrained, raw pixels and a histogram
 * of colours, each with the rows of every set; or the rows of files of embeddings, which stand for the model.
 */
import {startEngineFor} from '../../embed/load-backbone.js'
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import type {ImageRef, SourceNote} from '../../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import {assertSameProvenance, type EmbeddingMeta} from '../../../files/embeddings/embeddings.js'
import {loadEmbedder, type FeatureSettings} from '../../embed/embedder.js'
import type {EvalEvent} from './evaluation.js'
import {
  baselineRows,
  embeddingRows,
  gatherRows,
  modelRows,
  repeatableRefs,
  untrainedEmbedder,
  type Baseline,
  type LabelledSet,
  type PixelBaseline,
  type RowOptions,
  type Rows
} from './labelled-features.js'

/** A set as it was named. */
export type NamedInputs = {readonly name: string; readonly inputs: readonly string[]}

/** One candidate: its rows of every set, in the order of the sets. */
export type GatheredCandidate = {readonly features: string; readonly sets: readonly LabelledSet[]}

export type CandidateOptions = RowOptions & {
  readonly model?: string | undefined
  readonly baselines: readonly Baseline[]
  readonly features: FeatureSettings
  readonly seed: number
  readonly engine: EngineRequest
  readonly onRejected?: ((image: RejectedImage) => void) | undefined
  readonly onSkipped?: ((note: SourceNote) => void) | undefined
  /** Replaces the labels of rows, e.g. by groups. */
  readonly relabel?: ((rows: Rows) => Rows) | undefined
}

export type GatheredCandidates = {
  readonly candidates: readonly GatheredCandidate[]
  readonly fingerprint: string | null
  /** Whether the engine was started. */
  readonly started: boolean
}

/** Refuses the baseline that needs a model where none was named. */
export function assertModelFor(baselines: readonly string[], model: string | undefined): void {
  if (model === undefined && baselines.includes('untrained'))
    throw new UserError('The untrained baseline has the architecture of a model, but no model was named.', {
      exit: 2,
      code: 'NO_MODEL',
      hint: 'Give --model, or leave the baseline out.'
    })
}

/** Inputs of several passes: rejected images are reported in the first one only. */
export type RepeatedSets = {
  readonly names: readonly NamedInputs[]
  readonly refs: readonly (() => AsyncIterable<ImageRef>)[]
  readonly onRejected: (image: RejectedImage) => void
  /** Called after the first pass. */
  readonly reported: () => void
}

export function repeatedSets(
  names: readonly NamedInputs[],
  options: RowOptions & Pick<CandidateOptions, 'onRejected' | 'onSkipped'>
): RepeatedSets {
  let silent = false
  return {
    names,
    refs: names.map(({inputs}) => repeatableRefs(inputs, options, options.onSkipped)),
    onRejected: image => (silent ? undefined : options.onRejected?.(image)),
    reported: () => void (silent = true)
  }
}

/** The rows of one candidate for sets in their order; yields how far it is. */
export async function* gatherSets(
  features: string,
  sets: RepeatedSets,
  rowsOf: (refs: AsyncIterable<ImageRef>) => Rows,
  {signal, relabel = rows => rows}: Pick<CandidateOptions, 'signal' | 'relabel'> = {}
): AsyncGenerator<EvalEvent, LabelledSet[]> {
  const gathered: LabelledSet[] = []
  for (const [i, {name, inputs}] of sets.names.entries())
    gathered.push(yield* withProgress(features, name, gatherRows(relabel(rowsOf(sets.refs[i]!())), inputs, {signal})))
  return gathered
}

async function* withProgress(
  features: string,
  set: string,
  counts: AsyncGenerator<number, LabelledSet>
): AsyncGenerator<EvalEvent, LabelledSet> {
  let next = await counts.next()
  for (; !next.done; next = await counts.next()) yield {kind: 'progress', stage: 'features', features, set, done: next.value}
  return next.value
}

/**
 * Gathers all candidates. Throws `UserError`: no images or rows (exit 3), one without a label, files of two origins
 * (exit 2), and what model and engine throw.
 */
export async function* gatherCandidates(
  names: readonly NamedInputs[],
  options: CandidateOptions
): AsyncGenerator<EvalEvent, GatheredCandidates> {
  const {model, baselines} = options
  assertModelFor(baselines, model)
  if (model === undefined && baselines.length === 0) {
    const {sets, meta} = yield* gatherEmbeddings(names, options, {ignoreLength: true})
    return {candidates: [{features: 'model', sets}], fingerprint: meta.fingerprint, started: false}
  }
  const sets = repeatedSets(names, options)
  const candidates: GatheredCandidate[] = []
  let fingerprint: string | null = null
  if (model !== undefined) {
    const engine = await startEngineFor([model], options.engine)
    yield {kind: 'started', engine}
    using embedder = await loadEmbedder(model, {
      ...options.features,
      precision: engine.precision,
      toolVersion: options.toolVersion,
      note: options.engine.note
    })
    fingerprint = embedder.meta.fingerprint
    candidates.push({features: 'model', sets: yield* gatherSets('model', sets, modelRowsOf(embedder, engine, sets, options), options)})
    sets.reported()
    if (baselines.includes('untrained')) {
      using untrained = untrainedEmbedder(embedder, options.features, options.toolVersion, options.seed)
      const rowsOf = modelRowsOf(untrained, engine, sets, options)
      candidates.push({features: 'untrained', sets: yield* gatherSets('untrained', sets, rowsOf, options)})
    }
  }
  for (const baseline of pixelBaselines(baselines)) {
    candidates.push({features: baseline, sets: yield* gatherBaseline(baseline, sets, options.features.transform.cropBorders, options)})
    sets.reported()
  }
  return {candidates, fingerprint, started: model !== undefined}
}

const modelRowsOf =
  (embedder: Parameters<typeof modelRows>[1], engine: EngineInfo, {onRejected}: RepeatedSets, options: RowOptions) =>
  (refs: AsyncIterable<ImageRef>): Rows =>
    modelRows(refs, embedder, options, engine, onRejected)

/** Those of the baselines that need no network, in the order of reports. */
export const pixelBaselines = (baselines: readonly string[]): PixelBaseline[] =>
  (['pixels', 'histogram'] as const).filter(name => baselines.includes(name))

/** The sets as a baseline that needs no network reads them. */
export const gatherBaseline = (
  baseline: PixelBaseline,
  sets: RepeatedSets,
  cropBorders: boolean | undefined,
  options: RowOptions & Pick<CandidateOptions, 'relabel'>
): AsyncGenerator<EvalEvent, LabelledSet[]> =>
  gatherSets(baseline, sets, refs => baselineRows(baseline, refs, {...options, cropBorders}, sets.onRejected), options)

/** Sets from files of embeddings, all of one origin, with what the first says of itself. */
export async function* gatherEmbeddings(
  names: readonly NamedInputs[],
  options: RowOptions & Pick<CandidateOptions, 'relabel'>,
  {ignoreLength}: {readonly ignoreLength: boolean}
): AsyncGenerator<EvalEvent, {sets: LabelledSet[]; meta: EmbeddingMeta}> {
  const {relabel = rows => rows, signal} = options
  const sets: LabelledSet[] = []
  let first: {readonly name: string; readonly meta: EmbeddingMeta} | undefined
  for (const {name, inputs} of names) {
    const {meta, rows, close} = await embeddingRows(inputs, options)
    try {
      if (first) assertSameProvenance(first, {name: inputs[0]!, meta}, {ignoreLength})
      first ??= {name: inputs[0]!, meta}
      sets.push(yield* withProgress('model', name, gatherRows(relabel(rows), inputs, {signal})))
    } finally {
      await close()
    }
  }
  return {sets, meta: first!.meta}
}
