/**
 * Pictures of attention: what the class token (and, where there are some, the registers) of a block looks at, all
 * heads together and each apart.
 */
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {fitSide, paste, blankCanvas} from '../../render/canvas.js'
import type {Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {heatMap, heatOver} from '../../render/heatmap.js'
import {resample} from '../../data/image/resample.js'
import {dataUri, html, page, type Markup} from '../../render/html.js'
import {attentionMaps} from '../../model/attention-maps.js'
import {runOnImages, type RunOnImagesOptions} from './run-on-images.js'

export type AttentionOptions = RunOnImagesOptions & {
  /** Counted from 0; the last one if absent. Below 0 it counts from the end. */
  readonly block?: number
  /** A map of each head beside the mean. */
  readonly heads: boolean
  /** A row for each register. */
  readonly registers: boolean
  readonly smooth: boolean
  readonly format: 'png' | 'html'
}

export type AttentionReport = {
  readonly images: number
  readonly leftOut: number
  readonly size: number
  readonly block: number
  readonly heads: number
  readonly registers: number
  /**
   * Of each image: the share of the class token's attention, mean over heads, that goes to patches (the rest to itself
   * and the registers).
   */
  readonly onPatches: readonly number[]
  readonly fingerprint: string
}

/** One row of pictures: what looks, then the mean over heads, then each head. */
type Looks = {readonly who: string; readonly maps: readonly Float32Array[] /* mean, heads: [N] each */}

/**
 * Runs the images and draws attention over them. Throws a `UserError` as `seePictures`, and for a block that is not
 * there (exit 2).
 */
export async function visualizeAttention(options: AttentionOptions): Promise<{content: Uint8Array | string; report: AttentionReport}> {
  let block = 0
  const {pictures, leftOut, size, config, fingerprint} = await runOnImages(options, ({config, params, precision}) => {
    const asked = options.block ?? config.depth - 1
    block = asked < 0 ? config.depth + asked : asked
    if (block < 0 || block >= config.depth)
      throw new UserError(`There is no block ${asked}: the model has ${config.depth}, from 0 to ${config.depth - 1}.`, {
        exit: 2,
        code: 'USAGE'
      })
    const {heads: H, registers: R} = config
    return async (input, photo) => {
      const tensor = attentionMaps(params, input, config, block, precision) // [1, H, 1 + R, S]
      const data = await tensor.data<'float32'>()
      tensor.dispose()
      const [rows, columns] = [photo.height / config.patch, photo.width / config.patch]
      const [N, S] = [rows * columns, 1 + R + rows * columns]
      const looks = Array.from({length: options.registers ? 1 + R : 1}, (_, row): Looks => {
        const heads = Array.from({length: H}, (_, h) => data.slice((h * (1 + R) + row) * S + 1 + R, (h * (1 + R) + row + 1) * S))
        const mean = new Float32Array(N)
        for (const head of heads) for (let i = 0; i < N; i++) mean[i]! += head[i]! / H
        return {who: row === 0 ? 'class token' : `register ${row}`, maps: [mean, ...(options.heads ? heads : [])]}
      })
      const onPatches = looks[0]!.maps[0]!.reduce((sum, share) => sum + share, 0)
      return {rows, columns, looks, onPatches}
    }
  })
  const report: AttentionReport = {
    images: pictures.length,
    leftOut,
    size,
    block,
    heads: config.heads,
    registers: config.registers,
    onPatches: pictures.map(({onPatches}) => Number(onPatches.toFixed(4))),
    fingerprint
  }
  const strips = pictures.map(({id, photo, rows, columns, looks}): Strip => {
    const scale = Math.max(1, Math.round(200 / Math.max(photo.width, photo.height)))
    const shown: Raster = scale === 1 ? photo : enlargePhoto(photo, scale)
    return {
      id,
      photo: shown,
      rows: looks.map(({who, maps}) => ({
        who,
        // Every map has its own scale: even attention shows its differences, and single patches that take nearly all
        // do not leave the rest black.
        pictures: maps.map(map => heatOver(shown, heatMap(map, rows, columns, ...scaleOf(map)), {smooth: options.smooth}))
      }))
    }
  })
  return {content: options.format === 'png' ? await stripsPng(strips) : await stripsHtml(strips, report), report}
}

/** The values that 5 and 99 of a hundred patches do not exceed: what lies between is told apart by its color. */
function scaleOf(values: Float32Array): [low: number, high: number] {
  const sorted = Float32Array.from(values).sort()
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
  return [at(0.05), at(0.99)]
}

type Strip = {
  readonly id: string
  readonly photo: Raster
  readonly rows: readonly {readonly who: string; readonly pictures: readonly Raster[]}[]
}

const enlargePhoto = (photo: Raster, scale: number): Raster => {
  const size = {width: photo.width * scale, height: photo.height * scale}
  return {...size, data: resample(photo, size)}
}

/** Strips below each other: the photo, then a row for each that looks. */
async function stripsPng(strips: readonly Strip[]): Promise<Uint8Array> {
  const [gap, margin, most] = [4, 14, 260]
  const small = (picture: Raster): Raster => (Math.max(picture.width, picture.height) > most ? fitSide(picture, most) : picture)
  const placed = strips.map(({photo, rows}) => ({photo: small(photo), rows: rows.map(({pictures}) => pictures.map(small))}))
  const widths = placed.map(({photo, rows}) => (photo.width + gap) * (1 + rows[0]!.length) - gap)
  const heights = placed.map(({photo, rows}) => (photo.height + gap) * rows.length - gap)
  const canvas = blankCanvas(
    Math.max(...widths) + 2 * margin,
    heights.reduce((sum, height) => sum + height + margin, margin)
  )
  let y = margin
  for (const [i, {photo, rows}] of placed.entries()) {
    paste(canvas, photo, margin, y)
    for (const [r, pictures] of rows.entries())
      for (const [p, picture] of pictures.entries())
        paste(canvas, picture, margin + (p + 1) * (photo.width + gap), y + r * (photo.height + gap))
    y += heights[i]! + margin
  }
  return encodeImage(canvas.data, canvas)
}

const figure = async (picture: Raster, caption: string): Promise<Markup> =>
  html`<figure>
    <img src="${dataUri(await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 88}), 'image/jpeg')}" alt="${caption}" />
    <figcaption>${caption}</figcaption>
  </figure>`

async function stripsHtml(strips: readonly Strip[], {block, heads, size, onPatches}: AttentionReport): Promise<string> {
  const sections: Markup[] = []
  for (const [i, {id, photo, rows}] of strips.entries()) {
    const lines: Markup[] = []
    for (const [r, {who, pictures}] of rows.entries()) {
      const names = pictures.map((_, p) => `${who}, ${p === 0 ? 'mean of heads' : `head ${p - 1}`}`)
      const cells = await Promise.all(pictures.map((picture, p) => figure(picture, names[p]!)))
      lines.push(html`<div class="strip">${r === 0 && (await figure(photo, id))}${cells}</div>`)
    }
    sections.push(
      html`<h2>${id}</h2>
        <p class="quiet">${(100 * onPatches[i]!).toFixed(0)} % of the class token's attention goes to patches.</p>
        ${lines}`
    )
  }
  return page({
    title: 'Attention',
    style:
      '.strip { display: grid; gap: 6px; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); margin-bottom: 0.6rem; } .strip img { width: 100%; }',
    body: html`<h1>Attention</h1>
      <p>
        Where block ${block} looks from, in images with a short side of ${size} pixels: the mean of its ${counted(heads, 'head')}, and each
        apart. Every map has a scale of its own: dark is the share that one patch in twenty stays below, bright the share that one in a
        hundred exceeds.
      </p>
      ${sections}`
  })
}
