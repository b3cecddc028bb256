/**
 * Images in batches for the engine, decoded by worker threads that run ahead.
 *
 * `pixelBatches` keeps the order of its input and pairs every row with its image, for embedding. `cropBatches` is the
 * endless stream of training: which image, which crops and which masks come at a step is a pure function of seed and
 * step, whatever the number of workers. In shape comments: B images, G and S the sides of large and small crops, N
 * patches of a large crop.
 */
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {rng} from '../../tensor/random.js'
import {ImageCache, makeCache, type CropCacheStats} from './cache.js'
import type {Transform} from '../image/geometry.js'
import {collateMasks, shareOfMasks, type MaskSettings, type Masks} from '../augment/block-masks.js'
import {builtNative, readyNative} from '../augment/native-crops.js'
import {viewBytes, type CropSettings} from '../augment/crop-params.js'
import {defaultWorkers, WorkerPool} from './worker-pool.js'
import {rejectedImage, type ImageRef, type RejectedImage} from '../sources/image-ref.js'
import type {Sampler} from './sampler.js'
import type {ImageList} from '../sources/image-table.js'
import type {Answer, Item, WireRef} from './worker.js'

/**
 * Images of one size, made ready; row i of `pixels` is `refs[i]` (without the encoded bytes that it may have brought
 * along).
 */
export type PixelBatch = {
  readonly refs: readonly ImageRef[]
  readonly pixels: Uint8Array // [B, H, W, 3] sRGB
  readonly height: number
  readonly width: number
}

export type {RejectedImage} from '../sources/image-ref.js'

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

/** A stream's stats as it goes. */
class Tally {
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

/** What a stream did, as a sentence for those who ask for details. */
export function describeLoad({images, waitSeconds, native, cache}: LoadStats): string {
  const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)
  const asked = cache ? cache.hits + cache.misses : 0
  return (
    `${counted(images, 'image was', 'images were')} made ready by ${native ? 'native code' : 'JavaScript'}; ${waitSeconds.toFixed(1)} s were spent waiting for them` +
    (cache
      ? `; ${cache.images} decoded ones are kept in ${mib(cache.bytes)} of ${mib(cache.limit)} MiB, where ${asked === 0 ? 0 : Math.round((100 * cache.hits) / asked)} % of those asked for were found`
      : '; none are kept in memory')
  )
}

export type LoadOptions = {
  /** Images a batch. */
  readonly batch: number
  /** Worker threads; one fewer than the machine's if absent, 0 for none. */
  readonly workers?: number
  /** Batches that workers may be ahead; 3 if absent, at least 1. */
  readonly prefetch?: number
  /** Pixels above which an image is refused before decoding. */
  readonly maxPixels?: number
  /** Told of each image that could not be used, once, in order. What it throws ends the stream. */
  readonly onRejected?: (bad: RejectedImage) => void
  /** Whether the compiled code may be used: the same bytes, sooner. True if absent. */
  readonly native?: boolean
}

const wire = ({id, path, bytes, range, problem}: ImageRef): WireRef => ({
  id,
  path,
  ...(bytes ? {bytes} : {}),
  ...(range ? {range} : {}),
  ...(problem === undefined ? {} : {problem})
})

/** The parts of a worker's set-up that may be absent. */
const settingsOf = (maxPixels: number | undefined, native: string | undefined): {maxPixels?: number; native?: string} => ({
  ...(maxPixels === undefined ? {} : {maxPixels}),
  ...(native === undefined ? {} : {native})
})

const seconds = (): number => performance.now() / 1000

/** Some work that is under way and may fail before anybody looks: the failure waits until then. */
function held<T>(work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  return work
}

/** How many images are sent to a worker at once: enough to save messages, few enough to spread a batch over all. */
const chunkOf = (batch: number, workers: number): number => Math.max(1, Math.min(8, Math.ceil(batch / (2 * Math.max(1, workers)))))

/** Lets waiting messages and the feeding loop have a turn before the engine takes the thread. */
const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/**
 * Decodes images ahead and yields them in batches, in the order of `refs`.
 *
 * Bad images are told to `onRejected` and left out; the rows that follow move up, so every batch but the last is full.
 * Where sizes differ (no crop), a batch ends where the size changes. Memory: about (prefetch + 1) batches. Raises what
 * `refs` raises and what `onRejected` throws.
 */
export function pixelBatches(refs: AsyncIterable<ImageRef>, options: LoadOptions & {readonly transform: Transform}): Batches<PixelBatch> {
  const tally = new Tally()
  return Object.assign(streamPixels(refs, options, tally), {stats: () => tally.stats()})
}

async function* streamPixels(
  refs: AsyncIterable<ImageRef>,
  options: LoadOptions & {readonly transform: Transform},
  tally: Tally
): AsyncGenerator<PixelBatch, void, undefined> {
  const {batch, transform, workers = defaultWorkers(), prefetch = 3, maxPixels, onRejected} = options
  const native = options.native === false ? undefined : builtNative()
  tally.native = native !== undefined
  const pool = new WorkerPool({kind: 'pixels', transform, ...settingsOf(maxPixels, native)}, workers)
  const size = chunkOf(batch, workers)
  const limit = Math.max(1, prefetch) * batch + size
  const queue: {refs: ImageRef[]; answers: Promise<readonly Answer[]>}[] = []
  let ahead = 0
  let closed = false
  let finished = false
  let failure: unknown
  let wakeFeeder = (): void => undefined
  let wakeReader = (): void => undefined

  const send = (chunk: ImageRef[]): void => {
    ahead += chunk.length
    queue.push({refs: chunk.map(withoutBytes), answers: held(pool.run(chunk.map(ref => ({ref: wire(ref)}))))})
    wakeReader()
  }
  const feed = async (): Promise<void> => {
    let chunk: ImageRef[] = []
    for await (const ref of refs) {
      if (closed) return
      chunk.push(ref)
      if (chunk.length < size) continue
      while (ahead >= limit && !closed) await new Promise<void>(resolve => (wakeFeeder = resolve))
      if (closed) return
      send(chunk)
      chunk = []
    }
    if (chunk.length > 0 && !closed) send(chunk)
  }
  const feeding = feed()
    .catch((error: unknown) => (failure = error))
    .finally(() => {
      finished = true
      wakeReader()
    })

  let group: {ref: ImageRef; data: Uint8Array}[] = []
  let [width, height] = [0, 0]
  let asked = seconds()
  const pack = (): PixelBatch => {
    const one = width * height * 3
    const pixels = new Uint8Array(group.length * one) // [B, H, W, 3]
    group.forEach(({data}, i) => pixels.set(data, i * one))
    const made = {refs: group.map(({ref}) => ref), pixels, height, width}
    group = []
    tally.batches++
    tally.images += made.refs.length
    tally.waitSeconds += seconds() - asked
    return made
  }
  try {
    for (;;) {
      while (queue.length === 0 && !finished) await new Promise<void>(resolve => (wakeReader = resolve))
      const next = queue.shift()
      if (!next) break
      const answers = await next.answers
      ahead -= next.refs.length
      wakeFeeder()
      for (const [i, answer] of answers.entries()) {
        const ref = next.refs[i]!
        if ('reason' in answer) {
          tally.bad++
          onRejected?.(rejectedImage(ref, answer.reason))
          continue
        }
        if (group.length > 0 && (answer.width !== width || answer.height !== height)) {
          await turn()
          yield pack()
          asked = seconds()
        }
        ;[width, height] = [answer.width, answer.height]
        group.push({ref, data: answer.data})
        if (group.length === batch) {
          await turn()
          yield pack()
          asked = seconds()
        }
      }
    }
    if (failure !== undefined) throw failure
    if (group.length > 0) yield pack()
  } finally {
    closed = true
    wakeFeeder()
    await pool.close()
    if (finished) await feeding
  }
}

const withoutBytes = (ref: ImageRef): ImageRef => {
  if (!ref.bytes) return ref
  const {bytes: _, ...rest} = ref
  return rest
}

/** One step of training: crops, masks and where they came from. */
export type CropBatch = Masks & {
  readonly step: number
  /** Image of each of the B places. */
  readonly ids: readonly string[]
  /** [2B, G, G, 3], crop-major: first all first crops, then all second ones. */
  readonly globals: Uint8Array
  /** [localCount · B, S, S, 3], crop-major. */
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
 * Place b of step t shows the image `sampler.at(t · batch + b)`; of several shares each has its part of the places.
 * A bad image is replaced by the next good one by number, at every turn the same; it is told once to `onRejected`.
 * Raises UserError (exit 4) where no image of the set can be decoded, and what `onRejected` throws.
 */
export function cropBatches(options: CropOptions): Batches<CropBatch> {
  const tally = new Tally()
  return Object.assign(streamCrops(options, tally), {stats: () => tally.stats()})
}

/** Place of a batch: what to show there, and the bad images that were passed over for it. */
type Place = {index: number; passed: number[]}

async function* streamCrops(options: CropOptions, tally: Tally): AsyncGenerator<CropBatch, void, undefined> {
  const {
    refs,
    sampler,
    batch,
    crops,
    seed,
    share = {rank: 0, size: 1},
    start = 0,
    end = Infinity,
    workers = defaultWorkers(),
    prefetch = 3,
    maxPixels,
    onRejected
  } = options
  const total = refs.length
  if (sampler.size !== total)
    throw new RangeError(`Expected a sampler over the ${total} images of the list but received one over ${sampler.size}.`)
  const native = options.native === false ? undefined : await readyNative()
  tally.native = native !== undefined
  const cache = makeCache(total, options.cacheBytes ?? 512 * 2 ** 20)
  tally.cache = cache && new ImageCache(cache)
  const pool = new WorkerPool({kind: 'crops', crops, seed, cache, ...settingsOf(maxPixels, native)}, workers)
  const size = chunkOf(batch, workers)
  const reasons = new Map<number, string>() // of images known to be bad
  const told = new Set<number>()

  /** The next image by number that is not known to be bad. */
  const settle = (place: Place): void => {
    while (reasons.has(place.index)) {
      place.passed.push(place.index)
      if (place.passed.length >= total) {
        const [first, reason] = [...reasons][0]!
        throw new UserError(`None of the ${counted(total, 'image')} can be decoded; the first, ${refs.at(first)!.id}: ${reason}.`, {
          exit: 4,
          code: 'ALL_BAD'
        })
      }
      place.index = (place.index + 1) % total
    }
  }

  const large = 3 * crops.globalSize ** 2
  const small = 3 * crops.localSize ** 2
  const make = async (step: number): Promise<{made: Omit<CropBatch, 'waitSeconds'>; places: Place[]}> => {
    const globals = new Uint8Array(2 * batch * large) // [2B, G, G, 3]
    const locals = new Uint8Array(crops.localCount * batch * small) // [L B, S, S, 3]
    const first = (step * share.size + share.rank) * batch // of the order of images
    const places = Array.from({length: batch}, (_, b): Place => ({index: sampler.at(first + b), passed: []}))
    const show = async (numbers: number[]): Promise<void> => {
      for (let open = numbers; open.length > 0;) {
        const items = open.map((b): Item => {
          const place = places[b]!
          settle(place)
          return {ref: wire(refs.at(place.index)!), index: place.index, position: first + b}
        })
        const answers = await pool.run(items)
        const again: number[] = []
        answers.forEach((answer, i) => {
          const b = open[i]!
          if ('reason' in answer) {
            reasons.set(items[i]!.index!, answer.reason)
            again.push(b)
            return
          }
          const {data} = answer
          if (data.length !== viewBytes(crops)) throw new Error(`Expected ${viewBytes(crops)} bytes of crops but received ${data.length}.`)
          for (let c = 0; c < 2; c++) globals.set(data.subarray(c * large, (c + 1) * large), (c * batch + b) * large)
          for (let c = 0; c < crops.localCount; c++)
            locals.set(data.subarray(2 * large + c * small, 2 * large + (c + 1) * small), (c * batch + b) * small)
        })
        open = again
      }
    }
    const parts: Promise<void>[] = []
    for (let b = 0; b < batch; b += size) parts.push(held(show(Array.from({length: Math.min(size, batch - b)}, (_, i) => b + i))))
    const masks = shareOfMasks(collateMasks(rng(seed, 'masks', step), 2 * batch * share.size, options.masks), share)
    await Promise.all(parts)
    return {made: {step, ids: places.map(({index}) => refs.at(index)!.id), globals, locals, ...masks}, places}
  }

  const queue: ReturnType<typeof make>[] = []
  let next = start
  const runAhead = (): void => {
    while (queue.length < Math.max(1, prefetch) && next < end) queue.push(held(make(next++)))
  }
  try {
    runAhead()
    while (queue.length > 0) {
      const asked = seconds()
      const {made, places} = await queue.shift()!
      const waitSeconds = seconds() - asked
      for (const {passed} of places)
        for (const index of passed)
          if (!told.has(index)) {
            told.add(index)
            tally.bad++
            onRejected?.(rejectedImage(refs.at(index)!, reasons.get(index)!))
          }
      tally.batches++
      tally.images += batch
      tally.waitSeconds += waitSeconds
      runAhead() // before the engine takes the thread
      await turn()
      yield {...made, waitSeconds}
    }
  } finally {
    await pool.close()
  }
}
