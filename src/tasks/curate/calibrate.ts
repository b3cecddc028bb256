/**
 * The threshold for near-duplicates that fits the features in use, from copies made of some of the pool's own
 * pictures.
 */
import {decodeRgb, loadPixels, RefusedImage, type Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {perceptual} from '../../data/stats/image-stats.js'
import {resample} from '../../data/image/resample.js'
import {UserError} from '../../config/errors.js'
import {drawRows} from '../../curate/kmeans.js'
import {thresholdFor, type Calibration} from '../../curate/threshold.js'
import {rng} from '../../tensor/random.js'
import {comparable, type FeatureMaker, type Features} from './features.js'
import {plural, rounded, vectorsOf, type Context, type StageEvent} from './stage.js'

export type CalibrateOptions = {
  /** Share of pairs above the threshold that are to be copies. */
  readonly precision: number
  /** Pictures that copies are made of. */
  readonly sample: number
}

export type CalibrationReport = Calibration & {readonly sample: number; readonly setAside: number; readonly says: readonly string[]}

const jpeg = async ({data, width, height}: Raster, quality: number): Promise<Raster> =>
  decodeRgb({id: 'copy', path: 'copy', fields: {}, bytes: await encodeImage(data, {width, height, format: 'jpeg', quality})})

const sized = (picture: Raster, factor: number): Raster => {
  const size = {width: Math.max(1, Math.round(picture.width * factor)), height: Math.max(1, Math.round(picture.height * factor))}
  return {...size, data: resample(picture, size)}
}

const middle = (picture: Raster, share: number): Raster => {
  const [width, height] = [Math.max(1, Math.round(picture.width * share)), Math.max(1, Math.round(picture.height * share))]
  const view = {x: (picture.width - width) >> 1, y: (picture.height - height) >> 1, width, height}
  return {width, height, data: resample(picture, {width, height}, {view})}
}

/**
 * The kinds of copies: those that re-encoding and resizing make, by which the threshold is chosen, and cut ones, which
 * are only told.
 */
const copies: Readonly<Record<string, {readonly make: (picture: Raster) => Promise<Raster> | Raster; readonly cut: boolean}>> = {
  'JPEG quality 75': {make: picture => jpeg(picture, 75), cut: false},
  'JPEG quality 30': {make: picture => jpeg(picture, 30), cut: false},
  'half the size': {make: picture => sized(picture, 0.5), cut: false},
  'half the size and back': {make: picture => sized(sized(picture, 0.5), 2), cut: false},
  'two thirds, JPEG 60': {make: picture => jpeg(sized(picture, 2 / 3), 60), cut: false},
  'middle 90 %': {make: picture => middle(picture, 0.9), cut: true},
  'middle 70 %': {make: picture => middle(picture, 0.7), cut: true}
}

/** Vectors of pictures in memory, made as the pool's were. */
async function describe(
  pictures: readonly Raster[],
  {meta}: Features,
  kind: 'perceptual' | 'model',
  maker: FeatureMaker
): Promise<Float32Array> {
  const out = new Float32Array(pictures.length * meta.dim)
  if (kind === 'perceptual') {
    for (const [i, picture] of pictures.entries()) out.set(perceptual(picture), i * meta.dim)
    return out
  }
  const embedder = await maker.embedder()
  for (const [i, picture] of pictures.entries()) {
    const bytes = await encodeImage(picture.data, picture) // without loss, to go the way of all images
    const pixels = await loadPixels({id: 'copy', path: 'copy', fields: {}, bytes}, embedder.transform)
    out.set(await embedder.vectors({pixels: pixels.data, height: pixels.height, width: pixels.width}, 1), i * meta.dim)
  }
  return comparable(out, meta)
}

/**
 * Makes copies of drawn pictures and finds the lowest threshold at which the wanted share of pairs are copies,
 * supposing that every picture of the pool has one copy. Pairs of different drawn pictures that are as alike as a
 * re-encoded copy are taken for copies that the pool holds already, and set aside.
 *
 * Throws `UserError` (exit 2) where the pool holds no images.
 */
export async function* calibrate(context: Context, {precision, sample}: CalibrateOptions): AsyncGenerator<StageEvent, CalibrationReport> {
  const {pool, rows, maker, seed, signal} = context
  const {features, source} = vectorsOf(context)
  if (features.kind === 'given')
    throw new UserError(`${pool.name} holds vectors, but copies are made of pictures.`, {
      exit: 2,
      code: 'NO_IMAGES',
      hint: 'Name the images, with --model where a model made the vectors.'
    })
  const {kind} = features
  const D = source.dim
  const chosen = drawRows(rows.length, sample, rng(seed, 'calibrate'))
  const own = source.gather(chosen)
  const found: Record<string, number[]> = Object.fromEntries(Object.keys(copies).map(name => [name, []]))
  const dot = (a: Float32Array, i: number, b: Float32Array, j: number): number => {
    let sum = 0
    for (let d = 0; d < D; d++) sum += a[i * D + d]! * b[j * D + d]!
    return sum
  }
  for (const [n, i] of chosen.entries()) {
    signal?.throwIfAborted()
    yield {kind: 'work', label: 'calibrating on copies', done: n, total: chosen.length}
    let picture: Raster
    try {
      picture = await decodeRgb(pool.ref(rows[i]!))
    } catch (error) {
      if (error instanceof RefusedImage) continue
      throw error
    }
    const made: Raster[] = []
    for (const {make} of Object.values(copies)) made.push(await make(picture))
    const vectors = await describe(made, features, kind, maker)
    for (const [c, name] of Object.keys(copies).entries()) found[name]!.push(dot(own, n, vectors, c))
  }
  const whole = Object.fromEntries(Object.entries(found).filter(([name]) => !copies[name]!.cut))
  const alike = found['JPEG quality 75']!.slice().sort((a, b) => a - b)
  const sure = alike[Math.floor(alike.length / 2)] ?? 1
  const others: number[] = []
  let setAside = 0
  for (let i = 0; i < chosen.length; i++)
    for (let j = 0; j < i; j++) {
      const score = dot(own, i, own, j)
      if (score >= sure) setAside++
      else others.push(score)
    }
  const kinds = Object.keys(whole).length
  const weight = chosen.length > 1 ? (kinds * (rows.length - 1)) / (chosen.length - 1) : 1
  const result = thresholdFor(whole, others, {precision, weight})
  const recalls = Object.fromEntries(
    Object.entries(found).map(([name, some]) => [
      name,
      some.length === 0 ? 0 : rounded(some.filter(s => s >= result.threshold).length / some.length)
    ])
  )
  const says = [
    result.reached
      ? `threshold ${result.threshold.toFixed(4)} for a precision of ${precision}, from copies of ${plural(chosen.length, 'picture')}: finds ${(100 * result.recall).toFixed(1)} % of them`
      : `no threshold reaches a precision of ${precision} with these features; above every pair of different pictures lies ${result.threshold.toFixed(4)}, which finds ${(100 * result.recall).toFixed(1)} % of the copies`,
    `found by kind: ${Object.entries(recalls)
      .map(([name, share]) => `${name} ${(100 * share).toFixed(0)} %`)
      .join(', ')}`,
    ...(setAside > 0
      ? [`${plural(setAside, 'pair')} of different pictures as alike as copies ${setAside === 1 ? 'was' : 'were'} set aside`]
      : [])
  ]
  return {...result, threshold: result.threshold, byKind: recalls, sample: chosen.length, setAside, says}
}
