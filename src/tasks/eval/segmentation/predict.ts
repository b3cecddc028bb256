/** Class maps of images by a trained head: masks with the ids of the training masks, and a row for each image. */
import {keyStem} from '../../../data/targets/pairs.js'
import {writeFile} from 'node:fs/promises'
import {basename, dirname, extname, join, normalize, sep} from 'node:path'
import {UserError} from '../../../config/errors.js'
import {isPacked, rejectedImage} from '../../../data/sources/image-ref.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {decodeRgb, RefusedImage, type Raster} from '../../../data/image/decode.js'
import {encodeMask} from '../../../data/image/png-write.js'
import {listImages, noImages, type ImageRef, type SourceNote} from '../../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import {atomicFile} from '../../../system/atomic.js'
import {inFolderOf} from '../../../system/output.js'
import {refuseLinksBelow} from '../../../system/plain-file.js'
import {loadBackbone, startEngineFor} from '../../embed/load-backbone.js'
import type {PredictedRows} from '../shared/predicted-rows.js'
import type {Prediction, SegmentProtocol} from '../../../heads/segment-inference.js'
import {segmentMaps, predictClasses, yieldToEvents} from './inference.js'
import {loadSegmentHead, type LoadedSegmentHead} from './head.js'

export type SegmentImagesOptions = {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly head: string
  readonly engine: EngineRequest
  readonly batch?: number
  readonly maxPixels?: number
  /** What differs from the head's own way of looking. */
  readonly size?: number
  /** Keeps the rows, and holds those of the interrupted run that is gone on with. */
  readonly rows?: PredictedRows
  /** Images that are segmented at most. */
  readonly limit?: number
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

export type SegmentedImage = {
  readonly ref: ImageRef
  readonly photo: Raster
  readonly prediction: Prediction
  readonly head: LoadedSegmentHead
}

export type SegmentEvent =
  | {readonly kind: 'started'; readonly engine: EngineInfo}
  | ({readonly kind: 'image'} & SegmentedImage)
  | {readonly kind: 'earlier'; readonly ref: ImageRef; readonly row: SegmentRow}

/**
 * Segments images one by one, in their order. Throws a `UserError`: no images (exit 3), a head that does not fit (exit
 * 2), and what model and engine throw. Images that cannot be read are reported to `onRejected`.
 */
export async function* segmentImages(options: SegmentImagesOptions): AsyncGenerator<SegmentEvent> {
  const {images, nul, maxPixels, size, limit = Infinity, onRejected, onSkipped, signal, rows} = options
  const refs = listImages(images, {nul, onSkipped})
  const first = await refs.next()
  if (first.done) throw noImages(images)
  const engine = await startEngineFor([options.model], options.engine)
  using backbone = await loadBackbone(options.model, {precision: engine.precision, note: options.engine.note})
  rows?.begin(backbone.fingerprint)
  using head = await loadSegmentHead(options.head, backbone, options.model)
  yield {kind: 'started', engine}
  const protocol: SegmentProtocol = size === undefined ? head.protocol : {...head.protocol, size}
  const features = segmentMaps(backbone, protocol.layers, {name: 'model', device: engine.device, batch: options.batch})
  let done = 0
  for (let next: IteratorResult<ImageRef> = first; !next.done && done < limit; next = await refs.next()) {
    await yieldToEvents()
    if (signal?.aborted) return
    const ref = next.value
    const row = rows?.earlier(ref)
    if (row) {
      yield {kind: 'earlier', ref, row: row as SegmentRow}
      continue
    }
    try {
      const photo = await decodeRgb(ref, maxPixels === undefined ? {} : {maxPixels})
      const prediction = await predictClasses(photo, features, head.folded, protocol)
      done++
      yield {kind: 'image', ref, photo, prediction, head}
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      onRejected?.(rejectedImage(ref, error.message))
    }
  }
}

/**
 * Where the mask of an image goes under a folder: its id as a path, without what leads out of the folder, ending in
 * .png.
 */
export function maskPath(folder: string, id: string, packed = false): string {
  const plain = normalize(id)
    .split(sep)
    .filter(part => part !== '..' && part !== '.' && part !== '')
  const inside = plain.join(sep) || 'mask'
  const name = packed ? keyStem(inside) : basename(inside, extname(inside)) || basename(inside)
  return join(folder, dirname(inside), `${name}.png`)
}

/** One row of `predict segment`. */
export type SegmentRow = Readonly<Record<string, unknown>> & {
  readonly id: string
  /** The mask that was written; absent where none is. */
  readonly mask?: string
  readonly width: number
  readonly height: number
  /** Mean over pixels of the probability of the class chosen. */
  readonly confidence: number
  /** Share of the pixels by class, classes that are there, in the order of ids. */
  readonly classes: Readonly<Record<string, number>>
}

/**
 * The row of one image; where `folder` is given its mask is written, ids and palette as the head knows them. Throws a
 * `UserError` where the mask exists and `force` is not given.
 */
export async function segmentRow(
  {ref, prediction, head}: SegmentedImage,
  {folder, force}: {folder?: string; force?: boolean}
): Promise<SegmentRow> {
  const {width, height, labels, confidence} = prediction
  const {ids, names, palette} = head.classes
  const counts = new Float64Array(names.length)
  const stored = new Uint16Array(labels.length)
  for (let i = 0; i < labels.length; i++) {
    counts[labels[i]!]!++
    stored[i] = ids[labels[i]!]!
  }
  let mask: string | undefined
  if (folder !== undefined) {
    mask = maskPath(folder, ref.id, isPacked(ref))
    const colours = new Uint8Array(3 * 256)
    for (const [k, id] of ids.entries()) if (id < 256) colours.set(palette.subarray(3 * k, 3 * k + 3), 3 * id)
    const bytes = encodeMask(stored, {width, height, palette: colours.subarray(0, 3 * Math.min(256, Math.max(...ids) + 1))})
    const write = (path: string): Promise<void> => atomicFile(path, temporary => writeFile(temporary, bytes), force ? {force} : {})
    await refuseLinksBelow(folder, mask)
    await inFolderOf(mask, () => write(mask!))
  }
  const shares = names.flatMap((name, k) => (counts[k]! > 0 ? [[name, Number((counts[k]! / labels.length).toFixed(5))] as const] : []))
  return {
    id: ref.id,
    ...(mask === undefined ? {} : {mask}),
    width,
    height,
    confidence: Number(confidence.toFixed(4)),
    classes: Object.fromEntries(shares)
  }
}

/** Two images whose masks would be one file are a mistake that must not pass. Throws a `UserError` (exit 2). */
export function assertDistinctMask(seen: Map<string, string>, mask: string, id: string): void {
  const other = seen.get(mask)
  if (other !== undefined)
    throw new UserError(`The masks of ${other} and ${id} would both be ${mask}.`, {
      exit: 2,
      code: 'SAME_OUTPUT',
      hint: 'Give the images ids of their own in a list, or segment them in two runs.'
    })
  seen.set(mask, id)
}
