/**
 * Small pictures whose depth can be inferred from what they show, with their maps: a floor and a wall whose brightness
 * falls off with distance, at a place that differs from picture to picture.
 */
import {mkdir, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {encodeGrey16, encodeImage} from '../../src/data/image/encode.js'
import {rng} from '../../src/tensor/random.js'

/** One picture with its depth in millimetres. */
export function drawnDepth(number: number, width = 56, height = 42): {pixels: Uint8Array; millimetres: Uint16Array} {
  const random = rng(4, 'room', number)
  const [horizon, far, lean] = [height * (0.2 + 0.6 * random.uniform()), 2 + 4 * random.uniform(), random.normal() * 0.02]
  const pixels = new Uint8Array(width * height * 3)
  const millimetres = new Uint16Array(width * height)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const below = Math.max(0, (y - horizon) / height)
      const depth = Math.max(0.5, (far / (1 + 4 * below)) * (1 + lean * (x - width / 2)))
      const at = y * width + x
      millimetres[at] = random.uniform() < 0.05 ? 0 : Math.round(1000 * depth)
      for (let c = 0; c < 3; c++)
        pixels[3 * at + c] = Math.max(0, Math.min(255, Math.round(250 / (0.4 + depth * (0.5 + 0.2 * c)) + 6 * random.normal())))
    }
  return {pixels, millimetres}
}

/** Writes pictures as `root/images/<set>/<number>.png` and their maps as `root/depth/<set>/<number>.png`. */
export async function drawnRooms(root: string, set: string, count: number, first = 0, width = 56, height = 42): Promise<void> {
  for (let number = first; number < first + count; number++) {
    const {pixels, millimetres} = drawnDepth(number, width, height)
    const name = `${set}/${String(number).padStart(2, '0')}.png`
    for (const kind of ['images', 'depth']) await mkdir(dirname(join(root, kind, name)), {recursive: true})
    await writeFile(join(root, 'images', name), await encodeImage(pixels, {width, height}))
    await writeFile(join(root, 'depth', name), await encodeGrey16(millimetres, {width, height}))
  }
}
