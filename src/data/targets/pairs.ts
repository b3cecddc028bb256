/**
 * Finds the map that belongs to each image: a depth map or a mask.
 *
 * Either a field of the list names it (`depth`, `mask`; relative to the list), or it lies in a folder of its own under
 * the same relative path with any ending. What the path of an image is relative to: the folder that was named; where
 * several were, the folder that holds them all, so that one folder of maps serves train and val (`images/train/a.jpg`,
 * `images/val/b.jpg` → `depth/train/a.png`, `depth/val/b.npy`). What only a list names, on stdin too, lies below no
 * such folder: of its path the longest end is taken that a map lies under. So it is with members of a shard, whose
 * path goes on from the shard's name without its ending (`train.tar` with `a.jpg`: `train/a`). An image without a map,
 * or with two, is reported as a bad input with the reason.
 */
import {promises as fs} from 'node:fs'
import {basename, dirname, extname, isAbsolute, join, relative, resolve, sep} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {MapRef} from './depth-and-mask-files.js'
import {isParquetName, isShardName, withoutShardEnding} from '../sources/container-names.js'
import {isPacked, rejectedImage, type ImageRef, type RejectedImage} from '../sources/image-ref.js'

export type PairOptions = {
  /** The field of a list that names the map. */
  readonly field: 'depth' | 'mask'
  /** The folder of maps; absent: only fields count. */
  readonly folder?: string
  /** The inputs that images were listed from: folders, files, lists. Needed with `folder`. */
  readonly roots?: readonly string[]
}

/** An image and its map. */
export type Pair = {readonly image: ImageRef; readonly map: MapRef}

/** Inputs whose place says nothing of where their images lie. */
const isContainer = (name: string): boolean =>
  /\.(txt|lst|list|jsonl|ndjson|csv|tsv)$/i.test(name) || isShardName(name) || isParquetName(name)

/** The path of a member as if its shard had been unpacked into a folder of its name. */
const unpackedPath = (id: string): string =>
  id
    .split('/')
    .map((part, i, parts) => (i < parts.length - 1 ? withoutShardEnding(part) : part))
    .join('/')

/** Endings by which a file in a folder of maps may be one. */
const MAPS = new Set(['.png', '.tif', '.tiff', '.npy'])

const wordOf = (field: 'depth' | 'mask'): string => (field === 'depth' ? 'depth map' : 'mask')

/** The longest folder that all these lie in. */
function commonFolder(folders: readonly string[]): string {
  const [first, ...rest] = folders.map(folder => folder.split(sep))
  let length = first?.length ?? 0
  for (const parts of rest) {
    let same = 0
    while (same < length && parts[same] === first![same]) same++
    length = same
  }
  return first?.slice(0, length).join(sep) || sep
}

/**
 * A function from the path of an image to its place below the inputs: its path relative to the folder that was named,
 * or to the one that holds all that were; the name alone where it lies elsewhere. `only` is the name of that folder
 * where there is one alone; `within` says that the image lies in it, `below` that it was moreover named as a folder or
 * file, not by a list.
 *
 * Inputs that do not exist (brace patterns, `-`) count as their parent folders.
 */
export function placeFinder(
  roots: readonly string[]
): (
  path: string
) => Promise<{readonly inside: string; readonly only: string | undefined; readonly within: boolean; readonly below: boolean}> {
  const findBase = async (): Promise<{common: string; only: string | undefined; laid: boolean}> => {
    const folders = new Set<string>()
    const named = roots.filter(root => root !== '-')
    // Lists name their maps themselves; where there is anything else, they say nothing of how it is laid out.
    const laid = named.filter(root => !isContainer(root))
    for (const root of laid.length > 0 ? laid : named) {
      const full = resolve(root)
      const stats = await fs.stat(full).catch(() => undefined)
      folders.add(stats?.isDirectory() ? full : dirname(full))
    }
    const all = [...folders]
    const common = all.length > 0 ? commonFolder(all) : process.cwd()
    return {common, only: all.length === 1 ? basename(all[0]!) : undefined, laid: laid.length > 0}
  }
  let base: ReturnType<typeof findBase> | undefined
  return async path => {
    const {common, only, laid} = await (base ??= findBase())
    const under = relative(common, resolve(path))
    const within = under !== '' && !isAbsolute(under) && under.split(sep)[0] !== '..'
    return {inside: within ? under : basename(path), only, within, below: laid && within}
  }
}

/** The name of a file without folders and ending. */
export const stemOf = (path: string): string => basename(path).slice(0, basename(path).length - extname(path).length) || basename(path)

/** Why an image has no map; `unnamed` where neither its row nor a folder names one. */
type NoMap = {readonly reason: string; readonly unnamed?: true}

/** The last part of a key; a dot in it belongs to it (`Track 0.1`), but for the ending of an image. */
export const keyStem = (key: string): string =>
  basename(key).replace(/(?<=.)\.(jpe?g|jfif|png|apng|webp|gif|tiff?|bmp|dib|avif|p[bgpn]m)$/i, '')

/**
 * A function from an image to its map, or to the reason why it has none. Folders are read once each, when first asked
 * for.
 */
export function mapFinder({field, folder, roots = []}: PairOptions): (image: ImageRef) => Promise<MapRef | NoMap> {
  const word = wordOf(field)
  const placeOf = placeFinder(roots)
  const listings = new Map<string, Promise<Map<string, string[]>>>()
  /** Files of one folder by their name without ending. */
  const listing = (place: string): Promise<Map<string, string[]>> => {
    const known = listings.get(place)
    if (known) return known
    const made = fs.readdir(place).then(
      names => {
        const stems = new Map<string, string[]>()
        for (const name of names.sort()) {
          const ending = extname(name)
          if (name.startsWith('.') || !MAPS.has(ending.toLowerCase())) continue
          const stem = name.slice(0, -ending.length)
          const held = stems.get(stem)
          if (held) held.push(name)
          else stems.set(stem, [name])
        }
        return stems
      },
      () => new Map<string, string[]>()
    )
    listings.set(place, made)
    return made
  }
  const inFolder = async (path: string, packed: boolean): Promise<MapRef | NoMap> => {
    const {inside, only, within, below: under} = await placeOf(path)
    const below = under && !packed
    const stems = packed ? [basename(path), stemOf(path)] : [stemOf(inside)] // keys of a shard have no ending
    const exact = within ? [dirname(inside), ...(only === undefined ? [] : [join(only, dirname(inside))])] : []
    const parts = dirname(resolve(path)).split(sep).slice(1)
    const ends = below ? [] : [...parts.map((_, i) => parts.slice(i).join(sep)), '']
    const places = [...exact, ...ends].map(place => join(folder!, place))
    for (const place of places) {
      const files = await listing(place)
      const names = stems.map(stem => files.get(stem)).find(found => found !== undefined) ?? []
      if (names.length === 1) return {path: join(place, names[0]!)}
      if (names.length > 1) return {reason: `it has ${names.length} ${word}s: ${names.join(', ')} in ${place}`}
    }
    const stem = stems[0]!
    const where = below
      ? `no ${join(places[0]!, stem)}.png, .tif or .npy`
      : `no ${stem}.png, .tif or .npy in ${folder!} under any end of its path`
    return {reason: `it has no ${word}: there is ${where}`}
  }
  return async image => {
    if (image.problem !== undefined) return {reason: image.problem}
    const named = image.fields[field]
    if (typeof named === 'string' && named !== '')
      return {path: isAbsolute(named) || image.base === undefined ? named : resolve(image.base, named)}
    if (folder === undefined)
      return {reason: `it has no ${word}: its row has no field ${field}, and no folder of ${word}s was named`, unnamed: true}
    if (typeof image.path !== 'string')
      return {reason: `its ${word} cannot be found, because its name is not UTF-8; name the ${word} in a list`}
    const packed = isPacked(image)
    return inFolder(packed ? unpackedPath(image.id) : image.path, packed)
  }
}

/** Images without a map, of the first ones, that are held back until one has a map. */
const MOST_HELD = 1000

/** The error where no image has a map because none was named: one sentence for all of them. */
function nothingNamed(field: PairOptions['field'], images: number): UserError {
  const word = wordOf(field)
  return new UserError(
    `${images === 1 ? 'The image has no' : `None of the ${images} images has a`} ${word}: no folder of ${word}s was named, and no row has a field ${field}.`,
    {
      exit: 2,
      code: 'NO_MAPS',
      hint: `Name the folder with --${field}s FOLDER, or give a list whose rows name the ${word} in a field ${field}.`
    }
  )
}

/**
 * Images with their maps, in order; those without one are reported to `onRejected`. No map is opened here. Throws a
 * `UserError` (exit 2) where no map was named for any image; only of many images the first are then reported one by
 * one.
 */
export async function* pairs(
  images: AsyncIterable<ImageRef>,
  {onRejected, ...options}: PairOptions & {readonly onRejected?: (bad: RejectedImage) => void}
): AsyncGenerator<Pair> {
  const find = mapFinder(options)
  /** What is held back; undefined once an image has a map, or too many have none. */
  let held: RejectedImage[] | undefined = options.folder === undefined ? [] : undefined
  const release = (): void => {
    for (const bad of held ?? []) onRejected?.(bad)
    held = undefined
  }
  for await (const image of images) {
    const map = await find(image)
    const waits = 'reason' in map && map.unnamed === true && held !== undefined
    if (!waits) release()
    if (!('reason' in map)) yield {image, map}
    else if (!waits) onRejected?.(rejectedImage(image, map.reason))
    else if (held!.push(rejectedImage(image, map.reason)) === MOST_HELD) release()
  }
  if (held && held.length > 0) throw nothingNamed(options.field, held.length)
}
