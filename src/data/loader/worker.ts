/**
 * What a worker thread does with an image: decode and make ready for embedding, or decode and cut into random views
 * for training.
 *
 * The same function serves without threads. A bad image is an answer (its reason), never a failure; everything else
 * that is thrown is a defect of ours. Results depend on the item alone, so it does not matter which worker gets it, or
 * how many there are.
 */
import {isMainThread, workerData} from 'node:worker_threads'
import {answerRequests} from '../../system/thread-answers.js'
import {multiCrop, type CropSettings} from '../augment/multi-crop.js'
import {shrinkOf} from '../augment/crop-params.js'
import {ImageCache, type CacheHandle} from './cache.js'
import {loadNative} from '../augment/native-crops.js'
import {decodeRgb, loadPixels, type DecodedImage, MAX_PIXELS, RefusedImage, type Transform} from '../image/decode.js'
import {measure, type Measures} from '../stats/image-stats.js'
import type {ImageRef} from '../sources/image-ref.js'

/** What a worker needs to know of an image: no fields. */
export type WireRef = Pick<ImageRef, 'id' | 'path' | 'bytes' | 'range' | 'copy' | 'problem'>

/** What stays the same for the life of a worker. */
export type Setup = {
  readonly maxPixels?: number
  /** Path of the compiled form of what is written in TypeScript, if there is one. */
  readonly native?: string
} & (
  | {readonly kind: 'pixels'; readonly transform: Transform}
  | {readonly kind: 'measures'}
  | {readonly kind: 'crops'; readonly crops: CropSettings; readonly seed: number; readonly cache?: CacheHandle}
)

/**
 * One image to work on; `index` is its number in the set and `position` its place in the stream of training (both only
 * for crops).
 */
export type Item = {readonly ref: WireRef; readonly index?: number; readonly position?: number}

/**
 * Pixels [height, width, 3] (for crops: all views, one after the other; width and height are those of the image; for
 * measures: the descriptor's float32 numbers as bytes), or why there are none.
 */
export type Answer =
  | {
      readonly data: Uint8Array
      readonly width: number
      readonly height: number
      readonly measures?: Measures
      /** Where the alpha of the image was laid on a colour instead of being dropped. */
      readonly ground?: 'white' | 'black'
    }
  | {readonly reason: string}

const groundOf = ({ground}: DecodedImage): Pick<DecodedImage, 'ground'> => (ground ? {ground} : {})

/** A function that works on items one after the other. */
export function makeHandler(setup: Setup): (items: readonly Item[]) => Promise<Answer[]> {
  const maxPixels = setup.maxPixels ?? MAX_PIXELS
  const native = setup.native === undefined ? undefined : loadNative(setup.native)
  const shrink =
    setup.kind === 'crops' && setup.crops.decode === 'scaled'
      ? (width: number, height: number): number => shrinkOf(width, height, setup.crops)
      : undefined
  const cache = setup.kind === 'crops' && setup.cache ? new ImageCache(setup.cache) : undefined

  async function answer({ref, index = -1, position = 0}: Item): Promise<Answer> {
    if (setup.kind === 'pixels') return loadPixels(ref as ImageRef, setup.transform, {maxPixels, native})
    if (setup.kind === 'measures') {
      const image = await decodeRgb(ref as ImageRef, {maxPixels})
      const {measures, descriptor} = measure(image)
      const {width, height} = measures
      return {data: new Uint8Array(descriptor.buffer), width, height, measures, ...groundOf(image)}
    }
    const known = cache?.get(index)
    const image = known ?? (await decodeRgb(ref as ImageRef, {maxPixels, shrink}))
    if (!known) cache?.put(index, image)
    return {
      data: multiCrop(setup.seed, position, image, setup.crops, {native}),
      width: image.width,
      height: image.height,
      ...groundOf(image)
    }
  }

  return async items => {
    const answers: Answer[] = []
    for (const item of items) {
      try {
        answers.push(await answer(item))
      } catch (error) {
        if (error instanceof RefusedImage) answers.push({reason: error.message})
        else if (error instanceof RangeError && /allocation failed|Invalid typed array length/i.test(error.message))
          answers.push({reason: 'there is not enough memory to decode it'})
        else throw new Error(`While working on ${item.ref.id}: ${(error as Error).stack ?? String(error)}`, {cause: error})
      }
    }
    return answers
  }
}

if (!isMainThread && (workerData as {images?: Setup} | null)?.images)
  answerRequests(makeHandler((workerData as {images: Setup}).images), answers =>
    answers.flatMap(answer => ('data' in answer ? [answer.data.buffer as ArrayBuffer] : []))
  )
