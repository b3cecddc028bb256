/**
 * Images with masks: which pairs there are, what their ids mean, and each pair decoded and checked when it is asked
 * for.
 *
 * Every pair is looked at once before anything is computed, so that a bad one is named at the beginning. What was
 * decoded stays in memory up to a budget and is decoded again beyond it.
 */
import {readFile, stat} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {UserError} from '../../../config/errors.js'
import {rejectedImage} from '../../../data/sources/image-ref.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import {classesOf, numbersById, numbersOf, parseClasses, ranges, type Classes, type ClassLine} from '../../../data/targets/class-map.js'
import {decodeRgb, RefusedImage, type Raster} from '../../../data/image/decode.js'
import {readMask} from '../../../data/targets/depth-and-mask-files.js'
import {pairs, type Pair} from '../../../data/targets/pairs.js'
import {listImages, noImages, type SourceNote} from '../../../data/sources/source.js'

export type SetInputs = {
  readonly inputs: readonly string[]
  /** The folder of masks; absent: the `mask` field of lists names them. */
  readonly masks?: string
  /** All inputs of the command, for which `masks` is laid out. */
  readonly roots: readonly string[]
  readonly nul?: boolean
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
}

/** An image with its class numbers, decoded. */
export type Sample = {
  readonly id: string
  readonly photo: Raster
  /** Class numbers [height, width], `IGNORED` where nothing counts. */
  readonly labels: Uint16Array
}

/** Pairs that were looked at and found good, decoded again where they were not kept. */
export type SampleSet = {
  readonly length: number
  readonly ids: readonly string[]
  sample(i: number): Promise<Sample>
}

/** A budget of bytes that several sets share. */
export type Budget = {left: number}

/**
 * The pairs of the inputs. Throws a `UserError` of status 3 where the inputs hold no image; images without a mask are
 * told to `onRejected`.
 */
export async function gatherPairs({inputs, masks, roots, nul, onRejected, onSkipped}: SetInputs): Promise<Pair[]> {
  let bad = 0
  const found: Pair[] = []
  const images = listImages(inputs, {...(nul ? {nul} : {}), ...(onSkipped ? {onSkipped} : {})})
  for await (const pair of pairs(images, {
    field: 'mask',
    roots,
    ...(masks === undefined ? {} : {folder: masks}),
    onRejected: image => {
      bad++
      onRejected?.(image)
    }
  }))
    found.push(pair)
  if (found.length + bad === 0) throw noImages(inputs)
  return found
}

export type ClassOptions = {
  /**
   * A file of classes (`parseClasses`); absent: `classes.txt` beside or above the masks, else the ids that the masks
   * hold.
   */
  readonly file?: string
  /** Ids that do not count. */
  readonly ignore: readonly number[]
  /** Id 0 does not count and classes begin at 1 (ADE20K). */
  readonly reduceZero: boolean
  readonly maxPixels?: number
}

/** Where the classes were found: the file, or undefined for the masks themselves. */
export type FoundClasses = {readonly classes: Classes; readonly from?: string}

async function readClasses(path: string, first: number): Promise<ClassLine[]> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw new UserError(`The file of classes ${path} cannot be read: ${(error as Error).message}.`, {exit: 3, code: 'NO_INPUT'})
  }
  try {
    return parseClasses(text, first)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new UserError(`The file of classes ${path} is wrong: ${error.message}.`, {
      exit: 2,
      code: 'BAD_CLASSES',
      hint: 'A line is an id and a name (3 road), or a name; a colour #rrggbb may follow.'
    })
  }
}

/** `classes.txt` in the folder of masks, or in the one that holds it. */
async function besideMasks(folder: string): Promise<string | undefined> {
  for (const path of [join(folder, 'classes.txt'), join(dirname(folder.replace(/\/+$/, '')), 'classes.txt')])
    if (
      await stat(path).then(
        found => found.isFile(),
        () => false
      )
    )
      return path
  return undefined
}

/**
 * What the ids in the masks of these pairs mean. Colours come from the file of classes, else from the first mask with
 * a palette. Throws a `UserError`: a file of classes that is missing or wrong, fewer than two classes.
 */
export async function findClasses(
  all: readonly Pair[],
  masks: string | undefined,
  {file, ignore, reduceZero, maxPixels}: ClassOptions
): Promise<FoundClasses> {
  const left = reduceZero ? [0, ...ignore] : ignore
  const path = file ?? (masks === undefined ? undefined : await besideMasks(masks))
  let palette: Uint8Array | undefined
  let lines: ClassLine[]
  if (path !== undefined) {
    lines = await readClasses(path, reduceZero ? 1 : 0)
    palette = await firstPalette(all, maxPixels)
  } else {
    const seen = new Set<number>()
    for (const {map} of all) {
      const mask = await readMask(map, maxPixels === undefined ? {} : {maxPixels}).catch(refusedIsNone)
      if (!mask) continue // told when the pair is looked at
      palette ??= mask.palette
      const present = new Uint8Array(65536)
      for (const id of mask.ids) present[id] = 1
      for (let id = 0; id < 65535; id++) if (present[id]) seen.add(id)
    }
    lines = [...seen].sort((a, b) => a - b).map(id => ({id, name: `class ${id}`}))
    if (lines.length > 1000)
      throw new UserError(`The masks hold ${lines.length} different ids, which are hardly classes.`, {
        exit: 2,
        code: 'BAD_CLASSES',
        hint: 'Masks hold one class id a pixel. Give --classes FILE where there are so many indeed.'
      })
  }
  const classes = classesOf(lines, left, palette)
  if (classes.names.length < 2)
    throw new UserError(
      `There ${classes.names.length === 1 ? 'is one class' : 'are no classes'}${path === undefined ? ' in the masks' : ` in ${path}`} (left out: ${ranges(classes.ignored)}).`,
      {exit: 2, code: 'BAD_CLASSES', hint: 'Check --ignore and --reduce-zero-label.'}
    )
  return {classes, ...(path === undefined ? {} : {from: path})}
}

const refusedIsNone = (error: unknown): undefined => {
  if (error instanceof RefusedImage) return undefined
  throw error
}

async function firstPalette(all: readonly Pair[], maxPixels: number | undefined): Promise<Uint8Array | undefined> {
  for (const {map} of all.slice(0, 3)) {
    const mask = await readMask(map, maxPixels === undefined ? {} : {maxPixels}).catch(refusedIsNone)
    if (mask?.palette) return mask.palette
  }
  return undefined
}

/**
 * Decodes one pair and turns ids into class numbers. Raises RefusedImage: image or mask cannot be read, sizes differ,
 * an unknown id, nothing that counts.
 */
async function loadSample({image, map}: Pair, classes: Classes, byId: Int32Array, options: {maxPixels?: number}): Promise<Sample> {
  const [photo, mask] = await Promise.allSettled([decodeRgb(image, options), readMask(map, options)])
  if (photo.status === 'rejected') throw photo.reason
  if (mask.status === 'rejected') {
    const {reason} = mask as {reason: unknown}
    throw reason instanceof RefusedImage ? new RefusedImage(`its mask cannot be used: ${reason.message}`) : reason
  }
  const {width, height, ids} = mask.value
  if (width !== photo.value.width || height !== photo.value.height)
    throw new RefusedImage(`it is ${photo.value.width} × ${photo.value.height} pixels, but its mask is ${width} × ${height}`)
  const found = numbersOf(ids, byId, classes)
  if ('reason' in found) throw new RefusedImage(found.reason)
  return {id: image.id, photo: photo.value, labels: found.numbers}
}

export type OpenOptions = {
  readonly budget: Budget
  readonly maxPixels?: number
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onGood?: (count: number) => void
  readonly signal?: AbortSignal
}

/** Pairs decoded at once while a set is looked at: decoding runs in threads of its own. */
const atOnce = 4

/**
 * Looks at every pair once; bad ones are told to `onRejected` with the reason and left out. Throws a `UserError` (exit 3)
 * where none is good.
 */
export async function openSet(all: readonly Pair[], name: string, classes: Classes, options: OpenOptions): Promise<SampleSet> {
  const {budget, maxPixels, onRejected, onGood, signal} = options
  const byId = numbersById(classes)
  const decoding = maxPixels === undefined ? {} : {maxPixels}
  const good: {pair: Pair; kept?: Sample}[] = []
  for (let start = 0; start < all.length; start += atOnce) {
    signal?.throwIfAborted()
    const some = all.slice(start, start + atOnce)
    const results = await Promise.allSettled(some.map(pair => loadSample(pair, classes, byId, decoding)))
    for (const [i, result] of results.entries()) {
      const pair = some[i]!
      if (result.status === 'rejected') {
        if (!(result.reason instanceof RefusedImage)) throw result.reason
        onRejected?.(rejectedImage(pair.image, result.reason.message))
        continue
      }
      const bytes = result.value.photo.data.length + result.value.labels.byteLength
      const keep = bytes <= budget.left
      if (keep) budget.left -= bytes
      const {bytes: _, ...image} = pair.image // encoded bytes that came from a shard are read again from their place
      good.push({pair: {image: pair.image.range ? image : pair.image, map: pair.map}, ...(keep ? {kept: result.value} : {})})
      onGood?.(good.length)
    }
  }
  if (good.length === 0)
    throw new UserError(`No pair of the ${name} set can be used.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'The reasons stand above; --masks names the folder of masks, --ignore ids that do not count.'
    })
  return {
    length: good.length,
    ids: good.map(({pair}) => pair.image.id),
    async sample(i) {
      const {pair, kept} = good[i]!
      return kept ?? loadSample(pair, classes, byId, decoding)
    }
  }
}
