/**
 * Pictures with masks for tests: a sky above and a ground below, with a box on it; each with a colour of its own and
 * noise. Ids 0, 1, 2, and 9 for a rim that does not count.
 */
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {encodeImage} from '../../src/data/image/encode.js'
import {encodeMask} from '../../src/data/image/png-write.js'
import {rng} from '../../src/tensor/random.js'

const COLOURS = [
  [110, 150, 210],
  [90, 130, 60],
  [190, 70, 50],
  [0, 0, 0]
] as const

/** One scene, [height, width]: pixels and ids. */
export function drawnScene(number: number, width = 70, height = 56): {pixels: Uint8Array; ids: Uint8Array} {
  const random = rng(17, 'scene', number)
  const horizon = Math.round(height * random.uniform(0.35, 0.6))
  const box = {x: Math.round(width * random.uniform(0.1, 0.5)), y: horizon - 10, side: 22}
  const ids = new Uint8Array(width * height)
  const pixels = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x
      const inBox = x >= box.x && x < box.x + box.side && y >= box.y && y < box.y + box.side
      const id = x === 0 ? 9 : inBox ? 2 : y < horizon ? 0 : 1
      ids[i] = id
      const colour = COLOURS[id === 9 ? 3 : id]!
      for (let c = 0; c < 3; c++) pixels[3 * i + c] = Math.max(0, Math.min(255, Math.round(colour[c]! + random.normal(0, 12))))
    }
  return {pixels, ids}
}

export const scenePalette = Uint8Array.from([0, 0, 255, 0, 255, 0, 255, 0, 0])

/** Writes `count` scenes as `folder/images/<set>/<n>.png` and `folder/masks/<set>/<n>.png`. */
export async function drawnScenes(folder: string, set: string, count: number, first = 0): Promise<void> {
  const [width, height] = [70, 56]
  await mkdir(join(folder, 'images', set), {recursive: true})
  await mkdir(join(folder, 'masks', set), {recursive: true})
  for (let n = first; n < first + count; n++) {
    const {pixels, ids} = drawnScene(n, width, height)
    await writeFile(join(folder, 'images', set, `${n}.png`), await encodeImage(pixels, {width, height}))
    await writeFile(join(folder, 'masks', set, `${n}.png`), encodeMask(ids, {width, height, palette: scenePalette}))
  }
}
