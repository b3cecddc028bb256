/**
 * What the ids in masks mean: classes of a file, of `classes.txt` beside the masks, of the ids that occur, or of a
 * head.
 */
import {counted} from '../../../config/counted.js'
import {stat} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {UserError} from '../../../config/errors.js'
import {readText} from '../../../system/plain-file.js'
import {RefusedImage} from '../../../data/image/decode.js'
import {rejectedImage, type RejectedImage} from '../../../data/sources/image-ref.js'
import {classesOf, parseClasses, ranges, type Classes, type ClassLine} from '../../../data/targets/class-map.js'
import {readMask} from '../../../data/targets/depth-and-mask-files.js'
import type {Pair} from '../../../data/targets/pairs.js'
import type {OpenedSegmentHead} from '../../../files/checkpoint/segment-head-file.js'
import {usage, type SegEvalOptions} from './context.js'
import {specClasses} from './head.js'

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
  readonly onRejected?: (image: RejectedImage) => void
}

/** Where the classes were found: the file, or undefined for the masks themselves. */
export type FoundClasses = {readonly classes: Classes; readonly from?: string}

/** The lines of a file of classes. Throws `UserError` where it cannot be read (exit 3), or is wrong (exit 2). */
export async function readClasses(path: string, first: number): Promise<ClassLine[]> {
  let text: string
  try {
    text = await readText(path)
  } catch (error) {
    if (error instanceof UserError) throw error
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
  for (const path of [join(folder, 'classes.txt'), join(dirname(folder.replace(/(?<!\/)\/+$/, '')), 'classes.txt')])
    if (
      await stat(path).then(
        found => found.isFile(),
        () => false
      )
    )
      return path
  return undefined
}

/** The ids that the masks of these pairs hold, the first palette, and the pairs whose mask is refused. */
async function idsOf(
  all: readonly Pair[],
  maxPixels: number | undefined
): Promise<{ids: number[]; palette: Uint8Array | undefined; rejected: RejectedImage[]}> {
  const seen = new Set<number>()
  const rejected: RejectedImage[] = []
  let palette: Uint8Array | undefined
  for (const {image, map} of all) {
    const mask = await readMask(map, {maxPixels}).catch((error: unknown) => {
      if (error instanceof RefusedImage) return error
      throw error
    })
    if (mask instanceof RefusedImage) {
      rejected.push(rejectedImage(image, `its mask cannot be used: ${mask.message}`))
      continue
    }
    palette ??= mask.palette
    const present = new Uint8Array(65536)
    for (const id of mask.ids) present[id] = 1
    for (let id = 0; id < 65535; id++) if (present[id]) seen.add(id)
  }
  return {ids: [...seen].sort((a, b) => a - b), palette, rejected}
}

/**
 * What the ids in the masks of these pairs mean. Colours come from the file of classes, else from the first mask with
 * a palette. Throws a `UserError`: a file of classes that is missing or wrong, no mask that can be read (exit 3; all
 * are reported to `onRejected` before), fewer than two classes.
 */
async function findClasses(all: readonly Pair[], masks: string | undefined, options: ClassOptions): Promise<FoundClasses> {
  const {file, ignore, reduceZero, maxPixels, onRejected} = options
  const ignored = reduceZero ? [0, ...ignore] : ignore
  const path = file ?? (masks === undefined ? undefined : await besideMasks(masks))
  if (path !== undefined) {
    const lines = await readClasses(path, reduceZero ? 1 : 0)
    const classes = classesOf(lines, ignored, await firstPalette(all, maxPixels))
    if (classes.names.length < 2) throw tooFewClasses(classes, `in ${path}`)
    return {classes, from: path}
  }
  const {ids, palette, rejected} = await idsOf(all, maxPixels)
  if (rejected.length === all.length) {
    for (const image of rejected) onRejected?.(image)
    throw new UserError(
      rejected.length === 0
        ? 'No image of the train set has a mask.'
        : `None of the ${counted(rejected.length, 'mask')} of the train set can be used; of the first, ${rejected[0]!.path}: ${rejected[0]!.reason}.`,
      {exit: 3, code: 'NO_INPUT', hint: 'A mask is a PNG, TIFF or .npy file of one class id a pixel; --masks names the folder of masks.'}
    )
  }
  if (ids.length > 1000)
    throw new UserError(`The masks hold ${ids.length} different ids, which are hardly classes.`, {
      exit: 2,
      code: 'BAD_CLASSES',
      hint: 'Masks hold one class id a pixel. Give --classes FILE where there are so many indeed.'
    })
  const classes = classesOf(
    ids.map(id => ({id, name: `class ${id}`})),
    ignored,
    palette
  )
  if (classes.names.length < 2) {
    for (const image of rejected) onRejected?.(image)
    throw tooFewClasses(classes, `in the ${counted(all.length - rejected.length, 'mask')} that can be used, of ${all.length}`)
  }
  return {classes}
}

const tooFewClasses = ({names, ignored}: Classes, where: string): UserError =>
  new UserError(
    `There ${names.length === 1 ? `is one class (${names[0]!})` : 'are no classes'} ${where}; two are needed (left out: ids ${ranges(ignored)}).`,
    {exit: 2, code: 'BAD_CLASSES', hint: 'Check --ignore and --reduce-zero-label; --classes FILE names the classes.'}
  )

/**
 * The classes of an evaluation: those of the head that is scored, else those that a file or the train masks name.
 * Throws as `findClasses`; where no mask of the train set can be read, each is reported to `onRejected` first.
 */
export async function classesInForce(
  options: SegEvalOptions,
  train: readonly Pair[],
  head: OpenedSegmentHead | undefined
): Promise<FoundClasses> {
  const {classes, masks, maxPixels, onRejected} = options
  if (head) return {classes: await headClasses(head, options), from: head.path}
  return findClasses(train, masks, {...classes, maxPixels, onRejected})
}

const refusedIsNone = (error: unknown): undefined => {
  if (error instanceof RefusedImage) return undefined
  throw error
}

async function firstPalette(all: readonly Pair[], maxPixels: number | undefined): Promise<Uint8Array | undefined> {
  for (const {map} of all.slice(0, 3)) {
    const mask = await readMask(map, {maxPixels}).catch(refusedIsNone)
    if (mask?.palette) return mask.palette
  }
  return undefined
}

/**
 * The classes of a head; a file of classes may give them other names. Throws a `UserError` where it names another
 * number of them.
 */
async function headClasses(given: OpenedSegmentHead, {classes: {file, ignore, reduceZero}}: SegEvalOptions): Promise<Classes> {
  const own = specClasses(given.spec)
  const ignored = [...new Set([...own.ignored, ...ignore])].sort((a, b) => a - b)
  if (file === undefined) return {...own, ignored}
  const {classes} = await findClasses([], undefined, {file, ignore: ignored, reduceZero})
  if (classes.names.length !== own.names.length)
    throw usage(
      `${file} names ${counted(classes.names.length, 'class', 'classes')}, but the head ${given.path} has ${own.names.length}.`,
      'Give the classes that the head was trained with.'
    )
  return {...classes, ignored}
}
