/**
 * Classes of images by a trained linear classifier, image by image as they come, at the speed and in the memory of
 * embedding.
 */
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {listImages, noImages, type ImageRef, type SourceNote} from '../../../data/sources/source.js'
import type {PredictedRows} from '../shared/predicted-rows.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import type {Fields} from '../../../files/embeddings/embeddings.js'
import {classifierScores} from '../../../heads/logistic.js'
import {slice, softmax, tensor2d, tidy} from '../../../tensor/tf.js'
import {loadBackbone, startEngineFor} from '../../embed/load-backbone.js'
import {openClassifier} from './classifier-file.js'
import {embed, embedderOf, defaultBatch, defaultFeatures, type Embedder, type FeatureSettings} from '../../embed/embedder.js'

export type ClassifyOptions = {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly head: string
  /** Names of the classes, in the order of the head; absent: its own. */
  readonly classes?: readonly string[]
  /** Classes reported of each image. */
  readonly top: number
  /** How images are made ready; absent: as the head was trained, else the usual way. */
  readonly transform?: FeatureSettings['transform']
  /** Keeps the rows, and holds those of the interrupted run that is gone on with. */
  readonly rows?: PredictedRows
  readonly engine: EngineRequest
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  readonly toolVersion: string
  readonly onRejected: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

/** One image: the likeliest class, and the first few with their probabilities; fields of the list ride along. */
export type ClassifiedImage = {
  readonly id: string
  readonly class: string
  readonly probability: number
  readonly top: readonly {readonly class: string; readonly probability: number}[]
} & Fields

export type ClassifyReport = {readonly images: number; readonly classes: number; readonly engine: EngineInfo}

/**
 * Yields a row for each image, in order; returns how many there were.
 *
 * Throws `UserError`: no image (exit 3), a head that does not fit the model (exit 2), and what engine and model throw.
 */
export async function* classifyImages(options: ClassifyOptions): AsyncGenerator<ClassifiedImage, ClassifyReport> {
  const {images, nul, onRejected, onSkipped, signal, top, rows} = options
  const refs = listImages(images, {nul, onSkipped})
  const first = await refs.next() // missing files are reported before the model is loaded
  if (first.done) throw noImages(images)
  const earlier: ClassifiedImage[] = []
  const all = async function* (): AsyncGenerator<ImageRef> {
    for (let next: IteratorResult<ImageRef> = first; !next.done; next = await refs.next()) {
      const row = rows?.earlier(next.value)
      if (row) earlier.push(row as ClassifiedImage)
      else yield next.value
    }
  }
  const engine = await startEngineFor([options.model], options.engine)
  const backbone = await loadBackbone(options.model, {precision: engine.precision})
  rows?.begin(backbone.fingerprint)
  let embedder: Embedder
  let head
  try {
    head = await openClassifier(options.head, backbone, options.classes)
    const transform = options.transform ?? head.transform ?? defaultFeatures.transform
    embedder = embedderOf(
      backbone,
      {...head.features, transform, toolVersion: options.toolVersion, note: options.engine.note},
      options.model
    )
  } catch (error) {
    backbone[Symbol.dispose]()
    throw error
  }
  using held = embedder
  const {classifier, classes} = head
  const {start, length} = classifier.kind
  const K = classes.length
  const made = embed(all(), held, {
    batch: options.batch ?? defaultBatch(held.config, held.transform, engine.device),
    onRejected,
    workers: options.workers,
    maxPixels: options.maxPixels,
    signal
  })
  let count = 0
  for await (const {ids, vectors, fields} of made) {
    const shares = tidy(() => {
      const x = tensor2d(vectors, [ids.length, held.meta.dim])
      return softmax(classifierScores(slice(x, [0, start], [ids.length, length]), classifier)) // [B, K]
    })
    const probabilities = await shares.data<'float32'>()
    shares.dispose()
    for (const row of earlier.splice(0)) {
      count++
      yield row
    }
    for (const [i, id] of ids.entries()) {
      const own = probabilities.subarray(i * K, (i + 1) * K)
      const order = Array.from(own.keys()).sort((a, b) => own[b]! - own[a]! || a - b)
      const best = order.slice(0, top).map(k => ({class: classes[k]!, probability: Number(own[k]!.toFixed(6))}))
      count++
      const row = {id, ...fields[i], class: best[0]!.class, probability: best[0]!.probability, top: best}
      await rows?.add(row, fields[i]!)
      yield row
    }
  }
  for (const row of earlier) {
    count++
    yield row
  }
  return {images: count, classes: K, engine}
}
