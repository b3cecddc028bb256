/**
 * Changes of colour on 8-bit RGB, in place, each equal to what Pillow and torchvision compute for the same factor.
 *
 * All work on bytes of [..., 3]. The rules that matter to the last bit: Pillow blends in single precision and cuts off
 * the fraction; its luma is (19595 R + 38470 G + 7471 B + 32768) >> 16; hue is turned in a hexcone of bytes, with the
 * losses of that representation.
 */

/** Luma of each pixel as Pillow's `convert('L')`: a byte. */
const luma = (r: number, g: number, b: number): number => (19595 * r + 38470 * g + 7471 * b + 32768) >> 16

const byte = (x: number): number => (x <= 0 ? 0 : x >= 255 ? 255 : Math.trunc(x))

/**
 * Pillow's `Image.blend(from, to, factor)` for one byte: from + factor · (to - from) in single precision, cut off,
 * held within a byte.
 */
function blend(from: number, to: number, factor: number): number {
  if (factor === 0) return from
  if (factor === 1) return to
  return byte(Math.fround(from + Math.fround(factor * (to - from))))
}

const table = (from: number, factor: number): Uint8Array => Uint8Array.from({length: 256}, (_, to) => blend(from, to, factor))

function look(pixels: Uint8Array, values: Uint8Array): void {
  for (let i = 0; i < pixels.length; i++) pixels[i] = values[pixels[i]!]!
}

/** Brighter above 1, darker below, black at 0. */
export function adjustBrightness(pixels: Uint8Array, factor: number): void {
  look(pixels, table(0, Math.fround(factor)))
}

/** Away from the mean luma of the image above 1, towards it below. */
export function adjustContrast(pixels: Uint8Array, factor: number): void {
  let sum = 0
  for (let i = 0; i < pixels.length; i += 3) sum += luma(pixels[i]!, pixels[i + 1]!, pixels[i + 2]!)
  look(pixels, table(Math.trunc(sum / (pixels.length / 3) + 0.5), Math.fround(factor)))
}

/** Away from the pixel's own grey above 1, towards it below. */
export function adjustSaturation(pixels: Uint8Array, factor: number): void {
  const f = Math.fround(factor)
  if (f === 1) return
  for (let i = 0; i < pixels.length; i += 3) {
    const r = pixels[i]!
    const g = pixels[i + 1]!
    const b = pixels[i + 2]!
    const y = luma(r, g, b)
    pixels[i] = byte(Math.fround(y + Math.fround(f * (r - y))))
    pixels[i + 1] = byte(Math.fround(y + Math.fround(f * (g - y))))
    pixels[i + 2] = byte(Math.fround(y + Math.fround(f * (b - y))))
  }
}

/** Turns the hue by a part of the circle, -0.5 … 0.5; brightness and saturation stay, within the rounding of bytes. */
export function adjustHue(pixels: Uint8Array, turn: number): void {
  const shift = Math.trunc(turn * 255) & 255
  const f = Math.fround
  for (let i = 0; i < pixels.length; i += 3) {
    const r = pixels[i]!
    const g = pixels[i + 1]!
    const b = pixels[i + 2]!
    const most = r > g ? (r > b ? r : b) : g > b ? g : b
    const least = r < g ? (r < b ? r : b) : g < b ? g : b
    if (most === least) continue // grey has no hue to turn
    // To the hexcone: hue and saturation as bytes.
    const range = most - least
    const rc = f((most - r) / range)
    const gc = f((most - g) / range)
    const bc = f((most - b) / range)
    const sector = f(r === most ? f(bc - gc) : g === most ? 2 + rc - bc : 4 + gc - rc)
    const turned = sector / 6 + 1
    const unit = f(turned >= 1 ? turned - 1 : turned)
    const hue = (((unit * 255) | 0) + shift) & 255
    const saturation = (f(range / most) * 255) | 0
    // And back; hue 255 is the sixth sector, which is the first again.
    if (saturation === 0) {
      pixels[i] = pixels[i + 1] = pixels[i + 2] = most
      continue
    }
    const s = f(saturation / 255)
    const place = f((hue * 6) / 255)
    const side = place | 0
    const t = f(place - side)
    const low = (most * (1 - s) + 0.5) | 0
    const falling = (most * (1 - s * t) + 0.5) | 0
    const rising = (most * (1 - s * (1 - t)) + 0.5) | 0
    pixels[i] = side === 1 ? falling : side === 2 || side === 3 ? low : side === 4 ? rising : most
    pixels[i + 1] = side === 0 || side === 6 ? rising : side === 1 || side === 2 ? most : side === 3 ? falling : low
    pixels[i + 2] = side === 2 ? rising : side === 3 || side === 4 ? most : side === 5 ? falling : low
  }
}

/** Luma in all three channels. */
export function toGrey(pixels: Uint8Array): void {
  for (let i = 0; i < pixels.length; i += 3) pixels[i] = pixels[i + 1] = pixels[i + 2] = luma(pixels[i]!, pixels[i + 1]!, pixels[i + 2]!)
}

/** Bytes of at least the threshold are turned over: 255 - v. */
export function solarize(pixels: Uint8Array, threshold: number): void {
  for (let i = 0; i < pixels.length; i++) if (pixels[i]! >= threshold) pixels[i] = 255 - pixels[i]!
}

/**
 * One-dimensional Gaussian weights of an odd number of taps, summing to 1: exp(-x² / 2σ²) at whole x, as torchvision
 * samples it.
 */
export function gaussianKernel(taps: number, sigma: number): Float64Array {
  const half = (taps - 1) / 2
  const weights = Float64Array.from({length: taps}, (_, i) => Math.exp(-0.5 * ((i - half) / sigma) ** 2))
  const sum = weights.reduce((a, b) => a + b, 0)
  return weights.map(w => w / sum)
}

const TAPS = 9
const REACH = (TAPS - 1) / 2
let lines = new Float32Array(0)

/**
 * Blurs a square of side × side pixels by a Gaussian of nine taps, mirrored at the rim without repeating it; halves
 * round to even.
 *
 * torchvision's `gaussian_blur` multiplies the two axes into one kernel; one after the other is the same up to the
 * rounding of float32. The side must exceed four pixels.
 */
export function gaussianBlur(pixels: Uint8Array, side: number, sigma: number): void {
  if (side <= REACH) throw new RangeError(`Expected a side of more than ${REACH} pixels for a blur of ${TAPS} taps but received ${side}.`)
  const kernel = gaussianKernel(TAPS, sigma)
  const [w0, w1, w2, w3, w4] = [kernel[REACH]!, kernel[REACH + 1]!, kernel[REACH + 2]!, kernel[REACH + 3]!, kernel[REACH + 4]!]
  if (w1 < 1e-7) return // no byte moves
  const line = side * 3
  const rim = REACH * 3
  if (lines.length < pixels.length + line + 2 * rim) lines = new Float32Array(pixels.length + line + 2 * rim)
  const rows = lines
  const padded = lines.subarray(pixels.length, pixels.length + line + 2 * rim)

  for (let y = 0; y < side; y++) {
    const at = y * line
    for (let i = 0; i < line; i++) padded[rim + i] = pixels[at + i]!
    for (let k = 3; k <= rim; k += 3)
      for (let c = 0; c < 3; c++) {
        padded[rim - k + c] = pixels[at + k + c]!
        padded[rim + line - 3 + k + c] = pixels[at + line - 3 - k + c]!
      }
    for (let i = 0, p = rim; i < line; i++, p++)
      rows[at + i] =
        w0 * padded[p]! +
        w1 * (padded[p - 3]! + padded[p + 3]!) +
        w2 * (padded[p - 6]! + padded[p + 6]!) +
        w3 * (padded[p - 9]! + padded[p + 9]!) +
        w4 * (padded[p - 12]! + padded[p + 12]!)
  }
  const mirror = (y: number): number => (y < 0 ? -y : y >= side ? 2 * side - 2 - y : y) * line
  for (let y = 0; y < side; y++) {
    const [a1, a2, a3, a4] = [mirror(y - 1), mirror(y - 2), mirror(y - 3), mirror(y - 4)]
    const [b1, b2, b3, b4] = [mirror(y + 1), mirror(y + 2), mirror(y + 3), mirror(y + 4)]
    const at = y * line
    for (let i = 0; i < line; i++) {
      const v =
        w0 * rows[at + i]! +
        w1 * (rows[a1 + i]! + rows[b1 + i]!) +
        w2 * (rows[a2 + i]! + rows[b2 + i]!) +
        w3 * (rows[a3 + i]! + rows[b3 + i]!) +
        w4 * (rows[a4 + i]! + rows[b4 + i]!)
      const low = v | 0
      const rest = v - low
      pixels[at + i] = rest > 0.5 || (rest === 0.5 && (low & 1) === 1) ? low + 1 : low
    }
  }
}
