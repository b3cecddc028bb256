/**
 * What can be said of a picture without a model: size, contrast, sharpness, entropy, exposure, colour, a 64-bit hash,
 * and a descriptor by which near-copies find each other.
 *
 * The descriptor is the low frequencies of the picture brought to 32 × 32 grey pixels (DCT, frequencies below 16,
 * without the mean). Each is multiplied by its frequency, because the spectrum of photographs falls as one over
 * frequency, and replaced by its root with its sign, so that no few of them decide. It is divided by its length, to
 * which a little is added: a picture without detail (a flat ground, a gradient) has nothing to be recognized by, and
 * its descriptor stays short. Re-encoding, resizing, blur, brightness and colour change it little; a crop, a rotation
 * or a border changes it wholly. Inner products above `perceptualThreshold` mean copies.
 */
import type {Raster} from '../image/resample.js'
import {greyOf, shrink, type Grey} from '../image/area-downsample.js'

export type Measures = {
  readonly width: number
  readonly height: number
  /** Standard deviation of the grey levels, 0 to 127.5. */
  readonly contrast: number
  /** Entropy of the grey levels in bits, 0 to 8. */
  readonly entropy: number
  /**
   * Variance of the Laplacian of the grey picture, its long side at most 256 pixels (Pech-Pacheco et al. 2000): small
   * where nothing is sharp.
   */
  readonly sharpness: number
  /** Sharpness over the square of the contrast, over 20: 1 for white noise, below 0.3 for photographs. */
  readonly noise: number
  /** Mean grey level, 0 to 255. */
  readonly brightness: number
  /** Share of pixels whose grey level is 250 or more. */
  readonly overexposed: number
  /**
   * Colorfulness of Hasler and Süsstrunk 2003 (their M⁽³⁾): 0 without colour, above 15 in most photographs.
   */
  readonly colorfulness: number
  /** 64 bits, 16 hexadecimal digits: which low frequencies lie above their median (pHash). */
  readonly hash: string
}

const side = 32
const reach = 16

/** Rows of the DCT: cosines[u · 32 + x], orthonormal. */
const cosines = Float64Array.from({length: reach * side}, (_, i) => {
  const [u, x] = [Math.floor(i / side), i % side]
  return Math.sqrt((u === 0 ? 1 : 2) / side) * Math.cos((Math.PI * (2 * x + 1) * u) / (2 * side))
})

/** The frequencies of the descriptor: [u, v, √(u² + v²)], without the mean. */
const frequencies: readonly (readonly [u: number, v: number, r: number])[] = Array.from({length: reach * reach}, (_, i) => {
  const [u, v] = [Math.floor(i / reach), i % reach]
  return [u, v, Math.hypot(u, v)] as const
}).filter(([, , r]) => r > 0 && r < reach)

/** Numbers of a descriptor. */
export const perceptualDim = frequencies.length
/** Inner product from which on two descriptors mean copies; measured in `bench/curate-quality`. */
export const perceptualThreshold = 0.9
/** What detail is measured against: in grey levels, times the number of frequencies. */
const doubt = 0.08 * perceptualDim

/** Low frequencies [16, 16] of a picture of 32 × 32, in grey levels. */
function spectrum(picture: Grey): Float64Array {
  const {data} = shrink(picture, side, side)
  const half = new Float64Array(side * reach) // [32 rows, 16]
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const value = data[y * side + x]!
      for (let v = 0; v < reach; v++) half[y * reach + v]! += value * cosines[v * side + x]!
    }
  const out = new Float64Array(reach * reach)
  for (let u = 0; u < reach; u++)
    for (let y = 0; y < side; y++) {
      const c = cosines[u * side + y]! / side
      for (let v = 0; v < reach; v++) out[u * reach + v]! += c * half[y * reach + v]!
    }
  return out
}

/** The descriptor of a picture, [perceptualDim]; its length is below 1. */
export const perceptual = (image: Raster): Float32Array => describe(spectrum(greyOf(image)))

function describe(levels: Float64Array): Float32Array {
  const out = new Float32Array(perceptualDim)
  let sum = doubt
  for (const [i, [u, v, r]] of frequencies.entries()) {
    const level = levels[u * reach + v]! * r
    sum += Math.abs(level)
    out[i] = Math.sign(level) * Math.sqrt(Math.abs(level))
  }
  const scale = 1 / Math.sqrt(sum)
  return out.map(x => x * scale)
}

function hashOf(levels: Float64Array): string {
  const low = Array.from({length: 64}, (_, i) => levels[Math.floor(i / 8) * reach + (i % 8)]!)
  const sorted = low.slice(1).sort((a, b) => a - b) // the mean of the picture says nothing of its structure
  const median = sorted[31]!
  let digits = ''
  for (let i = 0; i < 64; i += 4) {
    let digit = 0
    for (let j = i; j < i + 4; j++) digit = digit * 2 + (j > 0 && low[j]! > median ? 1 : 0)
    digits += digit.toString(16)
  }
  return digits
}

const rounded = (x: number): number => Number(Number(x.toPrecision(5)).toFixed(4))

/** Measures and descriptor of one picture. */
export function measure(image: Raster): {readonly measures: Measures; readonly descriptor: Float32Array} {
  const picture = greyOf(image)
  const {width, height, data} = picture
  const histogram = new Float64Array(256)
  const n = width * height
  let [sum, squares, bright] = [0, 0, 0]
  for (let i = 0; i < n; i++) {
    const value = data[i]!
    if (value >= 250) bright++
    histogram[Math.round(value)]!++
    sum += value
    squares += value * value
  }
  let entropy = 0
  for (const count of histogram) if (count > 0) entropy -= (count / n) * Math.log2(count / n)
  const levels = spectrum(picture)
  const sharp = sharpness(picture)
  const spread = Math.max(0, squares / n - (sum / n) ** 2)
  return {
    measures: {
      width,
      height,
      contrast: rounded(Math.sqrt(spread)),
      entropy: rounded(Math.max(0, entropy)),
      sharpness: rounded(sharp),
      noise: spread === 0 ? 0 : rounded(sharp / spread / 20),
      brightness: rounded(sum / n),
      overexposed: rounded(bright / n),
      colorfulness: rounded(colorfulness(image)),
      hash: hashOf(levels)
    },
    descriptor: describe(levels)
  }
}

/** √(σ² of red − green + σ² of yellow − blue) + 0.3 · √(their squared means). */
function colorfulness({width, height, data}: Raster): number {
  const n = width * height
  let [rg, rgSquares, yb, ybSquares] = [0, 0, 0, 0]
  for (let i = 0; i < 3 * n; i += 3) {
    const [r, g, b] = [data[i]!, data[i + 1]!, data[i + 2]!]
    const [a, c] = [r - g, (r + g) / 2 - b]
    rg += a
    rgSquares += a * a
    yb += c
    ybSquares += c * c
  }
  const spread = Math.max(0, rgSquares / n - (rg / n) ** 2) + Math.max(0, ybSquares / n - (yb / n) ** 2)
  return Math.sqrt(spread) + 0.3 * Math.hypot(rg / n, yb / n)
}

const sharpSide = 256

function sharpness(picture: Grey): number {
  const scale = Math.min(1, sharpSide / Math.max(picture.width, picture.height))
  const [w, h] = [Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale))]
  const {data} = scale === 1 ? picture : shrink(picture, w, h)
  let [n, sum, squares] = [0, 0, 0]
  for (let y = 1; y < h - 1; y++)
    for (let x = 1, i = y * w + 1; x < w - 1; x++, i++) {
      const value = data[i - 1]! + data[i + 1]! + data[i - w]! + data[i + w]! - 4 * data[i]!
      sum += value
      squares += value * value
      n++
    }
  return n === 0 ? 0 : Math.max(0, squares / n - (sum / n) ** 2)
}
