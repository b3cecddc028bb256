/** Small pictures of all images, many to a file, so that a page of a hundred thousand of them loads few files. */
import {writeFile} from 'node:fs/promises'
import {basename, join} from 'node:path'
import {decodeRgb, RefusedImage} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {fitGeometry} from '../../data/image/geometry.js'
import {resample} from '../../data/image/resample.js'
import {blankCanvas, fitWithin, paste} from '../../render/canvas.js'
import type {PackedImages} from '../../data/sources/packed-images.js'
import type {Point} from './points.js'

/** Pictures along a side of a file. */
const COLUMNS = 32

export type PictureSheetOptions = {
  readonly folder: string
  /** Side of a small picture in pixels. */
  readonly side: number
  readonly root?: string
  readonly packed: PackedImages
  readonly signal: AbortSignal
}

export type PictureSheets = {readonly side: number; readonly columns: number; readonly files: readonly string[]; readonly shown: Uint8Array}

/** Where pictures are looked for. */
type PictureSource = Pick<PictureSheetOptions, 'root' | 'packed'>

/** The picture of a point, shrunk while decoding where asked; undefined where it cannot be opened. */
async function openPicture({id, path}: Point, {root, packed}: PictureSource, shrink?: (width: number, height: number) => number) {
  try {
    return await decodeRgb(packed.get(id) ?? packed.at(path, root), {shrink})
  } catch (error) {
    if (error instanceof RefusedImage) return undefined
    throw error
  }
}

/** The middle square of a point's picture, small. */
async function smallPicture(point: Point, side: number, source: PictureSource) {
  const whole = await openPicture(point, source, (width, height) => Math.max(1, Math.floor(Math.min(width, height) / (2 * side))))
  if (!whole) return undefined
  const {size, window} = fitGeometry(whole.width, whole.height, {resize: side, crop: side})
  return {width: side, height: side, data: resample(whole, size, {window})}
}

/** Longer side of an example. */
const EXAMPLE_SIDE = 448

/**
 * Writes images for trying the page out, in pairs of neighbours: those in the middle of the largest clusters and the
 * nearest of each. Images that cannot be opened are left out with their pair.
 */
export async function writeExamples(
  points: readonly Point[],
  pairs: readonly (readonly [row: number, near: number])[],
  {folder, ...source}: PictureSource & Pick<PictureSheetOptions, 'folder'>
): Promise<{file: string; name: string}[]> {
  const written: {file: string; name: string}[] = []
  for (const pair of pairs) {
    const pictures = await Promise.all(pair.map(row => openPicture(points[row]!, source)))
    for (const [i, picture] of pictures.entries()) {
      if (!picture || pictures.includes(undefined)) continue
      const small = fitWithin(picture, EXAMPLE_SIDE)
      const file = `example-${written.length}.jpg`
      await writeFile(join(folder, file), await encodeImage(small.data, {...small, format: 'jpeg', quality: 90}))
      written.push({file, name: basename(points[pair[i]!]!.path)})
    }
  }
  return written
}

/** Writes the sheets; yields how many pictures are done. */
export async function* writeSheets(
  points: readonly Point[],
  {folder, side, root, packed, signal}: PictureSheetOptions
): AsyncGenerator<number, PictureSheets> {
  const each = COLUMNS * COLUMNS
  const shown = new Uint8Array(points.length)
  const files: string[] = []
  for (let from = 0; from < points.length; from += each) {
    const some = points.slice(from, from + each)
    const sheet = blankCanvas(COLUMNS * side, Math.ceil(some.length / COLUMNS) * side, 128)
    for (let at = 0; at < some.length; at += 8) {
      signal.throwIfAborted()
      const pictures = await Promise.all(some.slice(at, at + 8).map(point => smallPicture(point, side, {root, packed})))
      for (const [i, picture] of pictures.entries()) {
        if (!picture) continue
        shown[from + at + i] = 1
        paste(sheet, picture, ((at + i) % COLUMNS) * side, Math.floor((at + i) / COLUMNS) * side)
      }
      yield from + Math.min(at + 8, some.length)
    }
    const name = `pictures-${files.length}.jpg`
    await writeFile(join(folder, name), await encodeImage(sheet.data, {...sheet, format: 'jpeg', quality: 82}))
    files.push(name)
  }
  return {side, columns: COLUMNS, files, shown}
}
