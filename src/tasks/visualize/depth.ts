/** Pictures of predicted depth: image, prediction and, where it is known, truth and error, as one PNG or page. */
import {basename} from 'node:path'
import {UserError} from '../../config/errors.js'
import {RefusedImage} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {rejectedImage} from '../../data/sources/image-ref.js'
import {mapFinder} from '../../data/targets/pairs.js'
import {align, depthErrors, type DepthErrors} from '../../metrics/depth.js'
import {drawSheet} from '../../render/sheet.js'
import {html, page} from '../../render/html.js'
import {loadSample} from '../eval/depth/dataset.js'
import {depthFigure, depthPicture, depthStyle, panelsOf, type DepthPicture} from '../eval/depth/pictures.js'
import {predictEach, roundedDepth, type DepthImagesOptions} from '../eval/depth/predict.js'

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

type Shown = {readonly id: string; readonly picture: DepthPicture; readonly errors?: DepthErrors}

/** Pictures of depth: image, prediction, and, where it is known, truth and error. Throws as `predictEach`. */
export async function visualizeDepth(
  options: VisualizeDepthOptions
): Promise<{content: Uint8Array | string; report: VisualizeDepthReport}> {
  const find = mapFinder({field: 'depth', roots: options.images, folder: options.depths})
  const all: Shown[] = []
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
  const shown = all.map(({id, picture: {low, high}, errors}) => ({
    id,
    low: roundedDepth(low),
    high: roundedDepth(high),
    ...(errors ? {errors} : {})
  }))
  const content = options.format === 'png' ? await pngSheet(all) : await htmlSheet(all)
  return {content, report: {images: all.length, shown}}
}

/** Each image with its prediction, truth and errors beside each other, and what the colours mean under them. */
function pngSheet(all: readonly Shown[]): Promise<Uint8Array> {
  const sheet = drawSheet(
    all.map(({id, picture, errors}) => ({title: `${basename(id)}${errors ? `: ${errorText(errors)}` : ''}`, rows: [panelsOf(picture)]}))
  )
  return encodeImage(sheet.data, sheet)
}

const errorText = ({rmse, abs_rel, a1}: DepthErrors): string =>
  `RMSE ${rmse.toFixed(3)} m, abs_rel ${abs_rel.toFixed(3)}, a1 ${(100 * a1).toFixed(1)} %`

async function htmlSheet(all: readonly Shown[]): Promise<string> {
  const figures = []
  for (const {id, picture, errors} of all) {
    figures.push(await depthFigure(picture, id, errors && errorText(errors)))
  }
  const body = html`<h1>Depth</h1>
    <p>
      Each image has its own range of colors: the 2nd to the 98th percentile of its true depth, or of its prediction where the truth is not
      known. Grey: depth not known.
    </p>
    ${figures}`
  return page({title: 'Depth', body, style: depthStyle})
}
