/**
 * Images with masks: which pairs there are, what their ids mean, and each pair decoded and checked when it is asked
 * for.
 *
 * Every pair is looked at once before anything is computed, so that a bad one is named at the beginning. What was
 * decoded stays in memory up to a budget and is decoded again beyond it.
 */
import {UserError} from '../../../config/errors.js'
import {rejectedImage} from '../../../data/sources/image-ref.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {numbersById, numbersOf, type Classes} from '../../../data/targets/class-map.js'
import {decodeRgb, RefusedImage, type Raster} from '../../../data/image/decode.js'
import {readMask} from '../../../data/targets/depth-and-mask-files.js'
import type {Pair} from '../../../data/targets/pairs.js'

/** An image with its class numbers, decoded. */
export type SegmentationSample = {
  readonly id: string
  readonly photo: Raster
  /** Class numbers [height, width], `IGNORED` where nothing counts. */
  readonly labels: Uint16Array
}

/** Pairs that were looked at and found good, decoded again where they were not kept. */
export type SampleSet = {
  readonly length: number
  readonly ids: readonly string[]
  sample(i: number): Promise<SegmentationSample>
}

/** A budget of bytes that several sets share. */
export type Budget = {left: number}

/**
 * Decodes one pair and turns ids into class numbers. Raises RefusedImage: image or mask cannot be read, sizes differ,
 * an unknown id, nothing that counts.
 */
async function loadSample(
  {image, map}: Pair,
  classes: Classes,
  byId: Int32Array,
  options: {maxPixels?: number}
): Promise<SegmentationSample> {
  const [photo, mask] = await Promise.allSettled([decodeRgb(image, options), readMask(map, options)])
  if (photo.status === 'rejected') throw photo.reason
  if (mask.status === 'rejected') {
    const {reason} = mask as {reason: unknown}
    throw reason instanceof RefusedImage ? new RefusedImage(`its mask cannot be used: ${reason.message}`) : reason
  }
  const {width, height, ids} = mask.value
  if (width !== photo.value.width || height !== photo.value.height)
    throw new RefusedImage(`it is ${photo.value.width} × ${photo.value.height} pixels, but its mask is ${width} × ${height}`)
  const found = numbersOf(ids, byId, classes)
  if ('reason' in found) throw new RefusedImage(found.reason)
  return {id: image.id, photo: photo.value, labels: found.numbers}
}

export type OpenOptions = {
  readonly budget: Budget
  readonly maxPixels?: number
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onGood?: (count: number) => void
  readonly signal?: AbortSignal
}

/** Pairs decoded at once while a set is looked at: decoding runs in threads of its own. */
const atOnce = 4

/**
 * Looks at every pair once; bad ones are reported to `onRejected` with the reason and left out. Throws a `UserError`
 * (exit 3) where none is good.
 */
export async function openSet(all: readonly Pair[], name: string, classes: Classes, options: OpenOptions): Promise<SampleSet> {
  const {budget, maxPixels, onRejected, onGood, signal} = options
  const byId = numbersById(classes)
  const decoding = {maxPixels}
  const good: {pair: Pair; kept?: SegmentationSample}[] = []
  for (let start = 0; start < all.length; start += atOnce) {
    signal?.throwIfAborted()
    const some = all.slice(start, start + atOnce)
    const results = await Promise.allSettled(some.map(pair => loadSample(pair, classes, byId, decoding)))
    for (const [i, result] of results.entries()) {
      const pair = some[i]!
      if (result.status === 'rejected') {
        if (!(result.reason instanceof RefusedImage)) throw result.reason
        onRejected?.(rejectedImage(pair.image, result.reason.message))
        continue
      }
      const bytes = result.value.photo.data.length + result.value.labels.byteLength
      const keep = bytes <= budget.left
      if (keep) budget.left -= bytes
      good.push({pair, ...(keep ? {kept: result.value} : {})})
      onGood?.(good.length)
    }
  }
  if (good.length === 0)
    throw new UserError(`No pair of the ${name} set can be used.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'The reasons stand above; --masks names the folder of masks, --ignore ids that do not count.'
    })
  return {
    length: good.length,
    ids: good.map(({pair}) => pair.image.id),
    async sample(i) {
      const {pair, kept} = good[i]!
      return kept ?? loadSample(pair, classes, byId, decoding)
    }
  }
}
