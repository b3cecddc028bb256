/**
 * Changes of colour on 8-bit RGB, in place, each equal to what Pillow and torchvision compute for the same factor.
 *
 * All work on bytes of [..., 3]. The rules that matter to the last bit: Pillow blends in single precision and cuts off the fraction; its luma is
 * (19595 R + 38470 G + 7471 B + 32768) >> 16; hue is turned in a hexcone of bytes, with the losses of that representation.
 */

/** Luma of each pixel as Pillow's `convert('L')`: a byte. */
const luma = (r: number, g: number, b: number): number => (19595 * r + 38470 * g + 7471 * b + 32768) >> 16

const byte = (x: number): number => (x <= 0 ? 0 : x >= 255 ? 255 : Math.trunc(x))

/** Pillow's `Image.blend(from, to, factor)` for one byte: from + factor · (to - from) in single precision, cut off, held within a byte. */
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
    const unit = f((sector / 6 + 1) % 1)
    const hue = (Math.trunc(unit * 255) + shift) & 255
    const saturation = Math.trunc(f(range / most) * 255)
    // And back; hue 255 is the sixth sector, which is the first again.
    if (saturation === 0) {
      pixels[i] = pixels[i + 1] = pixels[i + 2] = most
      continue
    }
    const s = f(saturation / 255)
    const place = f((hue * 6) / 255)
    const side = Math.floor(place)
    const t = f(place - side)
    const low = Math.round(most * (1 - s))
    const falling = Math.round(most * (1 - s * t))
    const rising = Math.round(most * (1 - s * (1 - t)))
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

/** One-dimensional Gaussian weights of an odd number of taps, summing to 1: exp(-x² / 2σ²) at whole x, as torchvision samples it. */
export function gaussianKernel(taps: number, sigma: number): Float64Array {
  const half = (taps - 1) / 2
  const weights = Float64Array.from({length: taps}, (_, i) => Math.exp(-0.5 * ((i - half) / sigma) ** 2))
  const sum = weights.reduce((a, b) => a + b, 0)
  return weights.map(w => w / sum)
}

let lines = new Float32Array(0)

/**
 * Blurs a square of side × side pixels by a Gaussian of `taps` taps (odd), mirrored at the rim without repeating it; halves round to even.
 *
 * torchvision's `gaussian_blur` multiplies the two axes into one kernel; one after the other is the same up to the rounding of float32.
 * The side must exceed taps / 2.
 */
export function gaussianBlur(pixels: Uint8Array, side: number, taps: number, sigma: number): void {
  const kernel = gaussianKernel(taps, sigma)
  let reach = (taps - 1) / 2
  if (side <= reach) throw new RangeError(`Expected a side of more than ${reach} pixels for a blur of ${taps} taps but received ${side}.`)
  const middle = reach
  while (reach > 0 && kernel[middle - reach]! < 1e-7) reach-- // taps that cannot move a byte
  if (reach === 0) return
  const w = Float32Array.from({length: reach + 1}, (_, i) => kernel[middle + i]!)
  const line = side * 3
  if (lines.length < pixels.length + (side + 2 * reach) * 3) lines = new Float32Array(pixels.length + (side + 2 * reach) * 3)
  const rows = lines
  const padded = lines.subarray(pixels.length, pixels.length + (side + 2 * reach) * 3)

  for (let y = 0; y < side; y++) {
    const at = y * line
    for (let i = 0; i < line; i++) padded[reach * 3 + i] = pixels[at + i]!
    for (let k = 1; k <= reach; k++)
      for (let c = 0; c < 3; c++) {
        padded[(reach - k) * 3 + c] = pixels[at + k * 3 + c]!
        padded[(reach + side - 1 + k) * 3 + c] = pixels[at + (side - 1 - k) * 3 + c]!
      }
    for (let i = 0; i < line; i++) {
      const p = i + reach * 3
      let sum = w[0]! * padded[p]!
      for (let k = 1; k <= reach; k++) sum += w[k]! * (padded[p - 3 * k]! + padded[p + 3 * k]!)
      rows[at + i] = sum
    }
  }
  const mirror = (y: number): number => (y < 0 ? -y : y >= side ? 2 * side - 2 - y : y)
  const sums = padded.subarray(0, line)
  for (let y = 0; y < side; y++) {
    const at = y * line
    for (let i = 0; i < line; i++) sums[i] = w[0]! * rows[at + i]!
    for (let k = 1; k <= reach; k++) {
      const above = mirror(y - k) * line
      const below = mirror(y + k) * line
      const weight = w[k]!
      for (let i = 0; i < line; i++) sums[i]! += weight * (rows[above + i]! + rows[below + i]!)
    }
    for (let i = 0; i < line; i++) {
      const v = sums[i]!
      const low = Math.floor(v)
      const rest = v - low
      pixels[at + i] = rest > 0.5 || (rest === 0.5 && (low & 1) === 1) ? low + 1 : low
    }
  }
}
