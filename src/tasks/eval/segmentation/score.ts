/** Scores predictions of segmentation: the model's head, heads on baseline features, and the most frequent class. */
import {UserError} from '../../../config/errors.js'
import {IGNORED} from '../../../data/targets/class-map.js'
import type {Raster} from '../../../data/image/decode.js'
import {areasOf, countPixels, emptyConfusion, miouOf} from '../../../metrics/iou.js'
import type {SegmentHead} from '../../../heads/segment-head.js'
import type {SegContext, SegEvent} from './context.js'
import type {SampleSet} from './dataset.js'
import {predictClasses, yieldToEvents, type Extractor, type FoldedHead} from './inference.js'
import type {SegCase, SegOutcome} from './report.js'
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

/** Scores all sets by one head. */
export async function* scoreHead(context: SegContext, extractor: Extractor, head: FoldedHead): AsyncGenerator<SegEvent, SegOutcome[]> {
  const {options, protocol, classes} = context
  const outcomes: SegOutcome[] = []
  for (const [set, samples] of scoredSets(context)) {
    const areas: Float64Array[] = []
    const begun = performance.now()
    for (let i = 0; i < samples.length; i++) {
      await yieldToEvents()
      options.signal?.throwIfAborted()
      const {photo, labels} = await samples.sample(i)
      const prediction = await predictClasses(photo, extractor, head, protocol)
      areas.push(countImage(labels, prediction.labels, classes.names.length))
      yield {kind: 'scored', features: extractor.name, set, done: i + 1, of: samples.length}
    }
    outcomes.push({features: extractor.name, set, areas, seconds: (performance.now() - begun) / 1000})
  }
  return outcomes
}

/** Trains a head on features; the caller owns it. Throws a `UserError` (exit 6) where the loss is not finite. */
export async function* trainOnFeatures(
  {options: {signal}, sets, classes, settings}: SegContext,
  extractor: Extractor
): AsyncGenerator<SegEvent, SegmentHead> {
  const steps = trainHead(sets.train!, extractor, classes.names.length, settings, signal)
  let next = await steps.next()
  for (; !next.done; next = await steps.next()) {
    const {value} = next
    if (value.kind === 'features') yield {...value, features: extractor.name}
    else {
      if (!Number.isFinite(value.loss))
        throw new UserError(`The loss of the head is not finite at step ${value.step}.`, {
          exit: 6,
          code: 'NOT_FINITE',
          hint: 'Try a smaller --lr; if the features themselves are not finite, the backbone is broken.'
        })
      yield {kind: 'step', features: extractor.name, step: value.step, of: value.of, loss: value.loss}
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
    outcomes.push({features: 'majority', set, areas, seconds: 0})
  }
  return outcomes
}

/** The images with the highest, the middle and the lowest mIoU of their own, predicted once more to be drawn. */
export async function pickCases(
  samples: SampleSet,
  areas: readonly Float64Array[],
  K: number,
  each: number,
  predict: (photo: Raster) => Promise<{labels: Uint16Array}>
): Promise<SegCase[]> {
  const ranked = areas.map((one, i) => ({i, miou: miouOf(one, K)})).sort((a, b) => b.miou - a.miou || a.i - b.i)
  const n = Math.min(each, Math.max(1, Math.floor(ranked.length / 3)))
  const middle = Math.max(0, Math.floor(ranked.length / 2 - n / 2))
  const chosen = new Map<number, {kind: SegCase['kind']; miou: number}>()
  for (const [kind, some] of [
    ['best', ranked.slice(0, n)],
    ['worst', ranked.slice(-n).reverse()],
    ['typical', ranked.slice(middle, middle + n)]
  ] as const)
    for (const {i, miou} of some) if (!chosen.has(i)) chosen.set(i, {kind, miou})
  const cases: SegCase[] = []
  for (const [i, {kind, miou}] of chosen) {
    const {id, photo, labels: truth} = await samples.sample(i)
    cases.push({id, kind, miou, photo, truth, labels: (await predict(photo)).labels})
  }
  return cases
}
