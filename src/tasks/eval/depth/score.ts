/** Scores sets of pairs by predictors of depth: the model's head and its baselines. */
import {UserError} from '../../../config/errors.js'
import {resizeDepth} from '../../../data/targets/depth-augment.js'
import type {Pair} from '../../../data/targets/pairs.js'
import {align, depthErrors, type DepthErrors} from '../../../metrics/depth.js'
import {oneAhead} from '../../embed/one-ahead.js'
import {backboneMaps, histogramMaps, untrainedBackbone} from '../../embed/image-features.js'
import type {EvalEvent} from '../shared/evaluation.js'
import {pickExamples} from '../shared/pick-examples.js'
import type {DepthContext} from './context.js'
import {loadSample, readSamples, type DepthSample} from './dataset.js'
import {photoFeatures, pixelFeatures, type FeatureSource} from './features.js'
import {loadedLinearHead, predictDepth, type LoadedDepthHead} from './head.js'
import {ALIGNMENTS, type DepthBaseline, type DepthExamples, type DepthFeatures, type DepthOutcome, type DepthSetKind} from './report.js'
import {PLACE_GRID, readTrainingPairs, trainOnPass, type TrainingPass} from './training-pass.js'

/** A set of pairs, its name in reports, and what it was given by. */
export type NamedSet = {
  readonly name: string
  readonly kind: DepthSetKind
  readonly inputs: readonly string[]
  readonly pairs: readonly Pair[]
}

/** How the depth of an image is predicted: by a head, or by a mean. */
export type Predictor = {
  readonly features: DepthFeatures
  readonly predict: (sample: DepthSample) => Promise<Float32Array>
}

/** A head on features as a predictor. */
export const headPredictor = (features: DepthFeatures, source: FeatureSource, head: LoadedDepthHead, flip: boolean): Predictor => ({
  features,
  predict: ({photo, height, width}) => predictDepth(source, head, photo, [height, width], flip)
})

/** The mean depth of the training pairs, of all and by place, where it was asked for. */
export function meanPredictors({mean, places}: TrainingPass, baselines: readonly DepthBaseline[]): Predictor[] {
  const grid = Float32Array.from(places.sum, (sum, i) => (places.count[i]! > 0 ? sum / places.count[i]! : mean))
  const all: Predictor[] = [
    {features: 'mean', predict: async ({width, height}) => new Float32Array(width * height).fill(mean)},
    {features: 'mean-map', predict: async sample => resizeDepth(grid, PLACE_GRID, sample)}
  ]
  return all.filter(({features}) => (baselines as readonly string[]).includes(features))
}

/** Trains the heads of the baselines that need one, as the model's was. What they hold is added to `owned`. */
export async function* trainedPredictors(
  context: DepthContext,
  pairs: readonly Pair[],
  owned: Disposable[]
): AsyncGenerator<EvalEvent, Predictor[]> {
  const {backbone, dense, bins, options, engine} = context
  const sources: [DepthBaseline, () => FeatureSource][] = [
    ['pixels', () => pixelFeatures(backbone.config)],
    ['histogram', () => photoFeatures(histogramMaps(backbone.config))],
    [
      'untrained',
      () => {
        const untrained = untrainedBackbone(backbone.config, options.seed)
        owned.push(untrained)
        return photoFeatures(backboneMaps(untrained, dense, {name: 'untrained', device: engine.device, batch: options.batch}))
      }
    ]
  ]
  const predictors: Predictor[] = []
  for (const [features, makeSource] of sources) {
    if (!options.baselines.includes(features)) continue
    const source = makeSource()
    using pass = yield* readTrainingPairs(context, pairs, source, features)
    const {head} = yield* trainOnPass(context, pass, source, features)
    const loaded = loadedLinearHead(head, {dense: {layers: [], cls: false, norm: false}, bins})
    owned.push(loaded)
    predictors.push(headPredictor(features, source, loaded, options.flip))
  }
  return predictors
}

/**
 * Scores a set by all predictors: an outcome for each and each alignment. Throws a `UserError` (exit 3) where no pair
 * can be used.
 */
export async function* scoreDepthSet(
  {data, options, onRejected}: DepthContext,
  {name, inputs, pairs}: NamedSet,
  predictors: readonly Predictor[]
): AsyncGenerator<EvalEvent, DepthOutcome[]> {
  const ids: string[] = []
  const outcomes = predictors.flatMap(({features}) =>
    ALIGNMENTS.map(alignment => ({features, set: name, variant: {alignment}, ids, items: [] as DepthErrors[]}))
  )
  const samples = readSamples(pairs, data, onRejected, options.signal)
  const predictAll = async (sample: DepthSample) => ({sample, depths: await Promise.all(predictors.map(({predict}) => predict(sample)))})
  for await (const {sample, depths} of oneAhead(samples, predictAll)) {
    const {truth, valid} = sample
    const known = Float32Array.from(valid, at => truth[at]!)
    for (const [i, {features}] of predictors.entries()) {
      const depth = depths[i]!
      const predicted = Float32Array.from(valid, at => depth[at]!)
      for (const {items, variant} of outcomes.filter(outcome => outcome.features === features))
        items.push(depthErrors(align(predicted, known, variant.alignment, data.range), known))
    }
    ids.push(sample.pair.image.id)
    yield {kind: 'progress', stage: 'scoring', features: 'model', set: name, done: ids.length, total: pairs.length}
  }
  if (ids.length === 0)
    throw new UserError(`None of the pairs of ${inputs.join(' ')} can be used.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'The reasons are named above.'
    })
  return outcomes
}

/** The model's errors of every image of a set, without alignment. */
export function modelErrors(outcomes: readonly DepthOutcome[], set: string): {readonly id: string; readonly errors: DepthErrors}[] {
  const {ids, items} = outcomes.find(
    outcome => outcome.features === 'model' && outcome.set === set && outcome.variant.alignment === 'none'
  )!
  return ids.map((id, i) => ({id, errors: items[i]!}))
}

/** The best, typical and worst images of a set by the model's abs_rel, predicted again for a page. */
export async function predictDepthExamples(
  {data}: DepthContext,
  outcomes: readonly DepthOutcome[],
  {name, pairs}: NamedSet,
  {predict}: Predictor
): Promise<DepthExamples> {
  const {best, typical, worst} = pickExamples(modelErrors(outcomes, name), 3, {score: ({errors}) => -errors.abs_rel, name: ({id}) => id})
  const groups = []
  for (const [title, images] of [
    ['Best', best],
    ['Typical', typical],
    ['Worst', worst]
  ] as const) {
    const shown = []
    for (const {id, errors} of images) {
      const sample = await loadSample(
        pairs.find(({image}) => image.id === id)!,
        data
      )
      shown.push({id, errors, sample, depth: await predict(sample)})
    }
    if (shown.length > 0) groups.push({title, shown})
  }
  return {set: name, groups}
}
