/** The light behind the lens: which pixels need more rays; blur, vignette, exposure, tone curve and grain. */
import {lattice} from './noise.js'
import type {Scene} from './scene.js'

const {abs, max, min, sqrt} = Math

/**
 * The pixels that differ so much from a neighbour that one ray is not enough for them; the grain of a ground may be
 * rougher than the outline of a solid.
 */
export function edges(light: Float64Array, solid: Uint8Array, size: number): number[] {
  const bright = new Float32Array(size * size)
  for (let i = 0; i < bright.length; i++) bright[i] = sqrt(min(1, 0.3 * light[3 * i]! + 0.6 * light[3 * i + 1]! + 0.1 * light[3 * i + 2]!))
  const found: number[] = []
  const differ = (i: number, j: number): boolean => abs(bright[j]! - bright[i]!) > (solid[i]! + solid[j]! > 0 ? 0.12 : 0.2)
  for (let i = 0; i < bright.length; i++) {
    const column = i % size
    if (
      (column > 0 && differ(i, i - 1)) ||
      (column < size - 1 && differ(i, i + 1)) ||
      (i >= size && differ(i, i - size)) ||
      (i < bright.length - size && differ(i, i + size))
    )
      found.push(i)
  }
  return found
}

/** The sRGB curve (IEC 61966-2-1) for 0 to 1 in steps of 1 / 4095. */
const CURVE = Float32Array.from({length: 4096}, (_, i) => (i < 13 ? (12.92 * i) / 4095 : 1.055 * (i / 4095) ** (1 / 2.4) - 0.055))

/** Lens and film: blur, vignette, exposure, a soft shoulder for the brightest, the sRGB curve, and grain. */
export function develop(light: Float64Array, size: number, film: Scene['film']): Uint8Array {
  const picture = film.blur > 0 ? blurred(light, size, film.blur) : light
  const pixels = new Uint8Array(light.length)
  for (let i = 0; i < size * size; i++) {
    const x = (2 * ((i % size) + 0.5)) / size - 1
    const y = (2 * (Math.floor(i / size) + 0.5)) / size - 1
    const gain = film.exposure * (1 - film.vignette * (x * x + y * y) * 0.5)
    for (let c = 0; c < 3; c++) {
      const value = picture[3 * i + c]! * gain
      const held = value < 0.7 ? value : 1 - 0.3 * Math.exp((0.7 - value) / 0.3)
      const grain = film.grain > 0 ? film.grain * 3.5 * (lattice(i, c, 0, film.seed) - 0.5) : 0
      pixels[3 * i + c] = Math.round(255 * min(1, max(0, CURVE[Math.round(4095 * min(1, max(0, held)))]! + grain)))
    }
  }
  return pixels
}

/** A 3 × 3 tent whose side weights are `amount` / 2 of the middle's. */
function blurred(light: Float64Array, size: number, amount: number): Float64Array {
  const middle = 1 / (1 + amount)
  const side = amount / (2 * (1 + amount))
  const pass = (from: Float64Array, stride: number, place: (i: number) => number): Float64Array => {
    const to = new Float64Array(from.length)
    for (let i = 0; i < from.length; i++) {
      const k = place(i)
      to[i] = middle * from[i]! + side * (from[k > 0 ? i - stride : i]! + from[k < size - 1 ? i + stride : i]!)
    }
    return to
  }
  const across = pass(light, 3, i => Math.floor(i / 3) % size)
  return pass(across, 3 * size, i => Math.floor(i / (3 * size)))
}
