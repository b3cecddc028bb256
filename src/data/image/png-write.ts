/**
 * Masks as PNG files with a palette: the numbers are ids, the colours are for people. Format: PNG specification, third
 * edition.
 */
import {deflateSync} from 'node:zlib'

const crcTable = Uint32Array.from({length: 256}, (_, n) => {
  let c = n
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1
  return c
})

function chunk(type: string, data: Uint8Array): Buffer {
  const out = Buffer.alloc(12 + data.length)
  out.writeUInt32BE(data.length, 0)
  out.write(type, 4, 'latin1')
  out.set(data, 8)
  let crc = 0xffffffff
  for (let i = 4; i < 8 + data.length; i++) crc = crcTable[(crc ^ out[i]!) & 255]! ^ (crc >>> 8)
  out.writeUInt32BE((crc ^ 0xffffffff) >>> 0, 8 + data.length)
  return out
}

/**
 * Ids [height, width] as a PNG of 8 bits with a palette (three bytes an id), or, where an id is above 255, of 16 bits
 * in grey. The same ids give the same bytes. Throws a RangeError where the number of ids does not fit the size.
 */
export function encodeMask(
  ids: Uint8Array | Uint16Array,
  {width, height, palette}: {width: number; height: number; palette: Uint8Array}
): Uint8Array {
  if (ids.length !== width * height) throw new RangeError(`Expected ${width * height} ids but received ${ids.length}.`)
  let most = 0
  for (const id of ids) if (id > most) most = id
  const wide = most > 255
  const stride = 1 + width * (wide ? 2 : 1)
  const rows = Buffer.alloc(height * stride) // every row begins with the number of its filter, 0: none, best for runs of equal ids
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const id = ids[y * width + x]!
      if (wide) rows.writeUInt16BE(id, y * stride + 1 + 2 * x)
      else rows[y * stride + 1 + x] = id
    }
  const head = Buffer.alloc(13)
  head.writeUInt32BE(width, 0)
  head.writeUInt32BE(height, 4)
  head[8] = wide ? 16 : 8
  head[9] = wide ? 0 : 3
  const colours = new Uint8Array(3 * Math.max(most + 1, Math.min(256, Math.floor(palette.length / 3))))
  colours.set(palette.subarray(0, Math.min(colours.length, palette.length)))
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', head),
    ...(wide ? [] : [chunk('PLTE', colours)]),
    chunk('IDAT', deflateSync(rows, {level: 9})),
    chunk('IEND', new Uint8Array())
  ])
}
