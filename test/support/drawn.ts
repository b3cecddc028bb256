/** Small pictures drawn for tests, in files of every kind that sharp can write, and folders to put them in. */
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import type {TestContext} from 'node:test'
import sharp from 'sharp'
import type {Raster} from '../../src/data/image/resample.js'

/** A temporary folder that goes when the test ends. */
export function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'dinov2-data-'))
  t.after(() => rmSync(folder, {recursive: true, force: true}))
  return folder
}

/** A picture without symmetry, so that every turn and mirroring of it is another one. */
export function draw(width: number, height: number, seed = 0): Raster {
  const data = new Uint8Array(width * height * 3)
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      data[o++] = (x * 255) / width
      data[o++] = (y * 255) / height
      data[o++] = ((x * y) / 7 + seed * 40) % 256
    }
  return {width, height, data}
}

const raw = ({data, width, height}: Raster) => sharp(data, {raw: {width, height, channels: 3}})

export const png = (image: Raster): Promise<Buffer> => raw(image).png().toBuffer()
export const jpeg = (image: Raster, orientation?: number): Promise<Buffer> => {
  const pipe = raw(image).jpeg({quality: 95, chromaSubsampling: '4:4:4'})
  return (orientation === undefined ? pipe : pipe.withMetadata({orientation})).toBuffer()
}
export const webp = (image: Raster): Promise<Buffer> => raw(image).webp({lossless: true}).toBuffer()
export const tiff = (image: Raster): Promise<Buffer> => raw(image).tiff({compression: 'lzw'}).toBuffer()
export const gif = (image: Raster): Promise<Buffer> => raw(image).gif().toBuffer()

/** A bitmap of 24 or 32 bits, or of 8, 4 or 1 with a palette of greys; bottom-up unless `down`. */
export function bmp({data, width, height}: Raster, depth: 1 | 4 | 8 | 24 | 32, down = false): Buffer {
  const colours = depth <= 8 ? 1 << depth : 0
  const pitch = Math.ceil((width * depth) / 32) * 4
  const start = 54 + colours * 4
  const file = Buffer.alloc(start + pitch * height)
  file.write('BM')
  file.writeUInt32LE(file.length, 2)
  file.writeUInt32LE(start, 10)
  file.writeUInt32LE(40, 14)
  file.writeInt32LE(width, 18)
  file.writeInt32LE(down ? -height : height, 22)
  file.writeUInt16LE(1, 26)
  file.writeUInt16LE(depth, 28)
  for (let i = 0; i < colours; i++) file.fill(Math.round((i * 255) / (colours - 1)), 54 + i * 4, 57 + i * 4)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const row = start + (down ? y : height - 1 - y) * pitch
      const p = (y * width + x) * 3
      if (depth >= 24) for (let c = 0; c < 3; c++) file[row + (x * depth) / 8 + c] = data[p + 2 - c]!
      else file[row + ((x * depth) >> 3)]! |= (data[p]! >> (8 - depth)) << (8 - depth - ((x * depth) & 7))
    }
  return file
}
