/**
 * What becomes of alpha. As in Pillow's `convert('RGB')` it is dropped, and the colours below transparent pixels show.
 *
 * Only where that leaves a picture of one colour although its alpha draws something (line art: black everywhere, the
 * lines in the alpha channel) is it laid on white; white lines, which would vanish there, on black.
 */
import type {Raster} from './resample.js'

/** Channels that differ by no more than this over a picture count as one colour. */
const ONE_COLOUR = 8

/** Least and greatest values of each channel. */
function ranges(data: Uint8Array, channels: number): {low: number[]; high: number[]} {
  const [low, high] = [new Array<number>(channels).fill(255), new Array<number>(channels).fill(0)]
  for (let i = 0; i < data.length; i += channels)
    for (let c = 0; c < channels; c++) {
      const value = data[i + c]!
      if (value < low[c]!) low[c] = value
      if (value > high[c]!) high[c] = value
    }
  return {low, high}
}

/**
 * RGB of pixels with alpha, [height, width, 2 or 4] → [height, width, 3]; `ground` says on what it was laid where
 * the colours alone would have been empty.
 */
export function dropAlpha({width, height, data}: Raster, channels: 2 | 4): Raster & {readonly ground?: 'white' | 'black'} {
  const colours = channels - 1
  const out = new Uint8Array(width * height * 3)
  const {low, high} = ranges(data, channels)
  const flat = high.slice(0, colours).every((value, c) => value - low[c]! <= ONE_COLOUR)
  const drawn = flat && high[colours]! - low[colours]! > ONE_COLOUR
  const ground = drawn ? (Math.min(...low.slice(0, colours)) > 255 - 2 * ONE_COLOUR ? 0 : 255) : undefined
  for (let i = 0, o = 0; i < data.length; i += channels, o += 3) {
    const alpha = data[i + colours]! / 255
    for (let c = 0; c < 3; c++) {
      const value = data[i + Math.min(c, colours - 1)]!
      out[o + c] = ground === undefined ? value : Math.round(value * alpha + ground * (1 - alpha))
    }
  }
  return {width, height, data: out, ...(ground === undefined ? {} : {ground: ground === 255 ? 'white' : 'black'})}
}
