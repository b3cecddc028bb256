/** Numbers as heat over a picture: dark violet, red, yellow; even in lightness, so that it reads in grey too. */
import {enlarge} from './canvas.js'
import {resample, type Raster} from '../data/image/resample.js'

/** The ramp from 0 to 1 by its stops, after `inferno` (Smith and van der Walt 2015). */
const STOPS = [
  [0, 0, 4],
  [40, 11, 84],
  [101, 21, 110],
  [159, 42, 99],
  [212, 72, 66],
  [245, 125, 21],
  [250, 193, 39],
  [252, 255, 164]
] as const

/** The stops as a page may want them. */
export const heatStops: readonly (readonly [number, number, number])[] = STOPS

/** The colour of a share, held between 0 and 1. */
function heatColour(share: number): [number, number, number] {
  const at = Math.min(1, Math.max(0, Number.isNaN(share) ? 0 : share)) * (STOPS.length - 1)
  const i = Math.min(STOPS.length - 2, Math.floor(at))
  const part = at - i
  return [0, 1, 2].map(c => Math.round(STOPS[i]![c]! * (1 - part) + STOPS[i + 1]![c]! * part)) as [number, number, number]
}

/** A grid of values [rows, columns] as colours, `low` at the dark end and `high` at the bright one. */
export function heatMap(values: ArrayLike<number>, rows: number, columns: number, low: number, high: number): Raster {
  if (values.length !== rows * columns) throw new RangeError(`Expected ${rows * columns} values but received ${values.length}.`)
  const data = new Uint8Array(rows * columns * 3)
  const span = high > low ? high - low : 1
  for (let i = 0; i < values.length; i++) data.set(heatColour((values[i]! - low) / span), 3 * i)
  return {width: columns, height: rows, data}
}

/** A heat map stretched over a picture, the picture in grey below it; squares, or blended. */
export function heatOver(photo: Raster, heat: Raster, {smooth = false, opacity = 0.7}: {smooth?: boolean; opacity?: number} = {}): Raster {
  const whole = photo.width % heat.width === 0 && photo.width / heat.width === photo.height / heat.height
  const wide: Raster =
    !smooth && whole ? enlarge(heat, photo.width / heat.width) : {width: photo.width, height: photo.height, data: resample(heat, photo)}
  const data = new Uint8Array(photo.data.length)
  for (let i = 0; i < data.length; i += 3) {
    const grey = 0.299 * photo.data[i]! + 0.587 * photo.data[i + 1]! + 0.114 * photo.data[i + 2]!
    for (let c = 0; c < 3; c++) data[i + c] = Math.round((1 - opacity) * grey + opacity * wide.data[i + c]!)
  }
  return {width: photo.width, height: photo.height, data}
}
