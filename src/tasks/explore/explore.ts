/**
 * The whole work of `explore`: inputs and model in, a folder out that any web server shows.
 *
 * The folder holds the page and its worker (made by scripts/bundle.js), the points as a script, small pictures,
 * vectors in one byte a number, and the weights of the model. Nothing in it depends on time or machine.
 */
import {startEngineFor} from '../embed/load-backbone.js'
import {copyFile, writeFile} from 'node:fs/promises'
import {basename, join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {UserError} from '../../config/errors.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'
import {assertSameProvenance} from '../../files/embeddings/embeddings.js'
import type {SiteData, SiteModel} from '../../page/site.js'
import {rowAt, type Vectors} from '../../search/exact.js'
import {openAtomicFolder} from '../../system/atomic.js'
import {writeError} from '../../system/write-error.js'
import {loadEmbedder, settingsOf, type Embedder, type FeatureSettings} from '../embed/embedder.js'
import {measurePoints, type Measured, type MeasureEvent, type MapOptions} from './measure.js'
import {writeModel} from './model-files.js'
import {writeExamples, writeSheets, type PictureSheets} from './pictures.js'
import {
  inspectPoints,
  pointsOfEmbeddings,
  pointsOfImages,
  pointsOfIndex,
  type Point,
  type PointEvent,
  type PointOptions,
  type ReadPoints
} from './points.js'

export type ExploreOptions = Omit<PointOptions, 'stdin'> &
  Omit<MapOptions, 'signal'> & {
    readonly output: string
    readonly force?: boolean
    readonly stdin: PointOptions['stdin']
    readonly model?: string
    /** How images become vectors, where the inputs are images. */
    readonly features: FeatureSettings
    readonly engine: EngineRequest
    readonly title?: string
    /** Side of a small picture in pixels. */
    readonly side: number
    readonly half: boolean
    /** Trained linear heads for the page, one of a task. */
    readonly heads: readonly string[]
    /** The range of depth of a published head, where it is given. */
    readonly minDepth?: number
    readonly maxDepth?: number
    readonly toolVersion: string
  }

export type ExploreEvent = PointEvent | MeasureEvent | {readonly kind: 'pictures'; readonly done: number; readonly total: number}

export type ExploreReport = {
  readonly output: string
  readonly images: number
  readonly pictures: number
  readonly clusters: number
  readonly labels: number
  readonly duplicates: number
  readonly contradicted: number
  readonly model: string | null
  readonly engine: EngineInfo
}

const base64 = ({buffer, byteOffset, byteLength}: Float32Array | Int32Array | Uint8Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString('base64')

/** Vectors of length 1 as bytes, 127 for 1. */
function quantized(vectors: Vectors): Int8Array {
  const {dim: D, count: N} = vectors
  const out = new Int8Array(N * D)
  for (let i = 0; i < N; i++) {
    const row = rowAt(vectors, i)
    const most = row.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0) || 1
    for (let d = 0; d < D; d++) out[i * D + d] = Math.round((row[d]! / most) * 127) // lengths are divided out by the page
  }
  return out
}

type Written = {
  readonly examples: SiteData['examples']
  readonly points: readonly Point[]
  readonly measured: Measured
  readonly sheets: PictureSheets
  readonly model: SiteModel | null
  readonly title: string
  readonly threshold: number
  readonly vectors: {readonly file: string; readonly dim: number} | null
}

/** All that `data.js` says. */
function siteData({examples, points, measured, sheets, model, title, threshold, vectors}: Written): SiteData {
  const {table, places, cluster, clusters, representatives, outlier, labels, label, duplicates, contradicted} = measured
  return {
    version: 1,
    title,
    count: points.length,
    rows: points.map(({id, path, fields}) => ({id, path, ...fields})),
    places: base64(places),
    labels,
    label: base64(label),
    cluster: base64(cluster),
    clusters,
    representatives,
    outlier: base64(outlier),
    near: {k: table.k, rows: base64(table.rows), similarity: base64(table.similarity)},
    duplicates,
    threshold,
    contradicted,
    pictures: sheets.shown.some(Boolean) ? {...sheets, shown: base64(sheets.shown)} : null,
    vectors,
    model,
    examples
  }
}

/** Files of the page that `npm run build` made. */
const built = ['index.html', 'style.css', 'page.js', 'compute.js', 'tfjs-backend-wasm-threaded-simd.wasm'] as const
const shared = ['tfjs-backend-wasm.wasm', 'tfjs-backend-wasm-simd.wasm'] as const

async function copyPage(folder: string): Promise<void> {
  for (const name of built) await copyFile(fileURLToPath(new URL(`../../page/files/${name}`, import.meta.url)), join(folder, name))
  for (const name of shared) await copyFile(fileURLToPath(new URL(`../../tensor/tfjs/${name}`, import.meta.url)), join(folder, name))
}

/** Reads the inputs; the embedder is the model that made them, where one was named. */
async function* readPoints(
  options: ExploreOptions,
  engine: EngineInfo
): AsyncGenerator<PointEvent, {read: ReadPoints; embedder: Embedder | undefined}> {
  const {model, features, toolVersion} = options
  const {kind, stdin} = await inspectPoints(options)
  const given = {...options, stdin} // what is left of it: its beginning was looked at
  const load = (settings: FeatureSettings): Promise<Embedder> =>
    loadEmbedder(model!, {...settings, precision: engine.precision, toolVersion, note: options.engine.note})
  if (kind === 'images') {
    if (model === undefined)
      throw new UserError('Images were given, but no model that embeds them.', {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model, e.g. --model starter.'
      })
    const embedder = await load(features)
    return {read: yield* pointsOfImages(given, embedder, engine), embedder}
  }
  const read = yield* kind === 'index' ? pointsOfIndex(given) : pointsOfEmbeddings(given)
  if (model === undefined) return {read, embedder: undefined}
  const name = options.inputs.join(', ')
  const embedder = await load(settingsOf(read.meta, name))
  assertSameProvenance({name, meta: read.meta}, {name: model, meta: embedder.meta}, {ignoreLength: true})
  return {read, embedder}
}

/**
 * Writes the site; yields how far it is. Throws `UserError`: no input (exit 3), images without a model, embeddings of
 * another model (exit 2), an output that exists, and what engine, model and readers throw.
 */
export async function* explore(options: ExploreOptions, finish: () => Promise<void>): AsyncGenerator<ExploreEvent, ExploreReport> {
  const {output, force, side, root, signal, model: modelPath, half, threshold, heads, minDepth, maxDepth} = options
  const site = await openAtomicFolder(output, {force})
  try {
    const engine = await startEngineFor([modelPath], options.engine)
    const {read, embedder} = yield* readPoints(options, engine)
    using _ = embedder
    await finish()
    const {points, vectors, packed} = read
    if (points.length === 0) throw new UserError(`${options.inputs.join(', ')} holds no rows.`, {exit: 3, code: 'NO_INPUT'})
    const folder = site.temporary
    const model = embedder
      ? await writeModel({path: modelPath!, name: basename(modelPath!), folder, embedder, half, heads, minDepth, maxDepth})
      : null
    if (model) await writeFile(join(folder, 'vectors.bin'), quantized(vectors))
    const measured = yield* measurePoints(read, options)
    const sheets = yield* pictureEvents(points, {folder, side, root, packed, signal})
    const examples = model ? await writeExamples(points, examplePairs(measured), {folder, root, packed}) : []
    const title = options.title ?? options.inputs.map(name => basename(name)).join(', ')
    const data = siteData({
      examples,
      points,
      measured,
      sheets,
      model,
      title,
      threshold,
      vectors: model ? {file: 'vectors.bin', dim: vectors.dim} : null
    })
    await writeFile(join(folder, 'data.js'), `globalThis.exploreData = ${JSON.stringify(data)}\n`)
    await copyPage(folder)
    await site.commit()
    return {
      output,
      images: points.length,
      pictures: sheets.shown.reduce((sum, x) => sum + x, 0),
      clusters: measured.clusters,
      labels: measured.labels.length,
      duplicates: measured.duplicates.length,
      contradicted: measured.contradicted.length,
      model: model?.name ?? null,
      engine
    }
  } catch (error) {
    await site.abort()
    throw writeError(output, error)
  }
}

/** Pairs of neighbours to begin with: the middle of each of the three largest clusters, and the row nearest to it. */
function examplePairs({table: {k, rows}, representatives, cluster}: Measured): [number, number][] {
  if (k === 0) return []
  const size = new Map<number, number>()
  for (const c of cluster) size.set(c, (size.get(c) ?? 0) + 1)
  return [...representatives]
    .sort((a, b) => size.get(cluster[b]!)! - size.get(cluster[a]!)! || a - b)
    .slice(0, 3)
    .map(row => [row, rows[row * k]!])
}

async function* pictureEvents(
  points: readonly Point[],
  options: Parameters<typeof writeSheets>[1]
): AsyncGenerator<ExploreEvent, PictureSheets> {
  const work = writeSheets(points, options)
  for (;;) {
    const {done, value} = await work.next()
    if (done) return value
    yield {kind: 'pictures', done: value, total: points.length}
  }
}
