/** Segmentations to look at: photo and classes over it, for a few images, as one PNG or page. */
import {basename} from 'node:path'
import {fitWithin} from '../../render/canvas.js'
import {encodeImage} from '../../data/image/encode.js'
import {drawSheet, type SheetBlock} from '../../render/sheet.js'
import type {TextColor} from '../../render/text.js'
import {overlay} from '../../render/overlay.js'
import type {Raster} from '../../data/image/decode.js'
import {baseName, html, page, type Markup} from '../../render/html.js'
import {UserError} from '../../config/errors.js'
import {segmentImages, type SegmentImagesOptions} from '../eval/segmentation/predict.js'
import {legend, overlayFigure} from '../eval/segmentation/page.js'

export type VisualizeSegmentOptions = SegmentImagesOptions & {readonly format: 'png' | 'html'; readonly onImage?: (done: number) => void}

export type VisualizeSegmentReport = {readonly images: number; readonly classes: readonly string[]; readonly confidence: readonly number[]}

/**
 * Segments the first images and draws them. Throws a `UserError` as `segmentImages`, and where no image can be read
 * (exit 3).
 */
export async function visualizeSegment(
  options: VisualizeSegmentOptions
): Promise<{content: Uint8Array | string; report: VisualizeSegmentReport}> {
  const shown: {id: string; photo: Raster; labels: Uint16Array; confidence: number}[] = []
  let names: readonly string[] = []
  let palette = new Uint8Array()
  for await (const event of segmentImages(options)) {
    if (event.kind !== 'image') continue
    const {ref, photo, prediction, head} = event
    names = head.classes.names
    palette = head.classes.palette.slice()
    shown.push({id: ref.id, photo, labels: prediction.labels, confidence: prediction.confidence})
    options.onImage?.(shown.length)
  }
  if (shown.length === 0) throw new UserError('None of the images could be read.', {exit: 3, code: 'NO_INPUT'})
  const report = {images: shown.length, classes: names, confidence: shown.map(({confidence}) => Number(confidence.toFixed(4)))}
  if (options.format === 'html') {
    const figures: Markup[] = []
    for (const {id, photo, labels, confidence} of shown)
      figures.push(
        await overlayFigure(photo, {prediction: labels}, palette, html`${baseName(id)}: mean probability ${confidence.toFixed(2)}`)
      )
    const content = page({
      title: 'Segmentation',
      style: '.grid figure img { width: 100%; }',
      body: html`<h1>Segmentation</h1>
        ${legend(names, palette)}
        <div class="grid">${figures}</div>`
    })
    return {content, report}
  }
  const blocks = shown.map(({id, photo, labels, confidence}): SheetBlock => ({
    title: `${basename(id)}: mean probability ${confidence.toFixed(2)}`,
    rows: [
      [
        {picture: fitWithin(photo, 448), caption: 'image'},
        {picture: fitWithin(overlay(photo, labels, palette), 448), caption: 'prediction'}
      ]
    ]
  }))
  const legendOf = names.map((name, k) => ({name, color: [...palette.subarray(3 * k, 3 * k + 3)] as unknown as TextColor}))
  const sheet = drawSheet(blocks, {columns: blocks.length <= 3 ? 1 : 2, legend: legendOf})
  return {content: await encodeImage(sheet.data, sheet), report}
}
