/**
 * The endless stream of training batches, made by worker threads that run ahead. Which image, which crops and which
 * masks come at a step is a pure function of seed and step, whatever the number of workers.
 *
 * In shape comments: B images, G and S the sides of large and small crops, L small crops of an image.
 */
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {rng} from '../../tensor/random.js'
import {collateMasks, shareOfMasks, type Masks, type MaskSettings} from '../augment/block-masks.js'
import {viewBytes, type CropSettings} from '../augment/crop-params.js'
import {readyNative} from '../augment/native-crops.js'
import {rejectedImage} from '../sources/image-ref.js'
import type {ImageList} from '../sources/image-table.js'
import {ImageCache, makeCache} from './cache.js'
import {chunkSize, deferFailure, nextTurn, seconds, wireRef} from './chunks.js'
import {LoadCounts, type Batches, type LoadOptions} from './load-stats.js'
import type {Sampler} from './sampler.js'
import {defaultWorkers, WorkerPool} from './worker-pool.js'
import type {Item} from './worker.js'

/** One step of training: crops, masks and where they came from. */
export type CropBatch = Masks & {
  readonly step: number
  /** Image of each of the B places. */
  readonly ids: readonly string[]
  /** [2B, G, G, 3], crop-major: first all first crops, then all second ones. */
  readonly globals: Uint8Array
  /** [L·B, S, S, 3], crop-major. */
  readonly locals: Uint8Array
  /** Seconds this step waited for its data. */
  readonly waitSeconds: number
}

export type CropOptions = LoadOptions & {
  readonly refs: ImageList
  readonly sampler: Sampler
  readonly crops: CropSettings
  readonly masks: MaskSettings
  readonly seed: number
  /** Which of how many equal shares of each step these batches are; the whole step if absent. */
  readonly share?: {readonly rank: number; readonly size: number}
  /** First step, 0 if absent; the step before which to end, never if absent. */
  readonly start?: number
  readonly end?: number
  /** Bytes of decoded images to keep; 512 MiB if absent, 0 for none. */
  readonly cacheBytes?: number
}

/**
 * The batches of training from step `start` on, in order.
 *
 * Place b of step t shows the image `sampler.at(t · batch + b)`; of several shares each has its part of the places. A
 * bad image is replaced by the next good one by number, at every turn the same; it goes to `onRejected` once. Throws
 * UserError (exit 4) where no image of the set can be decoded, and what `onRejected` throws.
 */
export function cropBatches(options: CropOptions): Batches<CropBatch> {
  const counts = new LoadCounts()
  return Object.assign(streamCrops(options, counts), {stats: () => counts.stats()})
}

/** A place in a batch: the image to show there, and the bad images that it replaces. */
type Place = {index: number; readonly replaced: number[]}

type CroppedStep = {readonly crops: Omit<CropBatch, 'waitSeconds'>; readonly places: readonly Place[]}

/** Makes the batches of single steps, and remembers which images are bad. */
class CropMaker {
  readonly #options: CropOptions
  readonly #pool: WorkerPool
  readonly #size: number
  /** Why images are bad, by number. */
  readonly #reasons = new Map<number, string>()
  readonly #reported = new Set<number>()

  constructor(options: CropOptions, pool: WorkerPool, size: number) {
    this.#options = options
    this.#pool = pool
    this.#size = size
  }

  async make(step: number): Promise<CroppedStep> {
    const {refs, sampler, batch, crops, masks: settings, seed, share = {rank: 0, size: 1}} = this.#options
    const first = (step * share.size + share.rank) * batch // of the order of images
    const globals = new Uint8Array(2 * batch * 3 * crops.globalSize ** 2) // [2B, G, G, 3]
    const locals = new Uint8Array(crops.localCount * batch * 3 * crops.localSize ** 2) // [L·B, S, S, 3]
    const places = Array.from({length: batch}, (_, b): Place => ({index: sampler.at(first + b), replaced: []}))
    const parts: Promise<void>[] = []
    for (let b = 0; b < batch; b += this.#size) {
      const numbers = Array.from({length: Math.min(this.#size, batch - b)}, (_, i) => b + i)
      parts.push(deferFailure(this.#fill(first, numbers, places, {globals, locals})))
    }
    const masks = shareOfMasks(collateMasks(rng(seed, 'masks', step), 2 * batch * share.size, settings), share)
    await Promise.all(parts)
    return {crops: {step, ids: places.map(({index}) => refs.at(index)!.id), globals, locals, ...masks}, places}
  }

  /** Fills these places of a batch, with other images where the first choice is bad; place 0 is number `first`. */
  async #fill(
    first: number,
    numbers: readonly number[],
    places: readonly Place[],
    {globals, locals}: Pick<CropBatch, 'globals' | 'locals'>
  ): Promise<void> {
    const {refs, batch, crops} = this.#options
    const large = 3 * crops.globalSize ** 2
    const small = 3 * crops.localSize ** 2
    for (let open = numbers; open.length > 0;) {
      const items = open.map((b): Item => {
        const index = this.#choose(places[b]!)
        return {ref: wireRef(refs.at(index)!), index, position: first + b}
      })
      const failed: number[] = []
      for (const [i, answer] of (await this.#pool.run(items)).entries()) {
        const b = open[i]!
        if ('reason' in answer) {
          this.#reasons.set(items[i]!.index!, answer.reason)
          failed.push(b)
          continue
        }
        const {data} = answer
        if (data.length !== viewBytes(crops)) throw new Error(`Expected ${viewBytes(crops)} bytes of crops but received ${data.length}.`)
        for (let c = 0; c < 2; c++) globals.set(data.subarray(c * large, (c + 1) * large), (c * batch + b) * large)
        for (let c = 0; c < crops.localCount; c++)
          locals.set(data.subarray(2 * large + c * small, 2 * large + (c + 1) * small), (c * batch + b) * small)
      }
      open = failed
    }
  }

  /** The image of a place: the next by number that is not known to be bad. Throws `UserError` where all are. */
  #choose(place: Place): number {
    const {refs} = this.#options
    const total = refs.length
    while (this.#reasons.has(place.index)) {
      place.replaced.push(place.index)
      if (place.replaced.length >= total) {
        const [first, reason] = [...this.#reasons][0]!
        throw new UserError(`None of the ${counted(total, 'image')} can be decoded; the first, ${refs.at(first)!.id}: ${reason}.`, {
          exit: 4,
          code: 'ALL_BAD'
        })
      }
      place.index = (place.index + 1) % total
    }
    return place.index
  }

  /** Reports the bad images of a batch that were not reported before; how many they are. */
  report(places: readonly Place[]): number {
    const before = this.#reported.size
    for (const {replaced} of places)
      for (const index of replaced) {
        if (this.#reported.has(index)) continue
        this.#reported.add(index)
        this.#options.onRejected?.(rejectedImage(this.#options.refs.at(index)!, this.#reasons.get(index)!))
      }
    return this.#reported.size - before
  }
}

async function* streamCrops(options: CropOptions, counts: LoadCounts): AsyncGenerator<CropBatch, void, undefined> {
  const {refs, sampler, batch, crops, seed, start = 0, end = Infinity, workers = defaultWorkers(), prefetch = 3, maxPixels} = options
  const total = refs.length
  if (sampler.size !== total)
    throw new RangeError(`Expected a sampler over the ${total} images of the list but received one over ${sampler.size}.`)
  const native = options.native === false ? undefined : await readyNative()
  counts.native = native !== undefined
  const cache = makeCache(total, options.cacheBytes ?? 512 * 2 ** 20)
  counts.cache = cache && new ImageCache(cache)
  const pool = new WorkerPool({kind: 'crops', crops, seed, cache, maxPixels, native}, workers)
  const maker = new CropMaker(options, pool, chunkSize(batch, workers))
  const queue: Promise<CroppedStep>[] = []
  let next = start
  const runAhead = (): void => {
    while (queue.length < Math.max(1, prefetch) && next < end) queue.push(deferFailure(maker.make(next++)))
  }
  try {
    runAhead()
    while (queue.length > 0) {
      const waitingSince = seconds()
      const {crops: made, places} = await queue.shift()!
      const waitSeconds = seconds() - waitingSince
      counts.bad += maker.report(places)
      counts.batches++
      counts.images += batch
      counts.waitSeconds += waitSeconds
      runAhead() // before the engine takes the thread
      await nextTurn()
      yield {...made, waitSeconds}
    }
  } finally {
    await pool.close()
  }
}
