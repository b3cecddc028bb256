/** Pictures of what a model sees: patch features as colours. */
import {basename} from 'node:path'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {enlarge, fitWithin} from '../../render/canvas.js'
import type {Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {resample} from '../../data/image/resample.js'
import {drawSheet} from '../../render/sheet.js'
import {baseName, dataUri, html, page} from '../../render/html.js'
import {colourPatches, foreground, type PatchGrid} from '../../model/foreground.js'
import {forward} from '../../model/vit.js'
import {dispose} from '../../tensor/tf.js'
import {runOnImages, type RunOnImagesOptions} from './run-on-images.js'

export type PcaOptions = RunOnImagesOptions & {
  /** Colours only what stands in front. */
  readonly foreground: boolean
  /** Smooth instead of square patches. */
  readonly smooth: boolean
  readonly format: 'png' | 'html'
}

/** Below this share of patches in front, a picture would be mostly black: all patches are coloured instead. */
const MIN_FOREGROUND = 0.15

/** Below this share of patches in front, one image is black; where half of them are, all patches are coloured. */
const BLACK_IMAGE = 0.05

/** Why the pictures would be mostly black, as a clause; undefined where they would not be. */
export function blackReason(front: readonly ArrayLike<number>[]): string | undefined {
  const counts = front.map(mask => Array.from(mask).reduce((sum, bit) => sum + bit, 0))
  const patches = front.reduce((sum, {length}) => sum + length, 0)
  const inFront = counts.reduce((sum, count) => sum + count, 0)
  if (inFront < MIN_FOREGROUND * patches) return `only ${((100 * inFront) / patches).toFixed(0)} % of the patches stand in front`
  const black = counts.filter((count, i) => count < BLACK_IMAGE * front[i]!.length).length
  return 2 * black < front.length || black === 0
    ? undefined
    : `almost nothing stands in front in ${black} of ${counted(front.length, 'image')}`
}

/** Three components need four patches. */
const MIN_PATCHES = 4

export type PcaReport = {
  readonly images: number
  /** Images that were named but not shown. */
  readonly leftOut: number
  /** Short side in pixels. */
  readonly size: number
  readonly patches: number
  readonly foreground: number | undefined
  readonly explained: readonly number[]
  /** What was drawn otherwise than asked for, in sentences. */
  readonly notes: readonly string[]
  readonly fingerprint: string
}

/**
 * Runs images through a backbone and draws their patch features as colours, on one scale for all of them, beside the
 * images.
 *
 * Throws a `UserError`: no images (exit 3), a missing engine (exit 5), a model that is not one.
 */
export async function visualizePca(options: PcaOptions): Promise<{content: Uint8Array | string; report: PcaReport}> {
  const {
    pictures: seen,
    leftOut,
    size,
    config,
    fingerprint
  } = await runOnImages(options, ({config, params, precision}) => async (input, photo): Promise<PatchGrid> => {
    const {cls, registers, patches, prenorm} = forward(params, input, config, {stream: precision})
    const features = await patches.data<'float32'>() // [N, C]
    dispose([cls, registers, patches, prenorm])
    return {rows: photo.height / config.patch, columns: photo.width / config.patch, features}
  })
  const {patch, width} = config
  const patches = seen.reduce((sum, {rows, columns}) => sum + rows * columns, 0)
  if (patches < MIN_PATCHES)
    throw new UserError(
      `The images have ${counted(patches, 'patch', 'patches')} at --size ${size}; ${MIN_PATCHES} are the fewest to colour.`,
      {
        exit: 2,
        code: 'TOO_FEW',
        hint: `Give more images, or a larger --size (one patch is ${patch} pixels).`
      }
    )
  const masks = options.foreground ? foreground(seen, width) : []
  const inFront = masks.reduce((sum, mask) => sum + mask.reduce((n, bit) => n + bit, 0), 0)
  const few = inFront < MIN_PATCHES ? `only ${inFront} of ${patches} patches stand in front` : undefined
  const black = options.foreground ? (blackReason(masks) ?? few) : undefined
  const colouring = colourPatches(seen, width, {separate: options.foreground && !black})
  const report: PcaReport = {
    images: seen.length,
    leftOut,
    size,
    patches,
    foreground: options.foreground && !black ? inFront / patches : undefined,
    notes: black ? [`${black}, so all patches are coloured, as with --no-foreground`] : [],
    explained: colouring.explained.map(share => Number(share.toFixed(4))),
    fingerprint
  }
  const pairs = seen.map(({id, photo, rows, columns}, i): Pair => {
    const grid: Raster = {width: columns, height: rows, data: colouring.colours[i]!}
    // small pictures are shown larger: whole multiples, so that patches stay square
    const scale = Math.max(1, Math.round(280 / Math.max(photo.width, photo.height)))
    const shown = {width: photo.width * scale, height: photo.height * scale}
    const colours = options.smooth ? {...shown, data: resample(grid, shown)} : enlarge(grid, patch * scale)
    return {id, photo: {...shown, data: resample(photo, shown)}, colours}
  })
  return {content: options.format === 'png' ? await pairsPng(pairs, report) : await pairsHtml(pairs, report), report}
}

type Pair = {readonly id: string; readonly photo: Raster; readonly colours: Raster}

/** Image and colours of each beside each other, in one to three columns. */
function pairsPng(pairs: readonly Pair[], {foreground, explained}: PcaReport): Promise<Uint8Array> {
  const columns = pairs.length <= 3 ? 1 : pairs.length <= 8 ? 2 : 3
  const [red, green, blue] = explained.map(share => `${(100 * share).toFixed(0)} %`)
  const sheet = drawSheet(
    pairs.map(({id, photo, colours}) => ({
      title: basename(id),
      rows: [
        [
          {picture: fitWithin(photo, 448), caption: 'image'},
          {picture: fitWithin(colours, 448), caption: 'patch features'}
        ]
      ]
    })),
    {
      columns,
      notes: [
        `Principal components of ${foreground === undefined ? 'all patches' : 'the patches in front'} as colours: red ${red}, green ${green}, blue ${blue} of the variance.${foreground === undefined ? '' : ' Black: behind.'}`
      ]
    }
  )
  return encodeImage(sheet.data, sheet)
}

async function pairsHtml(pairs: readonly Pair[], {size, patches, foreground, explained, notes}: PcaReport): Promise<string> {
  const figures = []
  for (const {id, photo, colours} of pairs) {
    const [left, right] = [await encodeImage(photo.data, {...photo, format: 'jpeg'}), await encodeImage(colours.data, colours)]
    figures.push(
      html`<figure>
        <div class="pair">
          <img src="${dataUri(left, 'image/jpeg')}" alt="${id}" /><img src="${dataUri(right, 'image/png')}" alt="Patch features of ${id}" />
        </div>
        <figcaption>${baseName(id)}</figcaption>
      </figure> `
    )
  }
  const percent = (share: number): string => `${(100 * share).toFixed(0)} %`
  const body = html`<h1>Patch features as colours</h1>
    <p>
      Images with a short side of ${size} pixels, ${counted(patches, 'patch', 'patches')} together.
      ${
        foreground === undefined
          ? 'Red, green and blue are the first three principal components of all patches.'
          : `The first principal component of all patches, turned so that it grows towards the middle of the images, parts what stands in front (${percent(foreground)} of the patches, coloured) from what lies behind (black). Red, green and blue are the first three components of the patches in front.`
      }
      ${notes.map(note => `${note[0]!.toUpperCase()}${note.slice(1)}. `)}They show ${explained.map(percent).join(', ')} of the variance. The
      same colour means similar features, in all images.
    </p>
    <div class="grid">${figures}</div>`
  return page({
    title: 'Patch features as colours',
    body,
    style: '.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; } .pair img { width: 100%; }'
  })
}
