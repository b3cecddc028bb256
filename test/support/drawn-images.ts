/**
 * Small pictures for tests, drawn by formula: stripes whose direction, width and colour follow the class, with noise
 * from a seed.
 */
import {mkdir, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {encodeImage} from '../../src/data/image/encode.js'
import {rng} from '../../src/tensor/random.js'

/** One picture of class `kind`, as PNG. */
export async function drawnImage(kind: number, number: number, width = 40, height = 40): Promise<Uint8Array> {
  const random = rng(9, kind, number)
  const [angle, stripe, shift] = [kind * 0.9 + 0.1 * random.normal(), 3 + 2 * kind, 10 * random.uniform()]
  const pixels = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const wave = Math.sin((x * Math.cos(angle) + y * Math.sin(angle) + shift) / stripe)
      for (let c = 0; c < 3; c++) {
        const value = 128 + 90 * wave * Math.cos(kind * 2 + c) + 20 * random.normal()
        pixels[(y * width + x) * 3 + c] = Math.max(0, Math.min(255, Math.round(value)))
      }
    }
  return encodeImage(pixels, {width, height})
}

/** Writes `each` pictures of every class as `folder/<class>/<number>.png`; → the paths, sorted. */
export async function drawnFolder(folder: string, classes: readonly string[], each: number, first = 0): Promise<string[]> {
  const paths: string[] = []
  for (const [kind, name] of classes.entries())
    for (let i = first; i < first + each; i++) {
      const path = join(folder, name, `${String(i).padStart(3, '0')}.png`)
      await mkdir(dirname(path), {recursive: true})
      await writeFile(path, await drawnImage(kind, i))
      paths.push(path)
    }
  return paths.sort()
}
