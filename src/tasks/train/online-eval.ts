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
import type {RejectedImage} from '../../data/sources/image-ref.js'
import {labelOf, listImages, noImages, type SourceNote} from '../../data/sources/source.js'
import type {VitConfig} from '../../model/config.js'
import {clsTokens, castForInference} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {nearestNeighbours, normalizeRows, oneBlock, type InnerProductFn} from '../../search/exact.js'
import {hits, vote} from '../../search/knn.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, matMul, tensor2d, tidy} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import type {Evaluation} from './run-types.js'

export type OnlineEvalOptions = {
  /** Labelled images: a folder of folders, or a list with a `label` field. */
  readonly images: readonly string[]
  /** Images to be classified by those; without it each is classified by the others. */
  readonly val?: readonly string[]
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
}

/** Most bytes of pixels that are kept of a set. */
const most = 2 ** 30

/** The values of k that are scored. */
const ks = [10, 20]

type Labelled = {readonly pixels: Uint8Array[] /* [S, S, 3] each */; readonly labels: string[]}

async function decode(inputs: readonly string[], options: OnlineEvalOptions): Promise<Labelled> {
  const {transform, batch, workers, onRejected, onSkipped} = options
  const pixels: Uint8Array[] = []
  const labels: string[] = []
  const bytes = 3 * transform.crop ** 2
  const refs = listImages(inputs, onSkipped ? {onSkipped} : {})
  const made = pixelBatches(refs, {batch, transform, ...(workers ? {workers} : {}), onRejected})
  for await (const {refs: some, pixels: all} of made) {
    options.signal?.throwIfAborted()
    for (const [i, ref] of some.entries()) {
      const label = labelOf(ref)
      if (label === undefined)
        throw new UserError(`${ref.id} has no label, so it cannot be scored.`, {
          exit: 2,
          code: 'NO_LABEL',
          hint: 'A label is the folder under the given root (val/cat/1.jpg under val), or the label field of a list.'
        })
      labels.push(label)
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
  if (pixels.length === 0) throw noImages(inputs)
  return {pixels, labels}
}

const engineInnerProduct: InnerProductFn = (queries, rows, dim) => {
  const out = tidy(() => matMul(tensor2d(queries, [queries.length / dim, dim]), tensor2d(rows, [rows.length / dim, dim]), false, true)) // [Q, n]
  try {
    return out.dataSync<'float32'>()
  } finally {
    out.dispose()
  }
}

/** Unit cls tokens of images, [n, C]. */
async function features(
  params: Vit,
  images: readonly Uint8Array[],
  {vit, precision, transform, batch}: OnlineEvalOptions
): Promise<Float32Array> {
  const out = new Float32Array(images.length * vit.width)
  const bytes = 3 * transform.crop ** 2
  for (let from = 0; from < images.length; from += batch) {
    const some = images.slice(from, from + batch)
    const joined = new Uint8Array(some.length * bytes)
    some.forEach((one, i) => joined.set(one, i * bytes))
    const tokens = tidy(() => clsTokens(params, normalizePixels(joined, [some.length, transform.crop, transform.crop]), vit, precision))
    out.set((await tokens.data()) as Float32Array, from * vit.width)
    tokens.dispose()
  }
  return normalizeRows(out, vit.width)
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
  const train = await decode(options.images, options)
  const val = options.val && (await decode(options.val, options))
  const asked = val ?? train
  const classes = [...new Set([...train.labels, ...asked.labels])].sort((a, b) => (a < b ? -1 : 1))
  const numbers = new Map(classes.map((label, i) => [label, i]))
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
    bytes: (train.pixels.length + (val?.pixels.length ?? 0)) * 3 * options.transform.crop ** 2,
    async run(model: ParamMap) {
      const own = [...model].filter(([name]) => name.startsWith('backbone.'))
      const {params, owned} = castForInference(unflatten<{backbone: Vit}>(own).backbone, options.precision)
      let rows: Float32Array
      let queries: Float32Array
      try {
        rows = await features(params, train.pixels, options)
        queries = val ? await features(params, val.pixels, options) : rows
      } finally {
        dispose(owned)
      }
      const found = nearestNeighbours(oneBlock(rows, options.vit.width), queries, Math.max(...used), {
        innerProduct: engineInnerProduct,
        ...(val ? {} : {skip: (query: number, row: number) => query === row})
      })
      const right = used.map(() => 0)
      for (const [q, neighbours] of found.entries())
        hits(vote(neighbours, labels, classes.length, used), truth[q]!, 1).forEach((hit, i) => {
          if (hit) right[i]!++
        })
      return Object.fromEntries(ks.map((k, i) => [`knn_${k}`, Number((right[i]! / truth.length).toPrecision(7))]))
    }
  }
}
