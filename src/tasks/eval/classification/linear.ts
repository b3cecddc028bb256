/**
 * Linear classification on frozen features (docs/spec.md §5.2 and §5.3): what one linear layer reads out of a
 * backbone.
 *
 * Two solvers. `sgd` is the published protocol: 13 learning rates for each of four kinds of features, trained side by
 * side on one pass of the backbone, under random crops; the best on val is reported, which flatters it a little, so
 * `tests` are scored with the one that was chosen. `lbfgs` is logistic regression on the last cls token, its C chosen
 * on a tenth of train. With `cached` features are computed once, without augmentation.
 *
 * Beside the model stand baselines on the same images: the largest class, raw pixels, and the same architecture with
 * fresh weights.
 */
import {UserError} from '../../../config/errors.js'
import {rejectedImage} from '../../../data/sources/image-ref.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import {shuffledSampler} from '../../../data/loader/sampler.js'
import {labelOf, noImages, type ImageRef, type SourceNote} from '../../../data/sources/source.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../../engine/start.js'
import {assertSameProvenance, type EmbeddingMeta} from '../../../files/embeddings/embeddings.js'
import {saveHead} from '../../../files/checkpoint/head-file.js'
import {predictedClasses, accuracyByClass, confusionMatrix, trueClassRanks} from '../../../metrics/accuracy.js'
import {comparison, differenceOf, meanOf, type Estimate, type Interval} from '../../../metrics/intervals.js'
import {
  classifierOf,
  freeGrid,
  gridScores,
  gridStep,
  initGrid,
  learningRates,
  protocolSlices,
  type FeatureSlice
} from '../../../heads/linear-grid.js'
import {classifierScores, logistic, defaultC} from '../../../heads/logistic.js'
import {sampleRowsPerClass} from '../../../search/knn.js'
import {rng} from '../../../tensor/random.js'
import {argMax, dispose, equal, reshape, sum, tensor1d, tensor2d, tidy} from '../../../tensor/tf.js'
import type {Tensor2D} from '../../../tensor/tf.js'
import {loadBackbone} from '../../embed/load-backbone.js'
import {pickCases, type Cases} from '../shared/example-images.js'
import {openClassifier, type Classifier, type ClassifierSpec, type OpenedClassifier} from './classifier-file.js'
import {embedderOf, settingsOf, defaultBatch, defaultFeatures, type Embedder, type FeatureSettings} from '../../embed/embedder.js'
import {
  embeddingRows,
  gatherRows,
  modelRows,
  pixelRows,
  repeatableRefs,
  throwUnlabelled,
  untrainedEmbedder,
  type LabelledSet,
  type RowOptions
} from '../shared/labelled-features.js'

export type LinearBaseline = 'majority' | 'pixels' | 'untrained'
export type Solver = 'sgd' | 'lbfgs'

export type LinearOptions = RowOptions & {
  readonly train: readonly string[]
  readonly val: readonly string[]
  /** Further sets, scored with the classifier that val chose. */
  readonly tests?: readonly string[]
  /** Backbones; none where train and val are embeddings. */
  readonly models?: readonly string[]
  readonly baselines?: readonly LinearBaseline[]
  /** How images are made ready; absent: as the head was trained, else the usual way. */
  readonly transform?: FeatureSettings['transform']
  /** Last blocks whose cls tokens are joined in the larger kinds. */
  readonly blocks?: number
  readonly solver?: Solver
  /** Compute features once, without augmentation. */
  readonly cached?: boolean
  /** Steps and rows a step of sgd. */
  readonly steps?: number
  readonly rows?: number
  /** Train images of a class that are used, and how many draws of them are averaged. */
  readonly shots?: number
  readonly tries?: number
  /** Scores with this classifier instead of training one. */
  readonly head?: string
  /** Names of the classes of a published head, in its order. */
  readonly classes?: readonly string[]
  readonly headOut?: string
  readonly force?: boolean
  readonly seed: number
  readonly engine: EngineRequest
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
}

/** Shares between 0 and 1. */
export type LinearScore = {
  /** The model as it was named, `majority`, `pixels` or `untrained`. */
  readonly name: string
  /** `val`, or the test set as it was named. */
  readonly set: string
  readonly images: number
  readonly top1: number
  readonly top1Interval: Interval
  readonly top5: number
  /** What was chosen: features and learning rate, or C. */
  readonly chosen: string
  /** top1 of each draw of few shots. */
  readonly tries?: readonly number[]
}

export type LinearGain = Estimate & {readonly of: string; readonly over: string; readonly set: string; readonly words: string}

export type LinearReport = {
  readonly solver: Solver
  readonly cached: boolean
  readonly train: number
  readonly val: number
  readonly classes: readonly string[]
  readonly fingerprint: string | null
  readonly scores: readonly LinearScore[]
  readonly gains: readonly LinearGain[]
  /** Of the first model on val: accuracy by class, and counts [K, K] by true class. */
  readonly perClass: Readonly<Record<string, number | null>>
  readonly confusion: readonly (readonly number[])[]
  /** val accuracy of every classifier of the first model. */
  readonly grid: readonly {readonly features: string; readonly rate: number; readonly top1: number}[]
  readonly notes: readonly string[]
  readonly cases: Cases
  readonly head?: string
}

export type LinearEvent =
  | {readonly kind: 'started'; readonly engine: EngineInfo}
  | {readonly kind: 'features'; readonly name: string; readonly set: string; readonly rows: number}
  | {readonly kind: 'training'; readonly name: string; readonly done: number; readonly total: number}
  | {readonly kind: 'note'; readonly text: string}

/** Sets of one contender: all with the same features. */
type Sets = {readonly train?: LabelledSet; readonly val: LabelledSet; readonly tests: readonly LabelledSet[]}
type Judged = {readonly scores: Float32Array; readonly right: Float64Array; readonly top5: Float64Array}
type Contender = {readonly name: string; readonly chosen: string; readonly judged: readonly Judged[]; readonly tries?: readonly number[]}

const published = {steps: 12_500, rows: 128}

/**
 * Runs the evaluation. Throws `UserError`: no images (exit 3), an image without a label, sets that share no class,
 * files of two makings, a head that does not fit (exit 2), and what engine and models throw.
 */
export async function* linearEval(options: LinearOptions): AsyncGenerator<LinearEvent, LinearReport> {
  const {models = [], baselines = [], seed, solver = 'sgd', tests = [], blocks = 4} = options
  const cached = options.cached === true || solver === 'lbfgs' || options.shots !== undefined || models.length === 0
  const notes: string[] = []
  const info = await startEngine(options.engine)
  yield {kind: 'started', engine: info}
  if (models.length === 0 && baselines.includes('untrained'))
    throw new UserError('The untrained baseline has the architecture of a model, but no model was named.', {
      exit: 2,
      code: 'NO_MODEL',
      hint: 'Give --model, or leave the baseline out.'
    })
  const wanting = models.length === 0 ? baselines.find(name => name === 'pixels') : undefined
  if (wanting !== undefined)
    throw new UserError('Embeddings hold no pixels, so raw pixels cannot be scored beside them.', {
      exit: 2,
      code: 'NO_IMAGES',
      hint: 'Give images and --model, or leave the baseline out.'
    })
  let told = false // of bad images, once is enough
  const onRejected = (bad: RejectedImage): void => {
    if (!told) options.onRejected?.(bad)
  }
  const names = ['train', 'val', ...tests]
  const inputsOf = (at: number): readonly string[] => (at === 0 ? options.train : at === 1 ? options.val : [tests[at - 2]!])
  const needTrain = options.head === undefined
  const images = names.map((_, at) => repeatableRefs(inputsOf(at), options, options.onSkipped))

  /** Gathers the sets of one contender. */
  const gather = async function* (
    name: string,
    rowsOf: (refs: AsyncIterable<ImageRef>) => ReturnType<typeof modelRows>,
    withTrain: boolean
  ): AsyncGenerator<LinearEvent, Sets> {
    const sets: (LabelledSet | undefined)[] = []
    for (const [at, set] of names.entries()) {
      if (at === 0 && !withTrain) {
        sets.push(undefined)
        continue
      }
      const rows = rowsOf(images[at]!())
      const counted: number[] = []
      const gathered = gatherRows(rows, inputsOf(at), {signal: options.signal, onRows: count => void counted.push(count)})
      for (let done = false; !done;) {
        done = await Promise.race([gathered.then(() => true), new Promise<false>(resolve => setTimeout(() => resolve(false), 250))])
        const last = counted.at(-1)
        if (last !== undefined) yield {kind: 'features', name, set, rows: last}
      }
      sets.push(await gathered)
    }
    return {...(sets[0] ? {train: sets[0]} : {}), val: sets[1]!, tests: sets.slice(2) as LabelledSet[]}
  }

  const contenders: Contender[] = []
  let fingerprint: string | null = null
  let classes: string[] = options.classes ? [...options.classes] : []
  let first: {sets: Sets; classifier: Classifier; grid: LinearReport['grid']; spec: HeadSpec} | undefined
  let trainCount = 0
  const bySeed = (n: number): number => n + seed

  /** Trains and judges one contender on features that are there. */
  const settle = async function* (
    name: string,
    sets: Sets,
    kinds: readonly FeatureSlice[],
    train: (() => AsyncGenerator<LinearEvent, {classifier: Classifier; grid: LinearReport['grid']}>) | undefined,
    spec: HeadSpec
  ): AsyncGenerator<LinearEvent> {
    if (classes.length === 0) classes = classesOf(sets.train ?? sets.val, sets, notes)
    const K = classes.length
    const truths = [sets.val, ...sets.tests].map(set => numbers(set.labels, classes))
    if (options.shots !== undefined && sets.train && !train) {
      const {judged, tries, chosen} = yield* fewShots(name, sets, kinds, classes, truths, options)
      contenders.push({name, chosen, judged, tries})
      first ??= {sets, classifier: {kind: kinds[0]!, weight: new Float32Array(0), bias: new Float32Array(0), chosen}, grid: [], spec}
      return
    }
    const {classifier, grid} = yield* train ? train() : trainCached(name, sets, kinds, classes, truths[0]!, options)
    const judged = [sets.val, ...sets.tests].map((set, i) => judge(set, classifier, truths[i]!, K))
    contenders.push({name, chosen: classifier.chosen, judged})
    first ??= {sets, classifier, grid, spec}
  }

  if (models.length === 0) {
    if (options.head !== undefined)
      throw new UserError('A head reads the features of a model.', {exit: 2, code: 'NO_MODEL', hint: 'Give --model.'})
    const {sets, meta, dim} = await fromEmbeddings(options, tests)
    fingerprint = meta.fingerprint
    trainCount = sets.train!.ids.length
    const known = typeof meta.preprocessing?.['resize'] === 'number' && meta.pooling !== null && meta.layers !== null
    yield* settle('embeddings', sets, kindsOf(meta, dim, solver), undefined, {
      kind: 'linear',
      ...(known ? settingsOf(meta, 'train') : {pool: meta.pooling ?? 'cls', layers: meta.layers ?? 1, normalize: meta.normalized})
    })
  } else {
    for (const [m, path] of models.entries()) {
      const backbone = await loadBackbone(path, {precision: info.precision})
      let head: OpenedClassifier | undefined
      let embedder: Embedder
      try {
        if (options.head !== undefined) head = await openClassifier(options.head, backbone, options.classes)
        // The larger kinds need blocks that a shallow model lacks; its own depth is the limit.
        const own = head?.features ?? {pool: 'cls+mean' as const, layers: Math.min(blocks, backbone.config.depth), normalize: false}
        const transform = options.transform ?? head?.transform ?? defaultFeatures.transform
        embedder = embedderOf(backbone, {...own, transform, toolVersion: options.toolVersion}, path)
      } catch (error) {
        backbone[Symbol.dispose]()
        throw error
      }
      using held = embedder
      if (m === 0) fingerprint = held.meta.fingerprint
      yield* head ? withHead(path, held, head) : one(path, held)
      told = true
      if (m === 0 && baselines.includes('untrained') && !head) {
        using fresh = await untrainedEmbedder(held, settingsOf(held.meta, path), options.toolVersion, seed)
        yield* one('untrained', fresh)
      }
    }
    if (baselines.includes('pixels') && needTrain) {
      const cropBorders = options.transform?.cropBorders ?? false
      const sets = yield* gather('pixels', refs => pixelRows(refs, {...options, cropBorders}, onRejected), true)
      yield* settle('pixels', sets, [{name: 'pixels', start: 0, length: sets.val.dim}], undefined, {
        kind: 'linear',
        pool: 'cls',
        layers: 1,
        normalize: false
      })
    }
  }

  /** Scores a classifier that is there. */
  async function* withHead(name: string, embedder: Embedder, {classifier, classes: names}: OpenedClassifier): AsyncGenerator<LinearEvent> {
    classes = [...names]
    const sets = yield* gather(name, refs => modelRows(refs, embedder, options, info, onRejected), false)
    if (!sets.val.labels.some(label => names.includes(label)))
      throw new UserError(
        `No class of val is one of the head's: ${[...new Set(sets.val.labels)].sort().slice(0, 5).join(', ')} there, ${names.slice(0, 5).join(', ')} in the head.`,
        {exit: 2, code: 'CLASSES', hint: 'Classes of a published head are numbers unless --classes names them.'}
      )
    const spec = {kind: 'linear' as const, ...settingsOf(embedder.meta, name)}
    yield* settle(
      name,
      sets,
      [],
      async function* () {
        yield {kind: 'note', text: `scoring with ${options.head}: ${classifier.chosen}`}
        return {classifier, grid: []}
      },
      spec
    )
  }

  async function* one(name: string, embedder: Embedder): AsyncGenerator<LinearEvent> {
    const C = embedder.config.width
    const n = embedder.meta.dim / C - 1
    const spec = {kind: 'linear' as const, ...settingsOf(embedder.meta, name)}
    const rowsOf = (refs: AsyncIterable<ImageRef>): ReturnType<typeof modelRows> => modelRows(refs, embedder, options, info, onRejected)
    const kinds = solver === 'lbfgs' ? [{name: 'cls', start: (n - 1) * C, length: C}] : protocolSlices(n, C)
    if (cached) {
      const sets = yield* gather(name, rowsOf, true)
      trainCount = sets.train!.ids.length
      yield* settle(name, sets, kinds, undefined, spec)
      return
    }
    const sets = yield* gather(name, rowsOf, false)
    const refs: ImageRef[] = []
    for await (const ref of images[0]!()) refs.push(ref)
    if (refs.length === 0) throw noImages(options.train)
    trainCount = refs.length
    const labels = refs.map(ref => labelOf(ref) ?? throwUnlabelled(ref.id))
    if (classes.length === 0) classes = classesOf({labels}, sets, notes)
    yield* settle(
      name,
      sets,
      kinds,
      () => trainAugmented(name, refs, labels, sets, embedder, kinds, classes, options, info, onRejected),
      spec
    )
  }

  if (!first) throw new Error('no contender was scored')
  if (baselines.includes('majority') && needTrain) contenders.push(majority(first.sets, classes))
  const K = classes.length
  const setNames = ['val', ...tests]
  const scores = contenders.flatMap(({name, chosen, judged, tries}) =>
    judged.map((own, i): LinearScore => {
      const {mean, interval} = meanOf(own.right, bySeed(i))
      return {
        name,
        set: setNames[i]!,
        images: own.right.length,
        top1: mean,
        top1Interval: interval,
        top5: meanOf(own.top5, 0).mean,
        chosen,
        ...(tries && i === 0 ? {tries} : {})
      }
    })
  )
  const [leader, ...others] = contenders as [Contender, ...Contender[]]
  const gains = others.flatMap(other =>
    leader.judged.map((own, i): LinearGain => {
      const gain = differenceOf(own.right, other.judged[i]!.right, bySeed(i))
      return {...gain, of: leader.name, over: other.name, set: setNames[i]!, words: comparison(gain)}
    })
  )
  const truth = numbers(first.sets.val.labels, classes)
  const said = leader.judged[0]!.scores.length > 0 ? predictedClasses(leader.judged[0]!.scores, truth.length, K) : new Int32Array(0)
  const counts = said.length > 0 ? confusionOfKnown(truth, said, K) : new Int32Array(K * K)
  const shares = accuracyByClass(counts, K)
  let head: string | undefined
  if (options.headOut !== undefined && first.classifier.weight.length > 0) {
    const {kind, weight, bias, chosen} = first.classifier
    await saveHead(
      options.headOut,
      {
        task: 'classify',
        tensors: new Map([
          ['weight', {shape: [K, kind.length], data: weight}],
          ['bias', {shape: [K], data: bias}]
        ]),
        spec: {...first.spec, start: kind.start, length: kind.length, classes} satisfies ClassifierSpec,
        trainedOn: {
          fingerprint: fingerprint ?? 'unknown',
          images: trainCount,
          solver,
          chosen,
          top1: scores[0]!.top1,
          tool: options.toolVersion
        }
      },
      {force: options.force === true}
    )
    head = options.headOut
  }
  return {
    solver,
    cached,
    train: trainCount,
    val: first.sets.val.ids.length,
    classes,
    fingerprint,
    scores,
    gains,
    perClass: Object.fromEntries(classes.map((name, k) => [name, Number.isNaN(shares[k]!) ? null : shares[k]!])),
    confusion: classes.map((_, k) => [...counts.subarray(k * K, (k + 1) * K)]),
    grid: first.grid,
    notes,
    cases: casesOf(first.sets.val, leader.judged[0]!.scores, classes),
    ...(head === undefined ? {} : {head})
  }
}

/** What is known of a head before its kind is chosen. */
type HeadSpec = Omit<ClassifierSpec, 'start' | 'length' | 'classes'>

/**
 * The kinds of features in rows of embeddings: those of the protocol as far as they are in there. Logistic regression
 * reads the whole vector, whatever it is.
 */
export function kindsOf({pooling, layers}: Pick<EmbeddingMeta, 'pooling' | 'layers'>, dim: number, solver: Solver): FeatureSlice[] {
  const whole = [{name: 'embeddings', start: 0, length: dim}]
  const n = typeof layers === 'number' ? layers : (layers?.length ?? 1)
  if (solver === 'lbfgs' || (pooling !== 'cls' && pooling !== 'cls+mean')) return whole
  const mean = pooling === 'cls+mean'
  const C = dim / (mean ? n + 1 : n)
  if (!Number.isInteger(C)) return whole
  return protocolSlices(n, C).filter(({start, length}) => start + length <= dim)
}

/** Class numbers of labels; −1 for a class that is not known. */
function numbers(labels: readonly string[], classes: readonly string[]): Int32Array {
  const places = new Map(classes.map((name, k) => [name, k]))
  return Int32Array.from(labels, label => places.get(label) ?? -1)
}

/**
 * The classes of train, sorted; notes those that only other sets have. Throws a `UserError` where val shares none with
 * train.
 */
function classesOf({labels}: Pick<LabelledSet, 'labels'>, {val, tests}: Sets, notes: string[]): string[] {
  const classes = [...new Set(labels)].sort((a, b) => (a < b ? -1 : 1))
  for (const [i, set] of [val, ...tests].entries()) {
    const own = new Set(set.labels)
    const unseen = [...own].filter(label => !classes.includes(label)).sort()
    if (unseen.length === own.size)
      throw new UserError(
        `No class of ${i === 0 ? 'val' : `test set ${i}`} is in train: ${[...own].sort().slice(0, 5).join(', ')} there, ${classes.slice(0, 5).join(', ')} in train.`,
        {exit: 2, code: 'CLASSES', hint: 'Labels are the folder under the root that was named, or the label field of a list.'}
      )
    if (unseen.length > 0)
      notes.push(
        `${unseen.length} classes are not in train and count as wrong: ${unseen.slice(0, 5).join(', ')}${unseen.length > 5 ? ', …' : ''}`
      )
  }
  if (classes.length < 2) notes.push('there is one class only, so every answer is right')
  return classes
}

/**
 * Scores of a classifier for a set, and whether each image is right. Work in pieces, so that scores of a large set
 * fit.
 */
function judge({x, dim, labels}: LabelledSet, {kind, weight, bias}: Classifier, truth: Int32Array, K: number): Judged {
  const n = labels.length
  const scores = new Float32Array(n * K)
  const piece = 4096
  for (let at = 0; at < n; at += piece) {
    const rows = Math.min(piece, n - at)
    const part = tidy(() => classifierScores(stretch(x, dim, at, rows, kind), {weight, bias}))
    scores.set(part.dataSync<'float32'>(), at * K)
    part.dispose()
  }
  return {scores, ...rightness(scores, truth, K)}
}

function rightness(scores: Float32Array, truth: Int32Array, K: number): {right: Float64Array; top5: Float64Array} {
  const known = Int32Array.from(truth, k => Math.max(0, k))
  const places = trueClassRanks(scores, known, K)
  const under = (most: number): Float64Array => Float64Array.from(places, (rank, i) => Number(truth[i]! >= 0 && rank < most))
  return {right: under(1), top5: under(5)}
}

/** Columns of a kind, rows `at` … `at + rows`, as a tensor [rows, F]. */
function stretch(x: Float32Array, dim: number, at: number, rows: number, {start, length}: FeatureSlice): Tensor2D {
  if (start === 0 && length === dim) return tensor2d(x.slice(at * dim, (at + rows) * dim), [rows, dim])
  const out = new Float32Array(rows * length)
  for (let i = 0; i < rows; i++) out.set(x.subarray((at + i) * dim + start, (at + i) * dim + start + length), i * length)
  return tensor2d(out, [rows, length])
}

const confusionOfKnown = (truth: Int32Array, said: Int32Array, K: number): Int32Array => {
  const known = [...truth.keys()].filter(i => truth[i]! >= 0)
  return confusionMatrix(
    known.map(i => truth[i]!),
    known.map(i => said[i]!),
    K
  )
}

/** val accuracy of every classifier, [kinds][rates]. */
function gridAccuracy(grid: ReturnType<typeof initGrid>, {x, dim, labels}: LabelledSet, truth: Int32Array): number[][] {
  const n = labels.length
  const counts = grid.kinds.map(() => grid.rates.map(() => 0))
  const piece = 2048
  for (let at = 0; at < n; at += piece) {
    const rows = Math.min(piece, n - at)
    const own = tidy(() => {
      const part = tensor2d(x.slice(at * dim, (at + rows) * dim), [rows, dim])
      const wanted = reshape(tensor1d(truth.slice(at, at + rows), 'int32'), [rows, 1])
      return gridScores(grid, part).map(scores => sum(equal(argMax(scores, 2), wanted), 0)) // [L] each
    })
    for (const [k, right] of own.entries()) {
      const values = right.dataSync()
      for (let r = 0; r < values.length; r++) counts[k]![r]! += values[r]!
    }
    dispose(own)
  }
  return counts.map(row => row.map(count => count / n))
}

/** The best classifier of a grid on val; of equal ones the first. */
function choose(
  grid: ReturnType<typeof initGrid>,
  val: LabelledSet,
  truth: Int32Array
): {classifier: Classifier; grid: LinearReport['grid']} {
  const shares = gridAccuracy(grid, val, truth)
  let [k, r] = [0, 0]
  for (const [i, row] of shares.entries()) for (const [j, share] of row.entries()) if (share > shares[k]![r]!) [k, r] = [i, j]
  const kind = grid.kinds[k]!
  return {
    classifier: {kind, ...classifierOf(grid, k, r), chosen: `${kind.name}, learning rate ${grid.rates[r]}`},
    grid: shares.flatMap((row, i) => row.map((top1, j) => ({features: grid.kinds[i]!.name, rate: grid.rates[j]!, top1})))
  }
}

/** Trains on features that are there: the grid by SGD in batches of shuffled rows, or logistic regression. */
async function* trainCached(
  name: string,
  sets: Sets,
  kinds: readonly FeatureSlice[],
  classes: readonly string[],
  valTruth: Int32Array,
  options: LinearOptions
): AsyncGenerator<LinearEvent, {classifier: Classifier; grid: LinearReport['grid']}> {
  const {seed} = options
  const train = sets.train!
  const truth = numbers(train.labels, classes)
  const n = truth.length
  if (options.solver === 'lbfgs') return yield* regress(name, train, truth, kinds[0]!, classes.length, options)
  const steps = options.steps ?? published.steps
  const rows = Math.min(options.rows ?? published.rows, n)
  const grid = initGrid(kinds, classes.length, seed)
  const sampler = shuffledSampler(n, seed)
  try {
    // Where all rows fit on the engine they are sent once and picked there.
    for (let step = 0; step < steps; step++) {
      options.signal?.throwIfAborted()
      const picked = Int32Array.from({length: rows}, (_, i) => sampler.at(step * rows + i))
      const batch = new Float32Array(rows * train.dim)
      for (const [i, row] of picked.entries()) batch.set(train.x.subarray(row * train.dim, (row + 1) * train.dim), i * train.dim)
      const x = tensor2d(batch, [rows, train.dim])
      const y = tensor1d(
        picked.map(row => truth[row]!),
        'int32'
      )
      gridStep(grid, x, y, step, steps)
      dispose([x, y])
      if (step % 100 === 99 || step === steps - 1) {
        yield {kind: 'training', name, done: step + 1, total: steps}
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    return choose(grid, sets.val, valTruth)
  } finally {
    freeGrid(grid)
  }
}

/** Logistic regression: C chosen on a tenth of the rows, then all of them (docs/spec.md §5.3). */
async function* regress(
  name: string,
  {x, dim}: LabelledSet,
  truth: Int32Array,
  kind: FeatureSlice,
  K: number,
  {seed, signal}: LinearOptions
): AsyncGenerator<LinearEvent, {classifier: Classifier; grid: LinearReport['grid']}> {
  const n = truth.length
  const order = rng(seed, 'held out').permutation(n)
  const held = Math.max(1, Math.round(n / 10))
  const some = (rows: Int32Array): {x: Tensor2D; y: Int32Array} => {
    const own = new Float32Array(rows.length * kind.length)
    for (const [i, row] of rows.entries())
      own.set(x.subarray(row * dim + kind.start, row * dim + kind.start + kind.length), i * kind.length)
    return {x: tensor2d(own, [rows.length, kind.length]), y: rows.map(row => truth[row]!)}
  }
  const all = Int32Array.from({length: n}, (_, i) => i)
  let chosen = defaultC[Math.floor(defaultC.length / 2)]!
  const grid: {features: string; rate: number; top1: number}[] = []
  if (n - held >= 2) {
    const [fit, check] = [some(Int32Array.from(order.slice(held))), some(Int32Array.from(order.slice(0, held)))]
    let top = -1
    try {
      const solutions = logistic(fit.x, fit.y, K, defaultC, {goOn: () => signal?.aborted !== true})
      signal?.throwIfAborted()
      for (const [i, solution] of solutions.entries()) {
        const scores = classifierScores(check.x, solution)
        const said = predictedClasses(scores.dataSync(), held, K)
        scores.dispose()
        const share = said.filter((k, j) => k === check.y[j]).length / held
        grid.push({features: 'cls', rate: defaultC[i]!, top1: share})
        if (share > top) [top, chosen] = [share, defaultC[i]!]
      }
    } finally {
      dispose([fit.x, check.x])
    }
    yield {kind: 'training', name, done: defaultC.length, total: defaultC.length + 1}
  }
  const whole = some(all)
  try {
    // The path up to the chosen C is followed again: each solution starts the next.
    const solved = logistic(whole.x, whole.y, K, [chosen])[0]!
    yield {kind: 'training', name, done: defaultC.length + 1, total: defaultC.length + 1}
    return {classifier: {kind, weight: solved.weight, bias: solved.bias, chosen: `logistic regression, C ${chosen.toPrecision(2)}`}, grid}
  } finally {
    dispose(whole.x)
  }
}

/**
 * Draws of few images of each class, each trained apart; an image's score is the share of draws in which it was right.
 */
async function* fewShots(
  name: string,
  sets: Sets,
  kinds: readonly FeatureSlice[],
  classes: readonly string[],
  truths: readonly Int32Array[],
  options: LinearOptions
): AsyncGenerator<LinearEvent, {judged: Judged[]; tries: number[]; chosen: string}> {
  const {shots, tries: draws = 1, seed} = options
  const train = sets.train!
  const truth = numbers(train.labels, classes)
  const all = [sets.val, ...sets.tests]
  const sums = all.map(({ids}) => ({right: new Float64Array(ids.length), top5: new Float64Array(ids.length)}))
  const tries: number[] = []
  const chosen: string[] = []
  let scores = new Float32Array(0)
  for (let draw = 0; draw < draws; draw++) {
    const rows = sampleRowsPerClass(truth, shots!, label => {
      const random = rng(seed, 'shots', draw, label)
      return () => random.uniform()
    })
    const x = new Float32Array(rows.length * train.dim)
    for (const [i, row] of rows.entries()) x.set(train.x.subarray(row * train.dim, (row + 1) * train.dim), i * train.dim)
    const pick = (list: readonly string[]): string[] => [...rows].map(row => list[row]!)
    const few: LabelledSet = {x, dim: train.dim, ids: pick(train.ids), labels: pick(train.labels), paths: pick(train.paths)}
    const {classifier} = yield* trainCached(`${name}, draw ${draw + 1}`, {...sets, train: few}, kinds, classes, truths[0]!, options)
    chosen.push(classifier.chosen)
    for (const [i, set] of all.entries()) {
      const own = judge(set, classifier, truths[i]!, classes.length)
      if (i === 0 && draw === draws - 1) scores = own.scores as Float32Array<ArrayBuffer>
      if (i === 0) tries.push(own.right.reduce((a, b) => a + b, 0) / own.right.length)
      for (let j = 0; j < own.right.length; j++) {
        sums[i]!.right[j]! += own.right[j]! / draws
        sums[i]!.top5[j]! += own.top5[j]! / draws
      }
    }
  }
  return {
    judged: sums.map((own, i) => ({scores: i === 0 ? scores : new Float32Array(0), ...own})),
    tries,
    chosen: `${shots} a class, ${draws} ${draws === 1 ? 'draw' : 'draws'}; ${[...new Set(chosen)].join('; ')}`
  }
}

/** The published way: features of fresh random crops at every step. */
async function* trainAugmented(
  name: string,
  refs: readonly ImageRef[],
  labels: readonly string[],
  sets: Sets,
  embedder: Embedder,
  kinds: readonly FeatureSlice[],
  classes: readonly string[],
  options: LinearOptions,
  {device}: EngineInfo,
  onRejected: (bad: RejectedImage) => void
): AsyncGenerator<LinearEvent, {classifier: Classifier; grid: LinearReport['grid']}> {
  const {randomCrops} = await import('../../../data/augment/random-crops.js')
  const {seed} = options
  const truth = numbers(labels, classes)
  const steps = options.steps ?? published.steps
  const rows = options.rows ?? published.rows
  const side = embedder.transform.crop
  if (side === undefined)
    throw new UserError('Random crops need a size, but --no-crop was given.', {exit: 2, code: 'USAGE', hint: 'Give --size, or --cached.'})
  yield {
    kind: 'note',
    text: `${steps} steps of ${rows} random crops are ${Math.round((steps * rows) / refs.length)} passes over ${refs.length} images; --cached computes their features once`
  }
  const order = (function* (): Generator<number> {
    const sampler = shuffledSampler(refs.length, seed)
    for (let i = 0; ; i++) yield sampler.at(i)
  })()
  const refused = new Set<number>()
  const crops = randomCrops(refs, order, {
    side,
    seed,
    ahead: Math.max(8, Math.min(64, rows)),
    ...(options.maxPixels === undefined ? {} : {maxPixels: options.maxPixels}),
    onRejected: (ref, reason) => {
      const at = refs.indexOf(ref)
      if (refused.has(at)) return
      refused.add(at)
      onRejected(rejectedImage(ref, reason))
      if (refused.size === refs.length) throw noImages(options.train)
    }
  })
  const grid = initGrid(kinds, classes.length, seed)
  const atOnce = options.batch ?? defaultBatch(embedder.config, embedder.transform, device)
  try {
    for (let step = 0; step < steps; step++) {
      const x = new Float32Array(rows * embedder.meta.dim)
      const y = new Int32Array(rows)
      for (let done = 0; done < rows;) {
        options.signal?.throwIfAborted()
        const count = Math.min(atOnce, rows - done)
        const pixels = new Uint8Array(count * side * side * 3)
        for (let i = 0; i < count; i++) {
          const {value} = await crops.next()
          pixels.set(value!.pixels, i * side * side * 3)
          y[done + i] = truth[value!.index]!
        }
        x.set(await embedder.vectors({pixels, height: side, width: side}, count), done * embedder.meta.dim)
        done += count
      }
      const [batch, wanted] = [tensor2d(x, [rows, embedder.meta.dim]), tensor1d(y, 'int32')]
      gridStep(grid, batch, wanted, step, steps)
      dispose([batch, wanted])
      yield {kind: 'training', name, done: step + 1, total: steps}
    }
    return choose(grid, sets.val, numbers(sets.val.labels, classes))
  } finally {
    await crops.return(undefined)
    freeGrid(grid)
  }
}

/** The largest class of train, said of every image. */
function majority({train, val, tests}: Sets, classes: readonly string[]): Contender {
  const K = classes.length
  const counts = new Array<number>(K).fill(0)
  for (const label of (train ?? val).labels) {
    const k = classes.indexOf(label)
    if (k >= 0) counts[k]! += 1
  }
  const judged = [val, ...tests].map(({labels}): Judged => {
    const scores = Float32Array.from({length: labels.length * K}, (_, i) => counts[i % K]!)
    return {scores, ...rightness(scores, numbers(labels, classes), K)}
  })
  return {name: 'majority', chosen: `always ${classes[counts.indexOf(Math.max(...counts))]}`, judged}
}

/** Images of val to look at, by the likelihood of what was said. */
function casesOf({paths, labels}: LabelledSet, scores: Float32Array, classes: readonly string[]): Cases {
  const K = classes.length
  if (scores.length === 0) return {worst: [], typical: [], best: []}
  const said = predictedClasses(scores, labels.length, K)
  return pickCases(
    labels.map((truth, i) => {
      const own = scores.subarray(i * K, (i + 1) * K)
      const top = own[said[i]!]!
      const confidence = 1 / own.reduce((total, score) => total + Math.exp(score - top), 0)
      return {path: paths[i]!, truth, said: classes[said[i]!]!, confidence}
    })
  )
}

async function fromEmbeddings(options: LinearOptions, tests: readonly string[]): Promise<{sets: Sets; meta: EmbeddingMeta; dim: number}> {
  const load = async (sources: readonly string[]): Promise<{set: LabelledSet; meta: EmbeddingMeta}> => {
    const {meta, rows, close} = await embeddingRows(sources, options)
    try {
      return {set: await gatherRows(rows, sources, {signal: options.signal}), meta}
    } finally {
      await close()
    }
  }
  const train = await load(options.train)
  const rest = []
  for (const sources of [options.val, ...tests.map(test => [test])]) {
    const own = await load(sources)
    assertSameProvenance({name: options.train[0]!, meta: train.meta}, {name: sources[0]!, meta: own.meta}, {})
    rest.push(own.set)
  }
  return {sets: {train: train.set, val: rest[0]!, tests: rest.slice(1)}, meta: train.meta, dim: train.set.dim}
}

export {learningRates}
