/**
 * Depth of images by a trained head: as maps of whole numbers in a folder, which are read again as truth is, or as
 * pictures on a sheet or a page.
 *
 * A map has the size of its image, its place below the inputs and the ending .png; so the folder can be given to
 * `--depths`. Depth lies in the head's range and never unknown.
 */
import {writeFile} from 'node:fs/promises'
import {basename, dirname, join, normalize, resolve, sep} from 'node:path'
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {colorize} from '../../../render/colormap.js'
import type {PredictedRows} from '../shared/predicted-rows.js'
import {decodeRgb, RefusedImage} from '../../../data/image/decode.js'
import {encodeGrey16, encodeImage} from '../../../data/image/encode.js'
import {keyStem, placeFinder, stemOf} from '../../../data/targets/pairs.js'
import {isPacked, rejectedImage, type ImageRef} from '../../../data/sources/image-ref.js'
import type {Raster} from '../../../data/image/resample.js'
import {listImages, noImages, type SourceNote} from '../../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import {atomicFile} from '../../../system/atomic.js'
import {inFolderOf} from '../../../system/output.js'
import {refuseLinksBelow} from '../../../system/plain-file.js'
import {loadBackbone, startEngineFor} from '../../embed/load-backbone.js'
import {resizeForModel} from '../../../data/image/dense-input.js'
import {backboneMaps} from '../../embed/image-features.js'
import {photoFeatures} from './features.js'
import {colorLimits} from './pictures.js'
import {openDepthHead, predictDepth} from './head.js'

export type DepthImagesOptions = {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly head: string
  readonly min?: number
  readonly max?: number
  /** Short side that the model sees; by default what the head was trained on, else the image as it is. */
  readonly size?: number
  readonly flip: boolean
  readonly engine: EngineRequest
  readonly maxPixels?: number
  readonly onRejected: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

/** An image and its depth, in metres at every pixel. */
type PredictedImage = {
  readonly ref: ImageRef
  readonly photo: Raster
  readonly depth: Float32Array
  readonly range: {readonly min: number; readonly max: number}
}

/**
 * Tells the depth of one image after the other. Throws what engine, model and head throw, and a `UserError` of status
 * 3 where there is no image.
 */
export async function* predictEach(options: DepthImagesOptions): AsyncGenerator<PredictedImage, void> {
  for await (const image of predictNew(options, undefined)) if ('depth' in image) yield image
}

/** An image whose row was kept by an interrupted run. */
type EarlierImage = {readonly ref: ImageRef; readonly row: DepthRow}

/** As `predictEach`; images that have a row in `earlier` are passed on with it, and computed no more. */
async function* predictNew(
  options: DepthImagesOptions,
  earlier: PredictedRows | undefined
): AsyncGenerator<PredictedImage | EarlierImage, EngineInfo> {
  const {images, nul, onSkipped, signal} = options
  const refs = listImages(images, {nul, onSkipped})
  let next = await refs.next() // missing files are reported before the model is loaded
  if (next.done) throw noImages(images)
  const engine = await startEngineFor([options.model], options.engine)
  using backbone = await loadBackbone(options.model, {precision: engine.precision, note: options.engine.note})
  earlier?.begin(backbone.fingerprint)
  const {min, max} = options
  using probe = await openDepthHead(options.head, {backbone, min, max})
  const range = {min: min ?? probe.range.min, max: max ?? probe.range.max}
  const source = photoFeatures(backboneMaps(backbone, probe.dense, {name: 'model', device: engine.device}))
  const size = options.size ?? probe.size
  const see = {patch: backbone.config.patch, ...(size === undefined ? {} : {size})}
  const limit = options.maxPixels === undefined ? {} : {maxPixels: options.maxPixels}
  for (; !next.done; next = await refs.next()) {
    signal?.throwIfAborted()
    const ref = next.value
    const row = earlier?.earlier(ref)
    if (row) {
      yield {ref, row: row as DepthRow}
      continue
    }
    try {
      const photo = await decodeRgb(ref, limit)
      const asked = {depth: probe.depth.bind(probe), range}
      yield {
        ref,
        photo,
        depth: await predictDepth(source, asked, resizeForModel(photo, see), [photo.height, photo.width], options.flip),
        range
      }
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      options.onRejected(rejectedImage(ref, error.message))
    }
  }
  return engine
}

export type PredictDepthOptions = DepthImagesOptions & {
  /** The folder for the maps. */
  readonly output: string
  /** Metres that one unit of a map stands for; by default a millimetre, or 1/256 m where the range would not fit. */
  readonly scale?: number
  /** Whether a picture in colours is written beside each map. */
  readonly colour: boolean
  readonly force: boolean
  /** Keeps the rows, and holds those of the interrupted run that is gone on with. */
  readonly rows?: PredictedRows
}

/** One image: what was written of it. */
export type DepthRow = Readonly<Record<string, unknown>> & {
  readonly id: string
  /** The map; `depth`, where a list has it, stays the true one. */
  readonly predicted: string
  readonly width: number
  readonly height: number
  /** Metres a unit. */
  readonly scale: number
  readonly min: number
  readonly median: number
  readonly max: number
  readonly colour?: string
}

/** The unit in which depth up to `max` fits into 16 bits. */
export const defaultScale = (max: number): number => (max <= 65.535 ? 0.001 : max <= 65535 / 256 ? 1 / 256 : max / 65535)

export const roundedDepth = (value: number): number => Number(value.toFixed(4))

/**
 * Writes the depth of every image as a PNG of 16 bits and yields a row for each.
 *
 * A map that exists is refused without `force`, and so is the image whose map would have the name of one that was just
 * written; both count as bad inputs. Rows that `rows` has already are yielded again. Throws as `predictEach`, and a
 * `UserError` (exit 2) for a scale that the range does not fit.
 */
export async function* predictDepths(options: PredictDepthOptions): AsyncGenerator<DepthRow, {images: number}> {
  const {rows} = options
  const placeOf = placeFinder(options.images)
  const written = new Map<string, string>()
  let images = 0
  for await (const image of predictNew(options, rows)) {
    const earlier = 'row' in image ? image.row : undefined
    const other = earlier && written.get(earlier.predicted)
    if (other !== undefined) options.onRejected(sameMap(image.ref, earlier!.predicted, other))
    const row = other === undefined ? (earlier ?? (await writeMap(image as PredictedImage, {placeOf, written}, options))) : undefined
    if (!row) continue
    written.set(row.predicted, row.id)
    await rows?.addOf(image.ref, row)
    images++
    yield row
  }
  return {images}
}

/** The place of an image that lies outside of the inputs: its id where that is an end of its path, else its name. */
function outsidePlace(path: string, id: string): string {
  const own = normalize(id)
    .split(sep)
    .filter(part => part !== '..' && part !== '.' && part !== '')
    .join(sep)
  return resolve(path).endsWith(sep + own) ? own : basename(path)
}

const sameMap = (ref: ImageRef, file: string, other: string): RejectedImage =>
  rejectedImage(ref, `its map would be ${file}, which is that of ${other}`)

/** Writes the map of one image; undefined where its place is taken by that of another, which `written` says. */
async function writeMap(
  {ref, photo, depth, range}: PredictedImage,
  {placeOf, written}: {readonly placeOf: ReturnType<typeof placeFinder>; readonly written: ReadonlyMap<string, string>},
  options: PredictDepthOptions
): Promise<DepthRow | undefined> {
  const {output, force, colour} = options
  const scale = options.scale ?? defaultScale(range.max)
  if (range.max / scale > 65535)
    throw new UserError(`Depth up to ${range.max} m does not fit into 16 bits in units of ${scale} m.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give --depth-scale ${defaultScale(range.max)}, or less --max-depth.`
    })
  const inner = isPacked(ref) || typeof ref.path !== 'string' ? ref.id.replaceAll('\\', '_') : ref.path
  const {inside, within} = await placeOf(inner)
  const place = within ? inside : outsidePlace(inner, ref.id)
  const stem = join(output, dirname(place), isPacked(ref) ? keyStem(place) : stemOf(place))
  const file = `${stem}.png`
  const other = written.get(file)
  if (other !== undefined) {
    options.onRejected(sameMap(ref, file, other))
    return undefined
  }
  const units = new Uint16Array(depth.length)
  for (let i = 0; i < depth.length; i++) units[i] = Math.max(1, Math.round(depth[i]! / scale)) // 0 would be read as unknown
  const write = async (path: string, bytes: Uint8Array): Promise<void> => {
    await refuseLinksBelow(output, path)
    await inFolderOf(path, () => atomicFile(path, temporary => writeFile(temporary, bytes), force ? {force: true} : {}))
  }
  const map = await encodeGrey16(units, photo)
  await write(file, map)
  const {low, high} = colorLimits(depth)
  const picture = `${stem}.colour.png`
  if (colour) {
    const raster = colorize(depth, photo, {ramp: 'depth', low, high})
    await write(picture, await encodeImage(raster.data, raster))
  }
  const sorted = depth.slice().sort()
  return {
    id: ref.id,
    ...(ref.pathBase64 === undefined ? {} : {path_base64: ref.pathBase64}),
    path: typeof ref.path === 'string' ? ref.path : ref.id,
    ...ref.fields,
    predicted: file,
    width: photo.width,
    height: photo.height,
    scale,
    min: roundedDepth(sorted[0]!),
    median: roundedDepth(sorted[sorted.length >> 1]!),
    max: roundedDepth(sorted.at(-1)!),
    ...(colour ? {colour: picture} : {})
  }
}
