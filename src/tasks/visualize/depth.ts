/** Pictures of predicted depth: image, prediction and, where it is known, truth and error, as one PNG or page. */
import {UserError} from '../../config/errors.js'
import {RefusedImage} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {rejectedImage} from '../../data/sources/image-ref.js'
import {mapFinder} from '../../data/targets/pairs.js'
import {align, depthErrors, type DepthErrors} from '../../metrics/depth.js'
import {blankCanvas, paste} from '../../render/canvas.js'
import {colorBar} from '../../render/colormap.js'
import {html, page} from '../../render/html.js'
import {loadSample} from '../eval/depth/dataset.js'
import {depthFigure, depthPicture, depthStyle, panelsOf, type DepthPicture} from '../eval/depth/pictures.js'
import {predictEach, rounded, type DepthImagesOptions} from '../eval/depth/predict.js'

export type VisualizeDepthOptions = DepthImagesOptions & {
  /** True depth beside it: a folder of maps; without it, the field `depth` of a list. */
  readonly depths?: string
  readonly scale?: number
  /** Images shown at most. */
  readonly limit: number
  readonly format: 'png' | 'html'
  readonly onImage?: (done: number) => void
}

export type VisualizeDepthReport = {
  readonly images: number
  /** Of every image the depths at both ends of its colours, in metres, and its errors where truth is known. */
  readonly shown: readonly {readonly id: string; readonly low: number; readonly high: number; readonly errors?: DepthErrors}[]
}

/** Pictures of depth: image, prediction, and, where it is known, truth and error. Throws as `tell`. */
export async function visualizeDepth(
  options: VisualizeDepthOptions
): Promise<{content: Uint8Array | string; report: VisualizeDepthReport}> {
  const find = mapFinder({field: 'depth', roots: options.images, folder: options.depths})
  const all: {id: string; picture: DepthPicture; errors?: DepthErrors}[] = []
  for await (const {ref, photo, depth, range} of predictEach(options)) {
    const {width, height} = photo
    const wanted = options.depths !== undefined || typeof ref.fields['depth'] === 'string'
    const map = wanted ? await find(ref) : undefined
    let truth: Float32Array | undefined
    let errors: DepthErrors | undefined
    if (map && 'reason' in map) options.onRejected(rejectedImage(ref, map.reason))
    else if (map) {
      try {
        const data = {patch: 1, range, crop: 'none' as const, ...(options.scale === undefined ? {} : {scale: options.scale})}
        const sample = await loadSample({image: ref, map}, data)
        truth = sample.truth
        const pick = (values: Float32Array): Float32Array => Float32Array.from(sample.valid, at => values[at]!)
        const known = pick(truth)
        errors = depthErrors(align(pick(depth), known, 'none', range), known)
      } catch (error) {
        if (!(error instanceof RefusedImage)) throw error
        options.onRejected(rejectedImage(ref, error.message))
      }
    }
    const picture = depthPicture({photo, depth, truth}, {width, height}, 360)
    all.push({id: ref.id, picture, ...(errors ? {errors} : {})})
    options.onImage?.(all.length)
    if (all.length === options.limit) break
  }
  if (all.length === 0) throw new UserError('None of the images could be read.', {exit: 3, code: 'NO_INPUT'})
  const shown = all.map(({id, picture: {low, high}, errors}) => ({id, low: rounded(low), high: rounded(high), ...(errors ? {errors} : {})}))
  const content = options.format === 'png' ? await pngSheet(all.map(({picture}) => picture)) : await htmlSheet(all)
  return {content, report: {images: all.length, shown}}
}

/**
 * Images below each other, each with its pictures beside each other and the bar of its colours, near to far, under the
 * prediction.
 */
async function pngSheet(pictures: readonly DepthPicture[]): Promise<Uint8Array> {
  const [gap, margin, bar] = [6, 14, 8]
  const rows = pictures.map(panelsOf)
  const across = Math.max(...rows.map(row => row.reduce((sum, {width}) => sum + width + gap, -gap)))
  const down = rows.reduce((sum, [first]) => sum + first!.height + gap + bar + margin, margin)
  const canvas = blankCanvas(across + 2 * margin, down)
  let y = margin
  for (const row of rows) {
    let x = margin
    for (const [i, raster] of row.entries()) {
      paste(canvas, raster, x, y)
      if (i === 1 || i === 3) paste(canvas, colorBar(i === 1 ? 'depth' : 'error', raster.width, bar), x, y + raster.height + gap)
      x += raster.width + gap
    }
    y += row[0]!.height + gap + bar + margin
  }
  return encodeImage(canvas.data, canvas)
}

async function htmlSheet(all: readonly {id: string; picture: DepthPicture; errors?: DepthErrors}[]): Promise<string> {
  const figures = []
  for (const {id, picture, errors} of all) {
    const said = errors ? ` · RMSE ${errors.rmse.toFixed(3)} m, abs_rel ${errors.abs_rel.toFixed(3)}, a1 ${errors.a1.toFixed(3)}` : ''
    figures.push(await depthFigure(picture, `${id}${said}`))
  }
  const body = html`<h1>Depth</h1>
    <p>
      Each image has its own range of colours: the 2nd to the 98th percentile of its true depth, or where that is not known of its
      prediction. Grey is unknown.
    </p>
    ${figures}`
  return page({title: 'Depth', body, style: depthStyle})
}
