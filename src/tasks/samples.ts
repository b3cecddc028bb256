/** Sample pictures: a labelled folder that the tool draws itself, or a public photo set fetched from its own host. */
import {createHash} from 'node:crypto'
import {readFile, rm, stat, writeFile} from 'node:fs/promises'
import {availableParallelism} from 'node:os'
import {dirname, join} from 'node:path'
import {UserError} from '../config/errors.js'
import {drawInThreads} from '../synthetic/draw-in-threads.js'
import {CLASSES, REGIONS, type Picture, type StyleName} from '../synthetic/picture.js'
import {encodeGrey16, encodeGrey8, encodeImage} from '../data/image/encode.js'
import {atomicFolder, refuseExisting} from '../system/atomic.js'
import {download} from '../system/download.js'
import {lockOutput} from '../system/lock.js'
import {PHOTO_SETS, photoSet, untar, type PhotoSet} from '../files/photo-sets.js'
import {makeFolders} from '../system/make-folders.js'

export {PHOTO_SETS, photoSet}

/** What lies beside the splits and says how the folder was made. */
const NOTE = 'samples.json'

export type DrawOptions = {
  readonly output: string
  /** How many classes, taken in a mixed order, or their names separated by commas. */
  readonly classes: string
  readonly perClass: number
  readonly valPerClass: number
  /** Side of a picture in pixels. */
  readonly size: number
  readonly seed: number
  readonly format: 'png' | 'jpg'
  /** `plain` if absent. */
  readonly style?: StyleName
  /** Also write depth and masks of every picture. */
  readonly maps?: boolean
  readonly force: boolean
  readonly signal?: AbortSignal
  readonly onPicture?: (done: number, total: number) => void
}

export type DrawReport = {
  output: string
  classes: readonly string[]
  train: number
  val: number
  size: number
  seed: number
  bytes: number
  sha256: string
}

/** The classes in an order in which any first few are a mixture of things and textures. */
const MIXED = [
  'star',
  'bricks',
  'mug',
  'tree',
  'weave',
  'chair',
  'fish',
  'cobbles',
  'house',
  'wheel',
  'planks',
  'flower',
  'bottle',
  'mushroom',
  'ring',
  'box'
]

/** Reads `--classes`: a count or names. Throws a usage error that lists the names. */
export function chooseClasses(text: string): string[] {
  const hint = `There are ${CLASSES.length}: ${CLASSES.join(', ')}.`
  if (/^\d+$/.test(text)) {
    const count = Number(text)
    if (count < 1 || count > CLASSES.length)
      throw new UserError(`Expected 1 to ${CLASSES.length} classes but received ${text}.`, {exit: 2, code: 'USAGE', hint})
    return MIXED.slice(0, count).sort()
  }
  const names = [...new Set(text.split(',').map(name => name.trim()))]
  const unknown = names.filter(name => !CLASSES.includes(name))
  if (unknown.length > 0) throw new UserError(`Unknown classes: ${unknown.join(', ')}.`, {exit: 2, code: 'USAGE', hint})
  return names.sort()
}

/**
 * Draws `{train,val}/<class>/<nnn>.png` into a new folder; with `maps` also `depth/` (16 bits, thousandths of a unit,
 * 0 where nothing is met) and `masks/` (numbers of `masks/classes.txt`) under the same names. The bytes of a picture
 * depend on seed, split, class, number and size only, so a larger set holds a smaller one.
 *
 * Throws a `UserError` when the folder exists (without `force`, or when it is not one that was drawn), or on wrong
 * numbers (exit 2).
 */
export async function drawSamples(options: DrawOptions): Promise<DrawReport> {
  const {output, perClass, valPerClass, size, seed, format, style = 'plain', maps = false, force, signal, onPicture} = options
  const classes = chooseClasses(options.classes)
  await guard(output, force)
  const pictures: Picture[] = classes.flatMap(kind => [
    ...Array.from({length: perClass}, (_, number): Picture => ({kind, split: 'train', number, style})),
    ...Array.from({length: valPerClass}, (_, number): Picture => ({kind, split: 'val', number, style}))
  ])
  const digits = Math.max(3, String(Math.max(perClass, valPerClass) - 1).length)
  const whole = createHash('sha256')
  let bytes = 0
  await atomicFolder(
    output,
    async folder => {
      for (const split of [...(perClass > 0 ? ['train'] : []), ...(valPerClass > 0 ? ['val'] : [])])
        for (const kind of classes)
          for (const above of maps ? ['', 'depth', 'masks'] : ['']) await makeFolders(join(folder, above, split, kind))
      if (maps) await writeFile(join(folder, 'masks', 'classes.txt'), REGIONS.join('\n') + '\n')
      // pictures are encoded and written while the next are drawn
      let writing: Promise<void> = Promise.resolve()
      let done = 0
      for await (const drawn of drawInThreads(pictures, {size, seed, maps}, availableParallelism())) {
        signal?.throwIfAborted()
        const picture = pictures[done++]!
        await writing
        const square = {width: size, height: size}
        const name = String(picture.number).padStart(digits, '0')
        const put = async (file: Uint8Array, ...where: string[]): Promise<void> => {
          whole.update(file)
          bytes += file.length
          await writeFile(join(folder, ...where), file)
        }
        writing = encodeImage(drawn.pixels, {...square, format: format === 'jpg' ? 'jpeg' : 'png'}).then(async file => {
          await put(file, picture.split, picture.kind, `${name}.${format}`)
          if (!drawn.depth || !drawn.regions) return
          const units = Uint16Array.from(drawn.depth, depth => Math.min(65_535, Math.round(depth * 1000)))
          await put(await encodeGrey16(units, square), 'depth', picture.split, picture.kind, `${name}.png`)
          await put(await encodeGrey8(drawn.regions, square), 'masks', picture.split, picture.kind, `${name}.png`)
        })
        writing.catch(() => undefined) // seen at the next await
        await new Promise(resolve => setImmediate(resolve)) // lets signals in
        onPicture?.(done, pictures.length)
      }
      await writing
      await writeNote(folder, {
        drawn: true,
        classes,
        train: perClass,
        val: valPerClass,
        size,
        seed,
        format,
        style,
        ...(maps ? {maps: true} : {})
      })
    },
    {force}
  )
  const counts = {train: classes.length * perClass, val: classes.length * valPerClass}
  return {output, classes, ...counts, size, seed, bytes, sha256: whole.digest('hex')}
}

export type PullOptions = {
  readonly set: PhotoSet
  readonly output: string
  readonly force: boolean
  readonly signal?: AbortSignal
  readonly onBytes?: (done: number, total: number) => void
  readonly onPhoto?: (done: number) => void
  /** Called before bytes are taken from another host than that of the address. */
  readonly onRedirect?: (host: string) => void
}

export type SamplePullReport = {output: string; set: string; licence: string; home: string; classes: number; train: number; val: number}

/**
 * Fetches a photo set from its host, checks length and SHA-256, and unpacks it as `{train,val}/<class>/<file>`.
 *
 * The archives lie in `OUTPUT.download` meanwhile, so that an interrupted call goes on where it stopped; they are
 * removed at the end.
 */
export async function pullSamples(options: PullOptions): Promise<SamplePullReport> {
  const {output, force} = options
  await guard(output, force)
  if (!(await stat(dirname(output)).catch(() => undefined))?.isDirectory())
    throw new UserError(`The folder of ${output} does not exist.`, {exit: 2, code: 'NO_FOLDER', hint: `mkdir -p ${dirname(output)}`})
  const cache = `${output.replace(/(?<!\/)\/+$/, '')}.download`
  const lock = await lockOutput(cache, output)
  try {
    return await pullInto(cache, options)
  } finally {
    await lock.release()
  }
}

async function pullInto(cache: string, {set, output, force, signal, onBytes, onPhoto, onRedirect}: PullOptions): Promise<SamplePullReport> {
  await makeFolders(cache)
  const total = set.archives.reduce((sum, {bytes}) => sum + bytes, 0)
  const files: string[] = []
  let before = 0
  for (const {url, bytes, sha256} of set.archives) {
    const file = join(cache, new URL(url).pathname.split('/').at(-1)!)
    const have = await stat(file).catch(() => undefined) // given its name only when it was whole and right
    if (have?.size !== bytes) {
      const onProgress = (progress: {bytes: number}): void => onBytes?.(before + progress.bytes, total)
      await download(url, file, {expectedBytes: bytes, sha256, signal, force: true, onProgress, onRedirect})
    }
    files.push(file)
    before += bytes
    onBytes?.(before, total)
  }
  const counts = {train: 0, val: 0}
  const classes = new Set<string>()
  await atomicFolder(
    output,
    async folder => {
      const aside = join(cache, 'unpacked')
      for (const file of files.slice(1))
        await untar(
          file,
          async (member, bytes) => {
            if (!/^[\w/]+\.txt$/.test(member)) return
            await makeFolders(join(aside, dirname(member)))
            await writeFile(join(aside, member), bytes)
          },
          signal
        )
      const place = await set.places(aside)
      const made = new Set<string>()
      await untar(
        files[0]!,
        async (member, bytes) => {
          const target = place(member)
          if (target === undefined) return
          const [split, kind] = target.split('/')
          if (!made.has(dirname(target))) await makeFolders(join(folder, dirname(target)))
          made.add(dirname(target))
          await writeFile(join(folder, target), bytes)
          if (split !== 'train' && split !== 'val') return
          counts[split]++
          classes.add(kind!)
          onPhoto?.(counts.train + counts.val)
        },
        signal
      )
      if (counts.train === 0)
        throw new UserError(`The archive of ${set.name} holds no photo where one was expected.`, {
          code: 'BAD_ARCHIVE',
          hint: `See ${set.home}.`
        })
      await writeNote(folder, {set: set.name, licence: set.licence, home: set.home, from: set.archives.map(({url}) => url)})
    },
    {force}
  )
  await rm(cache, {recursive: true, force: true})
  return {output, set: set.name, licence: set.licence, home: set.home, classes: classes.size, ...counts}
}

/** `--force` replaces a folder only when it is of our making: nobody's photos are deleted by a slip of the hand. */
async function guard(output: string, force: boolean): Promise<void> {
  await refuseExisting(output, {force})
  if (!(await stat(output).catch(() => undefined))) return
  const note = await readFile(join(output, NOTE), 'utf8').catch(() => undefined)
  if (note === undefined)
    throw new UserError(`${output} was not made by dinov2 samples (it holds no ${NOTE}), so it is not replaced.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Name another folder, or remove this one yourself.'
    })
}

const writeNote = (folder: string, note: object): Promise<void> => writeFile(join(folder, NOTE), JSON.stringify(note, undefined, 2) + '\n')
