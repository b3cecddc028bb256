/**
 * The page of a segmentation: scores, classes with their colours, and the best, typical and worst pictures with truth
 * and prediction over them.
 */
import {fitSide} from '../../../render/canvas.js'
import {encodeImage} from '../../../data/image/encode.js'
import {overlay} from '../../../render/overlay.js'
import type {Raster} from '../../../data/image/decode.js'
import {evalPage} from '../../../render/eval-page.js'
import {dataUri, html, type Markup} from '../../../render/html.js'
import type {SegCase, SegReport, SegResult} from './report.js'

const percent = (share: number | null): string => (share === null || Number.isNaN(share) ? '–' : (100 * share).toFixed(1))

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

async function picture(raster: Raster): Promise<Markup> {
  const shown = Math.max(raster.width, raster.height) > MAX_SIDE ? fitSide(raster, MAX_SIDE) : raster
  return html`<img src="${dataUri(await encodeImage(shown.data, {...shown, format: 'jpeg', quality: 88}), 'image/jpeg')}" alt="" />`
}

/** Photo, and class maps over it, side by side with a caption. */
export async function overlayFigure(photo: Raster, maps: readonly Uint16Array[], palette: Uint8Array, caption: string): Promise<Markup> {
  const shown = [photo, ...maps.map(labels => overlay(photo, labels, palette))]
  return html`<figure>
    <div style="display:grid;grid-template-columns:repeat(${shown.length},1fr);gap:4px">${await Promise.all(shown.map(picture))}</div>
    <figcaption>${caption}</figcaption>
  </figure>`
}

const titles = {best: 'Best', typical: 'Typical', worst: 'Worst'} as const

async function section(kind: SegCase['kind'], cases: readonly SegCase[], palette: Uint8Array): Promise<Markup> {
  const figures = await Promise.all(
    cases
      .filter(one => one.kind === kind)
      .map(({id, photo, truth, labels, miou}) => overlayFigure(photo, [truth, labels], palette, `${id}: mIoU ${percent(miou)} %`))
  )
  return html`<h2>${titles[kind]}</h2>
    <div style="display:grid;gap:0.8rem">${figures}</div>`
}

/** The sentence on a gain. */
const sentence = ({over, set, miou, interval: [low, high], verdict}: SegReport['gains'][number]): string => {
  const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
  const names = {majority: 'the commonest class', pixels: 'raw pixels', untrained: 'the untrained model'} as const
  return `On ${set} the model ${verdict} ${names[over]}: ${signed(miou)} (${signed(low)} to ${signed(high)}) points of mIoU.`
}

/** The page as text. */
export async function segPage({report, cases, palette}: SegResult, model: string): Promise<string> {
  const {scores, gains, classes, train, val, test, kind} = report
  const own = scores.filter(({features}) => features === 'model')
  return evalPage({
    title: `Segmentation by a linear head on ${model}`,
    lead: [
      `${train > 0 ? `Trained on ${train} images, scored` : 'Scored'} on ${val}${test > 0 ? ` and, apart, on ${test}` : ''}; ${classes.length} classes; ${kind === 'ms' ? 'multi-scale' : 'single-scale'} protocol. IoU is counted over all pixels of a set; intervals are by drawing images.`,
      ...gains.map(sentence)
    ],
    tables: [
      {
        title: 'Scores',
        rows: [
          ['features', 'set', 'mIoU %', '95 %', 'mean accuracy %', 'pixel accuracy %'],
          ...scores.map(({features, set, miou, interval: [low, high], meanAccuracy, pixelAccuracy}) => [
            features,
            set,
            percent(miou),
            `${percent(low)}–${percent(high)}`,
            percent(meanAccuracy),
            percent(pixelAccuracy)
          ])
        ]
      },
      ...own.map(score => ({
        title: `Classes on ${score.set}`,
        rows: [
          [
            'class',
            'IoU %',
            ...scores.filter(({features, set}) => features !== 'model' && set === score.set).map(({features}) => `${features} IoU %`),
            'accuracy %',
            'pixels'
          ],
          ...score.classes.map(({name, iou, accuracy, pixels}, k) => [
            html`${swatch(palette, k)}${name}`,
            percent(iou),
            ...scores.filter(({features, set}) => features !== 'model' && set === score.set).map(other => percent(other.classes[k]!.iou)),
            percent(accuracy),
            pixels
          ])
        ]
      }))
    ],
    ...(cases.length === 0
      ? {}
      : {
          more: html`<h2>Pictures of val</h2>
            <p class="quiet">Photo, mask, prediction. Pixels that do not count are dark in the mask.</p>
            ${legend(
              classes.map(({name}) => name),
              palette
            )}
            ${[await section('best', cases, palette), await section('typical', cases, palette), await section('worst', cases, palette)]}`
        })
  })
}
