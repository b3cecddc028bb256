/**
 * Portable bitmaps, greymaps and pixmaps (PBM, PGM, PPM): what many scientific programs write. Format: the netpbm
 * documentation, kinds P1 to P6.
 */
import {tooManyPixels} from './decode-strictly.js'
import {RefusedImage} from './read-bytes.js'

/** What such a file stores, [height, width, channels], from 0 to `top`. */
export type PnmNumbers = {
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
  readonly top: number
  readonly data: Uint8Array | Uint16Array
}

const cutOff = (): RefusedImage => new RefusedImage('it is a PNM that is cut off')
const damaged = (what: string): RefusedImage => new RefusedImage(`it is a PNM that is damaged (${what})`)

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || (byte !== undefined && byte >= 0x09 && byte <= 0x0d)

/** Reads the words of a header or of numbers as text, comments passed over. */
class Words {
  at = 2
  constructor(private readonly bytes: Uint8Array) {}

  /** Passes over white space and comments, which go to the end of their line. */
  skip(): void {
    const {bytes} = this
    while (isSpace(bytes[this.at]) || bytes[this.at] === 0x23) {
      if (bytes[this.at] !== 0x23) this.at++
      else while (this.at < bytes.length && bytes[this.at] !== 0x0a && bytes[this.at] !== 0x0d) this.at++
    }
  }

  /** The next whole number, of at most `digits` digits. */
  number(digits = 9): number {
    this.skip()
    const from = this.at
    let value = 0
    for (
      let byte = this.bytes[this.at];
      byte !== undefined && byte >= 0x30 && byte <= 0x39 && this.at - from < digits;
      byte = this.bytes[++this.at]
    )
      value = 10 * value + byte - 0x30
    if (this.at >= this.bytes.length && this.at === from) throw cutOff()
    if (this.at === from) throw damaged('a number is missing')
    return value
  }
}

/** Width and height, which stand first. */
export function pnmSize(bytes: Uint8Array): {width: number; height: number} {
  const words = new Words(bytes)
  return {width: words.number(), height: words.number()}
}

/** Reads such a file. Raises RefusedImage where it is cut off, damaged, or has more than `maxPixels`. */
export function readPnm(bytes: Uint8Array, maxPixels: number): PnmNumbers {
  const kind = bytes[1]! - 0x30
  const words = new Words(bytes)
  const [width, height] = [words.number(), words.number()]
  const isBits = kind === 1 || kind === 4
  const top = isBits ? 1 : words.number()
  if (!(width > 0 && height > 0)) throw new RefusedImage(`it is a PNM of ${width} × ${height} pixels`)
  if (!(top > 0 && top < 65_536)) throw damaged(`its greatest value is ${top}`)
  if (width * height > maxPixels) throw tooManyPixels(width, height, maxPixels)
  const channels = kind === 3 || kind === 6 ? 3 : 1
  const count = width * height * channels
  const wide = top > 255
  const data = wide ? new Uint16Array(count) : new Uint8Array(count) // [height, width, channels]
  if (kind <= 3) {
    if (bytes.length - words.at < count) throw cutOff()
    for (let i = 0; i < count; i++) data[i] = words.number(isBits ? 1 : 9)
  } else {
    const start = words.at + 1 // one space
    const pitch = isBits ? Math.ceil(width / 8) : width * channels * (wide ? 2 : 1)
    if (start + pitch * height > bytes.length) throw cutOff()
    if (isBits)
      for (let i = 0; i < count; i++)
        data[i] = (bytes[start + Math.floor(i / width) * pitch + ((i % width) >> 3)]! >> (7 - ((i % width) & 7))) & 1
    else if (wide) for (let i = 0; i < count; i++) data[i] = (bytes[start + 2 * i]! << 8) | bytes[start + 2 * i + 1]!
    else data.set(bytes.subarray(start, start + count))
  }
  if (data.some(value => value > top)) throw damaged(`a value is above ${top}`)
  if (isBits) for (let i = 0; i < count; i++) data[i] = 1 - data[i]! // 1 is black
  return {width, height, channels, top, data}
}

/**
 * The colours of such a file, [height, width, 3]. Values are stretched to 0 … 255; grey of 16 bits keeps its upper
 * byte, as in other formats.
 */
export function decodePnm(bytes: Uint8Array, maxPixels: number): {width: number; height: number; data: Uint8Array} {
  const {width, height, channels, top, data} = readPnm(bytes, maxPixels)
  const out = new Uint8Array(width * height * 3) // [height, width, 3]
  const level = (value: number): number => (top === 255 ? value : top === 65_535 ? value >> 8 : Math.round((value * 255) / top))
  for (let i = 0; i < out.length; i++) out[i] = level(data[channels === 3 ? i : Math.floor(i / 3)]!)
  return {width, height, data: out}
}
