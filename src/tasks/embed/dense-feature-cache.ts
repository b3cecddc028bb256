/** Dense features kept from one use to the next: a store of maps within a budget of memory and disk. */
import type {Precision} from '../../tensor/ops/precision.js'
import {closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {isNoRoom} from '../../system/no-room.js'

/** One map as numbers. */
export type StoredMap = {readonly height: number; readonly width: number; readonly data: Float32Array /* [h, w, D] */}

export type CacheOptions = {
  /** Bytes kept in memory; 1 GiB if absent. */
  readonly memory?: number
  /**
   * Bytes kept in a file beyond those, in the folder of temporary files; none if absent. The file is gone when the
   * cache is disposed of, or the process ends.
   */
  readonly disk?: number
  /** `bf16` keeps half of each number's bytes: what a backbone that computes in bfloat16 knows of it. */
  readonly precision?: Precision
  /** Where the file lies; the system's folder of temporary files if absent. */
  readonly folder?: string
}

export type FeatureCacheStats = {
  readonly maps: number
  readonly memoryBytes: number
  readonly diskBytes: number
  readonly turnedAway: number
}

/** Maps by number. What does not fit is not kept, and `get` answers undefined: the caller computes it again. */
export type FeatureCache = {
  get(key: number): StoredMap | undefined
  /** Keeps a copy; false where the budget is spent. A key that is there is replaced only where the sizes agree. */
  put(key: number, map: StoredMap): boolean
  stats(): FeatureCacheStats
  [Symbol.dispose](): void
}

type Entry = {height: number; width: number; length: number; bytes?: Uint8Array; offset?: number}

/** Upper halves of float32 numbers, rounded to the nearest, halves to even. */
function narrow(data: Float32Array): Uint16Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  const out = new Uint16Array(data.length)
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!
    // A number that is not finite keeps its upper half: rounding could carry it over to another.
    out[i] = (x & 0x7f800000) === 0x7f800000 ? (x >>> 16) | (x & 0xffff ? 1 : 0) : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16
  }
  return out
}

function widen(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length)
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16
  return new Float32Array(out.buffer)
}

/** A store of feature maps within a budget: first in memory, then in a file. */
export function featureCache({memory = 2 ** 30, disk = 0, precision = 'fp32', folder = tmpdir()}: CacheOptions = {}): FeatureCache {
  return new BudgetedCache(memory, disk, precision === 'bf16' ? bf16Numbers : fp32Numbers, new UnnamedFile(folder))
}

/** How numbers are kept: as they are, or as the upper halves of their bytes. */
type NumberFormat = {
  readonly bytesEach: number
  encode(data: Float32Array): Uint8Array
  decode(bytes: Uint8Array, length: number): Float32Array
}

const fp32Numbers: NumberFormat = {
  bytesEach: 4,
  encode: data => new Uint8Array(data.slice().buffer),
  decode: (bytes, length) => new Float32Array(bytes.buffer, bytes.byteOffset, length).slice()
}

const bf16Numbers: NumberFormat = {
  bytesEach: 2,
  encode: data => new Uint8Array(narrow(data).buffer),
  decode: (bytes, length) => widen(new Uint16Array(bytes.buffer, bytes.byteOffset, length))
}

/** A temporary file that is made at first use and has no name while it is open, so that nothing of it stays behind. */
class UnnamedFile {
  readonly #parent: string
  #open: {readonly descriptor: number; readonly folder: string} | undefined

  constructor(parent: string) {
    this.#parent = parent
  }

  #descriptor(): number {
    if (this.#open) return this.#open.descriptor
    const folder = mkdtempSync(join(this.#parent, 'dinov2-features-'))
    this.#open = {descriptor: openSync(join(folder, 'maps'), 'wx+', 0o600), folder}
    // It is never opened by name again, so the name can go: then even a killed process leaves nothing. Where that is
    // not possible it goes at the end.
    try {
      rmSync(folder, {recursive: true})
    } catch {
      process.once('exit', () => rmSync(folder, {recursive: true, force: true}))
    }
    return this.#open.descriptor
  }

  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.#move(at => readSync(this.#descriptor(), bytes, at, length - at, offset + at), length)
    return bytes
  }

  write(bytes: Uint8Array, offset: number): void {
    this.#move(at => writeSync(this.#descriptor(), bytes, at, bytes.length - at, offset + at), bytes.length)
  }

  #move(some: (at: number) => number, length: number): void {
    for (let at = 0; at < length;) {
      const moved = some(at)
      if (moved === 0) throw new Error(`the file of cached features ended after ${at} of ${length} bytes`)
      at += moved
    }
  }

  close(): void {
    if (!this.#open) return
    closeSync(this.#open.descriptor)
    rmSync(this.#open.folder, {recursive: true, force: true})
    this.#open = undefined
  }
}

class BudgetedCache implements FeatureCache {
  readonly #memory: number
  #disk: number
  readonly #numbers: NumberFormat
  readonly #file: UnnamedFile
  readonly #entries = new Map<number, Entry>()
  #memoryBytes = 0
  #diskBytes = 0
  #turnedAway = 0

  constructor(memory: number, disk: number, numbers: NumberFormat, file: UnnamedFile) {
    this.#memory = memory
    this.#disk = disk
    this.#numbers = numbers
    this.#file = file
  }

  get(key: number): StoredMap | undefined {
    const entry = this.#entries.get(key)
    if (!entry) return undefined
    const {height, width, length, offset} = entry
    const bytes = entry.bytes ?? this.#file.read(offset!, length * this.#numbers.bytesEach)
    return {height, width, data: this.#numbers.decode(bytes, length)}
  }

  put(key: number, {height, width, data}: StoredMap): boolean {
    const size = data.length * this.#numbers.bytesEach
    const known = this.#entries.get(key)
    if (known && known.length !== data.length)
      throw new RangeError(`expected the ${known.length} numbers of map ${key} but received ${data.length}`)
    const shape = {height, width, length: data.length}
    const offset = known ? known.offset : this.#memoryBytes + size <= this.#memory ? undefined : this.#diskBytes
    if (offset === undefined) {
      this.#entries.set(key, {...shape, bytes: this.#numbers.encode(data)})
      if (!known) this.#memoryBytes += size
      return true
    }
    if ((!known && this.#diskBytes + size > this.#disk) || !this.#writeToDisk(this.#numbers.encode(data), offset)) {
      this.#turnedAway++
      return false
    }
    this.#entries.set(key, {...shape, offset})
    if (!known) this.#diskBytes += size
    return true
  }

  /** False where the disk is full before the budget is: then no more goes there, and what it holds stays. */
  #writeToDisk(bytes: Uint8Array, offset: number): boolean {
    try {
      this.#file.write(bytes, offset)
      return true
    } catch (error) {
      if (!isNoRoom(error)) throw error
      this.#disk = 0
      return false
    }
  }

  stats(): FeatureCacheStats {
    return {
      maps: this.#entries.size,
      memoryBytes: this.#memoryBytes,
      diskBytes: this.#diskBytes,
      turnedAway: this.#turnedAway
    }
  }

  [Symbol.dispose](): void {
    this.#entries.clear()
    this.#memoryBytes = 0
    this.#diskBytes = 0
    this.#file.close()
  }
}
