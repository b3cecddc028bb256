/**
 * Random resized crops with flips, the augmentation under which linear classifiers are trained (docs/spec.md §5.2):
 * area 8 to 100 %, aspect 3/4 to 4/3, bicubic, turned over half of the time. Images are decoded ahead while earlier
 * ones are computed with.
 */
import {rng} from '../../tensor/random.js'
import {decodeRgb, RefusedImage, type DecodeOptions} from '../image/decode.js'
import {randomCropBox} from './crop-params.js'
import type {ImageRef} from '../sources/image-ref.js'
import {resample} from '../image/resample.js'

export type CropsOptions = DecodeOptions & {
  /** Side in pixels. */
  readonly side: number
  readonly seed: number
  /** Images decoded ahead. */
  readonly ahead?: number
  /** Told of each image that cannot be used; another takes its place. */
  readonly onRejected?: (ref: ImageRef, reason: string) => void
}

/**
 * Yields crops [side, side, 3] of refs.at(i) for each i of `order`, with i; what a crop is depends on seed and place
 * in the order alone. Images that cannot be used are left out.
 */
export async function* randomCrops(
  refs: readonly ImageRef[],
  order: Iterable<number>,
  {side, seed, ahead = 8, onRejected, ...decoding}: CropsOptions
): AsyncGenerator<{readonly index: number; readonly pixels: Uint8Array}> {
  const waiting: {index: number; place: number; raster: ReturnType<typeof decodeRgb>}[] = []
  const iterator = order[Symbol.iterator]()
  let place = 0
  const fill = (): void => {
    while (waiting.length < ahead) {
      const {value: index, done} = iterator.next()
      if (done) return
      const raster = decodeRgb(refs[index]!, decoding)
      raster.catch(() => undefined) // a failure waits until its turn
      waiting.push({index, place: place++, raster})
    }
  }
  for (fill(); waiting.length > 0; fill()) {
    const {index, place: at, raster} = waiting.shift()!
    try {
      const image = await raster
      const random = rng(seed, 'crop', at)
      const view = randomCropBox(random, image.width, image.height, [0.08, 1])
      yield {index, pixels: resample(image, {width: side, height: side}, {view, flip: random.uniform() < 0.5})}
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      onRejected?.(refs[index]!, error.message)
    }
  }
}
