/**
 * Frozen patch features for dense tasks: maps of what chosen blocks say of every patch, for images of any size; and a
 * store that keeps them from pass to pass.
 *
 * An image whose sides are no multiples of the patch is padded with zeros on both sides, after normalisation and so
 * with the mean colour, as the published depth and segmentation heads were trained (docs/spec.md §5.5). What reads the
 * maps stretches them over the image without its padding, as those heads did: see `mapSize`.
 *
 * In shape comments: B images, H × W pixels, P patch side, h = ⌈H/P⌉, w = ⌈W/P⌉, C width, n blocks, D = n · C, or n ·
 * 2C with cls.
 */
import {counted} from '../../config/counted.js'
import {closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {VitConfig} from '../../model/config.js'
import {intermediateLayers} from '../../model/vit.js'
import type {MapSize} from '../../tensor/ops/resize.js'
import {concat, expandDims, pad, reshape, tidy, tile, type Tensor3D, type Tensor4D} from '../../tensor/tf.js'
import type {Backbone} from './load-backbone.js'

/** What is taken from the model at every patch. */
export type DenseSettings = {
  /** Blocks counted from 0, in ascending order; their channels lie side by side in this order. */
  readonly layers: readonly number[]
  /**
   * After the patch's channels of each block, that block's cls token, the same at every place (the linear depth
   * heads).
   */
  readonly cls: boolean
  /**
   * Whether the final norm is applied to each block's output: true for segmentation, false for the published depth
   * heads.
   */
  readonly norm: boolean
}

/**
 * The last `n` blocks, or the blocks named, in ascending order. Throws a `UserError` (exit 2) for blocks that the
 * model does not have.
 */
export function blocksOf({depth}: VitConfig, layers: number | readonly number[]): number[] {
  const blocks =
    typeof layers === 'number' ? Array.from({length: layers}, (_, i) => depth - layers + i) : [...new Set(layers)].sort((a, b) => a - b)
  if (blocks.length === 0 || blocks.some(block => !Number.isInteger(block) || block < 0 || block >= depth))
    throw new UserError(`--layers ${String(layers)} does not fit the model, which has ${counted(depth, 'block')}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give a number from 1 to ${depth}, or a list of blocks from 0 to ${depth - 1}.`
    })
  return blocks
}

/** Channels of a map: D. */
export const denseWidth = ({width}: VitConfig, {layers, cls}: DenseSettings): number => layers.length * width * (cls ? 2 : 1)

/** Patches along the sides of an image of `height` × `width` pixels, padded where they are no multiples: [h, w]. */
export const mapSize = ({patch}: VitConfig, [height, width]: MapSize): [number, number] => [
  Math.ceil(height / patch),
  Math.ceil(width / patch)
]

/**
 * Zeros around images [B, H, W, 3] up to the next multiples of `patch`, half of them (rounded down) before; the images
 * themselves where nothing is missing.
 */
export function padToPatches(images: Tensor4D, patch: number): Tensor4D {
  const [, H, W] = images.shape
  const sides = (length: number): [number, number] => {
    const missing = Math.ceil(length / patch) * patch - length
    return [Math.floor(missing / 2), missing - Math.floor(missing / 2)]
  }
  const [rows, columns] = [sides(H), sides(W)]
  return pad(images, [[0, 0], rows, columns, [0, 0]])
}

/**
 * Normalised images [B, H, W, 3] (`normalizePixels`) of any size → maps [B, h, w, D] float32, which the caller owns.
 *
 * The residual stream is held in the backbone's precision, as for embedding. Throws a RangeError for blocks the model
 * does not have.
 */
export function denseFeatures(
  {params, config, precision}: Pick<Backbone, 'params' | 'config' | 'precision'>,
  images: Tensor4D,
  {layers, cls, norm}: DenseSettings
): Tensor4D {
  const [B, H, W] = images.shape
  const [h, w] = mapSize(config, [H, W])
  return tidy(() => {
    const padded = padToPatches(images, config.patch)
    const outputs = intermediateLayers(params, padded, config, {n: layers, norm, stream: precision})
    const parts = outputs.flatMap(({patches, cls: token}): Tensor3D[] =>
      cls ? [patches, tile(expandDims<Tensor3D>(token, 1), [1, h * w, 1])] : [patches]
    )
    return reshape(parts.length === 1 ? parts[0]! : concat(parts, 2), [B, h, w, -1]) //     [B, h, w, D]
  })
}

/**
 * How many images of a size are computed at once where nobody says: about 4,096 tokens on a CPU, more where a device
 * wants to be filled.
 */
export function denseBatch(config: VitConfig, size: MapSize, device: string): number {
  const [h, w] = mapSize(config, size)
  return Math.max(1, Math.min(256, Math.round((device.startsWith('cuda') ? 32_768 : 4096) / (h * w + 1))))
}

// ---- keeping them --------------------------------------------------------------------------------------------------

/** One map as numbers. */
export type StoredMap = {readonly height: number; readonly width: number; readonly data: Float32Array /* [h, w, D] */}

export type CacheOptions = {
  /** Bytes kept in memory; 1 GiB if absent. */
  readonly memory?: number
  /**
   * Bytes kept in a file beyond those, in the folder of temporary files; none if absent. The file is gone when the
   * cache is let go, or the process ends.
   */
  readonly disk?: number
  /** `bf16` keeps half of each number's bytes: what a backbone that computes in bfloat16 knows of it. */
  readonly precision?: 'fp32' | 'bf16'
  /** Where the file lies; the system's folder of temporary files if absent. */
  readonly folder?: string
}

export type FeatureCacheStats = {
  readonly maps: number
  readonly memoryBytes: number
  readonly diskBytes: number
  readonly turnedAway: number
}

/** Maps by number. What does not fit is not kept, and `get` answers undefined: whoever asks computes it again. */
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
  const entries = new Map<number, Entry>()
  let [memoryBytes, diskBytes, turnedAway] = [0, 0, 0]
  let file: {descriptor: number; folder: string} | undefined
  const bytesOf = (data: Float32Array): Uint8Array => {
    const kept = precision === 'bf16' ? narrow(data) : data.slice()
    return new Uint8Array(kept.buffer, kept.byteOffset, kept.byteLength)
  }
  const open = (): number => {
    if (!file) {
      const place = mkdtempSync(join(folder, 'dinov2-features-'))
      const path = join(place, 'maps')
      file = {descriptor: openSync(path, 'wx+', 0o600), folder: place}
      // Nobody opens it by name again, so it can lose its name now: then even a killed process leaves nothing. Where
      // that is not possible it goes at the end.
      try {
        rmSync(place, {recursive: true})
      } catch {
        process.once('exit', () => rmSync(place, {recursive: true, force: true}))
      }
    }
    return file.descriptor
  }
  const whole = (move: (at: number) => number, length: number): void => {
    for (let at = 0; at < length;) {
      const moved = move(at)
      if (moved === 0) throw new Error(`the file of cached features ended after ${at} of ${length} bytes`)
      at += moved
    }
  }
  return {
    get(key) {
      const entry = entries.get(key)
      if (!entry) return undefined
      const {height, width, length, offset} = entry
      let bytes = entry.bytes
      if (!bytes) {
        const read = new Uint8Array(length * (precision === 'bf16' ? 2 : 4))
        whole(at => readSync(open(), read, at, read.length - at, offset! + at), read.length)
        bytes = read
      }
      const data =
        precision === 'bf16'
          ? widen(new Uint16Array(bytes.buffer, bytes.byteOffset, length))
          : new Float32Array(bytes.buffer, bytes.byteOffset, length).slice()
      return {height, width, data}
    },
    put(key, {height, width, data}) {
      const size = data.length * (precision === 'bf16' ? 2 : 4)
      const known = entries.get(key)
      if (known && known.length !== data.length)
        throw new RangeError(`expected the ${known.length} numbers of map ${key} but received ${data.length}`)
      const shape = {height, width, length: data.length}
      const offset = known ? known.offset : memoryBytes + size <= memory ? undefined : diskBytes
      if (offset === undefined) {
        entries.set(key, {...shape, bytes: bytesOf(data)})
        if (!known) memoryBytes += size
        return true
      }
      if (!known && diskBytes + size > disk) {
        turnedAway++
        return false
      }
      const bytes = bytesOf(data)
      try {
        whole(at => writeSync(open(), bytes, at, bytes.length - at, offset + at), bytes.length)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        disk = 0 // the disk is full before the budget is: what is kept stays
        turnedAway++
        return false
      }
      entries.set(key, {...shape, offset})
      if (!known) diskBytes += size
      return true
    },
    stats: () => ({maps: entries.size, memoryBytes, diskBytes, turnedAway}),
    [Symbol.dispose]() {
      entries.clear()
      memoryBytes = 0
      diskBytes = 0
      if (!file) return
      closeSync(file.descriptor)
      rmSync(file.folder, {recursive: true, force: true})
      file = undefined
    }
  }
}
