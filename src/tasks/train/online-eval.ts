/**
 * What the features are worth while they are still being learnt: k-nearest-neighbour scores of the teacher on a small
 * labelled set, every so many steps.
 *
 * The images are decoded once, before training begins, and kept as pixels. Nothing is drawn at random and nothing of
 * the run is touched, so a run with evaluations has the same weights as one without. The vote is the one of `knn-eval`
 * (docs/spec.md §5.1); its baselines and intervals belong there.
 *
 * In shape comments: n images, S their side in pixels, C width.
 */
import {UserError} from '../../config/errors.js'
import {pixelBatches} from '../../data/loader/pixel-batches.js'
import type {ImageRef, RejectedImage} from '../../data/sources/image-ref.js'
import {ImageSpool} from '../../data/sources/image-spool.js'
import {LABEL_HINT, labelOf, listImages, noImages, type SourceNote} from '../../data/sources/source.js'
import type {VitConfig} from '../../model/config.js'
import {clsTokens, castForInference} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import {nearestNeighbours, normalizeRows, oneBlock, type InnerProductFn} from '../../search/exact.js'
import {hits, vote} from '../../search/knn.js'
import {oneProcess, sumOverProcesses, type Processes} from '../../tensor/ops/collectives.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, matMul, tensor1d, tensor2d, tidy} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import {shardRange} from '../embed/shard.js'
import type {TrainingProcesses} from './processes.js'
import type {Evaluation} from './run-types.js'
import type {LentNetwork} from './sharding.js'

/** All images of a set, with their labels. */
type LabelledList = {readonly refs: readonly ImageRef[]; readonly labels: readonly string[]}
export type LabelledLists = Map<readonly string[], LabelledList>

export type OnlineEvalOptions = {
  /** Labelled images: a folder of folders, or a list with a `label` field. */
  readonly images: readonly string[]
  /** Images to be classified by those; without it each is classified by the others. */
  readonly val?: readonly string[]
  /** Sets that an evaluation before this one has listed; what is listed is added. */
  readonly lists?: LabelledLists
  /** Steps between two evaluations. */
  readonly every: number
  readonly vit: VitConfig
  readonly precision: Precision
  /** Shorter side after resizing, and side of the square cut from its middle, in pixels. */
  readonly transform: {readonly resize: number; readonly crop: number}
  readonly batch: number
  readonly workers?: number
  /** Ends the decoding of images by throwing its reason. */
  readonly signal?: AbortSignal
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  /** The processes that train together, each of which takes a share of the images. */
  readonly processes?: TrainingProcesses | undefined
}

/** Most bytes of pixels that are kept of a set. */
const most = 2 ** 30

/** The values of k that are scored. */
const ks = [10, 20]

/** Images of a set, of which several processes decode a share each. */
type Labelled = {
  /** Labels of all images that could be read, in the order of the list. */
  readonly labels: string[]
  /** The images of this process, and their places among all. */
  readonly pixels: Uint8Array[] /* [S, S, 3] each */
  readonly places: readonly number[]
  /** Most images that a process has. */
  readonly most: number
}

async function listLabelled(inputs: readonly string[], {onSkipped, lists}: OnlineEvalOptions): Promise<LabelledList> {
  const known = lists?.get(inputs)
  if (known) return known
  const refs: ImageRef[] = []
  const labels: string[] = []
  const spool = new ImageSpool()
  for await (const ref of listImages(inputs, onSkipped ? {onSkipped} : {})) {
    const label = labelOf(ref)
    if (label === undefined)
      throw new UserError(`${ref.id} has no label, so it cannot be scored.`, {
        exit: 2,
        code: 'NO_LABEL',
        hint: LABEL_HINT
      })
    refs.push(spool.keep(ref))
    labels.push(label)
  }
  lists?.set(inputs, {refs, labels})
  return {refs, labels}
}

async function* inOrder<T>(list: readonly T[]): AsyncGenerator<T> {
  yield* list
}

async function decode(inputs: readonly string[], options: OnlineEvalOptions): Promise<Labelled> {
  const {transform, batch, workers, processes} = options
  const {refs, labels} = await listLabelled(inputs, options)
  const {rank, size} = processes ?? oneProcess
  const [from, to] = shardRange({index: rank, count: size, images: refs.length}, batch)
  const placeOf = new Map(refs.map((ref, place) => [ref, place]))
  const pixels: Uint8Array[] = []
  const own: number[] = []
  const bytes = 3 * transform.crop ** 2
  const onRejected = processes && rank > 0 ? (leftOut: RejectedImage) => processes.send({leftOut}) : options.onRejected
  const made = pixelBatches(inOrder(refs.slice(from, to)), {batch, transform, ...(workers ? {workers} : {}), onRejected})
  for await (const {refs: some, pixels: all} of made) {
    options.signal?.throwIfAborted()
    for (const [i, ref] of some.entries()) {
      own.push(placeOf.get(ref)!)
      pixels.push(all.slice(i * bytes, (i + 1) * bytes))
      if (pixels.length * bytes > most)
        throw new UserError(
          `More than ${Math.floor(most / bytes)} images of ${transform.crop} pixels do not fit in the 1 GiB that evaluation while training keeps of a set.`,
          {
            exit: 2,
            code: 'TOO_MANY',
            hint: 'Name fewer, and score checkpoints on all of them with dinov2 knn-eval.'
          }
        )
    }
  }
  const shares = await sharesOf(own, refs.length, options)
  if (shares.good.length === 0) throw noImages(inputs)
  const row = new Map(shares.good.map((place, i) => [place, i]))
  return {labels: shares.good.map(place => labels[place]!), pixels, places: own.map(place => row.get(place)!), most: shares.most}
}

/**
 * Places of images that any process has read, in order, and the most that one has. Process 0 hears what the others
 * could not read.
 */
async function sharesOf(
  own: readonly number[],
  images: number,
  {processes, onRejected}: OnlineEvalOptions
): Promise<{good: readonly number[]; most: number}> {
  if (!processes) return {good: own, most: own.length}
  const all = await processes.exchange({evaluated: own.length, sent: processes.sent})
  if (processes.rank === 0)
    for (const {message} of processes.messages(all.map(({sent}) => sent)))
      if (message['leftOut']) onRejected?.(message['leftOut'] as RejectedImage)
  const flags = new Float32Array(images)
  for (const place of own) flags[place] = 1
  const known = tidy(() => sumOverProcesses(tensor1d(flags), processes).dataSync<'float32'>())
  const good = [...known.keys()].filter(place => known[place]! > 0)
  return {good, most: Math.max(...all.map(({evaluated}) => evaluated))}
}

const engineInnerProduct: InnerProductFn = (queries, rows, dim) => {
  const out = tidy(() => matMul(tensor2d(queries, [queries.length / dim, dim]), tensor2d(rows, [rows.length / dim, dim]), false, true)) // [Q, n]
  try {
    return out.dataSync<'float32'>()
  } finally {
    out.dispose()
  }
}

/** A backbone that computes; its blocks are there one at a time where `access` has them. */
type Computing = {readonly params: Vit; readonly access?: LentNetwork<unknown>['access'] | undefined}

/**
 * Unit cls tokens of all images of a set, [n, C]: each process computes those of its own. Where it borrows its blocks,
 * all processes go through them equally often.
 */
async function features(
  {params, access}: Computing,
  {pixels: images, places, labels, most: longest}: Labelled,
  {vit, precision, transform, batch, processes: several}: OnlineEvalOptions
): Promise<Float32Array> {
  const processes: Processes = several ?? oneProcess
  const out = new Float32Array(labels.length * vit.width)
  const bytes = 3 * transform.crop ** 2
  for (let from = 0; from < longest; from += batch) {
    const some = images.slice(from, from + batch)
    if (some.length === 0) {
      for (let i = 0; access && i < vit.depth; i++) access.use(i, () => undefined)
      continue
    }
    const joined = new Uint8Array(some.length * bytes)
    some.forEach((one, i) => joined.set(one, i * bytes))
    const tokens = tidy(() =>
      clsTokens(params, normalizePixels(joined, [some.length, transform.crop, transform.crop]), vit, precision, access)
    )
    const values = (await tokens.data()) as Float32Array
    some.forEach((_, i) => out.set(values.subarray(i * vit.width, (i + 1) * vit.width), places[from + i]! * vit.width))
    tokens.dispose()
  }
  if (processes.size === 1) return normalizeRows(out, vit.width)
  return normalizeRows(
    tidy(() => sumOverProcesses(tensor1d(out), processes).dataSync<'float32'>()),
    vit.width
  ) // the rows of others are 0
}

export type OnlineEval = Evaluation & {
  /** Images that classify, images that are classified, classes, and bytes of pixels held. */
  readonly train: number
  readonly val: number
  readonly classes: number
  readonly bytes: number
}

/**
 * Decodes the images and returns the evaluation; its scores are `knn_10` and `knn_20`, shares of right answers. Leaves
 * nothing in the engine between evaluations. Throws `UserError`: no images (exit 3); one without a label, too few or
 * too many (exit 2).
 */
export async function onlineEval(options: OnlineEvalOptions): Promise<OnlineEval> {
  const processes: Processes = options.processes ?? oneProcess
  const train = await decode(options.images, options)
  const val = options.val && (await decode(options.val, options))
  const asked = val ?? train
  const classes = [...new Set([...train.labels, ...asked.labels])].sort((a, b) => (a < b ? -1 : 1))
  const numbers = new Map(classes.map((label, i) => [label, i]))
  const own = asked.places
  const labels = Int32Array.from(train.labels, label => numbers.get(label)!)
  const truth = asked.labels.map(label => numbers.get(label)!)
  const limit = train.labels.length - (val ? 0 : 1)
  if (limit < 1)
    throw new UserError('There is one image to evaluate on, and no other to compare it with.', {
      exit: 2,
      code: 'TOO_FEW',
      hint: 'Give more images, or a set to be classified (--eval-val).'
    })
  const used = ks.map(k => Math.min(k, limit))
  return {
    every: options.every,
    train: train.labels.length,
    val: asked.labels.length,
    classes: classes.length,
    bytes: (train.labels.length + (val?.labels.length ?? 0)) * 3 * options.transform.crop ** 2,
    async run(learner) {
      const lent = learner.lendModel?.()
      const held = (): Vit => unflatten<{backbone: Vit}>([...learner.model()].filter(([name]) => name.startsWith('backbone.'))).backbone
      const {params, owned} = castForInference(lent?.network.backbone ?? held(), options.precision)
      let rows: Float32Array
      let queries: Float32Array
      try {
        const computing = {params, access: lent?.access}
        rows = await features(computing, train, options)
        queries = val ? await features(computing, val, options) : rows
      } finally {
        dispose(owned)
        lent?.dispose()
      }
      const {width} = options.vit
      const asking = processes.size === 1 ? queries : rowsAt(queries, own, width)
      const found = nearestNeighbours(oneBlock(rows, width), asking, Math.max(...used), {
        innerProduct: engineInnerProduct,
        ...(val ? {} : {skip: (query: number, row: number) => own[query] === row})
      })
      const right = new Float32Array(used.length)
      for (const [q, neighbours] of found.entries())
        hits(vote(neighbours, labels, classes.length, used), truth[own[q]!]!, 1).forEach((hit, i) => {
          if (hit) right[i]!++
        })
      const all = tidy(() => sumOverProcesses(tensor1d(right), processes).dataSync<'float32'>())
      return Object.fromEntries(ks.map((k, i) => [`knn_${k}`, Number((all[i]! / truth.length).toPrecision(7))]))
    }
  }
}

/** Some rows of a matrix [n, width]. */
function rowsAt(matrix: Float32Array, rows: readonly number[], width: number): Float32Array {
  const out = new Float32Array(rows.length * width)
  rows.forEach((row, i) => out.set(matrix.subarray(row * width, (row + 1) * width), i * width))
  return out
}
