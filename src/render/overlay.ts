/** Class maps as pictures: over the photo, so that both can be seen. */
import {IGNORED} from '../data/targets/class-map.js'
import type {Raster} from '../data/image/resample.js'

/** Edges between classes are drawn this dark. */
const EDGE = 0.35

/**
 * The photo in grey with the colours of its classes over it, and dark lines between classes; what does not count stays
 * the photo, darkened. `labels` [height, width] are class numbers, `palette` holds three bytes a class, `opacity` is
 * the share of colour.
 */
export function overlay({width, height, data}: Raster, labels: Uint16Array, palette: Uint8Array, opacity = 0.6): Raster {
  if (labels.length !== width * height) throw new RangeError(`Expected ${width * height} class numbers but received ${labels.length}.`)
  const out = new Uint8Array(data.length)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x
      const label = labels[i]!
      const [r, g, b] = [data[3 * i]!, data[3 * i + 1]!, data[3 * i + 2]!]
      const edge = (x + 1 < width && labels[i + 1] !== label) || (y + 1 < height && labels[i + width] !== label) ? EDGE : 1
      if (label === IGNORED) for (let c = 0; c < 3; c++) out[3 * i + c] = Math.round(0.3 * data[3 * i + c]!)
      else {
        const grey = 0.299 * r + 0.587 * g + 0.114 * b
        for (let c = 0; c < 3; c++) out[3 * i + c] = Math.round(((1 - opacity) * grey + opacity * palette[3 * label + c]!) * edge)
      }
    }
  return {width, height, data: out}
}
