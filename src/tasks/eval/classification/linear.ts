/**
 * Linear classification on frozen features (docs/spec.md §5.2 and §5.3): how much of the classes one linear layer
 * reads out of a backbone.
 *
 * Two solvers. `sgd` is the published protocol: 13 learning rates for each of four inputs, trained side by
 * side on one pass of the backbone, under random crops; the best on val is reported, a little too well, so that other
 * `tests` are scored with the one that was chosen. `lbfgs` is logistic regression on the last cls token, its C chosen
 * on a tenth of train. With `cached` features are computed once, without augmentation.
 *
 * Beside the model stand baselines on the same images: the most frequent class, raw pixels, and the same architecture
 * with fresh weights.
 */
import {startEngineFor} from '../../embed/load-backbone.js'
import {UserError} from '../../../config/errors.js'
import {saveHead} from '../../../files/checkpoint/head-file.js'
import {refuseExisting} from '../../../system/atomic.js'
import {settingsOf} from '../../embed/embedder.js'
import type {EvalEvent, EvalResult} from '../shared/evaluation.js'
import {
  assertModelFor,
  gatherEmbeddings,
  gatherBaseline,
  pixelBaselines,
  repeatedSets,
  type NamedInputs
} from '../shared/gather-candidates.js'
import {untrainedEmbedder} from '../shared/labelled-features.js'
import type {ClassifierSpec} from './classifier-file.js'
import {
  embeddingsSpec,
  evaluateEmbedder,
  openModel,
  baselineSpec,
  scoreClassifiers,
  trainAndScore,
  type LinearContext
} from './linear-candidates.js'
import type {LinearEvalOptions} from './linear-options.js'
import {fewNote} from './classes.js'
import {linearPage} from './linear-page.js'
import {linearItems, linearReport, type LinearCandidate, type LinearReport} from './linear-report.js'
import {linearSummary} from './linear-summary.js'

/**
 * Runs the evaluation. Throws `UserError`: no images (exit 3), an image without a label, sets that share no class, one
 * class alone, files of two origins, a head that does not fit (exit 2), and what engine and models throw.
 */
export async function* linearEval(options: LinearEvalOptions): AsyncGenerator<EvalEvent, EvalResult<LinearReport>> {
  const {models = [], baselines = [], solver = 'sgd', tests = [], head: given} = options
  checkOptions(options)
  if (options.headOut !== undefined) await refuseExisting(options.headOut, {force: options.force === true})
  const engine = await startEngineFor(models, options.engine)
  yield {kind: 'started', engine}
  const names: NamedInputs[] = [
    {name: 'train', inputs: options.train},
    {name: 'val', inputs: options.val},
    ...tests.map(name => ({name, inputs: [name]}))
  ]
  const inputs = repeatedSets(names, options)
  const scored = {...inputs, names: names.slice(1), refs: inputs.refs.slice(1)}
  const cached = options.cached === true || solver === 'lbfgs' || options.shots !== undefined || models.length === 0
  const context: LinearContext = {options, solver, cached, engine, inputs, scored, notes: [], classes: options.classes ?? []}
  const candidates: LinearCandidate[] = []
  let fingerprint: string | null = null
  if (models.length === 0) {
    const {sets, meta} = yield* gatherEmbeddings(names, options, {ignoreLength: false})
    fingerprint = meta.fingerprint
    candidates.push(yield* trainAndScore(context, embeddingsSpec(meta, sets[0]!.dim, solver), {train: sets[0]!, scored: sets.slice(1)}))
  } else
    for (const [m, path] of models.entries()) {
      const opened = await openModel(context, path)
      using embedder = opened.embedder
      if (m === 0) fingerprint = embedder.meta.fingerprint
      const name = models.length === 1 ? 'model' : path
      candidates.push(
        yield* opened.head ? scoreClassifiers(context, name, embedder, opened.head) : evaluateEmbedder(context, name, embedder)
      )
      inputs.reported()
      if (m === 0 && baselines.includes('untrained') && !opened.head) {
        using untrained = untrainedEmbedder(embedder, settingsOf(embedder.meta, path), options.toolVersion, options.seed)
        candidates.push(yield* evaluateEmbedder(context, 'untrained', untrained))
      }
    }
  for (const baseline of given === undefined ? pixelBaselines(baselines) : []) {
    const [train, ...rest] = yield* gatherBaseline(baseline, inputs, options.transform?.cropBorders, options)
    candidates.push(yield* trainAndScore(context, baselineSpec(baseline, train!.dim), {train: train!, scored: rest}))
  }
  const first = candidates[0]!
  const {classes, notes} = context
  if (models.length > 0)
    yield {kind: 'accepted', images: (first.sets.train?.ids.length ?? 0) + first.sets.scored.reduce((sum, {ids}) => sum + ids.length, 0)}
  const setNames = scored.names.map(({name}) => name)
  if (options.headOut !== undefined && options.shots !== undefined && (options.repeats ?? 1) > 1)
    notes.push(`${options.headOut} holds the classifier of the first draw`)
  const few = options.shots === undefined ? undefined : fewNote(first.sets.train!.labels, options.shots)
  if (few !== undefined) notes.push(few)
  const majority = baselines.includes('majority') && given === undefined
  const facts = {
    ...(given === undefined ? {solver, cached} : {solver: undefined, cached: undefined}),
    classes,
    setNames,
    majority,
    fingerprint,
    seed: options.seed,
    notes,
    head: options.headOut
  }
  const report = linearReport(candidates, facts)
  if (options.headOut !== undefined) await saveClassifier(options.headOut, first, report, options)
  return {
    report,
    summary: linearSummary(report),
    items: () => linearItems(first, setNames, classes),
    page: pageOptions => linearPage(report, pageOptions)
  }
}

/** Refuses combinations that cannot be computed, before anything is. */
function checkOptions({models = [], baselines = [], head, headOut}: LinearEvalOptions): void {
  assertModelFor(baselines, models[0])
  const wrong = (message: string, hint: string, code = 'USAGE'): never => {
    throw new UserError(message, {exit: 2, code, hint})
  }
  const pixels = pixelBaselines(baselines)[0]
  if (models.length === 0 && pixels !== undefined)
    wrong(
      `Embeddings hold no pixels, so the baseline ${pixels} cannot be scored beside them.`,
      'Give images and --model, or leave the baseline out.',
      'NO_IMAGES'
    )
  if (models.length === 0 && head !== undefined) wrong('A head reads the features of a model.', 'Give --model.', 'NO_MODEL')
  if (head !== undefined && baselines.length > 0)
    wrong(`The baseline ${baselines[0]} is trained on --train, but --head is trained already.`, 'Leave one of them out.')
  if (head !== undefined && headOut !== undefined)
    wrong('--head-out writes a classifier that was trained, but --head names one that exists.', 'Leave one of them out.')
}

/** Keeps the classifier of the first candidate. */
async function saveClassifier(
  target: string,
  {classifier, spec, trainedOn}: LinearCandidate,
  report: LinearReport,
  options: LinearEvalOptions
): Promise<void> {
  const {kind, weight, bias, chosen} = classifier
  const {classes, fingerprint, solver = 'sgd', scores} = report
  const own: ClassifierSpec = {...spec, start: kind.start, length: kind.length, classes}
  await saveHead(
    target,
    {
      task: 'classify',
      tensors: new Map([
        ['weight', {shape: [classes.length, kind.length], data: weight}],
        ['bias', {shape: [classes.length], data: bias}]
      ]),
      spec: own,
      trainedOn: {
        fingerprint: fingerprint ?? 'unknown',
        images: trainedOn,
        solver,
        chosen,
        top1: scores[0]!.top1,
        tool: options.toolVersion
      }
    },
    {force: options.force === true}
  )
}
