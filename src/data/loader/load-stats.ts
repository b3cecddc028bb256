/** What streams of images have in common: their options, and what they did so far. */
import {counted} from '../../config/counted.js'
import type {RejectedImage} from '../sources/image-ref.js'
import type {CropCacheStats, ImageCache} from './cache.js'

/** What a stream did so far. */
export type LoadStats = {
  /** Seconds its consumer waited for data. */
  readonly waitSeconds: number
  readonly batches: number
  readonly images: number
  readonly bad: number
  /** Whether the compiled code did the work. */
  readonly native: boolean
  /** Decoded images in memory; absent where none are kept. */
  readonly cache?: CropCacheStats
}

/** Batches, and at any time what was done so far. Ending the iteration (break, return) ends the workers. */
export type Batches<T> = AsyncGenerator<T, void, undefined> & {stats(): LoadStats}

export type LoadOptions = {
  /** Images a batch. */
  readonly batch: number
  /** Worker threads; one fewer than the machine's if absent, 0 for none. */
  readonly workers?: number
  /** Batches that workers may be ahead; 3 if absent, at least 1. */
  readonly prefetch?: number
  /** Pixels above which an image is refused before decoding. */
  readonly maxPixels?: number
  /** Receives each image that could not be used, once, in order. What it throws ends the stream. */
  readonly onRejected?: (bad: RejectedImage) => void
  /** Whether the compiled code may be used: the same bytes, sooner. True if absent. */
  readonly native?: boolean
}

/** The counts of a stream while it runs. */
export class LoadCounts {
  waitSeconds = 0
  batches = 0
  images = 0
  bad = 0
  native = false
  cache: ImageCache | undefined

  stats(): LoadStats {
    const {waitSeconds, batches, images, bad, native, cache} = this
    return {waitSeconds, batches, images, bad, native, ...(cache ? {cache: cache.stats()} : {})}
  }
}

/** What a stream did, as a sentence for `--verbose`. */
export function describeLoad({images, waitSeconds, native, cache}: LoadStats): string {
  const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)
  const requested = cache ? cache.hits + cache.misses : 0
  return (
    `${counted(images, 'image was', 'images were')} made ready by ${native ? 'native code' : 'JavaScript'}; ${waitSeconds.toFixed(1)} s were spent waiting for them` +
    (cache
      ? `; ${cache.images} decoded ones are kept in ${mib(cache.bytes)} of ${mib(cache.limit)} MiB, where ${requested === 0 ? 0 : Math.round((100 * cache.hits) / requested)} % of those asked for were found`
      : '; none are kept in memory')
  )
}
