/**
 * The candidates of a linear evaluation: each is given features, trained or scored with a head that exists, and scored
 * on val and the test sets.
 */
import {UserError} from '../../../config/errors.js'
import {labelOf, noImages, type ImageRef} from '../../../data/sources/source.js'
import type {EngineInfo} from '../../../engine/start.js'
import type {EmbeddingMeta} from '../../../files/embeddings/embeddings.js'
import {protocolSlices, type FeatureSlice} from '../../../heads/linear-grid.js'
import {defaultFeatures, embedderOf, settingsOf, type Embedder} from '../../embed/embedder.js'
import {loadBackbone} from '../../embed/load-backbone.js'
import type {EvalEvent} from '../shared/evaluation.js'
import {gatherSets, type RepeatedSets} from '../shared/gather-candidates.js'
import {modelRows, throwUnlabelled, type LabelledSet, type PixelBaseline, type Rows} from '../shared/labelled-features.js'
import {classNumbers, sortedClasses, unseenNote} from './classes.js'
import {openClassifier, type OpenedClassifier} from './classifier-file.js'
import {trainOnCrops} from './linear-crops.js'
import type {LinearEvalOptions, Solver} from './linear-options.js'
import type {HeadSpec, LinearCandidate, LinearSets} from './linear-report.js'
import {scoreLabelledSet} from './linear-score.js'
import {trainFewShots} from './linear-shots.js'
import {trainOnRows, type TrainedClassifier} from './linear-train.js'

/** What all candidates of an evaluation share. */
export type LinearContext = {
  readonly options: LinearEvalOptions
  readonly solver: Solver
  readonly cached: boolean
  readonly engine: EngineInfo
  /** Train, where a classifier is to be trained, then val and the test sets. */
  readonly inputs: RepeatedSets
  /** The scored sets alone. */
  readonly scored: RepeatedSets
  readonly notes: string[]
  /** Empty until the first candidate is there. */
  classes: readonly string[]
}

/** What identifies a candidate. */
type CandidateSpec = {readonly features: string; readonly slices: readonly FeatureSlice[]; readonly spec: HeadSpec}

/** A model's features for classification: all that the slices of the protocol need, or what a head reads. */
export async function openModel(
  {options, engine}: LinearContext,
  path: string
): Promise<{embedder: Embedder; head: OpenedClassifier | undefined}> {
  const backbone = await loadBackbone(path, {precision: engine.precision})
  try {
    const head = options.head === undefined ? undefined : await openClassifier(options.head, backbone, options.classes)
    // The larger slices need blocks that a shallow model lacks; its own depth is the limit.
    const layers = Math.min(options.layers ?? 4, backbone.config.depth)
    const own = head?.features ?? {pool: 'cls+mean' as const, layers, normalize: false}
    const transform = options.transform ?? head?.transform ?? defaultFeatures.transform
    return {embedder: embedderOf(backbone, {...own, transform, toolVersion: options.toolVersion, note: options.engine.note}, path), head}
  } catch (error) {
    backbone[Symbol.dispose]()
    throw error
  }
}

const rowsBy =
  ({options, engine, inputs}: LinearContext, embedder: Embedder) =>
  (refs: AsyncIterable<ImageRef>): Rows =>
    modelRows(refs, embedder, options, engine, inputs.onRejected)

/** Trains and scores on features of a model. */
export async function* evaluateEmbedder(
  context: LinearContext,
  features: string,
  embedder: Embedder
): AsyncGenerator<EvalEvent, LinearCandidate> {
  const {options, solver, cached, inputs, engine} = context
  const C = embedder.config.width
  const n = embedder.meta.dim / C - 1
  const slices = solver === 'lbfgs' ? [{name: 'cls', start: (n - 1) * C, length: C}] : protocolSlices(n, C)
  const own: CandidateSpec = {features, slices, spec: {kind: 'linear', ...settingsOf(embedder.meta, features)}}
  if (cached) {
    const [train, ...scored] = yield* gatherSets(features, inputs, rowsBy(context, embedder), options)
    return yield* trainAndScore(context, own, {train: train!, scored})
  }
  const scored = yield* gatherSets(features, context.scored, rowsBy(context, embedder), options)
  const refs: ImageRef[] = []
  for await (const ref of inputs.refs[0]!()) refs.push(ref)
  if (refs.length === 0) throw noImages(options.train)
  const labels = refs.map(ref => labelOf(ref) ?? throwUnlabelled(ref.id))
  settleClasses(context, labels, scored)
  const {classes} = context
  const data = {features, slices, classes, val: scored[0]!, refs, labels, embedder, engine, onRejected: inputs.onRejected}
  return finish(context, own, {train: {ids: refs.map(({id}) => id), labels}, scored}, yield* trainOnCrops(data, options), refs.length)
}

/** Trains on rows that are there, and scores. */
export async function* trainAndScore(
  context: LinearContext,
  own: CandidateSpec,
  sets: {readonly train: LabelledSet; readonly scored: readonly LabelledSet[]}
): AsyncGenerator<EvalEvent, LinearCandidate> {
  settleClasses(context, sets.train.labels, sets.scored)
  const {options, classes} = context
  const data = {features: own.features, slices: own.slices, train: sets.train, val: sets.scored[0]!, classes}
  if (options.shots !== undefined) {
    const few = yield* trainFewShots(data, sets.scored, options)
    return {...own, sets, grid: [], ...few}
  }
  return finish(context, own, sets, yield* trainOnRows(data, options), sets.train.ids.length)
}

/** Scores with a classifier that exists. */
export async function* scoreClassifiers(
  context: LinearContext,
  features: string,
  embedder: Embedder,
  {classifier, classes}: OpenedClassifier
): AsyncGenerator<EvalEvent, LinearCandidate> {
  context.classes = classes
  const scored = yield* gatherSets(features, context.scored, rowsBy(context, embedder), context.options)
  const labels = new Set(scored[0]!.labels)
  if (!classes.some(name => labels.has(name)))
    throw new UserError(
      `No class of val is one of the head's: ${[...labels].sort().slice(0, 5).join(', ')} there, ${classes.slice(0, 5).join(', ')} in the head.`,
      {exit: 2, code: 'CLASSES', hint: 'Classes of a published head are numbers unless --classes names them.'}
    )
  yield {kind: 'note', text: `scoring with ${context.options.head}: ${classifier.chosen}`}
  const spec: HeadSpec = {kind: 'linear', ...settingsOf(embedder.meta, features)}
  return finish(context, {features, slices: [], spec}, {scored}, {classifier, grid: []}, 0)
}

function finish(
  {classes}: LinearContext,
  own: CandidateSpec,
  sets: LinearSets,
  {classifier, grid}: TrainedClassifier,
  trainedOn: number
): LinearCandidate {
  const scored = sets.scored.map(set => scoreLabelledSet(set, classifier, classNumbers(set.labels, classes), classes.length))
  return {...own, chosen: classifier.chosen, sets, scored, classifier, grid, trainedOn}
}

export const embeddingsSpec = (meta: EmbeddingMeta, dim: number, solver: Solver): CandidateSpec => {
  const known = typeof meta.preprocessing?.['resize'] === 'number' && meta.pooling !== null && meta.layers !== null
  const settings = known ? settingsOf(meta, 'train') : {pool: meta.pooling ?? 'cls', layers: meta.layers ?? 1, normalize: meta.normalized}
  return {features: 'model', slices: slicesOf(meta, dim, solver), spec: {kind: 'linear', ...settings}}
}

/** A baseline that needs no network: one slice, its whole vector. */
export const baselineSpec = (features: PixelBaseline, dim: number): CandidateSpec => ({
  features,
  slices: [{name: features, start: 0, length: dim}],
  spec: {kind: 'linear', pool: 'cls', layers: 1, normalize: false}
})

/**
 * The slices of rows of embeddings: those of the protocol as far as they are in there. Logistic regression reads the
 * whole vector, whatever it is.
 */
export function slicesOf({pooling, layers}: Pick<EmbeddingMeta, 'pooling' | 'layers'>, dim: number, solver: Solver): FeatureSlice[] {
  const whole = [{name: 'embeddings', start: 0, length: dim}]
  const n = typeof layers === 'number' ? layers : (layers?.length ?? 1)
  if (solver === 'lbfgs' || (pooling !== 'cls' && pooling !== 'cls+mean')) return whole
  const C = dim / (pooling === 'cls+mean' ? n + 1 : n)
  if (!Number.isInteger(C)) return whole
  return protocolSlices(n, C).filter(({start, length}) => start + length <= dim)
}

/**
 * The classes of train, once for all candidates; notes those that only other sets have. Throws a `UserError` (exit 2)
 * where train has one class alone or a set shares none with it.
 */
function settleClasses(context: LinearContext, trainLabels: readonly string[], scored: readonly LabelledSet[]): void {
  if (context.classes.length > 0) return
  const classes = sortedClasses(trainLabels)
  if (classes.length < 2)
    throw new UserError(`All train images are of one class (${classes[0]}); a classifier needs two or more to tell apart.`, {
      exit: 2,
      code: 'CLASSES',
      hint: 'Name the folder above the class folders, or give a list whose label field differs.'
    })
  for (const [i, set] of scored.entries()) {
    const name = context.scored.names[i]!.name
    const own = sortedClasses(set.labels)
    const unseen = own.filter(label => !classes.includes(label))
    if (unseen.length === own.length)
      throw new UserError(
        `No class of ${name} is in train: ${own.slice(0, 5).join(', ')} there, ${classes.slice(0, 5).join(', ')} in train.`,
        {exit: 2, code: 'CLASSES', hint: 'Labels are the folder under the root that was named, or the label field of a list.'}
      )
    const note = unseenNote(name, unseen)
    if (note !== undefined) context.notes.push(note)
  }
  context.classes = classes
}
