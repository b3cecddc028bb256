/** Pictures of what a model sees: patch features as colours. */
import {UserError} from '../config/errors.js'
import {enlarge, fit, paste, sheet} from '../data/canvas.js'
import {loadPixels, RefusedImage, type Raster} from '../data/decode.js'
import {encodeImage} from '../data/encode.js'
import {resample} from '../data/resample.js'
import {listImages, noImages, type ImageRef} from '../data/source.js'
import {startEngine, type EngineRequest} from '../engine/start.js'
import {dataUri, html, page} from '../files/html.js'
import type {VitConfig} from '../model/config.js'
import {colourPatches, type PatchGrid} from '../model/foreground.js'
import {forward} from '../model/vit.js'
import {normalizePixels} from '../tensor/ops/patches.js'
import {dispose} from '../tensor/tf.js'
import {loadBackbone} from './backbone.js'

export type PcaOptions = {
  readonly images: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly engine: EngineRequest
  /** Short side of an image in pixels; made a multiple of the patch. By default what the model was trained with, several times that for small grids. */
  readonly size?: number
  /** Colours only what stands in front. */
  readonly foreground: boolean
  /** Smooth instead of square patches. */
  readonly smooth: boolean
  /** Images shown at most, the first ones. */
  readonly limit: number
  readonly format: 'png' | 'html'
  readonly signal?: AbortSignal
  readonly onImage?: (done: number) => void
  readonly onBad?: (bad: {id: string; path: string; reason: string}) => void
}

export type PcaReport = {
  readonly images: number
  /** Images that were named but not shown. */
  readonly leftOut: number
  /** Short side in pixels. */
  readonly size: number
  readonly patches: number
  readonly foreground: number | undefined
  readonly explained: readonly number[]
  readonly fingerprint: string
}

/** The short side for a model: its own size, or the least multiple of it that gives 16 patches. */
export const usualSize = ({grid, patch}: VitConfig): number => grid * patch * Math.max(1, Math.ceil(16 / grid))

type Seen = PatchGrid & {readonly id: string; readonly photo: Raster}

/**
 * Runs images through a backbone and draws their patch features as colours, on one scale for all of them, beside the images.
 *
 * Throws a `UserError`: no images (exit 3), a missing engine (exit 5), a model that is not one.
 */
export async function visualizePca(options: PcaOptions): Promise<{content: Uint8Array | string; report: PcaReport}> {
  const {images, nul = false, limit, signal, onImage, onBad} = options
  const refs: ImageRef[] = []
  let leftOut = 0
  for await (const ref of listImages(images, {nul})) {
    if (refs.length < limit) refs.push(ref)
    else leftOut++
  }
  if (refs.length === 0) throw noImages(images)
  const info = await startEngine(options.engine)
  using backbone = await loadBackbone(options.model, {precision: info.precision})
  const {config, params, precision, fingerprint} = backbone
  const {patch, width} = config
  const size = options.size ?? usualSize(config)
  if (size < 2 * patch)
    throw new UserError(`Expected a size of at least two patches of ${patch} pixels but received ${size}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Try --size ${usualSize(config)}.`
    })

  const seen: Seen[] = []
  for (const ref of refs) {
    signal?.throwIfAborted()
    try {
      const photo = await loadPixels(ref, {resize: Math.round(size / patch) * patch, patch})
      const input = normalizePixels(photo.data, [1, photo.height, photo.width])
      const {cls, registers, patches, prenorm} = forward(params, input, config, {stream: precision})
      const features = await patches.data<'float32'>() // [N, C]
      dispose([input, cls, registers, patches, prenorm])
      seen.push({id: ref.id, photo, rows: photo.height / patch, columns: photo.width / patch, features})
      onImage?.(seen.length)
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      onBad?.({id: ref.id, path: typeof ref.path === 'string' ? ref.path : ref.id, reason: error.message})
    }
  }
  if (seen.length === 0) throw new UserError('None of the images could be read.', {exit: 3, code: 'NO_INPUT'})

  const colouring = colourPatches(seen, width, {separate: options.foreground})
  const patches = seen.reduce((sum, {rows, columns}) => sum + rows * columns, 0)
  const inFront = colouring.front.reduce((sum, mask) => sum + mask.reduce((n, bit) => n + bit, 0), 0)
  const report: PcaReport = {
    images: seen.length,
    leftOut,
    size: Math.round(size / patch) * patch,
    patches,
    foreground: options.foreground ? inFront / patches : undefined,
    explained: colouring.explained.map(share => Number(share.toFixed(4))),
    fingerprint
  }
  const pairs = seen.map(({id, photo, rows, columns}, i): Pair => {
    const grid: Raster = {width: columns, height: rows, data: colouring.colours[i]!}
    // small pictures are shown larger: whole multiples, so that patches stay square
    const scale = Math.max(1, Math.round(280 / Math.max(photo.width, photo.height)))
    const shown = {width: photo.width * scale, height: photo.height * scale}
    const colours = options.smooth ? {...shown, data: resample(grid, shown)} : enlarge(grid, patch * scale)
    return {id, photo: {...shown, data: resample(photo, shown)}, colours}
  })
  return {content: options.format === 'png' ? await pairsPng(pairs) : await pairsHtml(pairs, report), report}
}

type Pair = {readonly id: string; readonly photo: Raster; readonly colours: Raster}

/** Pairs below each other in one to three columns, each row as high as its highest. */
async function pairsPng(pairs: readonly Pair[]): Promise<Uint8Array> {
  const columns = pairs.length <= 3 ? 1 : pairs.length <= 8 ? 2 : 3
  const placed = pairs.map(pair =>
    Math.max(pair.photo.width, pair.photo.height) <= 448 ? pair : {...pair, photo: fit(pair.photo, 448), colours: fit(pair.colours, 448)}
  )
  const [gap, margin] = [6, 18]
  const width = 2 * Math.max(...placed.map(({photo}) => photo.width)) + gap
  const rows = Array.from({length: Math.ceil(placed.length / columns)}, (_, row) => placed.slice(row * columns, (row + 1) * columns))
  const heights = rows.map(row => Math.max(...row.map(({photo}) => photo.height)))
  const canvas = sheet(
    columns * (width + margin) + margin,
    heights.reduce((sum, height) => sum + height + margin, margin)
  )
  let y = margin
  for (const [r, row] of rows.entries()) {
    for (const [column, {photo, colours}] of row.entries()) {
      const x = margin + column * (width + margin)
      paste(canvas, photo, x, y)
      paste(canvas, colours, x + photo.width + gap, y)
    }
    y += heights[r]! + margin
  }
  return encodeImage(canvas.data, canvas)
}

async function pairsHtml(pairs: readonly Pair[], {size, patches, foreground, explained}: PcaReport): Promise<string> {
  const figures = []
  for (const {id, photo, colours} of pairs) {
    const [left, right] = [await encodeImage(photo.data, {...photo, format: 'jpeg'}), await encodeImage(colours.data, colours)]
    figures.push(
      html`<figure>
        <div class="pair">
          <img src="${dataUri(left, 'image/jpeg')}" alt="${id}" /><img src="${dataUri(right, 'image/png')}" alt="Patch features of ${id}" />
        </div>
        <figcaption>${id}</figcaption>
      </figure> `
    )
  }
  const percent = (share: number): string => `${(100 * share).toFixed(0)} %`
  const body = html`<h1>Patch features as colours</h1>
    <p>
      Images with a short side of ${size} pixels, ${patches} patches together.
      ${
        foreground === undefined
          ? 'Red, green and blue are the first three principal components of all patches.'
          : `The first principal component of all patches, turned so that it grows towards the middle of the images, parts what stands in front (${percent(foreground)} of the patches, coloured) from what lies behind (black). Red, green and blue are the first three components of the patches in front.`
      }
      They show ${explained.map(percent).join(', ')} of the variance. The same colour means similar features, in all images.
    </p>
    <div class="grid">${figures}</div>`
  return page({
    title: 'Patch features as colours',
    body,
    style: '.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; } .pair img { width: 100%; }'
  })
}
