/**
 * Judging features by their nearest neighbours (docs/spec.md §5.1): nothing is trained, so the score is the features'
 * own.
 *
 * Vectors are brought to length 1; neighbours are the rows of largest inner product; the vote is in `search/knn.ts`.
 * Without a val set every train image is asked for with itself left out. Two baselines stand beside the model on the
 * same images: its pixels (32 × 32, normalised as for the network), and the same architecture with fresh weights,
 * which tells what the architecture alone brings.
 */
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import {noImages, type ImageRef, type SourceNote} from '../../../data/sources/source.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../../engine/start.js'
import {assertSameProvenance, type EmbeddingMeta} from '../../../files/embeddings/embeddings.js'
import {nearest, normalizeRows, rowAt, VectorBuilder, type InnerProductFn, type Vectors} from '../../../search/exact.js'
import {confusionMatrix} from '../../../metrics/accuracy.js'
import {bootstrap, hits, sampleRowsPerClass, defaultTemperature, defaultK, vote} from '../../../search/knn.js'
import {rng} from '../../../tensor/random.js'
import {pickCases, type Cases} from '../shared/example-images.js'
import {loadEmbedder, type FeatureSettings} from '../../embed/embedder.js'
import {engineMatmul} from '../shared/engine-matmul.js'
import {
  embeddingRows,
  modelRows,
  pathOf,
  pixelRows,
  repeatableRefs,
  throwUnlabelled,
  untrainedEmbedder,
  type Baseline,
  type Rows
} from '../shared/labelled-features.js'

export type {Baseline} from '../shared/labelled-features.js'
/** Which features a score is of. */
export type FeatureName = 'model' | KnnBaseline
/** `majority` says the largest class of train of every image. */
export type KnnBaseline = Baseline | 'majority'

export type KnnOptions = {
  /** Images (with `model` or a baseline) or files of embeddings, with labels. */
  readonly train: readonly string[]
  /** The same, to be classified; absent: every train row, by the others. */
  readonly val?: readonly string[]
  readonly model?: string
  readonly baselines?: readonly KnnBaseline[]
  readonly features: FeatureSettings
  readonly k?: readonly number[]
  /** Train rows of a class that are used; `undefined` stands for all. */
  readonly perClass?: readonly (number | undefined)[]
  /** Draws of a limited train set; their mean is reported. */
  readonly tries?: number
  readonly temperature?: number
  readonly seed: number
  readonly nul?: boolean
  readonly stdin?: AsyncIterable<Uint8Array>
  readonly engine: EngineRequest
  /**
   * Multiplications from which an engine's matrix product is worth starting; by default about a second of plain loops.
   */
  readonly engineWork?: number
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  readonly toolVersion: string
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

/** One score: shares between 0 and 1. */
export type KnnScore = {
  readonly features: FeatureName
  /** Train rows of a class; null: all. */
  readonly perClass: number | null
  /** 0 for the largest class, which asks no neighbour. */
  readonly k: number
  readonly top1: number
  /** 95 % interval of top1, by drawing the classified images with replacement. */
  readonly top1Interval: readonly [low: number, high: number]
  readonly top5: number
  /** top1 of every draw, where train rows were drawn. */
  readonly tries?: readonly number[]
}

/** How much better the model is than a baseline, at one k, on the same images. */
export type KnnGain = {
  readonly over: KnnBaseline
  readonly k: number
  readonly top1: number
  readonly interval: readonly [low: number, high: number]
}

export type KnnReport = {
  readonly train: number
  readonly val: number
  readonly classes: number
  readonly leaveOneOut: boolean
  readonly temperature: number
  readonly scores: readonly KnnScore[]
  readonly gains: readonly KnnGain[]
  /**
   * For the model (else the first baseline) with all train rows: of each class how many were classified, and the share
   * that was right, by k.
   */
  readonly perClass: Readonly<Record<string, {readonly images: number; readonly top1: Readonly<Record<string, number>>}>>
  /**
   * For the same, at the k of highest top1: counts [classes, classes] by true class, and images to look at; absent
   * where all train rows were never used.
   */
  readonly confusion?: {readonly k: number; readonly classes: readonly string[]; readonly counts: readonly (readonly number[])[]}
  readonly cases?: Cases
  readonly fingerprint?: string | null
  readonly notes: readonly string[]
}

export type KnnEvent =
  | {readonly kind: 'started'; readonly engine: EngineInfo}
  | {readonly kind: 'embedded'; readonly features: FeatureName; readonly set: 'train' | 'val'; readonly rows: number}

/** The images of each set, as often as they are wanted. */
type Images = Readonly<Record<'train' | 'val', () => AsyncIterable<ImageRef>>>

/** Rows with their labels. */
type Labelled = {readonly vectors: Vectors; readonly labels: readonly string[]; readonly paths: readonly string[]}
type Sets = {readonly train: Labelled; readonly val: Labelled | undefined}

/**
 * Runs the evaluation; yields how far it is and returns the report.
 *
 * Throws `UserError`: no images or rows (exit 3), one without a label (exit 2), train and val of two makings (exit 2),
 * and what model and engine throw.
 */
export async function* knnEval(options: KnnOptions): AsyncGenerator<KnnEvent, KnnReport> {
  const {model, baselines: asked = [], seed} = options
  const baselines = asked.filter(name => name !== 'majority')
  const notes: string[] = []
  const scored: {features: FeatureName; sets: Sets}[] = []
  let fingerprint: string | null | undefined
  let started = false
  if (model === undefined && baselines.length === 0) {
    const {sets, meta} = await fromEmbeddings(options)
    fingerprint = meta.fingerprint
    scored.push({features: 'model', sets})
  } else {
    if (model === undefined && baselines.includes('untrained'))
      throw new UserError('The untrained baseline has the architecture of a model, but no model was named.', {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model.'
      })
    const images: Images = {
      train: repeatableRefs(options.train, options, options.onSkipped),
      val: repeatableRefs(options.val ?? [], options, options.onSkipped)
    }
    let told = false // of bad images, once is enough
    const onRejected = (bad: RejectedImage): void => {
      if (!told) options.onRejected?.(bad)
    }
    if (model !== undefined) {
      const info = await startEngine(options.engine)
      yield {kind: 'started', engine: info}
      started = true
      using embedder = await loadEmbedder(model, {...options.features, precision: info.precision, toolVersion: options.toolVersion})
      fingerprint = embedder.meta.fingerprint
      scored.push({
        features: 'model',
        sets: yield* bothSets('model', options, images, onRejected, (refs, bad) => modelRows(refs, embedder, options, info, bad))
      })
      told = true
      if (baselines.includes('untrained')) {
        const fresh = await untrainedEmbedder(embedder, options.features, options.toolVersion, seed)
        using held = fresh
        scored.push({
          features: 'untrained',
          sets: yield* bothSets('untrained', options, images, onRejected, (refs, bad) => modelRows(refs, held, options, info, bad))
        })
      }
    }
    if (baselines.includes('pixels'))
      scored.push({
        features: 'pixels',
        sets: yield* bothSets('pixels', options, images, onRejected, (refs, bad) =>
          pixelRows(refs, {...options, cropBorders: options.features.transform.cropBorders ?? false}, bad)
        )
      })
  }
  const muchWork = scored.some(({sets}) => workOf(sets) > (options.engineWork ?? 1e9))
  if (muchWork && !started) yield {kind: 'started', engine: await startEngine(options.engine)}
  return score(scored, options, notes, fingerprint, muchWork ? engineMatmul : undefined)
}

// ---- rows ----------------------------------------------------------------------------------------------------------

async function* bothSets(
  features: FeatureName,
  options: KnnOptions,
  images: Images,
  onRejected: (bad: RejectedImage) => void,
  rowsOf: (refs: AsyncIterable<ImageRef>, onRejected: (bad: RejectedImage) => void) => Rows
): AsyncGenerator<KnnEvent, Sets> {
  const one = async function* (set: 'train' | 'val', inputs: readonly string[]): AsyncGenerator<KnnEvent, Labelled> {
    let builder: VectorBuilder | undefined
    const [labels, paths]: [string[], string[]] = [[], []]
    for await (const {ids, labels: some, fields, vectors} of rowsOf(images[set](), onRejected)) {
      options.signal?.throwIfAborted()
      const D = vectors.length / ids.length
      builder ??= new VectorBuilder(D)
      builder.append(normalizeRows(vectors, D))
      for (const [i, id] of ids.entries()) {
        labels.push(some[i] ?? throwUnlabelled(id))
        paths.push(pathOf(id, fields[i]))
      }
      yield {kind: 'embedded', features, set, rows: builder.count}
    }
    options.signal?.throwIfAborted()
    if (!builder) throw noImages(inputs)
    return {vectors: builder.finish(), labels, paths}
  }
  const train = yield* one('train', options.train)
  return {train, val: options.val === undefined ? undefined : yield* one('val', options.val)}
}

async function fromEmbeddings(options: KnnOptions): Promise<{sets: Sets; meta: EmbeddingMeta}> {
  const load = async (sources: readonly string[]): Promise<{set: Labelled; meta: EmbeddingMeta}> => {
    const source = await embeddingRows(sources, options)
    try {
      const {meta} = source
      const builder = new VectorBuilder(meta.dim)
      const [labels, paths]: [string[], string[]] = [[], []]
      for await (const {ids, vectors, labels: some, fields} of source.rows) {
        builder.append(normalizeRows(vectors, meta.dim))
        for (const [i, id] of ids.entries()) {
          labels.push(some[i] ?? throwUnlabelled(id))
          paths.push(pathOf(id, fields[i]))
        }
      }
      if (builder.count === 0)
        throw new UserError(`${source.name} holds no rows.`, {exit: 3, code: 'NO_INPUT', hint: 'Were all images refused?'})
      return {set: {vectors: builder.finish(), labels, paths}, meta}
    } finally {
      await source.close()
    }
  }
  const train = await load(options.train)
  const val = options.val && (await load(options.val))
  if (val) assertSameProvenance({name: options.train[0]!, meta: train.meta}, {name: options.val[0]!, meta: val.meta}, {ignoreLength: true})
  return {sets: {train: train.set, val: val?.set}, meta: train.meta}
}

// ---- scores --------------------------------------------------------------------------------------------------------

const workOf = ({train, val = train}: Sets): number => train.vectors.count * val.vectors.count * train.vectors.dim

/**
 * Of every classified image the share of draws in which it was right (0 or 1 where there is one), and each draw's
 * share of right images.
 */
type Outcome = {
  readonly k: number
  readonly top1: Float64Array
  readonly top5: Float64Array
  readonly tries: number[]
  /** Class that the last draw said of each image, and its share of the votes. */
  readonly said: Int32Array
  readonly share: Float64Array
}

function score(
  scored: readonly {features: FeatureName; sets: Sets}[],
  options: KnnOptions,
  notes: string[],
  fingerprint: string | null | undefined,
  products: InnerProductFn | undefined
): KnnReport {
  const {perClass = [undefined], seed} = options
  const {train, val} = scored[0]!.sets
  const classes = [...new Set([...train.labels, ...(val?.labels ?? [])])].sort((a, b) => (a < b ? -1 : 1))
  const unseen = classes.filter(label => !train.labels.includes(label))
  if (unseen.length > 0)
    notes.push(
      `${unseen.length} classes of val are not in train and count as wrong: ${unseen.slice(0, 5).join(', ')}${unseen.length > 5 ? ', …' : ''}`
    )
  if (classes.length < 2) notes.push('there is one class only, so every answer is right')
  const truth = (val ?? train).labels
  const scores: KnnScore[] = []
  const full = new Map<FeatureName, Outcome[]>()
  const interval = (values: Float64Array, ...keys: (string | number)[]): readonly [number, number] => {
    const random = rng(seed, 'bootstrap', ...keys)
    const {low, high} = bootstrap(values, () => random.uniform())
    return [low, high]
  }
  const largest = mode(train.labels)
  const byMajority = Float64Array.from(truth, label => Number(label === largest))
  for (const n of perClass) {
    const before = notes.length
    for (const {features, sets} of scored) {
      const outcomes = classify(sets, classes, n, options, features === scored[0]!.features ? notes : [], products)
      if (n === undefined) full.set(features, outcomes)
      for (const {k, top1, top5, tries} of outcomes) {
        const draws = n === undefined ? {} : {tries}
        // The draws are the same for all features, so that intervals differ by what was right, not by chance.
        scores.push({
          features,
          perClass: n ?? null,
          k,
          top1: average(top1),
          top1Interval: interval(top1, n ?? -1, k),
          top5: average(top5),
          ...draws
        })
      }
    }
    if (n !== undefined && notes.length > before)
      notes.splice(before, notes.length, ...notes.slice(before).map(note => `with ${n} of a class, ${note}`))
  }
  const majority = options.baselines?.includes('majority') === true
  if (majority) {
    const top1 = average(byMajority)
    scores.push({
      features: 'majority',
      perClass: null,
      k: 0,
      top1,
      top1Interval: interval(byMajority, -1, 0),
      top5: topFive(train.labels, truth)
    })
  }
  const gains: KnnGain[] = []
  const own = full.get('model')
  for (const over of ['majority', 'pixels', 'untrained'] as const) {
    const others = over === 'majority' ? (majority && own ? own.map(({k}) => ({k, top1: byMajority})) : []) : (full.get(over) ?? [])
    for (const {k, top1} of others) {
      const mine = own?.find(outcome => outcome.k === k)?.top1
      if (mine?.length !== top1.length) continue // an image that one of them refuses, or another k
      const difference = mine.map((right, i) => right - top1[i]!)
      gains.push({over, k, top1: average(difference), interval: interval(difference, 'gain', k)})
    }
  }
  const first = full.get(scored[0]!.features)
  const shown = first?.reduce((a, b) => (average(b.top1) > average(a.top1) ? b : a))
  return {
    train: train.labels.length,
    val: truth.length,
    classes: classes.length,
    leaveOneOut: val === undefined,
    temperature: options.temperature ?? defaultTemperature,
    scores,
    gains,
    perClass: Object.fromEntries(first ? classes.map(label => [label, ofClass(label, truth, first)]) : []),
    ...(shown
      ? {confusion: {k: shown.k, classes, counts: countsOf(truth, shown.said, classes)}, cases: casesOf(val ?? train, shown, classes)}
      : {}),
    ...(fingerprint === undefined ? {} : {fingerprint}),
    notes
  }
}

/** Labels by how often they occur, most often first; of equal ones the first in order. */
function byFrequency(labels: readonly string[]): string[] {
  const counts = new Map<string, number>()
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1)
  return [...counts.keys()].sort((a, b) => counts.get(b)! - counts.get(a)! || (a < b ? -1 : 1))
}
const mode = (labels: readonly string[]): string => byFrequency(labels)[0]!

/** The share of images whose class is among the five largest of train. */
function topFive(train: readonly string[], truth: readonly string[]): number {
  const five = byFrequency(train).slice(0, 5)
  return truth.filter(label => five.includes(label)).length / truth.length
}

function countsOf(truth: readonly string[], said: Int32Array, classes: readonly string[]): number[][] {
  const numbers = new Map(classes.map((label, i) => [label, i]))
  const K = classes.length
  const counts = confusionMatrix(
    truth.map(label => numbers.get(label)!),
    said,
    K
  )
  return classes.map((_, k) => [...counts.subarray(k * K, (k + 1) * K)])
}

/** Images to look at; sure is what most votes agree on. */
const casesOf = ({labels, paths}: Labelled, {said, share}: Outcome, classes: readonly string[]): Cases =>
  pickCases(labels.map((truth, i) => ({path: paths[i]!, truth, said: classes[said[i]!]!, confidence: share[i]!})))

const average = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length

function ofClass(label: string, truth: readonly string[], outcomes: readonly Outcome[]): {images: number; top1: Record<string, number>} {
  const members = truth.flatMap((name, i) => (name === label ? [i] : []))
  const share = ({top1}: Outcome): number => members.reduce((sum, i) => sum + top1[i]!, 0) / members.length
  return {
    images: members.length,
    top1: members.length === 0 ? {} : Object.fromEntries(outcomes.map(outcome => [outcome.k, share(outcome)]))
  }
}

/**
 * Classifies val (or train, each row by the others) with all train rows, or with drawn ones and the mean over draws.
 */
function classify(
  {train, val}: Sets,
  classes: readonly string[],
  perClass: number | undefined,
  {k: wanted = defaultK, tries = 1, temperature: heat = defaultTemperature, seed}: KnnOptions,
  notes: string[],
  products: InnerProductFn | undefined
): Outcome[] {
  const numbers = new Map(classes.map((label, i) => [label, i]))
  const labels = Int32Array.from(train.labels, label => numbers.get(label)!)
  const asked = val ?? train
  const truth = asked.labels.map(label => numbers.get(label)!)
  const queries = allRows(asked.vectors)
  const draws = perClass === undefined ? 1 : tries
  const outcomes = new Map<number, Outcome>()
  for (let draw = 0; draw < draws; draw++) {
    const chosen =
      perClass === undefined
        ? undefined
        : sampleRowsPerClass(labels, perClass, label => {
            const random = rng(seed + draw, 'rows of a class', classes[label]!)
            return () => random.uniform()
          })
    const rows = chosen ? gather(train.vectors, chosen) : train.vectors
    const rowLabels = chosen ? Int32Array.from(chosen, row => labels[row]!) : labels
    // A row that is left out of its own answer is one fewer.
    const most = rows.count - (val ? 0 : 1)
    if (most < 1)
      throw new UserError('There is no other train image to compare with.', {
        exit: 2,
        code: 'TOO_FEW',
        hint: 'Give more images, or a --val set.'
      })
    const ks = [...new Set(wanted.map(k => Math.min(k, most)))].sort((a, b) => a - b)
    if (draw === 0 && wanted.some(k => k > most)) notes.push(`k is limited to the ${most} train images there are`)
    const skip = val
      ? undefined
      : chosen
        ? (query: number, row: number) => chosen[row] === query
        : (query: number, row: number) => query === row
    const found = nearest(rows, queries, ks.at(-1)!, {...(skip ? {skip} : {}), ...(products ? {innerProduct: products} : {})})
    for (const k of ks)
      if (!outcomes.has(k)) {
        const numbers = (): Float64Array => new Float64Array(truth.length)
        outcomes.set(k, {k, top1: numbers(), top5: numbers(), tries: [], said: new Int32Array(truth.length), share: numbers()})
      }
    for (const [q, neighbours] of found.entries()) {
      const votes = vote(neighbours, rowLabels, classes.length, ks, heat)
      const [first, five] = [hits(votes, truth[q]!, 1), hits(votes, truth[q]!, 5)]
      for (const [i, k] of ks.entries()) {
        const outcome = outcomes.get(k)!
        if (first[i]) outcome.top1[q]! += 1
        if (five[i]) outcome.top5[q]! += 1
        outcome.said[q] = votes[i]!.classes[0]!
        outcome.share[q] = votes[i]!.share
      }
    }
    for (const k of ks) {
      const {top1, tries: list} = outcomes.get(k)!
      list.push(top1.reduce((sum, count) => sum + count, 0))
    }
  }
  const n = truth.length
  return [...outcomes.values()].map(({k, top1, top5, tries: sums, said, share}) => ({
    k,
    said,
    share,
    top1: top1.map(count => count / draws),
    top5: top5.map(count => count / draws),
    tries: sums.map((sum, i) => (sum - (sums[i - 1] ?? 0)) / n) // counts grow from draw to draw
  }))
}

/** Rows of blocks side by side, as queries. */
function allRows({blocks, count, dim}: Vectors): Float32Array {
  if (blocks.length === 1) return blocks[0]!
  const all = new Float32Array(count * dim)
  let at = 0
  for (const block of blocks) {
    all.set(block, at)
    at += block.length
  }
  return all
}

function gather(vectors: Vectors, rows: Int32Array): Vectors {
  const builder = new VectorBuilder(vectors.dim)
  for (const row of rows) builder.append(rowAt(vectors, row))
  return builder.finish()
}
