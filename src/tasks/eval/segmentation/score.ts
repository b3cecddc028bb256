/** Scores predictions of segmentation: the model's head, heads on baseline features, and the most frequent class. */
import {UserError} from '../../../config/errors.js'
import {IGNORED} from '../../../data/targets/class-map.js'
import type {Raster} from '../../../data/image/decode.js'
import {areasOf, countPixels, emptyConfusion, miouOf} from '../../../metrics/iou.js'
import type {SegmentHead} from '../../../heads/segment-head.js'
import type {EvalEvent} from '../shared/evaluation.js'
import {pickExamples} from '../shared/pick-examples.js'
import type {SegContext} from './context.js'
import type {SampleSet, SegmentationSample} from './dataset.js'
import {oneAhead} from '../../embed/one-ahead.js'
import type {MapFeatures} from '../../embed/image-features.js'
import type {FoldedHead} from '../../../heads/segment-inference.js'
import {predictClasses, yieldToEvents} from './inference.js'
import type {SegExample, SegFeatures, SegOutcome} from './report.js'
import {trainHead} from './train.js'

/** The counts of one image that IoU needs, [3K]. */
function countImage(truth: Uint16Array, labels: Uint16Array, K: number): Float64Array {
  const confusion = emptyConfusion(K)
  countPixels(confusion, truth, labels, K, IGNORED)
  return areasOf(confusion, K)
}

/** The sets that are scored, under their names. */
const scoredSets = ({sets: {val, test}}: SegContext): (readonly ['val' | 'test', SampleSet])[] => [
  ['val', val],
  ...(test ? [['test', test] as const] : [])
]

/** The samples of a set, in order; between them signals have their turn. */
async function* samplesOf(samples: SampleSet, signal: AbortSignal | undefined): AsyncGenerator<SegmentationSample> {
  for (let i = 0; i < samples.length; i++) {
    await yieldToEvents()
    signal?.throwIfAborted()
    yield samples.sample(i)
  }
}

/** Scores all sets by one head. */
export async function* scoreSegmentationHead(
  context: SegContext,
  source: MapFeatures,
  head: FoldedHead
): AsyncGenerator<EvalEvent, SegOutcome[]> {
  const {options, protocol, classes} = context
  const outcomes: SegOutcome[] = []
  for (const [set, samples] of scoredSets(context)) {
    const areas: Float64Array[] = []
    const begun = performance.now()
    const predict = async ({photo, labels}: SegmentationSample) => ({
      labels,
      prediction: await predictClasses(photo, source, head, protocol)
    })
    for await (const {labels, prediction} of oneAhead(samplesOf(samples, options.signal), predict)) {
      areas.push(countImage(labels, prediction.labels, classes.names.length))
      yield {kind: 'progress', stage: 'scoring', features: source.name, set, done: areas.length, total: samples.length}
    }
    outcomes.push({
      features: source.name as SegFeatures,
      set,
      ids: samples.ids,
      items: areas,
      seconds: (performance.now() - begun) / 1000
    })
  }
  return outcomes
}

/** Trains a head on features; the caller owns it. Throws a `UserError` (exit 6) where the loss is not finite. */
export async function* trainOnFeatures(
  {options: {signal}, sets, classes, settings}: SegContext,
  source: MapFeatures
): AsyncGenerator<EvalEvent, SegmentHead> {
  const features = source.name
  const steps = trainHead(sets.train!, source, classes.names.length, settings, signal)
  let next = await steps.next()
  for (; !next.done; next = await steps.next()) {
    const {value} = next
    if (value.kind === 'features') yield {kind: 'progress', stage: 'features', features, done: value.done, total: value.of}
    else {
      if (!Number.isFinite(value.loss))
        throw new UserError(`The loss of the head is not finite at step ${value.step}.`, {
          exit: 6,
          code: 'NOT_FINITE',
          hint: 'Try a smaller --lr; if the features themselves are not finite, the backbone is broken.'
        })
      yield {kind: 'progress', stage: 'training', features, done: value.step, total: value.of, loss: value.loss}
    }
  }
  signal?.throwIfAborted()
  return next.value
}

/** Predicts the most frequent class of the train set for every pixel. */
export async function scoreMostFrequent(context: SegContext): Promise<SegOutcome[]> {
  const K = context.classes.names.length
  const train = context.sets.train!
  const counts = new Float64Array(K)
  for (let i = 0; i < train.length; i++) for (const label of (await train.sample(i)).labels) if (label !== IGNORED) counts[label]!++
  const mostFrequent = counts.indexOf(Math.max(...counts))
  const outcomes: SegOutcome[] = []
  for (const [set, samples] of scoredSets(context)) {
    const areas: Float64Array[] = []
    for (let i = 0; i < samples.length; i++) {
      const {labels} = await samples.sample(i)
      areas.push(countImage(labels, new Uint16Array(labels.length).fill(mostFrequent), K))
    }
    outcomes.push({features: 'majority', set, ids: samples.ids, items: areas, seconds: 0})
  }
  return outcomes
}

/** The images with the highest, the middle and the lowest mIoU of their own, predicted once more for a page. */
export async function predictSegmentationExamples(
  samples: SampleSet,
  areas: ArrayLike<Float64Array>,
  {classes, each}: {readonly classes: number; readonly each: number},
  predict: (photo: Raster) => Promise<{labels: Uint16Array}>
): Promise<SegExample[]> {
  const scored = samples.ids.map((id, i) => ({id, i, miou: miouOf(areas[i]!, classes)}))
  const picked = pickExamples(scored, each, {score: ({miou}) => (Number.isNaN(miou) ? -1 : miou), name: ({id}) => id})
  const examples: SegExample[] = []
  for (const kind of ['best', 'typical', 'worst'] as const)
    for (const {i, miou} of picked[kind]) {
      const {id, photo, labels: truth} = await samples.sample(i)
      examples.push({id, kind, miou, photo, truth, labels: (await predict(photo)).labels})
    }
  return examples
}
