/**
 * Numbers as colours: a ramp that grows evenly in lightness, so that it reads in grey and with any colour vision.
 *
 * Depth runs from near (light yellow) over red to far (dark violet), after the `inferno` ramp of Smith and van der
 * Walt 2015, here by its stops every eighth; heat is the same ramp from dark to light; errors run from white to dark
 * red. What is unknown is a flat grey that no ramp holds.
 */
import type {Raster} from '../data/image/resample.js'

type Color = readonly [red: number, green: number, blue: number]

export type Colormap = 'depth' | 'heat' | 'error'

/** From light to dark. */
const INFERNO: readonly Color[] = [
  [252, 255, 164],
  [249, 201, 50],
  [249, 142, 9],
  [229, 92, 48],
  [187, 55, 84],
  [138, 34, 106],
  [87, 16, 110],
  [31, 12, 72],
  [0, 0, 4]
]

const COLORMAPS: Readonly<Record<Colormap, readonly Color[]>> = {
  depth: INFERNO,
  heat: INFERNO.toReversed(),
  error: [
    [255, 255, 255],
    [254, 224, 210],
    [252, 146, 114],
    [222, 45, 38],
    [103, 0, 13]
  ]
}

/** The stops of a colormap from 0 to 1, as a page may want them. */
export const colormapStops = (map: Colormap): readonly Color[] => COLORMAPS[map]

const UNKNOWN: Color = [128, 134, 140]

/** The colour at a share of the ramp, 0 … 1. */
export function colorAt(ramp: Colormap, share: number): Color {
  const stops = COLORMAPS[ramp]
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1)
  const i = Math.min(Math.floor(at), stops.length - 2)
  const part = at - i
  return [0, 1, 2].map(c => Math.round(stops[i]![c]! + part * (stops[i + 1]![c]! - stops[i]![c]!))) as unknown as Color
}

/**
 * Numbers [height, width] as a picture, `low` … `high` over the whole ramp; NaN, and what `unknown` names, is grey.
 */
export function colorize(
  values: Float32Array,
  {width, height}: {readonly width: number; readonly height: number},
  {
    ramp,
    low,
    high,
    unknown
  }: {readonly ramp: Colormap; readonly low: number; readonly high: number; readonly unknown?: (at: number) => boolean}
): Raster {
  const table = Array.from({length: 256}, (_, i) => colorAt(ramp, i / 255))
  const data = new Uint8Array(width * height * 3)
  const span = high > low ? high - low : 1
  for (let i = 0; i < width * height; i++) {
    const value = values[i]!
    const none = Number.isNaN(value) || unknown?.(i) === true
    data.set(none ? UNKNOWN : table[Math.round(255 * Math.min(Math.max((value - low) / span, 0), 1))]!, 3 * i)
  }
  return {width, height, data}
}

/** A bar of the ramp from left to right, for legends. */
export function colorBar(ramp: Colormap, width: number, height: number): Raster {
  const row = Float32Array.from({length: width * height}, (_, i) => (i % width) / Math.max(1, width - 1))
  return colorize(row, {width, height}, {ramp, low: 0, high: 1})
}
