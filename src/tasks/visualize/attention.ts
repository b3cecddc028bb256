/**
 * Pictures of attention: which patches the class token (and, where there are some, the registers) of a block attends
 * to, as the mean of all heads and for each head.
 */
import {basename} from 'node:path'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {fitWithin, magnified} from '../../render/canvas.js'
import type {Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {heatMap, heatOver} from '../../render/heatmap.js'
import {drawSheet, type SheetBlock} from '../../render/sheet.js'
import {baseName, dataUri, html, page, rampBar, type Content, type Markup} from '../../render/html.js'
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
    const shown = magnified(photo, 200)
    return {
      id,
      photo: shown,
      rows: looks.map(({who, maps}) => ({
        who,
        // Every map has its own scale: even attention shows its differences, and single patches that take nearly all
        // do not leave the rest black.
        maps: maps.map(map => {
          const [low, high] = scaleOf(map)
          const picture = heatOver(shown, heatMap(map, rows, columns, low, high), {smooth: options.smooth})
          return {picture, low: percentOf(low), high: percentOf(high)}
        })
      }))
    }
  })
  return {content: options.format === 'png' ? await stripsPng(strips, report) : await stripsHtml(strips, report), report}
}

/** A share in per cent with two digits; very small ones as `< 0.001 %`. */
export function percentOf(share: number): string {
  const figure = 100 * share
  return figure > 0 && figure < 0.001 ? '< 0.001 %' : `${Number(figure.toPrecision(2))} %`
}

/** The values that 5 and 99 of a hundred patches do not exceed: what lies between differs in colour. */
function scaleOf(values: Float32Array): [low: number, high: number] {
  const sorted = Float32Array.from(values).sort()
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
  return [at(0.05), at(0.99)]
}

type Strip = {
  readonly id: string
  readonly photo: Raster
  /** A row for each that looks; `low` and `high` are the shares of attention at both ends of the colours. */
  readonly rows: readonly {
    readonly who: string
    readonly maps: readonly {readonly picture: Raster; readonly low: string; readonly high: string}[]
  }[]
}

const mapName = (p: number): string => (p === 0 ? 'mean of heads' : `head ${p - 1}`)

/** For each image the photo, then a row of maps for each that looks. */
function stripsPng(strips: readonly Strip[], {block, registers}: AttentionReport): Promise<Uint8Array> {
  const blocks = strips.map(({id, photo, rows}): SheetBlock => ({
    title: basename(id),
    rows: rows.map(({who, maps}, r) => [
      r === 0 ? {picture: fitWithin(photo, 260), caption: 'image'} : undefined,
      ...maps.map(({picture, low, high}, p) => ({
        picture: fitWithin(picture, 260),
        caption: rows.length > 1 ? `${who}, ${mapName(p)}` : mapName(p),
        bar: {ramp: 'heat' as const, low, high}
      }))
    ])
  }))
  const from = registers > 0 && strips[0]!.rows.length > 1 ? 'the class token and the registers' : 'the class token'
  const sheet = drawSheet(blocks, {
    notes: [`Attention of ${from} in block ${block}: share that a patch receives, between the 5th and the 99th percentile.`]
  })
  return encodeImage(sheet.data, sheet)
}

const figure = async (picture: Raster, alt: string, caption: Content): Promise<Markup> =>
  html`<figure>
    <img src="${dataUri(await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 88}), 'image/jpeg')}" alt="${alt}" />
    <figcaption>${caption}</figcaption>
  </figure>`

async function stripsHtml(strips: readonly Strip[], {block, heads, size, onPatches}: AttentionReport): Promise<string> {
  const sections: Markup[] = []
  for (const [i, {id, photo, rows}] of strips.entries()) {
    const lines: Markup[] = []
    for (const [r, {who, maps}] of rows.entries()) {
      const cells = await Promise.all(
        maps.map(({picture, low, high}, p) => {
          const name = `${who}, ${mapName(p)}`
          return figure(picture, `Attention over ${id}: ${name}`, html`${name}<br />${rampBar('heat', low, high)}`)
        })
      )
      lines.push(html`<div class="strip">${r === 0 && (await figure(photo, id, 'image'))}${cells}</div>`)
    }
    sections.push(
      html`<h2>${baseName(id)}</h2>
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
        Attention in block ${block}, in images with a short side of ${size} pixels: the mean of its ${counted(heads, 'head')}, and each
        head. Every map has its own colour scale, from the 5th to the 99th percentile of the shares of attention that its patches receive.
      </p>
      ${sections}`
  })
}
