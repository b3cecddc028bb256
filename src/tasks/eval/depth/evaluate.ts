/**
 * Depth from frozen features (docs/spec.md §5.4): trains a linear head, or opens one, and scores it on any number of
 * sets, beside baselines that need no trained features.
 *
 * Scores are those of the published protocol: depth clamped to its range, resized to the truth, averaged with that of
 * the mirrored image, compared at the valid pixels within the crop, image by image, images averaged. A head predicts
 * metres only where cameras and scenes are as in training. So every set is scored again with the scale fitted
 * (median), and with scale and shift fitted in depth, and in disparity, image by image. Baselines see the same
 * training pairs: the mean depth, the mean depth by place, a linear head of colour and place, and a head of the same
 * kind on the same architecture with fresh weights.
 */
import {UserError} from '../../../config/errors.js'
import type {Pair} from '../../../data/targets/pairs.js'
import {saveHead} from '../../../files/checkpoint/head-file.js'
import type {LinearDepthHead} from '../../../heads/depth-head.js'
import {refuseExisting} from '../../../system/atomic.js'
import {backboneMaps} from '../../embed/image-features.js'
import {notesOnSize} from '../../embed/transform.js'
import {loadBackbone, startEngineFor} from '../../embed/load-backbone.js'
import {depthContext, isTrained, type DepthContext, type DepthEvalOptions} from './context.js'
import {gatherPairs} from '../shared/dense-pairs.js'
import type {EvalEvent, EvalResult} from '../shared/evaluation.js'
import {photoFeatures, type FeatureSource} from './features.js'
import {loadedLinearHead, openDepthHead, type LoadedDepthHead} from './head.js'
import type {DepthHeadSpec} from './head-file.js'
import {depthPage} from './page.js'
import {depthSummary, summarizeDepth} from './report.js'
import type {DepthExamples, DepthOutcome, DepthReport, DepthSetKind, DepthTrained} from './report.js'
import {
  headPredictor,
  meanPredictors,
  modelErrors,
  predictDepthExamples,
  scoreDepthSet,
  trainedPredictors,
  type NamedSet,
  type Predictor
} from './score.js'
import {readTrainingPairs, trainOnPass, type TrainingPass} from './training-pass.js'

export type {DepthEvalOptions} from './context.js'
export type {DepthReport} from './report.js'

/**
 * Runs the evaluation; yields its progress and returns report, tables, rows and page.
 *
 * Throws a `UserError`: no pairs (exit 3), settings that do not fit (exit 2), a head that does not fit (exit 1), and
 * what engine and model throw.
 */
export async function* depthEval(options: DepthEvalOptions): AsyncGenerator<EvalEvent, EvalResult<DepthReport>> {
  const {headOut, force, baselines, flip, batch, seed} = options
  if (headOut !== undefined) await refuseExisting(headOut, {force})
  const {train, sets} = await gatherSets(options)
  yield {kind: 'accepted', images: 0, pending: train.length + countPairs(sets)}
  const engine = await startEngineFor([options.model], options.engine)
  yield {kind: 'started', engine}
  using backbone = await loadBackbone(options.model, {precision: engine.precision, note: options.engine.note})
  const owned: Disposable[] = []
  try {
    const {min, max} = options
    const opened = isTrained(options) ? undefined : await openDepthHead(options.head, {backbone, min, max})
    if (opened) owned.push(opened)
    const context = depthContext(options, backbone, engine, opened)
    if (!opened) for (const note of notesOnSize(context.data.size, backbone.preprocessing)) options.engine.note?.(note)
    const source = photoFeatures(backboneMaps(backbone, context.dense, {name: 'model', device: engine.device, batch}))
    const pass = train.length > 0 ? yield* firstPass(context, train, sets, opened ? undefined : source) : undefined
    if (pass) owned.push(pass)
    const {head, trained} = opened ? {head: opened, trained: undefined} : yield* trainModelHead(context, pass!, source)
    if (!opened) owned.push(head)
    pass?.[Symbol.dispose]()
    const model = headPredictor('model', source, head, flip)
    const predictors: Predictor[] = [model]
    if (pass) predictors.push(...meanPredictors(pass, baselines), ...(yield* trainedPredictors(context, pass.pairs, owned)))
    const outcomes: DepthOutcome[] = []
    for (const [i, set] of sets.entries()) {
      const scored = yield* scoreDepthSet(context, set, predictors)
      outcomes.push(...scored)
      yield {kind: 'accepted', images: scored[0]!.ids.length, pending: countPairs(sets.slice(i + 1))}
    }
    const report = {...reportSettings(context, head, trained, pass?.pairs.length ?? 0), ...reportScores(sets, outcomes, seed)}
    const examples: DepthExamples[] = []
    if (options.examples) for (const set of sets) examples.push(await predictDepthExamples(context, outcomes, set, model))
    return resultOf(report, outcomes, examples)
  } finally {
    for (const each of owned) each[Symbol.dispose]()
  }
}

/** The scores of a report. */
const reportScores = (
  sets: readonly NamedSet[],
  outcomes: readonly DepthOutcome[],
  seed: number
): Pick<DepthReport, 'sets' | 'scores' | 'differences'> => ({
  sets: sets.map(({name, kind, inputs}) => ({name, kind, inputs, images: outcomes.find(({set}) => set === name)!.ids.length})),
  ...summarizeDepth(outcomes, seed)
})

const resultOf = (report: DepthReport, outcomes: readonly DepthOutcome[], examples: readonly DepthExamples[]): EvalResult<DepthReport> => ({
  report,
  summary: depthSummary(report),
  *items() {
    for (const {name} of report.sets)
      for (const {id, errors} of modelErrors(outcomes, name)) yield {id, set: name, features: 'model', ...errors}
  },
  page: async () => ({content: await depthPage(report, examples), missing: 0})
})

const countPairs = (sets: readonly NamedSet[]): number => sets.reduce((sum, {pairs}) => sum + pairs.length, 0)

/** All pairs that are named, before any is opened: a wrong folder is reported at once. */
async function gatherSets(options: DepthEvalOptions): Promise<{train: Pair[]; sets: NamedSet[]}> {
  if (isTrained(options) && options.train.length === 0)
    throw new UserError('A head is to be trained, but no training pairs were named.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --train, or an existing head with --head FILE.'
    })
  const {val, tests, outOfDomain, depths, nul, onRejected, onSkipped} = options
  const named: {kind: DepthSetKind; inputs: readonly string[]}[] = [
    ...(val.length > 0 ? [{kind: 'val' as const, inputs: val}] : []),
    ...tests.map(input => ({kind: 'test' as const, inputs: [input]})),
    ...outOfDomain.map(input => ({kind: 'out-of-domain' as const, inputs: [input]}))
  ]
  if (named.length === 0)
    throw new UserError('No set to score was named.', {exit: 2, code: 'USAGE', hint: 'Give --val, --test or --out-of-domain.'})
  const roots = [...options.train, ...named.flatMap(({inputs}) => inputs)]
  const gather = (inputs: readonly string[]): Promise<Pair[]> =>
    gatherPairs({field: 'depth', inputs, roots, folder: depths, nul, onRejected, onSkipped})
  const train = options.train.length > 0 ? await gather(options.train) : []
  const sets: NamedSet[] = []
  for (const {kind, inputs} of named) {
    const alone = named.filter(other => other.kind === kind).length === 1
    sets.push({kind, name: alone ? kind : `${kind} ${inputs.join(' ')}`, inputs, pairs: await gather(inputs)})
  }
  return {train, sets}
}

/** The pass over the training pairs of the model. Throws a `UserError` (exit 3) where none can be used. */
async function* firstPass(
  context: DepthContext,
  train: readonly Pair[],
  sets: readonly NamedSet[],
  source: FeatureSource | undefined
): AsyncGenerator<EvalEvent, TrainingPass> {
  const pass = yield* readTrainingPairs(context, train, source, 'model')
  try {
    if (pass.pairs.length === 0)
      throw new UserError('None of the training pairs can be used.', {exit: 3, code: 'NO_INPUT', hint: 'The reasons are named above.'})
    yield {kind: 'accepted', images: pass.pairs.length, pending: countPairs(sets)}
    return pass
  } catch (error) {
    pass[Symbol.dispose]()
    throw error
  }
}

/** Trains the model's head, and writes it where `headOut` says. */
async function* trainModelHead(
  context: DepthContext,
  pass: TrainingPass,
  source: FeatureSource
): AsyncGenerator<EvalEvent, {head: LoadedDepthHead; trained: DepthTrained}> {
  const {options, dense, bins, recipe, data} = context
  const begun = performance.now()
  const {head, loss} = yield* trainOnPass(context, pass, source, 'model')
  const spec: DepthHeadSpec = {dense, bins, size: data.size}
  const trained = {
    ...recipe,
    images: pass.pairs.length,
    cached: options.cached,
    loss,
    seconds: Math.round((performance.now() - begun) / 100) / 10
  }
  const loaded = loadedLinearHead(head, spec)
  try {
    if (options.headOut !== undefined) await writeHead(options.headOut, head, spec, context, trained)
    return {head: loaded, trained}
  } catch (error) {
    loaded[Symbol.dispose]()
    throw error
  }
}

async function writeHead(
  path: string,
  {conv_depth}: LinearDepthHead,
  spec: DepthHeadSpec,
  {options: {force, model, toolVersion, seed}, backbone: {fingerprint}}: DepthContext,
  trained: DepthTrained
): Promise<void> {
  const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
  for (const [name, leaf] of Object.entries(conv_depth))
    tensors.set(`conv_depth.${name}`, {shape: leaf.shape, data: await leaf.data<'float32'>()})
  const {seconds: _, ...settings} = trained
  const trainedOn = {fingerprint, model, seed, toolVersion, ...settings}
  await saveHead(path, {task: 'depth', tensors, spec, trainedOn}, {force})
}

/** What a report says of the settings. */
function reportSettings(
  {options, backbone, engine, dense, bins, data}: DepthContext,
  head: LoadedDepthHead,
  trained: DepthTrained | undefined,
  train: number
): Omit<DepthReport, 'sets' | 'scores' | 'differences'> {
  return {
    task: 'depth',
    model: options.model,
    fingerprint: backbone.fingerprint,
    head: {
      kind: head.kind,
      ...(trained ? {} : {file: options.head}),
      layers: dense.layers,
      norm: dense.norm,
      ...(trained ? {bins, trained} : {})
    },
    range: data.range,
    crop: data.crop,
    size: data.size ?? null,
    flip: options.flip,
    averaging: 'per image, then over images',
    train,
    engine,
    notes: train === 0 && options.baselines.length > 0 ? ['no baselines: they need training pairs (--train)'] : []
  }
}
