/**
 * The whole work of `embed`: inputs, engine and model in, a file or a stream of rows out; and the forecast of it.
 *
 * Everything that can be refused is refused before the model is loaded. An output that is interrupted, or has too many
 * bad images, keeps its rows as `OUT.partial`, and the next run may go on behind them.
 */
import {startEngineFor} from './load-backbone.js'
import type {Writable} from 'node:stream'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import {UserError} from '../../config/errors.js'
import {listChunks, listImages, noImages, type ImageRef, type SourceNote} from '../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'
import {
  appendEmbeddings,
  createEmbeddings,
  inspectOutput,
  openEmbeddings,
  shardName,
  type EmbeddingFormat,
  type Shard
} from '../../files/embeddings/embeddings.js'
import {PlannedDownload, type Download} from '../../system/permitted-downloads.js'
import {listShard, shardRange, withinRange, type ShardRequest} from './shard.js'
import {leaveOutDone} from './leave-out-done.js'
import {assertImagesFit} from './pass-memory.js'
import {embed, loadEmbedder, defaultBatch, type Embedder, type EmbedOptions, type FeatureSettings} from './embedder.js'

export {plannedSentence} from '../../system/permitted-downloads.js'

export type EmbedInputs = {
  readonly inputs: readonly string[]
  readonly nul?: boolean
  readonly model: string
  readonly features: FeatureSettings
  readonly engine: EngineRequest
  /** Images computed at once; by default what suits model and device. */
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  /** Do one part of the inputs. */
  readonly shard?: ShardRequest
  readonly toolVersion: string
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal: AbortSignal
}

export type EmbedWork = EmbedInputs & {
  /** A file, or `-` for `stdout`. */
  readonly output: string
  readonly stdout: Writable
  readonly format?: EmbeddingFormat
  readonly force?: boolean
  readonly resume?: boolean
  /** In CSV, texts that a spreadsheet would run as formulas get a quote. */
  readonly csvSafe?: boolean
  readonly onRejected: (bad: RejectedImage) => void
  /** Asked after every batch: false ends the work. */
  readonly shouldContinue: () => boolean
  /** Asked before the output gets its name; what it throws leaves the partial file. */
  readonly checkRejectLimit: () => Promise<void>
}

export type EmbedEvent =
  /** Engine and model are there; from here on images pass. */
  | {readonly kind: 'ready'}
  | {readonly kind: 'resumed'; readonly rows: number}
  /** `waiting`: seconds that the engine stood still for want of images, so far. */
  | {readonly kind: 'rows'; readonly rows: number; readonly waiting: number}
  /** An output that has no end yet was kept for `--resume`; `rejected`: too many inputs were refused. */
  | {readonly kind: 'kept'; readonly rows: number; readonly rejected: boolean}

export type EmbedReport = {
  readonly output: string
  readonly format: EmbeddingFormat
  readonly finished: boolean
  readonly rows: number
  /** Rows of these that an earlier run had done. */
  readonly resumed: number
  readonly dim: number
  readonly fingerprint: string | null
  readonly batch: number
  readonly engine: EngineInfo
}

const decodeOptions = ({workers, maxPixels, signal}: EmbedInputs): Pick<EmbedOptions, 'workers' | 'maxPixels' | 'signal'> => ({
  workers,
  maxPixels,
  signal
})

async function startModel(work: EmbedInputs): Promise<{embedder: Embedder; engine: EngineInfo; batch: number}> {
  const engine = await startEngineFor([work.model], work.engine)
  const embedder = await loadEmbedder(work.model, {
    ...work.features,
    precision: engine.precision,
    toolVersion: work.toolVersion,
    note: work.engine.note
  })
  const {config, transform, blocks: layers} = embedder
  const batch = work.batch ?? defaultBatch(config, transform, engine.device)
  try {
    if (transform.crop === undefined && !work.inputs.includes('-'))
      await assertImagesFit(listImages(work.inputs, {nul: work.nul}), {config, transform, precision: engine.precision, layers, batch})
  } catch (error) {
    embedder[Symbol.dispose]()
    throw error
  }
  return {embedder, engine, batch}
}

/**
 * Refuses to go on with a finished output that is another part, or a part of another list. Throws `UserError` (exit
 * 2).
 */
async function assertSameShard(target: string, shard: Shard): Promise<void> {
  const {meta, close} = await openEmbeddings(target)
  await close()
  if (JSON.stringify(meta.shard) === JSON.stringify(shard)) return
  throw new UserError(
    `${target} is ${meta.shard ? `${shardName(meta.shard)} of ${meta.shard.images} images` : 'no shard'}; this is ${shardName(shard)} of ${shard.images} images, or of another list.`,
    {exit: 2, code: 'LIST_CHANGED', hint: 'Give the inputs of the earlier run, or --force to start anew.'}
  )
}

/**
 * Embeds all images of the inputs; yields how far it is and returns the report.
 *
 * Throws `UserError`: no images (exit 3), an output that exists or cannot be continued (exit 2), what engine, model
 * and `judge` throw.
 */
export async function* embedImages(work: EmbedWork): AsyncGenerator<EmbedEvent, EmbedReport> {
  const {output: target, signal, onRejected} = work
  const place = await inspectOutput(target, work)
  const shard = work.shard && work.shard.count > 1 ? await listShard(work.shard, work) : undefined
  if (shard && place.complete) await assertSameShard(target, shard)
  const refs = listImages(work.inputs, work)
  const first = await refs.next() // missing files are reported before the model is loaded
  if (first.done) throw noImages(work.inputs)
  const all = async function* (): AsyncGenerator<ImageRef> {
    yield first.value
    yield* refs
  }
  const {embedder, engine, batch} = await startModel(work)
  const own = shard ? withinRange(all(), shardRange(shard, batch)) : all()
  using held = embedder
  const {dim, fingerprint} = held.meta
  const options = {
    meta: shard ? {...held.meta, shard} : held.meta,
    stdout: work.stdout,
    format: place.format,
    batch,
    force: work.force,
    resume: work.resume,
    csvSafe: work.csvSafe
  }
  const output = await (place.complete ? appendEmbeddings(target, options) : createEmbeddings(target, options))
  const {resumed, format} = output
  let rows = resumed
  const keep = async (rejected = false): Promise<EmbedEvent[]> => ((await output.keep({rejected})) ? [{kind: 'kept', rows, rejected}] : [])
  try {
    yield {kind: 'ready'}
    if (resumed > 0) yield {kind: 'resumed', rows}
    const left = resumed > 0 ? leaveOutDone(own, output.resumedRows(), held.transform, onRejected) : own
    const made = embed(left, held, {batch, onRejected, ...decodeOptions(work)})
    for await (const some of made) {
      await output.write(some)
      rows += some.ids.length
      yield {kind: 'rows', rows, waiting: made.stats().waitSeconds}
      if (signal.aborted || !work.shouldContinue()) break
    }
    if (signal.aborted) {
      yield* await keep()
      return {output: target, format, finished: false, rows, resumed, dim, fingerprint, batch, engine}
    }
    await work.checkRejectLimit()
    await output.commit()
    return {output: target, format, finished: true, rows, resumed, dim, fingerprint, batch, engine}
  } catch (error) {
    yield* await keep(error instanceof UserError && error.exit === 4)
    throw error
  }
}

/** What a short trial says of the whole. */
export type EmbedEstimate = {
  readonly images: number
  readonly dim: number
  /** Images a second in the trial, decoding and computing together; absent where no image could be read. */
  readonly imagesPerSecond?: number
  readonly seconds?: number
  /** Bytes this process held at its fullest during the trial. */
  readonly memory: number
  readonly engine: EngineInfo
}

/** Images that are tried. */
const trialImages = 16

/**
 * Counts the images, holding none of them, and embeds the first few to predict time and memory, where the model
 * is here. Throws as `embedImages`.
 */
export async function estimateEmbedding(work: EmbedInputs): Promise<EmbedEstimate | {images: number; download: Download}> {
  let count = 0
  const first: ImageRef[] = []
  for await (const chunk of listChunks(work.inputs, work)) {
    work.signal.throwIfAborted()
    count += chunk.length
    if (first.length < trialImages) first.push(...chunk.slice(0, trialImages - first.length))
  }
  if (count === 0) throw noImages(work.inputs)
  const shard = work.shard && work.shard.count > 1 ? await listShard(work.shard, work) : undefined
  const started = await startModel(work).catch((error: unknown) => {
    if (error instanceof PlannedDownload) return error
    throw error
  })
  if (started instanceof PlannedDownload) return {images: count, download: started.download}
  const {embedder, engine, batch} = started
  using held = embedder
  const {imagesPerSecond} = await measureSpeed(first, held, {batch: Math.min(batch, trialImages), ...decodeOptions(work)})
  const memory = process.resourceUsage().maxRSS * 1024
  const [from, to] = shard ? shardRange(shard, batch) : [0, count]
  const images = to - from
  const speed = imagesPerSecond === undefined ? {} : {imagesPerSecond, seconds: images / imagesPerSecond}
  return {images, dim: held.meta.dim, ...speed, memory, engine}
}

/** Embeds a few images again and again for three batches; the first batch warms up and is not counted. */
async function measureSpeed(first: readonly ImageRef[], embedder: Embedder, options: EmbedOptions): Promise<{imagesPerSecond?: number}> {
  const again = async function* (): AsyncGenerator<ImageRef> {
    for (let i = 0; i < options.batch * 3; i++) yield first[i % first.length]!
  }
  let images = 0
  let begun = 0
  for await (const {ids} of embed(again(), embedder, options)) {
    if (begun > 0) images += ids.length
    else begun = performance.now()
  }
  return images === 0 ? {} : {imagesPerSecond: (images * 1000) / (performance.now() - begun)}
}
