/**
 * The threshold for near-duplicates that fits the features in use, from copies made of some of the pool's own images.
 */
import {decodeRgb, loadPixels, RefusedImage, type Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {detailOf, detailPositions, sameDetail} from '../../data/stats/detail.js'
import {perceptual} from '../../data/stats/image-stats.js'
import {resample} from '../../data/image/resample.js'
import {UserError} from '../../config/errors.js'
import {drawRows} from '../../curate/kmeans-init.js'
import {nearestRows} from '../../curate/neighbours.js'
import {thresholdFor, type Calibration} from '../../curate/threshold.js'
import {rng} from '../../tensor/random.js'
import {comparable} from './feature-meta.js'
import type {FeatureMaker, PoolFeatures} from './features.js'
import {arithmeticFor, plural, roundedScore, vectorsOf, type Context, type StageEvent} from './stage.js'

export type CalibrateOptions = {
  /** Share of pairs above the threshold that are to be copies. */
  readonly precision: number
  /** Images that copies are made of. */
  readonly sample: number
}

export type CalibrationReport = Calibration & {
  readonly sample: number
  /** Pairs of the pool that are copies by their pixels. */
  readonly setAside: number
  readonly summary: readonly string[]
}

const jpeg = async ({data, width, height}: Raster, quality: number): Promise<Raster> =>
  decodeRgb({id: 'copy', path: 'copy', fields: {}, bytes: await encodeImage(data, {width, height, format: 'jpeg', quality})})

const sized = (image: Raster, factor: number): Raster => {
  const size = {width: Math.max(1, Math.round(image.width * factor)), height: Math.max(1, Math.round(image.height * factor))}
  return {...size, data: resample(image, size)}
}

const middle = (image: Raster, share: number): Raster => {
  const [width, height] = [Math.max(1, Math.round(image.width * share)), Math.max(1, Math.round(image.height * share))]
  const view = {x: (image.width - width) >> 1, y: (image.height - height) >> 1, width, height}
  return {width, height, data: resample(image, {width, height}, {view})}
}

/** Crops: the share of each side that they keep. */
const crops: Readonly<Record<string, number>> = {'middle 90 %': 0.9, 'middle 70 %': 0.7}

/** Below this, common detail of two images may be chance. */
const leastDetail = 0.35

/** Neighbours in the pool of each drawn image that are looked at. */
const neighbours = 64

/**
 * The kinds of copies: those that re-encoding and resizing make, by which the threshold is chosen, and crops, which
 * are only reported.
 */
const copies: Readonly<Record<string, {readonly make: (image: Raster) => Promise<Raster> | Raster; readonly cut: boolean}>> = {
  'JPEG quality 75': {make: image => jpeg(image, 75), cut: false},
  'JPEG quality 30': {make: image => jpeg(image, 30), cut: false},
  'half the size': {make: image => sized(image, 0.5), cut: false},
  'half the size and back': {make: image => sized(sized(image, 0.5), 2), cut: false},
  'two thirds, JPEG 60': {make: image => jpeg(sized(image, 2 / 3), 60), cut: false},
  ...Object.fromEntries(Object.entries(crops).map(([name, share]) => [name, {make: (image: Raster) => middle(image, share), cut: true}]))
}

/** Vectors of images in memory, made as the pool's were. */
async function describe(
  images: readonly Raster[],
  {meta}: PoolFeatures,
  kind: 'perceptual' | 'model',
  maker: FeatureMaker
): Promise<Float32Array> {
  const out = new Float32Array(images.length * meta.dim)
  if (kind === 'perceptual') {
    for (const [i, image] of images.entries()) out.set(perceptual(image), i * meta.dim)
    return out
  }
  const embedder = await maker.embedder()
  for (const [i, image] of images.entries()) {
    const bytes = await encodeImage(image.data, image) // without loss, to go the way of all images
    const pixels = await loadPixels({id: 'copy', path: 'copy', fields: {}, bytes}, embedder.transform)
    out.set(await embedder.vectors({pixels: pixels.data, height: pixels.height, width: pixels.width}, 1), i * meta.dim)
  }
  return comparable(out, meta)
}

/** The detail of an image, and that of the middle parts of it. */
type Pixels = {readonly detail: Float32Array; readonly crops: readonly Float32Array[]}

const pixelsOf = (image: Raster): Pixels => ({
  detail: detailOf(image),
  crops: Object.values(crops).map(share => detailOf(middle(image, share)))
})

/** Inner product of row `i` of `a` and row `j` of `b`, both of `dim` numbers a row. */
function dot(a: Float32Array, i: number, b: Float32Array, j: number, dim: number): number {
  let sum = 0
  for (let d = 0; d < dim; d++) sum += a[i * dim + d]! * b[j * dim + d]!
  return sum
}

/** Whether the pixels of two images say that one is a copy of the other: as it is, mirrored, turned, or its middle. */
function samePixels(a: Pixels, b: Pixels, limit: number): boolean {
  const same = (x: Float32Array, y: Float32Array): boolean => dot(x, 0, y, 0, x.length) >= limit
  return (
    same(a.detail, b.detail) ||
    a.crops.some(crop => same(crop, b.detail)) ||
    b.crops.some(crop => same(crop, a.detail)) ||
    detailPositions(a.detail).some(position => same(position, b.detail))
  )
}

type Pair = {readonly score: number; readonly a: number; readonly b: number}

/**
 * Goes through pairs of rows, most alike first, and sets those with the same pixels aside: they are copies that the
 * pool holds already. Pairs of different images whose images are copies of those of an earlier pair count once.
 * Thereby the share of copies in the pool has no influence. After `enough` pairs of different images the wanted
 * precision is out of reach; the pairs that follow are counted without a look at their pixels.
 */
async function* differentPairs(
  pairs: readonly Pair[],
  pixels: (row: number) => Promise<Pixels | undefined>,
  {limit, enough}: {readonly limit: number; readonly enough: number}
): AsyncGenerator<StageEvent, {readonly others: number[]; readonly setAside: number}> {
  const others: number[] = []
  const seen: {readonly a: Pixels; readonly b: Pixels}[] = []
  let setAside = 0
  for (const [n, {score, a, b}] of pairs.entries()) {
    if (seen.length >= enough) {
      others.push(score)
      continue
    }
    if (n % 16 === 0) yield {kind: 'work', label: 'comparing pixels', done: n, total: pairs.length}
    const [first, second] = [await pixels(a), await pixels(b)]
    if (!first || !second) continue
    if (samePixels(first, second, limit)) {
      setAside++
      continue
    }
    const repeated = seen.some(
      pair =>
        (samePixels(first, pair.a, limit) && samePixels(second, pair.b, limit)) ||
        (samePixels(first, pair.b, limit) && samePixels(second, pair.a, limit))
    )
    if (repeated) continue
    seen.push({a: first, b: second})
    others.push(score)
  }
  return {others, setAside}
}

const quantile = (values: readonly number[], share: number): number | undefined =>
  values.slice().sort((a, b) => a - b)[Math.floor(values.length * share)]

/**
 * Makes copies of drawn images and finds the lowest threshold at which the wanted share of pairs are copies, supposing
 * that every image of the pool has one copy. Copies that the pool holds already are found by their pixels, whatever
 * the features say, and are not counted as pairs of different images.
 *
 * Throws `UserError` (exit 2) where the pool holds no images.
 */
export async function* calibrate(context: Context, {precision, sample}: CalibrateOptions): AsyncGenerator<StageEvent, CalibrationReport> {
  const {pool, rows, maker, seed, signal} = context
  const {features, source} = vectorsOf(context)
  if (features.kind === 'given')
    throw new UserError(`${pool.name} holds vectors, but copies are made of images.`, {
      exit: 2,
      code: 'NO_IMAGES',
      hint: 'Name the images, with --model where a model made the vectors.'
    })
  const {kind} = features
  const chosen = drawRows(rows.length, sample, rng(seed, 'calibrate'))
  const own = source.gather(chosen)
  const found: Record<string, number[]> = Object.fromEntries(Object.keys(copies).map(name => [name, []]))
  const details: number[] = []
  const known = new Map<number, Pixels | undefined>()
  const open = async (row: number): Promise<Raster | undefined> => {
    try {
      return await decodeRgb(pool.ref(rows[row]!))
    } catch (error) {
      if (error instanceof RefusedImage) return undefined
      throw error
    }
  }
  for (const [n, i] of chosen.entries()) {
    signal?.throwIfAborted()
    yield {kind: 'work', label: 'calibrating on copies', done: n, total: chosen.length}
    const image = await open(i)
    known.set(i, image && pixelsOf(image))
    if (!image) continue
    const {detail} = known.get(i)!
    const made: Raster[] = []
    for (const {make} of Object.values(copies)) made.push(await make(image))
    const vectors = await describe(made, features, kind, maker)
    for (const [c, [name, {cut}]] of Object.entries(copies).entries()) {
      found[name]!.push(dot(own, n, vectors, c, source.dim))
      if (!cut) details.push(dot(detail, 0, detailOf(made[c]!), 0, detail.length))
    }
  }
  const whole = Object.fromEntries(Object.entries(found).filter(([name]) => !copies[name]!.cut))
  // Detail of small or noisy images suffers from JPEG: what their own copies keep of it is the measure. Two copies
  // that each keep a share q of it keep about q² of one another's; different images stay far below (drawn pictures,
  // aerial tiles and scenes: at most 0.26 among 30,000 pairs).
  const kept = quantile(details, 0.05) ?? 1
  const limit = Math.max(leastDetail, Math.min(sameDetail, kept * kept))
  const arithmetic = await arithmeticFor(chosen.length * rows.length * source.dim, maker)
  const near = nearestRows(source, own, Math.min(rows.length, neighbours + 1), {arithmetic})
  const pairs = near
    .flatMap(({rows: others, scores}, n) => Array.from(others, (b, k): Pair => ({a: chosen[n]!, b, score: scores[k]!})))
    .filter(({a, b}) => b !== a)
    .sort((x, y) => y.score - x.score || x.a - y.a || x.b - y.b)
  const images = [...known.values()].filter(pixels => pixels !== undefined).length
  const weight = Object.keys(whole).length
  const enough = Math.floor((images * (1 - precision)) / precision) + 1
  const pixels = async (row: number): Promise<Pixels | undefined> => {
    signal?.throwIfAborted()
    if (!known.has(row)) {
      const image = await open(row)
      known.set(row, image && pixelsOf(image))
    }
    return known.get(row)
  }
  const {others, setAside} = yield* differentPairs(pairs, pixels, {limit, enough})
  const result = thresholdFor(whole, others, {precision, weight})
  const byKind = Object.fromEntries(
    Object.entries(found).map(([name, scores]) => [
      name,
      scores.length === 0 ? 0 : roundedScore(scores.filter(score => score >= result.threshold).length / scores.length)
    ])
  )
  const summary = sentences(result, {precision, byKind, images, setAside})
  return {...result, byKind, sample: images, setAside, summary}
}

/** A calibration in sentences. */
function sentences(
  {threshold, reached, recall}: Calibration,
  of: {readonly precision: number; readonly byKind: Readonly<Record<string, number>>; readonly images: number; readonly setAside: number}
): string[] {
  const share = `${(100 * recall).toFixed(1)} %`
  return [
    reached
      ? `threshold ${threshold.toFixed(4)} for a precision of ${of.precision}, from copies of ${plural(of.images, 'image')}: finds ${share} of them; that precision is for a pool in which each image has one copy, and lower where fewer have one`
      : `no threshold reaches a precision of ${of.precision} with these features; ${threshold.toFixed(4)} lies above every pair of different images and finds ${share} of the copies`,
    `found by kind: ${Object.entries(of.byKind)
      .map(([name, part]) => `${name} ${(100 * part).toFixed(0)} %`)
      .join(', ')}`,
    ...(of.setAside > 0
      ? [`${plural(of.setAside, 'pair')} of copies in the pool set aside, found by ${of.setAside === 1 ? 'its' : 'their'} pixels`]
      : [])
  ]
}
