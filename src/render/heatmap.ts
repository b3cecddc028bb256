/** Numbers as heat over a picture: dark violet, red, yellow; even in lightness, so that it reads in grey too. */
import {enlarge} from './canvas.js'
import {colorize} from './colormap.js'
import {resample, type Raster} from '../data/image/resample.js'

/** A grid of values [rows, columns] as colours, `low` at the dark end and `high` at the bright one. */
export function heatMap(values: ArrayLike<number>, rows: number, columns: number, low: number, high: number): Raster {
  if (values.length !== rows * columns) throw new RangeError(`Expected ${rows * columns} values but received ${values.length}.`)
  return colorize(Float32Array.from(values), {width: columns, height: rows}, {ramp: 'heat', low, high})
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
