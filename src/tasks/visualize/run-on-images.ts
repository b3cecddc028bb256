/**
 * A few pictures through a backbone, one by one, for showing: each at a size that makes whole patches, and whatever is
 * computed of it.
 */
import {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {loadPixels, RefusedImage, type Raster} from '../../data/image/decode.js'
import {rejectedImage} from '../../data/sources/image-ref.js'
import {listImages, noImages, type ImageRef} from '../../data/sources/source.js'
import type {EngineRequest} from '../../engine/start.js'
import type {VitConfig} from '../../model/config.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import type {Tensor4D} from '../../tensor/tf.js'
import {type Backbone, loadBackbone, startEngineFor} from '../embed/load-backbone.js'
import {assertImagesFit} from '../embed/pass-memory.js'

export type RunOnImagesOptions = {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly engine: EngineRequest
  /**
   * Short side of an image in pixels; made a multiple of the patch. By default what the model was trained with,
   * several times that for small grids.
   */
  readonly size?: number
  /** Images shown at most, the first ones. */
  readonly limit: number
  readonly signal?: AbortSignal
  readonly onImage?: (done: number) => void
  readonly onRejected?: (bad: {id: string; path: string; reason: string}) => void
}

export type ImageResults<T> = {
  readonly pictures: readonly (T & {readonly id: string; readonly photo: Raster; readonly ref: ImageRef})[]
  /** Images that were named but not shown. */
  readonly leftOut: number
  /** Short side in pixels. */
  readonly size: number
  readonly config: VitConfig
  readonly fingerprint: string
}

/** The short side for a model: its own size, or the least multiple of it that gives 16 patches. */
export const defaultSize = ({grid, patch}: VitConfig): number => grid * patch * Math.max(1, Math.ceil(16 / grid))

/**
 * Decodes the images, normalizes them and hands each [1, H, W, 3] to what `prepare` makes of the backbone. The input
 * tensor is disposed afterwards.
 *
 * Throws a `UserError`: no images (exit 3), a missing engine (exit 5), a model that is not one, a size below two
 * patches (exit 2), and what `prepare` throws.
 */
export async function runOnImages<T extends object>(
  {images, nul = false, model, engine, limit, signal, onImage, onRejected, ...options}: RunOnImagesOptions,
  prepare: (backbone: Backbone) => (input: Tensor4D, photo: Raster) => Promise<T>
): Promise<ImageResults<T>> {
  const refs: ImageRef[] = []
  let leftOut = 0
  for await (const ref of listImages(images, {nul})) {
    if (refs.length < limit) refs.push(ref)
    else leftOut++
  }
  if (refs.length === 0) throw noImages(images)
  const info = await startEngineFor([model], engine)
  using backbone = await loadBackbone(model, {precision: info.precision, note: engine.note})
  const {config, fingerprint} = backbone
  const {patch} = config
  const size = options.size ?? defaultSize(config)
  if (size < 2 * patch)
    throw new UserError(`Expected a size of at least two patches of ${patch} pixels but received ${size}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Try --size ${defaultSize(config)}.`
    })
  const see = prepare(backbone)
  const short = Math.round(size / patch) * patch
  const pass = {config, transform: {resize: short, patch}, precision: backbone.precision, layers: 1, batch: 1}
  await assertImagesFit(Readable.from(refs), pass)
  const pictures: (T & {id: string; photo: Raster; ref: ImageRef})[] = []
  for (const ref of refs) {
    signal?.throwIfAborted()
    try {
      const photo = await loadPixels(ref, {resize: short, patch})
      const input = normalizePixels(photo.data, [1, photo.height, photo.width])
      try {
        pictures.push({id: ref.id, ref, photo, ...(await see(input, photo))})
      } finally {
        input.dispose()
      }
      onImage?.(pictures.length)
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      onRejected?.(rejectedImage(ref, error.message))
    }
  }
  if (pictures.length === 0) throw new UserError('None of the images could be read.', {exit: 3, code: 'NO_INPUT'})
  return {pictures, leftOut, size: short, config, fingerprint}
}
