/** Small pictures of stripes. */
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {encodeImage} from '../../src/data/image/encode.js'

/** Stripes of eight kinds: easy to distinguish, so that sixty steps teach something. Makes the folder. */
export async function drawStripes(pictures: string): Promise<void> {
  const [width, height] = [48, 40]
  mkdirSync(pictures)
  for (let i = 0; i < 8; i++) {
    const stripe = (x: number, y: number): number => (i < 2 ? i : i < 5 ? (x >> (i - 2)) & 1 : (y >> (i - 5)) & 1)
    const pixels = Uint8Array.from(
      {length: width * height * 3},
      (_, p) => 255 * stripe(Math.floor(p / 3) % width, Math.floor(p / 3 / width))
    )
    writeFileSync(join(pictures, `${i}.png`), await encodeImage(pixels, {width, height}))
  }
}
