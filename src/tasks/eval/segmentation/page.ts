/**
 * The page of a segmentation: scores, classes with their colours, and the best, typical and worst pictures with truth
 * and prediction over them.
 */
import {counted} from '../../../config/counted.js'
import {fitSide} from '../../../render/canvas.js'
import {encodeImage} from '../../../data/image/encode.js'
import {overlay} from '../../../render/overlay.js'
import type {Raster} from '../../../data/image/decode.js'
import {evalPage, type EvalPage} from '../../../render/eval-page.js'
import {baseName, dataUri, html, type Markup} from '../../../render/html.js'
import {pageTables, percent} from '../shared/tables.js'
import {segSummary, type SegExample, type SegReport} from './report.js'

/** A square of a class's colour. */
const swatch = (palette: Uint8Array, k: number): Markup =>
  html`<i
    style="display:inline-block;width:0.9em;height:0.9em;margin-right:0.4em;vertical-align:-0.1em;background:rgb(${[...palette.subarray(3 * k, 3 * k + 3)].join(',')})"
  ></i>`

/** Class names with their colours, in a line. */
export const legend = (names: readonly string[], palette: Uint8Array): Markup =>
  html`<p style="max-width:none">
    ${names.map((name, k) => html`<span style="margin-right:1.2em;white-space:nowrap">${swatch(palette, k)}${name}</span> `)}
  </p>`

const MAX_SIDE = 420

async function picture(raster: Raster, name: string): Promise<Markup> {
  const shown = Math.max(raster.width, raster.height) > MAX_SIDE ? fitSide(raster, MAX_SIDE) : raster
  return html`<img
    src="${dataUri(await encodeImage(shown.data, {...shown, format: 'jpeg', quality: 88}), 'image/jpeg')}"
    alt="${name}"
    style="width:100%"
  />`
}

/** An image, and named class maps over it, side by side with a caption. */
export async function overlayFigure(
  photo: Raster,
  maps: Readonly<Record<string, Uint16Array>>,
  palette: Uint8Array,
  caption: Markup
): Promise<Markup> {
  const shown = [
    ['image', photo] as const,
    ...Object.entries(maps).map(([name, labels]) => [name, overlay(photo, labels, palette)] as const)
  ]
  const cells = shown.map(async ([name, raster]) => html`<div>${await picture(raster, name)}<span class="quiet">${name}</span></div>`)
  return html`<figure>
    <div style="display:grid;grid-template-columns:repeat(${shown.length},minmax(0,1fr));gap:4px;font-size:0.75rem">
      ${await Promise.all(cells)}
    </div>
    <figcaption>${caption}</figcaption>
  </figure>`
}

const TITLES = {best: 'Best', typical: 'Typical', worst: 'Worst'} as const

async function section(kind: SegExample['kind'], examples: readonly SegExample[], palette: Uint8Array): Promise<Markup | false> {
  const shown = examples.filter(one => one.kind === kind)
  if (shown.length === 0) return false
  const figures = await Promise.all(
    shown.map(({id, photo, truth, labels, miou}) =>
      overlayFigure(photo, {mask: truth, prediction: labels}, palette, html`${baseName(id)}: mIoU ${percent(miou)} %`)
    )
  )
  return html`<h3>${TITLES[kind]}</h3>
    <div style="display:grid;gap:0.8rem">${figures}</div>`
}

/** Tables with the colour of each class before its name. */
const colored = (tables: NonNullable<EvalPage['tables']>, palette: Uint8Array): NonNullable<EvalPage['tables']> =>
  tables.map(table =>
    table.rows[0]![0] === 'class'
      ? {
          ...table,
          rows: table.rows.map(([name, ...rest], i) => (i === 0 ? [name, ...rest] : [html`${swatch(palette, i - 1)}${name}`, ...rest]))
        }
      : table
  )

/** The page as text. */
export async function segPage(report: SegReport, examples: readonly SegExample[], palette: Uint8Array): Promise<string> {
  const {classes, train, val, test, kind, model} = report
  const names = classes.map(({name}) => name)
  const scored = `${counted(val, 'image')}${test > 0 ? ` and, apart, on ${counted(test, 'image')}` : ''}`
  const sections = [
    await section('best', examples, palette),
    await section('typical', examples, palette),
    await section('worst', examples, palette)
  ]
  return evalPage({
    title: `Segmentation by a linear head on ${model}`,
    lead: [
      `${train > 0 ? `Trained on ${counted(train, 'image')}, scored` : 'Scored'} on ${scored}; ${counted(classes.length, 'class', 'classes')}; ${kind === 'ms' ? 'multi-scale' : 'single-scale'} protocol. IoU is counted over all pixels of a set; intervals are 95 % bootstrap intervals over images.`
    ],
    tables: colored(pageTables(segSummary(report).tables), palette),
    more:
      examples.length > 0 &&
      html`<h2>Images of val, by mIoU</h2>
        <p class="quiet">Image, mask, prediction. Pixels that do not count are dark in the mask.</p>
        ${legend(names, palette)} ${sections}`
  })
}
