/** Scores sets of pairs by predictors of depth: the model's head and its baselines. */
import {UserError} from '../../../config/errors.js'
import {resizeDepth} from '../../../data/targets/depth-augment.js'
import type {Pair} from '../../../data/targets/pairs.js'
import {align, depthErrors} from '../../../metrics/depth.js'
import {initVit} from '../../../model/init.js'
import {disposeTree} from '../../../tensor/tree.js'
import type {DepthContext, DepthEvent} from './context.js'
import {loadSample, readSamples, type DepthSample} from './dataset.js'
import {backboneFeatures, pixelFeatures, type FeatureSource} from './features.js'
import {loadedLinearHead, predictDepth, type LoadedDepthHead} from './head.js'
import {ALIGNMENTS, summarizeSet, type AlignedErrors, type DepthBaseline, type DepthExamples} from './report.js'
import type {DepthFeatures, DepthSetKind, DepthSetReport} from './report.js'
import {PLACE_GRID, readTrainingPairs, trainOnPass, type TrainingPass} from './training-pass.js'

/** A set of pairs under the name that it was given by. */
export type NamedSet = {readonly name: string; readonly kind: DepthSetKind; readonly pairs: readonly Pair[]}

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
): AsyncGenerator<DepthEvent, Predictor[]> {
  const {backbone, dense, bins, options} = context
  const sources: [DepthBaseline, () => FeatureSource][] = [
    ['pixels', () => pixelFeatures(backbone.config)],
    [
      'untrained',
      () => {
        // LayerScale starts at 1: from 1e-5, as in the recipes, all images would come out alike.
        const params = initVit(backbone.config, options.seed, 1)
        owned.push({[Symbol.dispose]: () => disposeTree(params)})
        return backboneFeatures({params, config: backbone.config, precision: 'fp32'}, dense)
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

/** Scores a set by all predictors. Throws a `UserError` (exit 3) where no pair can be used. */
export async function* scoreSet(
  {data, options, onRejected}: DepthContext,
  set: NamedSet,
  predictors: readonly Predictor[]
): AsyncGenerator<DepthEvent, DepthSetReport> {
  const {name, pairs} = set
  const ids: string[] = []
  const errors = new Map(predictors.map(({features}) => [features, [] as AlignedErrors[]]))
  for await (const sample of readSamples(pairs, data, onRejected, options.signal)) {
    const {truth, valid} = sample
    const known = Float32Array.from(valid, at => truth[at]!)
    for (const {features, predict} of predictors) {
      const depth = await predict(sample)
      const predicted = Float32Array.from(valid, at => depth[at]!)
      const aligned = ALIGNMENTS.map(how => [how, depthErrors(align(predicted, known, how, data.range), known)])
      errors.get(features)!.push(Object.fromEntries(aligned) as AlignedErrors)
    }
    ids.push(sample.pair.image.id)
    yield {kind: 'scored', set: name, done: ids.length, total: pairs.length}
  }
  if (ids.length === 0)
    throw new UserError(`None of the pairs of ${name} can be used.`, {exit: 3, code: 'NO_INPUT', hint: 'The reasons are named above.'})
  return summarizeSet(set, ids, errors, options.seed)
}

/** The best, typical and worst images of a set by the model's abs_rel, predicted again for a page. */
export async function pickExamples(
  {data}: DepthContext,
  report: DepthSetReport,
  {pairs}: NamedSet,
  {predict}: Predictor
): Promise<DepthExamples> {
  const order = [...report.perImage].sort((a, b) => a.abs_rel - b.abs_rel)
  const n = Math.min(3, Math.ceil(order.length / 3))
  const middle = Math.max(0, Math.floor((order.length - n) / 2))
  const picked = [
    {title: 'Best', images: order.slice(0, n)},
    {title: 'Typical', images: order.slice(middle, middle + n)},
    {title: 'Worst', images: order.slice(-n).reverse()}
  ]
  const groups = []
  for (const {title, images} of picked) {
    const shown = []
    for (const image of images) {
      const pair = pairs.find(({image: {id}}) => id === image.id)!
      const sample = await loadSample(pair, data)
      shown.push({id: image.id, errors: image, sample, depth: await predict(sample)})
    }
    groups.push({title, shown})
  }
  return {set: report.name, groups}
}
