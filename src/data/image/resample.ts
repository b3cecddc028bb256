/**
 * Bicubic resampling of 8-bit RGB that agrees with Pillow to the last bit, for evaluation resizes and for random
 * crops.
 *
 * The reference transforms resize with Pillow, so features agree file to feature only where the pixels do. The rules:
 * separable cubic convolution with a = -0.5 (Keys, 1981), the support stretched by the scale when shrinking
 * (antialiasing), weights normalized in double precision and rounded to 22 fractional bits, columns first and rows
 * second (the other way round where the height shrinks by more than twice as many pixels as the width: so Pillow 13;
 * older ones never turn), each rounded to 8 bits. libvips' own cubic kernel differs: it quantizes sub-pixel positions
 * and shrinks by boxes first. Only the asked-for window of the output is computed, and only the source pixels under it
 * are read.
 */

/** An image in memory: sRGB bytes, row by row, `data` of [height, width, 3]. */
export type Raster = {readonly width: number; readonly height: number; readonly data: Uint8Array}

/** A rectangle; x to the right, y downwards, in pixels. */
export type Box = {readonly x: number; readonly y: number; readonly width: number; readonly height: number}

export type Size = {readonly width: number; readonly height: number}

export type ResampleOptions = {
  /**
   * Whole-pixel part of the source that counts as the entire image: cropped first, then resized (no pixel outside is
   * seen).
   */
  readonly view?: Box
  /**
   * Part of the view, to fractions of a pixel, that is stretched over the output; pixels outside it still weigh in at
   * its rim (Pillow's `resize(box=)`).
   */
  readonly box?: Box
  /** Whole-pixel part of the output to compute: resized first, then cropped. */
  readonly window?: Box
  /** Mirrors the output left to right (before the window is cut). */
  readonly flip?: boolean
  /** Where to write, [window.height, window.width, 3]; a new array if absent. */
  readonly out?: Uint8Array
}

const BITS = 22 // of fraction in the weights: 32 - 8 - 2, as Pillow keeps them
const HALF = 1 << (BITS - 1)
const SUPPORT = 2

/**
 * Weights of one axis for outputs `from` … `from + count - 1`: output i sums `taps` samples from `first[i]`, weights
 * at `i * taps`.
 */
type Weights = {readonly first: Int32Array; readonly taps: number; readonly values: Int32Array; readonly low: number; readonly high: number}

function cubic(t: number): number {
  const x = Math.abs(t)
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0
}

/**
 * One axis of a resampling: `extent` of `length` pixels from `start` become `outputs`, of which `count` from `from`
 * are wanted.
 */
type Axis = {
  readonly length: number
  readonly start: number
  readonly extent: number
  readonly outputs: number
  readonly from: number
  readonly count: number
  readonly flip?: boolean
}

function filterWeights({length, start, extent, outputs, from, count, flip = false}: Axis): Weights {
  const scale = extent / outputs
  const stretch = Math.max(scale, 1)
  const support = SUPPORT * stretch
  const width = Math.min(Math.ceil(support) * 2 + 1, length)
  const first = new Int32Array(count)
  const values = new Int32Array(count * width)
  const raw = new Float64Array(width)
  const used = new Int32Array(count)
  let taps = 1
  for (let i = 0; i < count; i++) {
    const place = flip ? outputs - 1 - (from + i) : from + i
    const center = start + (place + 0.5) * scale
    const low = Math.max(0, Math.trunc(center - support + 0.5))
    const n = Math.min(length, Math.trunc(center + support + 0.5)) - low
    let sum = 0
    for (let t = 0; t < n; t++) sum += raw[t] = cubic((t + low - center + 0.5) * (1 / stretch))
    first[i] = low
    used[i] = n
    taps = Math.max(taps, n)
    for (let t = 0; t < n; t++) {
      const w = (sum !== 0 ? raw[t]! / sum : raw[t]!) * (1 << BITS)
      values[i * width + t] = w < 0 ? Math.trunc(w - 0.5) : Math.trunc(w + 0.5)
    }
  }
  // All outputs get the same number of taps: near the far rim the window moves inwards and the weights with it, padded
  // with zeros.
  const even = new Int32Array(count * taps)
  let [low, high] = [length, 0]
  for (let i = 0; i < count; i++) {
    const shift = Math.max(0, first[i]! + taps - length)
    first[i]! -= shift
    even.set(values.subarray(i * width, i * width + used[i]!), i * taps + shift)
    low = Math.min(low, first[i]!)
    high = Math.max(high, first[i]! + taps)
  }
  return {first, taps, values: even, low, high}
}

/** Columns: source rows [low, high) of the view → `out` of [high - low, count, 3]. */
function resampleColumns(
  source: {width: number; data: Uint8Array | Uint8ClampedArray},
  view: Box,
  rows: {low: number; high: number},
  weights: Weights,
  out: Uint8ClampedArray
): void {
  const {first, taps, values} = weights
  const {data} = source
  const count = first.length
  let o = 0
  for (let y = rows.low; y < rows.high; y++) {
    const row = ((view.y + y) * source.width + view.x) * 3
    for (let i = 0, k = 0; i < count; i++) {
      let p = row + first[i]! * 3
      let r = HALF
      let g = HALF
      let b = HALF
      for (let t = 0; t < taps; t++, p += 3) {
        const w = values[k++]!
        r = (r + Math.imul(w, data[p]!)) | 0
        g = (g + Math.imul(w, data[p + 1]!)) | 0
        b = (b + Math.imul(w, data[p + 2]!)) | 0
      }
      out[o++] = r >> BITS
      out[o++] = g >> BITS
      out[o++] = b >> BITS
    }
  }
}

/**
 * Rows of bytes: the first begins at `at` and is number `base`; `line` bytes of each count, and the next begins
 * `pitch` later.
 */
type Rows = {
  readonly source: Uint8ClampedArray | Uint8Array
  readonly at: number
  readonly pitch: number
  readonly line: number
  readonly base: number
}

/**
 * Rows: `source` of [rows, line bytes] whose first row is number `base` → `out` of [count, line bytes]; four taps at a
 * time.
 */
function resampleRows({source, at, pitch, line, base}: Rows, weights: Weights, out: Uint8ClampedArray): void {
  const {first, taps, values} = weights
  const sums = taps > 4 ? new Int32Array(line) : undefined
  for (let i = 0; i < first.length; i++) {
    const o = i * line
    const top = at + (first[i]! - base) * pitch
    for (let t = 0; t < taps; t += 4) {
      const k = i * taps + t
      const w0 = values[k]!
      const [w1, w2, w3] = [t + 1 < taps ? values[k + 1]! : 0, t + 2 < taps ? values[k + 2]! : 0, t + 3 < taps ? values[k + 3]! : 0]
      const p0 = top + t * pitch
      const p1 = t + 1 < taps ? p0 + pitch : p0
      const p2 = t + 2 < taps ? p1 + pitch : p0
      const p3 = t + 3 < taps ? p2 + pitch : p0
      if (sums === undefined || t + 4 >= taps) {
        for (let x = 0; x < line; x++) {
          const near = (Math.imul(w0, source[p0 + x]!) + Math.imul(w1, source[p1 + x]!)) | 0
          const far = (Math.imul(w2, source[p2 + x]!) + Math.imul(w3, source[p3 + x]!)) | 0
          const before = t === 0 ? HALF : sums![x]!
          out[o + x] = ((((before + near) | 0) + far) | 0) >> BITS
        }
      } else {
        for (let x = 0; x < line; x++) {
          const near = (Math.imul(w0, source[p0 + x]!) + Math.imul(w1, source[p1 + x]!)) | 0
          const far = (Math.imul(w2, source[p2 + x]!) + Math.imul(w3, source[p3 + x]!)) | 0
          const before = t === 0 ? HALF : sums[x]!
          sums[x] = (((before + near) | 0) + far) | 0
        }
      }
    }
  }
}

const KEEP = 16 << 20
let scratch = new Uint8ClampedArray(0)

/**
 * Working memory of at least that many bytes, kept between calls while it is small (all here is synchronous, so nobody
 * else holds it).
 */
function workspace(bytes: number): Uint8ClampedArray {
  if (bytes > KEEP) return new Uint8ClampedArray(bytes)
  if (scratch.length < bytes) scratch = new Uint8ClampedArray(Math.max(bytes, 2 * scratch.length))
  return scratch
}

const clamped = (bytes: Uint8Array): Uint8ClampedArray => new Uint8ClampedArray(bytes.buffer, bytes.byteOffset, bytes.length)

function inside(inner: Box, outer: Size, name: string): void {
  const {x, y, width, height} = inner
  if (!(x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= outer.width && y + height <= outer.height))
    throw new RangeError(
      `Expected the ${name} to lie within ${outer.width} × ${outer.height} but received ${width} × ${height} at (${x}, ${y}).`
    )
}

/**
 * Resizes to `size` as Pillow's `Image.resize(size, BICUBIC)` does, and returns the window of it: bytes of
 * [height, width, 3].
 *
 * Raises RangeError where a rectangle lies outside what it is a part of.
 */
export function resample(source: Raster, size: Size, options: ResampleOptions = {}): Uint8Array {
  const view = options.view ?? {x: 0, y: 0, width: source.width, height: source.height}
  const box = options.box ?? {x: 0, y: 0, width: view.width, height: view.height}
  const window = options.window ?? {x: 0, y: 0, width: size.width, height: size.height}
  inside(view, source, 'view')
  inside(box, view, 'box')
  inside(window, size, 'window')
  const line = window.width * 3
  const out = options.out ?? new Uint8Array(window.height * line)
  if (out.length !== window.height * line)
    throw new RangeError(`Expected ${window.height * line} bytes to write to but received ${out.length}.`)

  // Pillow holds the box in single precision; so do we.
  const [left, upper] = [Math.fround(box.x), Math.fround(box.y)]
  const across = Math.fround(Math.fround(box.x + box.width) - left)
  const down = Math.fround(Math.fround(box.y + box.height) - upper)
  const flip = options.flip ?? false
  const sameColumns = size.width === view.width && left === 0 && across === view.width
  const sameRows = size.height === view.height && upper === 0 && down === view.height

  const rows = sameRows
    ? undefined
    : filterWeights({length: view.height, start: upper, extent: down, outputs: size.height, from: window.y, count: window.height})
  const span = rows ?? {low: window.y, high: window.y + window.height}
  if (sameColumns && !flip) {
    const at = ((view.y + span.low) * source.width + view.x + window.x) * 3
    if (rows) resampleRows({source: source.data, at, pitch: source.width * 3, line, base: span.low}, rows, clamped(out))
    else
      for (let y = 0; y < window.height; y++)
        out.set(source.data.subarray(at + y * source.width * 3, at + y * source.width * 3 + line), y * line)
    return out
  }
  const columns = sameColumns
    ? mirror(view.width, window)
    : filterWeights({length: view.width, start: left, extent: across, outputs: size.width, from: window.x, count: window.width, flip})
  if (!rows) {
    resampleColumns(source, view, span, columns, clamped(out))
    return out
  }
  const fewer = view.height - size.height
  if (!sameColumns && fewer > 0 && fewer > 2 * (view.width - size.width)) {
    const width = columns.high - columns.low
    const between = workspace(window.height * width * 3)
    const at = ((view.y + span.low) * source.width + view.x + columns.low) * 3
    resampleRows({source: source.data, at, pitch: source.width * 3, line: width * 3, base: span.low}, rows, between)
    const part = {width, height: window.height, data: between}
    resampleColumns(part, {x: -columns.low, y: 0, width, height: window.height}, {low: 0, high: window.height}, columns, clamped(out))
  } else {
    const between = workspace((span.high - span.low) * line)
    resampleColumns(source, view, span, columns, between)
    resampleRows({source: between, at: 0, pitch: line, line, base: span.low}, rows, clamped(out))
  }
  return out
}

/** Weights that only turn a line round. */
function mirror(width: number, window: Box): Weights {
  const first = Int32Array.from({length: window.width}, (_, i) => width - 1 - window.x - i)
  return {first, taps: 1, values: new Int32Array(window.width).fill(1 << BITS), low: 0, high: width}
}
