/**
 * Pictures of similarity: one patch of the first image against all patches of all images, by the cosine of their
 * features. The page carries the features, a byte a number, where they are not too many; then a click on any patch
 * asks anew, in the browser, without anything being fetched.
 */
import {basename} from 'node:path'
import {UserError} from '../../config/errors.js'
import {fitWithin, magnified} from '../../render/canvas.js'
import type {Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {colormapStops} from '../../render/colormap.js'
import {heatMap, heatOver} from '../../render/heatmap.js'
import {drawSheet, type SheetBlock} from '../../render/sheet.js'
import {dataUri, html, Markup, page} from '../../render/html.js'
import {patchFeatures, type PatchFeatures} from './patch-features.js'
import {runOnImages, type RunOnImagesOptions} from './run-on-images.js'

export type SimilarityOptions = RunOnImagesOptions & {
  /**
   * The place in the first image, in shares of its sides from the upper left (0 to 1) or in pixels of the file where a
   * number is above 1.
   */
  readonly at: readonly [x: number, y: number]
  /** The last n blocks, or these, joined; the last one if absent. */
  readonly layers?: number | readonly number[]
  readonly smooth: boolean
  /** Bytes of features that a page carries at most; 24 MiB if absent, 0 for a page that only shows. */
  readonly pageBytes?: number
  readonly format: 'png' | 'html'
}

export type SimilarityReport = {
  readonly images: number
  readonly leftOut: number
  readonly size: number
  /** The patch asked for: column and row. */
  readonly patch: readonly [column: number, row: number]
  /** Of each image the highest cosine (in the first one, of another patch), and where: column and row. */
  readonly best: readonly {readonly cosine: number; readonly column: number; readonly row: number}[]
  /** Whether a click in the page asks anew. */
  readonly live: boolean
  readonly fingerprint: string
}

type Seen = PatchFeatures & {readonly id: string; readonly photo: Raster}

/** Cosines of one vector [D] with rows [N, D] of length 1; → [N]. */
export function cosines(query: Float32Array, rows: Float32Array): Float32Array {
  const D = query.length
  return Float32Array.from({length: rows.length / D}, (_, n) => {
    let sum = 0
    for (let d = 0; d < D; d++) sum += query[d]! * rows[n * D + d]!
    return sum
  })
}

/**
 * Runs the images and draws similarity over them. Throws a `UserError` as `seePictures`, and for a place outside the
 * image (exit 2).
 */
export async function visualizeSimilarity(options: SimilarityOptions): Promise<{content: Uint8Array | string; report: SimilarityReport}> {
  const [x, y] = options.at
  const inPixels = x > 1 || y > 1
  const {decodeRgb} = await import('../../data/image/decode.js')
  const {pictures, leftOut, size, config, fingerprint} = await runOnImages(options, patchFeatures(options.layers))
  const first: Seen = pictures[0]!
  let [u, v] = [x, y]
  if (inPixels) {
    const {listImages} = await import('../../data/sources/source.js')
    for await (const ref of listImages(options.images, options.nul ? {nul: true} : {})) {
      if (ref.id !== first.id) continue
      const {width, height} = await decodeRgb(ref)
      ;[u, v] = [x / width, y / height]
      if (u >= 1 || v >= 1)
        throw new UserError(`--at ${x},${y} lies outside of ${first.id}, which is ${width} × ${height} pixels.`, {
          exit: 2,
          code: 'USAGE',
          hint: 'Numbers up to 1 are shares of the sides: --at 0.5,0.5 is the middle.'
        })
      break
    }
  }
  const D = first.features.length / (first.rows * first.columns)
  const [column, row] = [Math.min(first.columns - 1, Math.floor(u * first.columns)), Math.min(first.rows - 1, Math.floor(v * first.rows))]
  const asked = row * first.columns + column
  const query = first.features.slice(asked * D, (asked + 1) * D)
  const all = pictures.map(({features}) => cosines(query, features))
  const best = all.map((values, i) => {
    let at = -1
    for (let n = 0; n < values.length; n++) if (!(i === 0 && n === asked) && (at < 0 || values[n]! > values[at]!)) at = n
    const {columns} = pictures[i]!
    return {cosine: Number(values[at]!.toFixed(4)), column: at % columns, row: Math.floor(at / columns)}
  })
  const bytes = pictures.reduce((sum, {features}) => sum + features.length, 0)
  const live = options.format === 'html' && bytes <= (options.pageBytes ?? 24 * 2 ** 20)
  const report: SimilarityReport = {images: pictures.length, leftOut, size, patch: [column, row], best, live, fingerprint}
  const low = Math.min(...all.map(values => values.reduce((a, b) => Math.min(a, b), 1)))
  if (options.format === 'html') return {content: await similarityPage(pictures, all, low, report, config.patch), report}
  const blocks = pictures.map(({id, photo, rows, columns}, i): SheetBlock => {
    const wide = magnified(photo, 280)
    const heat = heatOver(wide, heatMap(all[i]!, rows, columns, low, 1), {smooth: options.smooth})
    const marked = i === 0 ? {...wide, data: wide.data.slice()} : wide
    if (i === 0) for (const raster of [heat, marked]) frame(raster, column, row, wide.width / columns, wide.height / rows)
    return {
      title: basename(id),
      rows: [
        [
          {picture: fitWithin(marked, 448), caption: i === 0 ? 'image, patch in a frame' : 'image'},
          {picture: fitWithin(heat, 448), caption: 'cosine similarity', bar: {ramp: 'heat', low: low.toFixed(2), high: '1.00'}}
        ]
      ]
    }
  })
  const sheet = drawSheet(blocks, {columns: blocks.length <= 3 ? 1 : 2})
  return {content: await encodeImage(sheet.data, sheet), report}
}

/** Draws a frame of two colours round a patch. */
function frame({width, height, data}: Raster, column: number, row: number, across: number, down: number): void {
  const [left, top, right, bottom] = [column * across, row * down, (column + 1) * across - 1, (row + 1) * down - 1].map(Math.round) as [
    number,
    number,
    number,
    number
  ]
  const put = (x: number, y: number, value: number): void => {
    if (x >= 0 && y >= 0 && x < width && y < height) data.fill(value, (y * width + x) * 3, (y * width + x) * 3 + 3)
  }
  for (const [out, value] of [
    [1, 0],
    [0, 255]
  ] as const)
    // prettier-ignore
    for (let x = left - out; x <= right + out; x++) for (const y of [top - out, bottom + out]) put(x, y, value)
  for (const [out, value] of [
    [1, 0],
    [0, 255]
  ] as const)
    // prettier-ignore
    for (let y = top - out; y <= bottom + out; y++) for (const x of [left - out, right + out]) put(x, y, value)
}

/**
 * Features of length 1 as bytes: 127 for the largest number of the picture; the scale is left out, since cosines are
 * divided by lengths again.
 */
function quantize(features: Float32Array): Int8Array {
  let most = 0
  for (const value of features) most = Math.max(most, Math.abs(value))
  return Int8Array.from(features, value => Math.round((value / (most || 1)) * 127))
}

/**
 * What the page does by itself: draws heat for the patch that was clicked, or that came with the page. Kept plain: it
 * runs in any browser of the last ten years.
 */
const script = `
'use strict';
var info = JSON.parse(document.getElementById('info').textContent);
var stops = info.stops, D = info.width;
function bytes(text) { var raw = atob(text), out = new Int8Array(raw.length); for (var i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i) << 24 >> 24; return out; }
var pictures = info.pictures.map(function (p, i) {
  var features = bytes(document.getElementById('f' + i).textContent.trim()), lengths = new Float32Array(p.rows * p.columns);
  for (var n = 0; n < lengths.length; n++) { var s = 0; for (var d = 0; d < D; d++) s += features[n * D + d] * features[n * D + d]; lengths[n] = Math.sqrt(s) || 1; }
  var shot = document.getElementById('p' + i);
  return { rows: p.rows, columns: p.columns, features: features, lengths: lengths, shot: shot, canvas: shot.querySelector('canvas'), mark: shot.querySelector('.mark'), highest: shot.querySelector('.highest') };
});
function colour(share) { var at = Math.max(0, Math.min(1, share)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at)), part = at - i;
  return [0, 1, 2].map(function (c) { return Math.round(stops[i][c] * (1 - part) + stops[i + 1][c] * part); }); }
function ask(source, patch) {
  var from = pictures[source], low = 1, all = pictures.map(function (p) {
    var values = new Float32Array(p.rows * p.columns);
    for (var n = 0; n < values.length; n++) { var s = 0; for (var d = 0; d < D; d++) s += from.features[patch * D + d] * p.features[n * D + d]; values[n] = s / (from.lengths[patch] * p.lengths[n]); low = Math.min(low, values[n]); }
    return values; });
  pictures.forEach(function (p, i) {
    p.canvas.width = p.columns; p.canvas.height = p.rows;
    var context = p.canvas.getContext('2d'), image = context.createImageData(p.columns, p.rows), best = -2;
    for (var n = 0; n < all[i].length; n++) { var c = colour((all[i][n] - low) / (1 - low || 1)); image.data.set([c[0], c[1], c[2], 255], 4 * n); if (!(i === source && n === patch)) best = Math.max(best, all[i][n]); }
    context.putImageData(image, 0, 0);
    p.mark.hidden = i !== source;
    if (i === source) { p.mark.style.left = 100 * (patch % p.columns) / p.columns + '%'; p.mark.style.top = 100 * Math.floor(patch / p.columns) / p.rows + '%'; p.mark.style.width = 100 / p.columns + '%'; p.mark.style.height = 100 / p.rows + '%'; }
    p.highest.textContent = 'highest cosine ' + best.toFixed(3);
  });
}
pictures.forEach(function (p, i) {
  p.shot.querySelector('.layers').addEventListener('click', function (event) {
    var box = event.currentTarget.getBoundingClientRect();
    var column = Math.min(p.columns - 1, Math.floor((event.clientX - box.left) / box.width * p.columns)), row = Math.min(p.rows - 1, Math.floor((event.clientY - box.top) / box.height * p.rows));
    ask(i, row * p.columns + column);
  });
});
document.getElementById('opacity').addEventListener('input', function (event) { document.body.style.setProperty('--heat', event.target.value); });
ask(0, info.patch);
`

async function similarityPage(
  pictures: readonly Seen[],
  all: readonly Float32Array[],
  low: number,
  {patch, best, live, size}: SimilarityReport,
  side: number
): Promise<string> {
  const figures: Markup[] = []
  for (const [i, {id, photo, rows, columns, features}] of pictures.entries()) {
    const left = dataUri(await encodeImage(photo.data, {...photo, format: 'jpeg'}), 'image/jpeg')
    const heat = heatMap(all[i]!, rows, columns, low, 1)
    const still = live ? undefined : dataUri(await encodeImage(heat.data, heat), 'image/png')
    const percent = (share: number): string => `${(100 * share).toFixed(3)}%`
    figures.push(
      html`<figure id="p${i}">
        <div class="layers">
          <img src="${left}" alt="${id}" />${
            live
              ? html`<canvas aria-label="Similarity in ${id}"></canvas>`
              : html`<img class="pixels heat" src="${still!}" alt="Similarity in ${id}" />`
          }<span
            class="mark"
            ${i === 0 ? '' : new Markup('hidden')}
            style="left:${percent(patch[0] / columns)};top:${percent(patch[1] / rows)};width:${percent(1 / columns)};height:${percent(1 / rows)}"
          ></span>
        </div>
        <figcaption>${id} <span class="highest">highest cosine ${best[i]!.cosine.toFixed(3)}</span></figcaption>
        ${
          live &&
          html`<script type="application/octet-stream" id="f${i}">
            ${base64(quantize(features))}
          </script>`
        }
      </figure> `
    )
  }
  const first = pictures[0]!
  const info = {
    stops: colormapStops('heat'),
    width: first.features.length / (first.rows * first.columns),
    patch: patch[1] * first.columns + patch[0],
    pictures: pictures.map(({rows, columns}) => ({rows, columns}))
  }
  return page({
    title: 'Similar patches',
    style: `:root { --heat: 0.65; } .layers { position: relative; ${live ? 'cursor: crosshair;' : ''} } .layers img { width: 100%; } .layers canvas, .layers .heat { position: absolute; inset: 0; width: 100%; height: 100%; opacity: var(--heat); image-rendering: pixelated; }
.mark { position: absolute; outline: 2px solid #fff; box-shadow: 0 0 0 4px #000; } .mark[hidden] { display: none; }`,
    body: html`<h1>Similar patches</h1>
      <p>
        The cosine between the features of one patch (framed) and those of all patches of all images, on one scale: dark ${low.toFixed(2)},
        bright 1. Images have a short side of ${size} pixels, patches of ${side}.
        ${live && 'Click on a patch of any image to ask for that one.'}
      </p>
      ${
        live &&
        html`<p>
          <label>Heat <input id="opacity" type="range" min="0" max="1" step="0.05" value="0.65" /></label>
        </p>`
      }
      <div class="grid">${figures}</div>
      ${
        live &&
        html`<script type="application/json" id="info">
          ${new Markup(JSON.stringify(info))}
        </script>`
      }`,
    ...(live ? {script} : {})
  })
}

const base64 = (bytes: Int8Array): Markup => new Markup(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64'))
