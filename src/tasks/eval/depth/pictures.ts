/**
 * Pictures of depth: photo, prediction, truth and error side by side, in one range of colours, and what the colours
 * mean.
 */

import {colorize} from '../../../render/colormap.js'
import {resizeDepth} from '../../../data/targets/depth-augment.js'
import {encodeImage} from '../../../data/image/encode.js'
import {resample, type Raster, type Size} from '../../../data/image/resample.js'
import {baseName, dataUri, html, rampBar, type Markup} from '../../../render/html.js'
import type {Panel} from '../../../render/sheet.js'

export type DepthPicture = {
  readonly photo: Raster
  readonly depth: Raster
  readonly truth?: Raster
  readonly error?: Raster
  /** The depths in metres at both ends of the colours. */
  readonly low: number
  readonly high: number
}

/** Relative error that is drawn darkest. */
const DARKEST_ERROR = 0.5

/**
 * The 2nd and the 98th of a hundred depths that are known: single wild pixels do not take the colours away from the
 * rest.
 */
export function colorLimits(values: Float32Array): {low: number; high: number} {
  const known = values.filter(value => value > 0 && Number.isFinite(value)).sort()
  if (known.length === 0) return {low: 0, high: 1}
  const at = (share: number): number => known[Math.round(share * (known.length - 1))]!
  const [low, high] = [at(0.02), at(0.98)]
  return {low, high: high > low ? high : low + 1e-3}
}

/**
 * Pictures with a longer side of `side` pixels at most. Depth and truth are [height, width] in metres; where truth is
 * 0 it is unknown and grey, in the error too.
 */
export function depthPicture(
  {photo, depth, truth}: {readonly photo: Raster; readonly depth: Float32Array; readonly truth?: Float32Array},
  {width, height}: Size,
  side: number
): DepthPicture {
  const size = Math.max(width, height) > side ? fitted({width, height}, side) : {width, height}
  const small = (values: Float32Array): Float32Array => resizeDepth(values, {width, height}, size)
  const {low, high} = colorLimits(truth ?? depth)
  const predicted = small(depth)
  const shown: Raster = photo.width === size.width && photo.height === size.height ? photo : {...size, data: resample(photo, size)}
  const plain = {photo: shown, depth: colorize(predicted, size, {ramp: 'depth', low, high}), low, high}
  if (!truth) return plain
  const known = small(truth)
  const unknown = (i: number): boolean => !(known[i]! > 0)
  const off = Float32Array.from(known, (t, i) => (t > 0 ? Math.abs(predicted[i]! - t) / t : 0))
  return {
    ...plain,
    truth: colorize(known, size, {ramp: 'depth', low, high, unknown}),
    error: colorize(off, size, {ramp: 'error', low: 0, high: DARKEST_ERROR, unknown})
  }
}

/** A size with its longer side at `side`. */
const fitted = (size: Size, side: number): Size => {
  const scale = side / Math.max(size.width, size.height)
  return {width: Math.max(1, Math.round(size.width * scale)), height: Math.max(1, Math.round(size.height * scale))}
}

/** A number of metres for people. */
const metres = (depth: number): string => `${depth.toFixed(depth < 10 ? 2 : 1)} m`

/** One image as a figure: its pictures beside each other, what the colours mean, and a caption. */
export async function depthFigure(picture: DepthPicture, id: string, detail = ''): Promise<Markup> {
  const cells = [
    [picture.photo, 'image', 'jpeg'],
    [picture.depth, 'prediction', 'png'],
    [picture.truth, 'truth', 'png'],
    [picture.error, 'relative error', 'png']
  ] as const
  const shown = []
  for (const [raster, name, format] of cells) {
    if (!raster) continue
    const bytes = await encodeImage(raster.data, {...raster, format})
    shown.push(html`<div><img src="${dataUri(bytes, `image/${format}`)}" alt="${name} of ${id}" /><span>${name}</span></div>`)
  }
  return html`<figure class="depth">
    <div class="cells">${shown}</div>
    <figcaption>
      ${baseName(id)}${detail && html` · ${detail}`} · ${rampBar('depth', metres(picture.low), metres(picture.high))}
      ${picture.error && html`relative error ${rampBar('error', '0', `${DARKEST_ERROR}`)}`}
    </figcaption>
  </figure>`
}

/** What figures of depth need of a page's style. */
export const depthStyle = `
figure.depth { margin: 0 0 1.6rem; } figure.depth .cells { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 4px; }
figure.depth .cells img { width: 100%; } figure.depth .cells span { font-size: 0.75rem; color: var(--quiet); }
`

/** The pictures of one image as panels of a sheet. */
export function panelsOf({photo, depth, truth, error, low, high}: DepthPicture): Panel[] {
  const bar = {ramp: 'depth', low: metres(low), high: metres(high)} as const
  const panels: Panel[] = [
    {picture: photo, caption: 'image'},
    {picture: depth, caption: 'prediction', bar}
  ]
  if (truth) panels.push({picture: truth, caption: 'truth', bar})
  if (error) panels.push({picture: error, caption: 'relative error', bar: {ramp: 'error', low: '0', high: `${DARKEST_ERROR}`}})
  return panels
}
