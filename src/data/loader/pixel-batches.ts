/**
 * Images in batches for embedding, decoded by worker threads that run ahead. The order is that of the input, and every
 * row is paired with its image.
 */
import {builtNative} from '../augment/native-crops.js'
import type {Transform} from '../image/geometry.js'
import {rejectedImage, type ImageRef} from '../sources/image-ref.js'
import {chunkSize, deferFailure, nextTurn, seconds, wireRef} from './chunks.js'
import {lookAhead} from './look-ahead.js'
import {LoadCounts, type Batches, type LoadOptions} from './load-stats.js'
import {defaultWorkers, WorkerPool} from './worker-pool.js'
import type {Answer} from './worker.js'

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

/** So many images are decoded in this thread. */
const FEW = 4

export type PixelOptions = LoadOptions & {
  readonly transform: Transform
  /** Once aborted, images that are refused are no longer passed over in search of a good one: nothing more comes. */
  readonly signal?: AbortSignal
}

/**
 * Decodes images ahead and yields them in batches, in the order of `refs`.
 *
 * Bad images go to `onRejected` and are left out; the rows that follow move up, so every batch but the last is full.
 * Where sizes differ (no crop), a batch ends where the size changes. Memory: about (prefetch + 1) batches. Throws what
 * `refs` and `onRejected` throw.
 */
export function pixelBatches(refs: AsyncIterable<ImageRef>, options: PixelOptions): Batches<PixelBatch> {
  const counts = new LoadCounts()
  return Object.assign(streamPixels(refs, options, counts), {stats: () => counts.stats()})
}

async function* streamPixels(
  refs: AsyncIterable<ImageRef>,
  options: PixelOptions,
  counts: LoadCounts
): AsyncGenerator<PixelBatch, void, undefined> {
  const {batch, transform, prefetch = 3, maxPixels, onRejected} = options
  const head = options.workers === undefined && batch > FEW ? await lookAhead(refs, FEW + 1) : undefined
  // A thread takes longer to start than a few images to decode.
  const workers = head?.ended ? 0 : (options.workers ?? defaultWorkers())
  const native = options.native === false ? undefined : builtNative()
  counts.native = native !== undefined
  const pool = new WorkerPool({kind: 'pixels', transform, maxPixels, native}, workers)
  const size = chunkSize(batch, workers)
  const decoded = new DecodedChunks(head?.all ?? refs, pool, {size, limit: Math.max(1, prefetch) * batch + size})
  const group = new PixelGroup()
  let waitingSince = seconds()
  const take = (): PixelBatch => {
    const taken = group.take()
    counts.batches++
    counts.images += taken.refs.length
    counts.waitSeconds += seconds() - waitingSince
    return taken
  }
  try {
    for (let chunk = await decoded.next(); chunk; chunk = await decoded.next())
      for (const [i, answer] of chunk.answers.entries()) {
        const ref = chunk.refs[i]!
        if ('reason' in answer) {
          if (options.signal?.aborted) return
          counts.bad++
          onRejected?.(rejectedImage(ref, answer.reason))
          continue
        }
        if (!group.fits(answer)) {
          await nextTurn()
          yield take()
          waitingSince = seconds()
        }
        group.add(ref, answer)
        if (group.length === batch) {
          await nextTurn()
          yield take()
          waitingSince = seconds()
        }
      }
    if (group.length > 0) yield take()
  } finally {
    await decoded.close()
  }
}

/** Decoded images of one size that wait for their batch. */
class PixelGroup {
  #rows: {readonly ref: ImageRef; readonly data: Uint8Array}[] = []
  #width = 0
  #height = 0

  get length(): number {
    return this.#rows.length
  }

  /** Whether an image of this size may be added. */
  fits({width, height}: {readonly width: number; readonly height: number}): boolean {
    return this.#rows.length === 0 || (width === this.#width && height === this.#height)
  }

  add(ref: ImageRef, {width, height, data}: {readonly width: number; readonly height: number; readonly data: Uint8Array}): void {
    this.#width = width
    this.#height = height
    this.#rows.push({ref, data})
  }

  /** The images as a batch; the group is empty afterwards. */
  take(): PixelBatch {
    const [rows, width, height] = [this.#rows, this.#width, this.#height]
    this.#rows = []
    const bytes = width * height * 3
    const pixels = new Uint8Array(rows.length * bytes) // [B, H, W, 3]
    for (const [i, {data}] of rows.entries()) pixels.set(data, i * bytes)
    return {refs: rows.map(({ref}) => ref), pixels, height, width}
  }
}

type DecodedChunk = {readonly refs: readonly ImageRef[]; readonly answers: readonly Answer[]}

/** Chunks of images that workers decode ahead of their reader, in the order of the input. */
class DecodedChunks {
  readonly #pool: WorkerPool
  readonly #size: number
  readonly #limit: number
  readonly #queue: {refs: ImageRef[]; answers: Promise<readonly Answer[]>}[] = []
  readonly #feeding: Promise<unknown>
  #ahead = 0
  #closed = false
  #finished = false
  #failure: unknown
  #wakeFeeder = (): void => undefined
  #wakeReader = (): void => undefined

  /** `size` images are sent to a worker at once, and about `limit` are under way at most. */
  constructor(refs: AsyncIterable<ImageRef>, pool: WorkerPool, {size, limit}: {readonly size: number; readonly limit: number}) {
    this.#pool = pool
    this.#size = size
    this.#limit = limit
    this.#feeding = this.#feed(refs)
      .catch((error: unknown) => (this.#failure = error))
      .finally(() => {
        this.#finished = true
        this.#wakeReader()
      })
  }

  async #feed(refs: AsyncIterable<ImageRef>): Promise<void> {
    let chunk: ImageRef[] = []
    for await (const ref of refs) {
      if (this.#closed) return
      chunk.push(ref)
      if (chunk.length < this.#size) continue
      while (this.#ahead >= this.#limit && !this.#closed) await new Promise<void>(resolve => (this.#wakeFeeder = resolve))
      if (this.#closed) return
      this.#send(chunk)
      chunk = []
    }
    if (chunk.length > 0 && !this.#closed) this.#send(chunk)
  }

  #send(chunk: readonly ImageRef[]): void {
    this.#ahead += chunk.length
    const answers = deferFailure(this.#pool.run(chunk.map(ref => ({ref: wireRef(ref)}))))
    this.#queue.push({refs: chunk.map(withoutBytes), answers})
    this.#wakeReader()
  }

  /** The next chunk; undefined after the last one. Throws what the input threw, after the chunks before it. */
  async next(): Promise<DecodedChunk | undefined> {
    while (this.#queue.length === 0 && !this.#finished) await new Promise<void>(resolve => (this.#wakeReader = resolve))
    const chunk = this.#queue.shift()
    if (!chunk) {
      if (this.#failure !== undefined) throw this.#failure
      return undefined
    }
    const {refs} = chunk
    const answers = await chunk.answers
    this.#ahead -= refs.length
    this.#wakeFeeder()
    return {refs, answers}
  }

  /** Stops feeding and ends the workers. */
  async close(): Promise<void> {
    this.#closed = true
    this.#wakeFeeder()
    await this.#pool.close()
    if (this.#finished) await this.#feeding
  }
}

const withoutBytes = (ref: ImageRef): ImageRef => {
  if (!ref.bytes) return ref
  const {bytes: _, ...rest} = ref
  return rest
}
