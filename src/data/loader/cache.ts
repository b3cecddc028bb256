/**
 * Decoded images in memory that all workers share, so that a small set is decoded once and not at every pass.
 *
 * One arena of a stated size, filled front to back and never emptied: every image comes once a pass, so which ones
 * stay makes no difference, and throwing out the one used longest ago would throw out the one that comes next. Memory
 * is taken by the system as it is written to, not when the arena is made. Images that no longer fit are decoded each
 * time.
 */
import type {Raster} from '../image/resample.js'

/** What is handed to each worker; both parts are shared memory. */
export type CacheHandle = {readonly arena: SharedArrayBuffer; readonly index: SharedArrayBuffer}

const UNIT = 16 // bytes; places are counted in units so that 31 bits reach 32 GiB
const FIELDS = 4 // of each image: state, place, width, height; of the record behind the last: units in use, images, hits, misses
const EMPTY = 0
const CLAIMED = 1
const READY = 2

/**
 * Room for decoded images of a set of `count`, `bytes` at most (less where the machine does not grant as much);
 * undefined for none.
 */
export function makeCache(count: number, bytes: number): CacheHandle | undefined {
  const most = Math.min(Math.floor(bytes / UNIT), 0x7fff0000) * UNIT
  for (let size = most; size >= 1 << 20; size = Math.floor(size / 2 / UNIT) * UNIT) {
    try {
      return {arena: new SharedArrayBuffer(size), index: new SharedArrayBuffer((count + 1) * FIELDS * 4)}
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
    }
  }
  return undefined
}

/** What the shared images did so far, over all workers. */
export type CropCacheStats = {
  /** Bytes of memory in use, and at most. */
  readonly bytes: number
  readonly limit: number
  /** Images kept; times that an image was there when it was asked for, and times that it was not. */
  readonly images: number
  readonly hits: number
  readonly misses: number
}

/** One worker's view of the shared images. */
export class ImageCache {
  readonly #arena: Uint8Array
  readonly #index: Int32Array
  readonly #head: number // where the last record begins

  constructor({arena, index}: CacheHandle) {
    this.#arena = new Uint8Array(arena)
    this.#index = new Int32Array(index)
    this.#head = this.#index.length - FIELDS
  }

  /** The image of that number, a view of shared memory not to be written to, if it is there. */
  get(number: number): Raster | undefined {
    const at = number * FIELDS
    const there = Atomics.load(this.#index, at) === READY
    Atomics.add(this.#index, this.#head + (there ? 2 : 3), 1)
    if (!there) return undefined
    const [place, width, height] = [this.#index[at + 1]!, this.#index[at + 2]!, this.#index[at + 3]!]
    return {width, height, data: this.#arena.subarray(place * UNIT, place * UNIT + width * height * 3)}
  }

  /** Keeps an image if there is room and no other worker was first. */
  put(number: number, {width, height, data}: Raster): void {
    const at = number * FIELDS
    const units = Math.ceil(data.length / UNIT)
    const room = this.#arena.length / UNIT
    if (units > room - Atomics.load(this.#index, this.#head)) return
    if (Atomics.compareExchange(this.#index, at, EMPTY, CLAIMED) !== EMPTY) return
    const place = Atomics.add(this.#index, this.#head, units)
    if (place + units > room) {
      Atomics.sub(this.#index, this.#head, units)
      Atomics.store(this.#index, at, EMPTY)
      return
    }
    this.#arena.set(data, place * UNIT)
    this.#index[at + 1] = place
    this.#index[at + 2] = width
    this.#index[at + 3] = height
    Atomics.store(this.#index, at, READY) // published last: who sees it sees the rest
    Atomics.add(this.#index, this.#head + 1, 1)
  }

  stats(): CropCacheStats {
    const field = (i: number): number => Atomics.load(this.#index, this.#head + i) >>> 0
    return {bytes: field(0) * UNIT, limit: this.#arena.length, images: field(1), hits: field(2), misses: field(3)}
  }
}
