/** Colours of points: one for each label or cluster, and a ramp for numbers. */
import type {MapPoints} from './points.js'

export type ColourBy = 'label' | 'cluster' | 'outlier'

type Rgb = readonly [red: number, green: number, blue: number]

/** Colours that are told apart, on light and dark grounds alike. */
const distinct: readonly Rgb[] = [
  [66, 133, 206],
  [236, 135, 43],
  [72, 160, 80],
  [209, 70, 72],
  [147, 108, 186],
  [150, 108, 88],
  [222, 124, 182],
  [130, 135, 140],
  [175, 172, 48],
  [42, 171, 186]
]

/** The colour of category `i`; beyond the tenth, hues a golden angle apart. */
export function categoryColour(i: number): Rgb {
  const known = distinct[i]
  if (known) return known
  const hue = (i * 137.508) % 360
  const light = 0.45 + 0.12 * (i % 3)
  const channel = (n: number): number => {
    const k = (n + hue / 30) % 12
    return Math.round(255 * (light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return [channel(0), channel(8), channel(4)]
}

const ramp: readonly Rgb[] = [
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [240, 190, 40],
  [215, 60, 40]
]

/** A share from 0 to 1 as a colour from blue over green and yellow to red. */
export function rampColour(share: number): Rgb {
  const at = Math.max(0, Math.min(1, share)) * (ramp.length - 1)
  const i = Math.min(ramp.length - 2, Math.floor(at))
  return [0, 1, 2].map(c => Math.round(ramp[i]![c]! + (ramp[i + 1]![c]! - ramp[i]![c]!) * (at - i))) as unknown as Rgb
}

export const css = ([red, green, blue]: Rgb): string => `rgb(${red} ${green} ${blue})`

const grey: Rgb = [140, 140, 140]

/** Shares of outlier scores by rank, so that a few large ones do not make all others alike. */
function ranks(values: Float32Array): Float32Array {
  const order = Array.from(values.keys()).sort((a, b) => values[a]! - values[b]!)
  const out = new Float32Array(values.length)
  for (const [rank, i] of order.entries()) out[i] = rank / Math.max(1, values.length - 1)
  return out
}

/** The colour of every point as one number a pixel (alpha, blue, green, red by bytes). */
export function pointColours(points: MapPoints, by: ColourBy): Uint32Array {
  const shares = by === 'outlier' ? ranks(points.outlier) : undefined
  const categories = by === 'label' ? points.label : points.cluster
  return Uint32Array.from({length: points.count}, (_, i) => {
    const [red, green, blue] = shares ? rampColour(shares[i]!) : categories[i]! < 0 ? grey : categoryColour(categories[i]!)
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0
  })
}

export const cssOf = (pixel: number): string => css([pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255])
