/** Images measured and described without a model, by worker threads that run ahead, in the order of the input. */
import {perceptualDim, type Measures} from '../stats/image-stats.js'
import {defaultWorkers, WorkerPool} from './worker-pool.js'
import {rejectedImage, type ImageRef, type RejectedImage} from '../sources/image-ref.js'
import {wireRef} from './chunks.js'
import type {Answer} from './worker.js'

export type {Measures} from '../stats/image-stats.js'
export {perceptualDim, perceptualThreshold} from '../stats/image-stats.js'

export type MeasuredBatch = {
  readonly refs: readonly ImageRef[]
  readonly measures: readonly Measures[]
  /** [n, perceptualDim] */
  readonly descriptors: Float32Array
}

export type MeasureOptions = {
  readonly workers?: number
  readonly maxPixels?: number
  readonly onRejected?: (bad: RejectedImage) => void
}

const atOnce = 16

/**
 * Measures images as they come; bad ones are reported to `onRejected`, in order, and left out. Ending the iteration
 * ends the workers.
 */
export async function* measureImages(refs: AsyncIterable<ImageRef>, options: MeasureOptions = {}): AsyncGenerator<MeasuredBatch, void> {
  const {workers = defaultWorkers(), maxPixels, onRejected} = options
  const pool = new WorkerPool({kind: 'measures', maxPixels}, workers)
  const queue: {refs: ImageRef[]; answers: Promise<readonly Answer[]>}[] = []
  const send = (some: ImageRef[]): void => {
    const answers = pool.run(some.map(ref => ({ref: wireRef(ref)})))
    answers.catch(() => undefined) // looked at when its turn comes
    queue.push({refs: some, answers})
  }
  const next = async (): Promise<MeasuredBatch> => {
    const {refs: asked, answers} = queue.shift()!
    const good: {ref: ImageRef; measures: Measures; data: Uint8Array}[] = []
    for (const [i, answer] of (await answers).entries()) {
      const ref = asked[i]!
      if ('reason' in answer) onRejected?.(rejectedImage(ref, answer.reason))
      else good.push({ref, measures: answer.measures!, data: answer.data})
    }
    const descriptors = new Float32Array(good.length * perceptualDim)
    for (const [i, {data}] of good.entries())
      descriptors.set(new Float32Array(data.buffer, data.byteOffset, perceptualDim), i * perceptualDim)
    return {refs: good.map(({ref}) => ref), measures: good.map(({measures}) => measures), descriptors}
  }
  try {
    let some: ImageRef[] = []
    for await (const ref of refs) {
      some.push(ref)
      if (some.length < atOnce) continue
      send(some)
      some = []
      if (queue.length > 2 * Math.max(1, workers)) yield await next()
    }
    if (some.length > 0) send(some)
    while (queue.length > 0) yield await next()
  } finally {
    await pool.close()
  }
}
