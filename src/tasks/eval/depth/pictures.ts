/**
 * Depth for the eye: photo, prediction, truth and error side by side, in one range of colours, and what the colours
 * mean.
 */

import {colorize, colorBar, type Colormap} from '../../../render/colormap.js'
import {resizeDepth} from '../../../data/targets/depth-augment.js'
import {encodeImage} from '../../../data/image/encode.js'
import {resample, type Raster, type Size} from '../../../data/image/resample.js'
import {baseName, dataUri, html, type Markup} from '../../../render/html.js'

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
  const told = small(depth)
  const shown: Raster = photo.width === size.width && photo.height === size.height ? photo : {...size, data: resample(photo, size)}
  const plain = {photo: shown, depth: colorize(told, size, {ramp: 'depth', low, high}), low, high}
  if (!truth) return plain
  const known = small(truth)
  const unknown = (i: number): boolean => !(known[i]! > 0)
  const off = Float32Array.from(known, (t, i) => (t > 0 ? Math.abs(told[i]! - t) / t : 0))
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

/** The bar of a ramp with what stands at its ends. */
async function legend(ramp: Colormap, from: string, to: string): Promise<Markup> {
  const bar = await encodeImage(colorBar(ramp, 160, 12).data, {width: 160, height: 12})
  return html`<span class="ramp"
    ><span>${from}</span><img src="${dataUri(bar, 'image/png')}" alt="${ramp}, from ${from} to ${to}" /><span>${to}</span></span
  >`
}

/** One image as a figure: its pictures beside each other, what the colours mean, and a caption. */
export async function depthFigure(picture: DepthPicture, id: string, detail = ''): Promise<Markup> {
  const cells = [
    [picture.photo, 'image', 'jpeg'],
    [picture.depth, 'prediction', 'png'],
    [picture.truth, 'truth', 'png'],
    [picture.error, '|prediction − truth| / truth', 'png']
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
      ${baseName(id)}${detail && html` · ${detail}`} · ${await legend('depth', metres(picture.low), metres(picture.high))}
      ${picture.error ? await legend('error', '0', `${DARKEST_ERROR}`) : ''}
    </figcaption>
  </figure>`
}

/** What figures of depth need of a page's style. */
export const depthStyle = `
figure.depth { margin: 0 0 1.6rem; } figure.depth .cells { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 4px; }
figure.depth .cells img { width: 100%; } figure.depth .cells span { font-size: 0.75rem; color: var(--quiet); }
.ramp { display: inline-flex; gap: 0.4em; align-items: center; margin-right: 1.2em; white-space: nowrap; } .ramp img { height: 0.8em; width: 10em; border: 1px solid var(--line); }
`

/** All pictures of one image beside each other on one sheet. */
export const panelsOf = ({photo, depth, truth, error}: DepthPicture): Raster[] =>
  [photo, depth, truth, error].filter(raster => raster !== undefined)
