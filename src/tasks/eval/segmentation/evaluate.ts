/**
 * Segmentation by a linear head on frozen patches (docs/spec.md §5.5): trains the head on images with masks, or takes
 * one that is trained, and scores it.
 *
 * Candidates beside the model, on the same images: the most frequent class of the train set; the pixels of each patch
 * and the histogram of its colours, both with its position, through the same head; and the same architecture with
 * fresh weights, which shows what the architecture alone contributes.
 */
import {counted} from '../../../config/counted.js'
import type {Pair} from '../../../data/targets/pairs.js'
import {saveHead, type HeadTensors} from '../../../files/checkpoint/head-file.js'
import {openSegmentHead, type SegmentHeadSpec} from '../../../files/checkpoint/segment-head-file.js'
import {foldSegmentHead} from '../../../heads/segment-head.js'
import {refuseExisting} from '../../../system/atomic.js'
import {disposeTree} from '../../../tensor/tree.js'
import {histogramMaps, pixelMaps, untrainedBackbone} from '../../embed/image-features.js'
import {notesOnSize} from '../../embed/transform.js'
import {loadBackbone, startEngineFor} from '../../embed/load-backbone.js'
import {scoresOf} from '../../../metrics/iou.js'
import {gatherPairs} from '../shared/dense-pairs.js'
import type {EvalEvent, EvalResult} from '../shared/evaluation.js'
import {classesInForce} from './classes.js'
import {segContext, usage, type SegContext, type SegEvalOptions, type SegSets} from './context.js'
import {openSet} from './dataset.js'
import {headTensors, loadSegmentHead, type LoadedSegmentHead} from './head.js'
import {predictClasses, segmentMaps} from './inference.js'
import type {FoldedHead} from '../../../heads/segment-inference.js'
import {segPage} from './page.js'
import {segSummary, summarizeSegmentation, type SegBaseline, type SegExample, type SegOutcome, type SegReport} from './report.js'
import {predictSegmentationExamples, scoreSegmentationHead, scoreMostFrequent, trainOnFeatures} from './score.js'

export type {SegEvalOptions} from './context.js'
export type {SegReport} from './report.js'

/**
 * Runs the evaluation; yields its progress and returns the report with the images for a page.
 *
 * Throws a `UserError`: no images or no good pair (exit 3), classes that make no sense (exit 2), a head that does not
 * fit (exit 2), an output that exists (exit 2), and what model and engine throw. Bad pairs are reported to
 * `onRejected`, once each.
 */
export async function* segEval(options: SegEvalOptions): AsyncGenerator<EvalEvent, EvalResult<SegReport>> {
  const {seed, headOut, force} = options
  if (!options.train && !options.head)
    throw usage('There is neither a train set nor a head.', 'Give --train SET to train a head, or --head FILE to score one.')
  if (headOut !== undefined) await refuseExisting(headOut, {force})
  const pairs = await gatherSets(options)
  const opened = options.head === undefined ? undefined : await openSegmentHead(options.head)
  const {classes, from: classesFrom = 'the ids in the train masks'} = await classesInForce(options, pairs.train, opened)
  yield {kind: 'note', text: `${counted(classes.names.length, 'class', 'classes')} from ${classesFrom}`}
  const sets = yield* openSets(options, pairs, classes)
  const engine = await startEngineFor([options.model], options.engine)
  yield {kind: 'started', engine}
  using backbone = await loadBackbone(options.model, {precision: engine.precision, note: options.engine.note})
  using head = opened ? await loadSegmentHead(options.head!, backbone, options.model) : undefined
  const context = segContext({options, backbone, engine, sets, classes}, head)
  if (!head) for (const note of notesOnSize(context.protocol.size, backbone.preprocessing)) options.engine.note?.(note)
  const model = yield* scoreModel(context, head)
  const outcomes = [...model.outcomes]
  if (sets.train) {
    outcomes.push(...(await scoreMostFrequent(context)))
    for (const baseline of options.baselines) outcomes.push(...(yield* scoreBaseline(context, baseline)))
  }
  const report: SegReport = {
    ...reportSettings(context, opened?.spec.kind ?? options.kind),
    classesFrom,
    ...summarizeSegmentation(outcomes, classes, seed),
    seconds: {train: model.trainSeconds, predict: model.outcomes.reduce((sum, {seconds}) => sum + seconds, 0)}
  }
  if (model.tensors) await writeHead(context, model.tensors, report)
  return resultOf(report, outcomes, model.examples, classes)
}

const resultOf = (
  report: SegReport,
  outcomes: readonly SegOutcome[],
  examples: readonly SegExample[],
  {names, palette}: SegContext['classes']
): EvalResult<SegReport> => ({
  report,
  summary: segSummary(report),
  *items() {
    for (const {features, set, ids, items} of outcomes) {
      if (features !== 'model') continue
      for (const [i, id] of ids.entries()) {
        const {miou, meanAccuracy, pixelAccuracy, iou} = scoresOf(items[i]!, names.length)
        const classes = Object.fromEntries(names.flatMap((name, k) => (iou[k] === null ? [] : [[name, iou[k]]])))
        yield {id, set, features, miou, meanAccuracy, pixelAccuracy, classes}
      }
    }
  },
  page: async () => ({content: await segPage(report, examples, palette), missing: 0})
})

type SetPairs = Readonly<Record<'train' | 'val' | 'test', readonly Pair[]>>

/** The pairs of all sets, before any is opened: a wrong folder is reported at once. */
async function gatherSets({train = [], val, test = [], masks, nul, onRejected, onSkipped}: SegEvalOptions): Promise<SetPairs> {
  const roots = [...train, ...val, ...test]
  const gather = (inputs: readonly string[]): Promise<Pair[]> =>
    gatherPairs({field: 'mask', inputs, roots, folder: masks, nul, onRejected, onSkipped})
  return {
    train: train.length > 0 ? await gather(train) : [],
    val: await gather(val),
    test: test.length > 0 ? await gather(test) : []
  }
}

/** Reads every pair once; yields how many of each set can be used. */
async function* openSets(
  {decoded = 2 ** 30, maxPixels, onRejected, signal, ...options}: SegEvalOptions,
  pairs: SetPairs,
  classes: SegContext['classes']
): AsyncGenerator<EvalEvent, SegSets> {
  const budget = {left: decoded}
  const wanted = {train: options.train !== undefined, val: true, test: options.test !== undefined}
  const sets: {-readonly [name in keyof SegSets]?: SegSets[name]} = {}
  const names = (['train', 'val', 'test'] as const).filter(set => wanted[set])
  for (const [i, set] of names.entries()) {
    const rest = names.slice(i + 1)
    const samples = await openSet(pairs[set], set, classes, {budget, maxPixels, onRejected, signal})
    sets[set] = samples
    yield {kind: 'accepted', images: samples.length, pending: rest.reduce((sum, other) => sum + pairs[other].length, 0)}
  }
  return {train: sets.train, val: sets.val!, test: sets.test}
}

type ModelScores = {
  readonly outcomes: readonly SegOutcome[]
  readonly examples: readonly SegExample[]
  /** The trained head, where it is to be written. */
  readonly tensors?: HeadTensors
  readonly trainSeconds: number
}

/** Scores the model: by the given head, or by one that is trained here. */
async function* scoreModel(context: SegContext, loaded: LoadedSegmentHead | undefined): AsyncGenerator<EvalEvent, ModelScores> {
  const {backbone, protocol, engine, sets, classes, options} = context
  const model = segmentMaps(backbone, protocol.layers, {name: 'model', device: engine.device, batch: options.batch})
  const examplesOf = async (head: FoldedHead, outcomes: readonly SegOutcome[]): Promise<SegExample[]> =>
    options.examples
      ? predictSegmentationExamples(sets.val, outcomes[0]!.items, {classes: classes.names.length, each: options.examples}, photo =>
          predictClasses(photo, model, head, protocol)
        )
      : []
  if (loaded) {
    const outcomes = yield* scoreSegmentationHead(context, model, loaded.folded)
    return {outcomes, examples: await examplesOf(loaded.folded, outcomes), trainSeconds: 0}
  }
  const begun = performance.now()
  const head = yield* trainOnFeatures(context, model)
  const trainSeconds = (performance.now() - begun) / 1000
  const folded = foldSegmentHead(head)
  try {
    const outcomes = yield* scoreSegmentationHead(context, model, folded)
    const examples = await examplesOf(folded, outcomes)
    return {outcomes, examples, tensors: options.headOut === undefined ? undefined : await headTensors(head), trainSeconds}
  } finally {
    disposeTree(head)
    disposeTree({...folded})
  }
}

/** Trains and scores the same head on the features of a baseline. */
async function* scoreBaseline(context: SegContext, baseline: SegBaseline): AsyncGenerator<EvalEvent, SegOutcome[]> {
  const {backbone, protocol, engine, options} = context
  using untrained = baseline === 'untrained' ? untrainedBackbone(backbone.config, options.seed) : undefined
  const source = untrained
    ? segmentMaps(untrained, protocol.layers, {name: 'untrained', device: engine.device, batch: options.batch})
    : baseline === 'histogram'
      ? histogramMaps(backbone.config)
      : pixelMaps(backbone.config)
  const head = yield* trainOnFeatures(context, source)
  const folded = foldSegmentHead(head)
  try {
    return yield* scoreSegmentationHead(context, source, folded)
  } finally {
    disposeTree(head)
    disposeTree({...folded})
  }
}

/** What a report says of the settings. */
function reportSettings(
  {options, backbone, sets, classes, protocol, settings}: SegContext,
  kind: SegReport['kind']
): Omit<SegReport, 'classesFrom' | 'scores' | 'differences' | 'seconds'> {
  const {steps, batch, lr, weightDecay} = settings
  const training = {training: options.cached ? 'cached' : 'views', steps, trainBatch: batch, lr, weightDecay}
  return {
    task: 'segmentation',
    model: options.model,
    train: sets.train?.length ?? 0,
    val: sets.val.length,
    test: sets.test?.length ?? 0,
    kind,
    protocol: {...protocol, ...(sets.train ? training : {})},
    classes: classes.names.map((name, k) => ({id: classes.ids[k]!, name})),
    fingerprint: backbone.fingerprint,
    head: options.headOut ?? options.head,
    notes: sets.train ? [] : ['without a train set there are no baselines']
  }
}

async function writeHead({options, backbone, classes, protocol}: SegContext, tensors: HeadTensors, report: SegReport): Promise<void> {
  const {kind, headOut, force, toolVersion, seed} = options
  const spec: SegmentHeadSpec = {
    kind,
    ...protocol,
    crop: protocol.crop ?? null,
    stride: protocol.stride ?? null,
    classes: classes.names.map((name, k) => ({
      id: classes.ids[k]!,
      name,
      colour: [...classes.palette.subarray(3 * k, 3 * k + 3)] as [number, number, number]
    })),
    ignored: classes.ignored
  }
  const own = report.scores.filter(({features}) => features === 'model')
  const trainedOn = {
    fingerprint: backbone.fingerprint,
    tool: toolVersion,
    pairs: report.train,
    settings: report.protocol,
    seed,
    scores: Object.fromEntries(own.map(({set, miou, pixelAccuracy}) => [set, {miou, pixelAccuracy}]))
  }
  await saveHead(headOut!, {task: 'segment', tensors, spec, trainedOn}, {force})
}
