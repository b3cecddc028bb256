/**
 * The published training of the grid: features of fresh random crops at every step.
 *
 * In shape comments: n rows of a step, D numbers a row.
 */
import {UserError} from '../../../config/errors.js'
import {randomCrops} from '../../../data/augment/random-crops.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {shuffledSampler} from '../../../data/loader/sampler.js'
import {rejectedImage} from '../../../data/sources/image-ref.js'
import {noImages, type ImageRef} from '../../../data/sources/source.js'
import type {EngineInfo} from '../../../engine/start.js'
import {assertFinite} from '../../../files/embeddings/rows.js'
import {freeGrid, gridStep, initGrid} from '../../../heads/linear-grid.js'
import {dispose, tensor1d, tensor2d} from '../../../tensor/tf.js'
import {defaultBatch, type Embedder} from '../../embed/embedder.js'
import type {EvalEvent} from '../shared/evaluation.js'
import {classNumbers} from './classes.js'
import {DEFAULT_STEPS, DEFAULT_TRAIN_BATCH, type LinearEvalOptions} from './linear-options.js'
import {chooseFromGrid, type TrainedClassifier, type TrainingData} from './linear-train.js'

export type CropTraining = Omit<TrainingData, 'train'> & {
  readonly refs: readonly ImageRef[]
  readonly labels: readonly string[]
  readonly embedder: Embedder
  readonly engine: EngineInfo
  readonly onRejected: (image: RejectedImage) => void
}

type Crops = ReturnType<typeof randomCrops>

/** Random crops of the images in shuffled order, without end. Each rejected image is reported once. */
function openCrops({refs, onRejected}: CropTraining, side: number, rows: number, {seed, maxPixels, train}: LinearEvalOptions): Crops {
  const order = (function* (): Generator<number> {
    const sampler = shuffledSampler(refs.length, seed)
    for (let i = 0; ; i++) yield sampler.at(i)
  })()
  const rejected = new Set<ImageRef>()
  return randomCrops(refs, order, {
    side,
    seed,
    ahead: Math.max(8, Math.min(64, rows)),
    maxPixels,
    onRejected: (ref, reason) => {
      if (rejected.has(ref)) return
      rejected.add(ref)
      onRejected(rejectedImage(ref, reason))
      if (rejected.size === refs.length) throw noImages(train)
    }
  })
}

/** Trains the grid on random crops. Throws a `UserError`: no crop size (exit 2), or no image left (exit 3). */
export async function* trainOnCrops(data: CropTraining, options: LinearEvalOptions): AsyncGenerator<EvalEvent, TrainedClassifier> {
  const {features, refs, labels, embedder, slices, classes, val, engine} = data
  const {seed, signal, steps = DEFAULT_STEPS, trainBatch: rows = DEFAULT_TRAIN_BATCH} = options
  const side = embedder.transform.crop
  if (side === undefined)
    throw new UserError('Random crops need a size, but --no-crop was given.', {exit: 2, code: 'USAGE', hint: 'Give --size, or --cached.'})
  yield {
    kind: 'note',
    text: `${steps} steps of ${rows} random crops are ${Math.round((steps * rows) / refs.length)} passes over ${refs.length} images; --cached computes their features once`
  }
  const truth = classNumbers(labels, classes)
  const crops = openCrops(data, side, rows, options)
  const grid = initGrid(slices, classes.length, seed)
  const batch = options.batch ?? defaultBatch(embedder.config, embedder.transform, engine.device)
  const D = embedder.meta.dim
  try {
    for (let step = 0; step < steps; step++) {
      const x = new Float32Array(rows * D) //          [n, D]
      const y = new Int32Array(rows) //                [n]
      for (let done = 0; done < rows;) {
        signal?.throwIfAborted()
        const count = Math.min(batch, rows - done)
        const pixels = new Uint8Array(count * side * side * 3)
        const ids: string[] = []
        for (let i = 0; i < count; i++) {
          const {value} = await crops.next()
          pixels.set(value!.pixels, i * side * side * 3)
          y[done + i] = truth[value!.index]!
          ids.push(refs[value!.index]!.id)
        }
        const vectors = await embedder.vectors({pixels, height: side, width: side}, count) // [count, D]
        assertFinite({ids, vectors}, 'the output of the model')
        x.set(vectors, done * D)
        done += count
      }
      const [rowsTensor, wanted] = [tensor2d(x, [rows, D]), tensor1d(y, 'int32')]
      gridStep(grid, rowsTensor, wanted, step, steps)
      dispose([rowsTensor, wanted])
      yield {kind: 'progress', stage: 'training', features, done: step + 1, total: steps}
    }
    return chooseFromGrid(grid, val, classes)
  } finally {
    await crops.return(undefined)
    freeGrid(grid)
  }
}
