/**
 * Two images side by side, and lines between the patches that are each other's nearest by the cosine of their
 * features; or the same as rows.
 */
import {basename} from 'node:path'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {mutualNearest} from '../../curate/mutual.js'
import {decodeRgb, type Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {resample} from '../../data/image/resample.js'
import {blankCanvas, paste} from '../../render/canvas.js'
import {dataUri, html, page} from '../../render/html.js'
import {drawDot, drawLine, hueColor} from '../../render/lines.js'
import {drawSheet} from '../../render/sheet.js'
import {patchFeatures, type PatchFeatures} from './patch-features.js'
import {runOnImages, type ImageResults, type RunOnImagesOptions} from './run-on-images.js'

export type MatchOptions = Omit<RunOnImagesOptions, 'limit'> & {
  /** The last n blocks, or these, joined; the last one if absent. */
  readonly layers?: number | readonly number[]
  /** Matches at most, the most similar ones; all if absent. */
  readonly limit?: number
  /** The least cosine of a match. */
  readonly minSimilarity: number
  readonly format: 'png' | 'html' | 'jsonl'
}

/** A pair of patches: their centres in pixels of the files, and the cosine of their features. */
export type MatchRow = {
  readonly id_a: string
  readonly x_a: number
  readonly y_a: number
  readonly id_b: string
  readonly x_b: number
  readonly y_b: number
  readonly similarity: number
}

export type MatchReport = {
  readonly images: readonly [a: string, b: string]
  /** Pairs of patches that are each other's nearest. */
  readonly mutual: number
  /** Those that are shown or written. */
  readonly matches: number
  readonly size: number
  readonly fingerprint: string
}

/** A match by shares of the sides of its images, 0 to 1. */
type Match = {readonly from: readonly [number, number]; readonly to: readonly [number, number]; readonly similarity: number}

/** Height of the images in a picture, in pixels, and the space between them. */
const [HEIGHT, GAP] = [400, 24]

/**
 * Matches the patches of two images. Throws a `UserError` as `runOnImages`, and where other than two images were named
 * (exit 2) or one could not be read (exit 3).
 */
export async function visualizeMatch({
  limit = Infinity,
  minSimilarity,
  ...options
}: MatchOptions): Promise<{content: Uint8Array | string; report: MatchReport}> {
  const seen = await runOnImages({...options, limit: 2}, patchFeatures(options.layers))
  const [a, b] = twoOf(seen)
  const D = a.features.length / (a.rows * a.columns)
  const mutual = mutualNearest(a.features, b.features, D)
  const place = ({rows, columns}: PatchFeatures, n: number) =>
    [((n % columns) + 0.5) / columns, (Math.floor(n / columns) + 0.5) / rows] as const
  const matches = mutual
    .filter(({similarity}) => similarity >= minSimilarity)
    .slice(0, limit)
    .map((pair): Match => ({from: place(a, pair.a), to: place(b, pair.b), similarity: pair.similarity}))
  const {size, fingerprint} = seen
  const report: MatchReport = {images: [a.id, b.id], mutual: mutual.length, matches: matches.length, size, fingerprint}
  if (options.format === 'jsonl') return {content: await rowsOf([a, b], matches), report}
  const picture = drawMatches(a.photo, b.photo, matches)
  const words = `${counted(matches.length, 'pair')} of patches, each the nearest of the other by cosine similarity`
  if (options.format === 'html') return {content: await matchPage(picture, report, words), report}
  const sheet = drawSheet([
    {
      title: `${basename(a.id)} and ${basename(b.id)}`,
      rows: [[{picture, caption: `${counted(matches.length, 'pair')} of mutual nearest patches`}]]
    }
  ])
  return {content: await encodeImage(sheet.data, sheet), report}
}

type Seen = ImageResults<PatchFeatures>['pictures'][number]

function twoOf({pictures, leftOut}: ImageResults<PatchFeatures>): readonly [Seen, Seen] {
  const [a, b] = pictures
  if (leftOut > 0)
    throw new UserError(`Two images are matched, but ${pictures.length + leftOut} were named.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Name two files: dinov2 visualize match a.jpg b.jpg …'
    })
  if (a && b) return [a, b]
  throw new UserError('Two images are matched, but only one was named or could be read.', {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Name two files: dinov2 visualize match a.jpg b.jpg …'
  })
}

/** One row a match, in pixels of the files. */
async function rowsOf(images: readonly [Seen, Seen], matches: readonly Match[]): Promise<string> {
  const [a, b] = images
  const sizes = [await decodeRgb(a.ref), await decodeRgb(b.ref)] as const
  const pixel = (share: number, length: number): number => Number((share * length).toFixed(2))
  const rows = matches.map(({from, to, similarity}): MatchRow => ({
    id_a: a.id,
    x_a: pixel(from[0], sizes[0].width),
    y_a: pixel(from[1], sizes[0].height),
    id_b: b.id,
    x_b: pixel(to[0], sizes[1].width),
    y_b: pixel(to[1], sizes[1].height),
    similarity: Number(similarity.toPrecision(6))
  }))
  return rows.map(row => `${JSON.stringify(row)}\n`).join('')
}

/** Both images at one height, and a line for each match, coloured by its place in the first image. */
function drawMatches(a: Raster, b: Raster, matches: readonly Match[]): Raster {
  const [left, right] = [a, b].map(image => {
    const size = {width: Math.max(1, Math.round((image.width * HEIGHT) / image.height)), height: HEIGHT}
    return {...size, data: resample(image, size)}
  }) as [Raster, Raster]
  const canvas = blankCanvas(left.width + GAP + right.width, HEIGHT)
  paste(canvas, left, 0, 0)
  paste(canvas, right, left.width + GAP, 0)
  for (const {from, to} of matches.toReversed()) {
    const color = hueColor((from[0] + from[1] / 3) * 0.8)
    const start = [from[0] * left.width, from[1] * HEIGHT] as const
    const end = [left.width + GAP + to[0] * right.width, to[1] * HEIGHT] as const
    drawLine(canvas, start, end, 2, color)
    for (const point of [start, end]) {
      drawDot(canvas, point, 5, [0, 0, 0])
      drawDot(canvas, point, 3.5, color)
    }
  }
  return canvas
}

async function matchPage(picture: Raster, {images: [a, b], size, mutual}: MatchReport, words: string): Promise<string> {
  const image = dataUri(await encodeImage(picture.data, picture), 'image/png')
  return page({
    title: 'Matching patches',
    style: 'figure { margin: 0; } img { width: 100%; }',
    body: html`<h1>Matching patches</h1>
      <p>
        ${words}; ${counted(mutual, 'pair')} were found. Images have a short side of ${size} pixels. A line has the colour of its place in
        the first image.
      </p>
      <figure>
        <img src="${image}" alt="${words}: ${a} and ${b}" />
        <figcaption>${a} (left) and ${b} (right)</figcaption>
      </figure>`
  })
}
